package clients

import (
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
)

// maxOps bounds a patch document.
const maxOps = 100

// patch is a JSON Patch document (RFC 6902).
type patch []op

type op struct {
	Op    string          `json:"op"`
	Path  *string         `json:"path"`
	From  *string         `json:"from"`
	Value json.RawMessage `json:"value"` // "null" when it is null
}

func badPatch(text string) error { return fault.New(fault.Invalid, "the JSON patch "+text) }

func parsePatch(doc []byte) (patch, error) {
	if len(doc) > oauth.MaxClientJSON {
		return nil, badPatch("is too large")
	}
	var p patch
	if err := json.Unmarshal(doc, &p); err != nil {
		return nil, fault.Wrap(fault.Invalid, "Unable to decode the request body: "+err.Error(), err)
	}
	if len(p) > maxOps {
		return nil, badPatch("has too many operations")
	}
	for _, o := range p {
		if o.Path == nil {
			return nil, badPatch("has an operation without a path")
		}
		for _, path := range []*string{o.Path, o.From} {
			if path != nil && (*path == "/client_id" || strings.HasPrefix(*path, "/client_id/")) {
				return nil, errNotFound // it names the resource, it is no field of it
			}
		}
	}
	return p, nil
}

// apply returns the document after all operations, or fault.Invalid.
func (p patch) apply(doc []byte) ([]byte, error) {
	var root any
	if err := json.Unmarshal(doc, &root); err != nil {
		return nil, err
	}
	for _, o := range p {
		var err error
		if root, err = o.apply(root); err != nil {
			return nil, err
		}
		if o.Op == "copy" { // copies of copies grow fast
			if grown, err := json.Marshal(root); err != nil || len(grown) > oauth.MaxClientJSON {
				return nil, badPatch("makes the client too large")
			}
		}
	}
	return json.Marshal(root)
}

func (o op) apply(root any) (any, error) {
	path, err := pointer(*o.Path)
	if err != nil {
		return nil, err
	}
	var value any
	switch o.Op {
	case "add", "replace", "test":
		if o.Value == nil {
			return nil, badPatch("lacks a value")
		}
		if err := json.Unmarshal(o.Value, &value); err != nil {
			return nil, badPatch("has a value that is no JSON")
		}
	case "move", "copy":
		if o.From == nil {
			return nil, badPatch("lacks a from")
		}
		from, err := pointer(*o.From)
		if err != nil {
			return nil, err
		}
		if value, err = lookup(root, from); err != nil {
			return nil, err
		}
		if value, err = clone(value); err != nil {
			return nil, err
		}
		if o.Op == "move" {
			if len(path) > len(from) && slices.Equal(path[:len(from)], from) {
				return nil, badPatch("moves a value into itself")
			}
			if root, err = edit(root, from, remove); err != nil {
				return nil, err
			}
		}
	}
	switch o.Op {
	case "add", "move", "copy":
		return edit(root, path, func(parent any, last string) (any, error) { return insert(parent, last, value) })
	case "replace":
		return edit(root, path, func(parent any, last string) (any, error) { return replace(parent, last, value) })
	case "remove":
		return edit(root, path, remove)
	case "test":
		have, err := lookup(root, path)
		if err != nil {
			return nil, err
		}
		if !reflect.DeepEqual(have, value) {
			return nil, badPatch("has a test that failed: " + *o.Path)
		}
		return root, nil
	}
	return nil, badPatch("has an unknown operation " + quote(o.Op))
}

// pointer splits a JSON Pointer (RFC 6901).
func pointer(s string) ([]string, error) {
	if s == "" {
		return nil, badPatch("must name a field, not the whole client")
	}
	if s[0] != '/' {
		return nil, badPatch("has a path that does not begin with a slash")
	}
	parts := strings.Split(s[1:], "/")
	if len(parts) > 32 {
		return nil, badPatch("has a path that is too deep")
	}
	for i, p := range parts {
		parts[i] = strings.ReplaceAll(strings.ReplaceAll(p, "~1", "/"), "~0", "~")
	}
	return parts, nil
}

func lookup(node any, path []string) (any, error) {
	for _, p := range path {
		switch n := node.(type) {
		case map[string]any:
			v, ok := n[p]
			if !ok {
				return nil, missing(p)
			}
			node = v
		case []any:
			i, err := index(p, len(n))
			if err != nil {
				return nil, err
			}
			node = n[i]
		default:
			return nil, missing(p)
		}
	}
	return node, nil
}

// edit lets f change the node that holds the last part of the path.
func edit(node any, path []string, f func(parent any, last string) (any, error)) (any, error) {
	if len(path) == 1 {
		return f(node, path[0])
	}
	child, err := lookup(node, path[:1])
	if err != nil {
		return nil, err
	}
	if child, err = edit(child, path[1:], f); err != nil {
		return nil, err
	}
	return replace(node, path[0], child)
}

func insert(parent any, last string, value any) (any, error) {
	switch n := parent.(type) {
	case map[string]any:
		n[last] = value
		return n, nil
	case []any:
		if last == "-" {
			return append(n, value), nil
		}
		i, err := index(last, len(n)+1)
		if err != nil {
			return nil, err
		}
		return slices.Insert(n, i, value), nil
	case nil: // an absent list, as the wire shows it
		if last == "-" || last == "0" {
			return []any{value}, nil
		}
	}
	return nil, missing(last)
}

func replace(parent any, last string, value any) (any, error) {
	switch n := parent.(type) {
	case map[string]any:
		// A field the wire leaves out when it is empty can be replaced too.
		n[last] = value
		return n, nil
	case []any:
		i, err := index(last, len(n))
		if err != nil {
			return nil, err
		}
		n[i] = value
		return n, nil
	}
	return nil, missing(last)
}

func remove(parent any, last string) (any, error) {
	switch n := parent.(type) {
	case map[string]any:
		if _, ok := n[last]; !ok {
			return nil, missing(last)
		}
		delete(n, last)
		return n, nil
	case []any:
		i, err := index(last, len(n))
		if err != nil {
			return nil, err
		}
		return slices.Delete(n, i, i+1), nil
	}
	return nil, missing(last)
}

func index(s string, size int) (int, error) {
	i, err := strconv.Atoi(s)
	if err != nil || i < 0 || i >= size || strconv.Itoa(i) != s {
		return 0, missing(s)
	}
	return i, nil
}

func missing(part string) error { return badPatch("names " + quote(part) + ", which is not there") }

func clone(v any) (any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var out any
	err = json.Unmarshal(b, &out)
	return out, err
}
