package proxyrewrite

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"gatehouse/gateway"
)

// Headers is what happens to header fields. In JSON it is an object of add,
// set and remove, or a flat object of names and values to set.
type Headers struct {
	Add, Set map[string][]string
	Remove   []string
}

// JSONSchema is that of both forms.
func (*Headers) JSONSchema() json.RawMessage {
	const value = `{"oneOf":[{"type":"string"},{"type":"number"}]}`
	const values = `{"oneOf":[{"type":"string"},{"type":"number"},{"type":"array","minItems":1,"items":` + value + `}]}`
	const many = `{"type":"object","minProperties":1,"patternProperties":{"^[^:]+$":` + values + `}}`
	return json.RawMessage(`{"oneOf":[{"type":"object","minProperties":1,"properties":{"add":` + many + `,"set":` + many +
		`,"remove":{"type":"array","minItems":1,"items":{"type":"string","pattern":"^[^:]+$"}}},"additionalProperties":false},` +
		`{"type":"object","minProperties":1,"patternProperties":{"^[^:]+$":` + value + `}}]}`)
}

// UnmarshalJSON reads either form. An object is the first form when it has no
// other members than that form's and they are no plain values.
func (h *Headers) UnmarshalJSON(raw []byte) error {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		return errors.New("headers must be an object")
	}
	structured := len(m) > 0
	for k, v := range m {
		if k != "add" && k != "set" && k != "remove" || len(v) == 0 || v[0] != '{' && v[0] != '[' {
			structured = false
		}
	}
	var err error
	if !structured {
		h.Set, err = fieldValues(raw)
		return err
	}
	if v, ok := m["add"]; ok {
		if h.Add, err = fieldValues(v); err != nil {
			return err
		}
	}
	if v, ok := m["set"]; ok {
		if h.Set, err = fieldValues(v); err != nil {
			return err
		}
	}
	if v, ok := m["remove"]; ok {
		return json.Unmarshal(v, &h.Remove)
	}
	return nil
}

// fieldValues reads an object of names and values: a string, a number or a
// list of these.
func fieldValues(raw json.RawMessage) (map[string][]string, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var m map[string]any
	if err := dec.Decode(&m); err != nil {
		return nil, errors.New("headers: expected an object of names and values")
	}
	out := make(map[string][]string, len(m))
	for k, v := range m {
		list, ok := v.([]any)
		if !ok {
			list = []any{v}
		}
		for _, e := range list {
			switch e := e.(type) {
			case string:
				out[k] = append(out[k], e)
			case json.Number:
				out[k] = append(out[k], e.String())
			default:
				return nil, fmt.Errorf("headers: the value of %q must be a string or a number", k)
			}
		}
	}
	return out, nil
}

// edits compiles fields in the order of their names, so that two requests are
// never changed in different ways.
func edits(m map[string][]string) ([]edit, error) {
	var out []edit
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if err := editable(name); err != nil {
			return nil, err
		}
		e := edit{name: name}
		for _, v := range m[name] {
			if strings.ContainsAny(v, "\r\n\x00") {
				return nil, fmt.Errorf("the value of %s has a line break", name)
			}
			t, err := gateway.ParseTemplate(v)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			e.values = append(e.values, t)
		}
		if len(e.values) == 0 {
			return nil, fmt.Errorf("%s has no value", name)
		}
		if strings.EqualFold(name, "Host") {
			if v, plain := e.values[0].Plain(); len(e.values) > 1 || plain && !validHost(v) {
				return nil, errors.New("the value for Host must be one host")
			}
		}
		out = append(out, e)
	}
	return out, nil
}

// editable refuses names that are none, and fields that say where a message
// ends or what its connection does: changing these would let a client smuggle
// a second request past the gateway.
func editable(name string) error {
	for i := 0; i < len(name); i++ {
		if c := name[i]; !alphanumeric(c) && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return fmt.Errorf("%q is no name of a header field", name)
		}
	}
	switch strings.ReplaceAll(strings.ToLower(name), "_", "-") {
	case "":
		return errors.New("the name of a header field is empty")
	case "content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade":
		return fmt.Errorf("%s belongs to the connection and cannot be changed", name)
	}
	return nil
}
