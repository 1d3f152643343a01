// Package strict reads YAML (and so JSON) into structs and tolerates nothing
// it does not know: every unknown key, wrong type and value out of range is
// reported with file, line and the nearest known key, all at once.
//
// Fields are described by tags: yaml (key), default, doc, enum (a|b|c), min,
// max. Environment variables override by rule: Override asks for every leaf.
package strict

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// Problem is one thing wrong with a file or a variable.
type Problem struct {
	Where string // "gatehouse.yaml:12" or "$DSN"
	Key   string // "provider.urls.login"
	Text  string
}

func (p Problem) Error() string {
	if p.Key == "" {
		return p.Where + ": " + p.Text
	}
	return p.Where + ": " + p.Key + ": " + p.Text
}

// Problems is everything wrong at once.
type Problems []Problem

func (ps Problems) Error() string {
	var lines []string
	for _, p := range ps {
		lines = append(lines, p.Error())
	}
	return strings.Join(lines, "\n")
}

// Alias is implemented by a struct that may also be written as a scalar.
type Alias interface{ FromScalar(text string) error }

// Defaults fills every field of the struct dst points to by its default tag.
func Defaults(dst any) { defaults(reflect.ValueOf(dst).Elem()) }

func defaults(v reflect.Value) {
	for i := range v.NumField() {
		f, sf := v.Field(i), v.Type().Field(i)
		if d, ok := sf.Tag.Lookup("default"); ok {
			if err := scalar(f, d, sf.Tag); err != nil {
				panic("default of " + sf.Name + ": " + err.Error())
			}
		} else if f.Kind() == reflect.Struct {
			defaults(f)
		}
	}
}

// Decode reads one document into the struct dst points to. Name is for messages.
func Decode(name string, data []byte, dst any) Problems {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return Problems{{Where: name, Text: strings.TrimPrefix(err.Error(), "yaml: ")}}
	}
	if doc.Kind == 0 || len(doc.Content) == 0 {
		return nil
	}
	d := decoder{name: name}
	d.value(doc.Content[0], reflect.ValueOf(dst).Elem(), "", "")
	return d.problems
}

type decoder struct {
	name     string
	problems Problems
}

func (d *decoder) fail(n *yaml.Node, key, format string, args ...any) {
	d.problems = append(d.problems, Problem{fmt.Sprintf("%s:%d", d.name, n.Line), key, fmt.Sprintf(format, args...)})
}

func (d *decoder) value(n *yaml.Node, v reflect.Value, key string, tag reflect.StructTag) {
	if n.Kind == yaml.AliasNode {
		d.fail(n, key, "YAML aliases are not supported; write the value out")
		return
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	if a, ok := v.Addr().Interface().(Alias); ok && n.Kind == yaml.ScalarNode {
		if err := a.FromScalar(n.Value); err != nil {
			d.fail(n, key, "%v", err)
		}
		return
	}
	switch {
	case v.Kind() == reflect.Struct:
		d.object(n, v, key)
	case v.Kind() == reflect.Slice:
		d.list(n, v, key, tag)
	case n.Kind != yaml.ScalarNode:
		d.fail(n, key, "expected %s", typeName(v.Type()))
	default:
		if err := scalar(v, n.Value, tag); err != nil {
			d.fail(n, key, "%v", err)
		}
	}
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, key string, tag reflect.StructTag) {
	items := []*yaml.Node{n} // a single value stands for a list of one
	if n.Kind == yaml.SequenceNode {
		items = n.Content
	}
	out := reflect.MakeSlice(v.Type(), len(items), len(items))
	for i, item := range items {
		if e := out.Index(i); e.Kind() == reflect.Struct {
			defaults(e)
		}
		d.value(item, out.Index(i), fmt.Sprintf("%s[%d]", key, i), tag)
	}
	v.Set(out)
}

func (d *decoder) object(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, key, "expected a mapping of keys")
		return
	}
	known := map[string]int{}
	var names []string
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("yaml")
		known[name] = i
		names = append(names, name)
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, val := n.Content[i], n.Content[i+1]
		path := join(key, k.Value)
		idx, ok := known[k.Value]
		switch {
		case !ok:
			if near := Nearest(k.Value, names); near != "" {
				d.fail(k, path, "unknown key; did you mean %q?", join(key, near))
			} else {
				d.fail(k, path, "unknown key; known here: %s", strings.Join(names, ", "))
			}
		case seen[k.Value]:
			d.fail(k, path, "the key is given twice")
		default:
			seen[k.Value] = true
			d.value(val, v.Field(idx), path, v.Type().Field(idx).Tag)
		}
	}
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "." + b
}

func scalar(v reflect.Value, text string, tag reflect.StructTag) error {
	if a, ok := v.Addr().Interface().(Alias); ok {
		return a.FromScalar(text)
	}
	switch v.Interface().(type) {
	case time.Duration:
		t, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("expected a duration such as 30m, got %q", text)
		}
		v.SetInt(int64(t))
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		if enum := tag.Get("enum"); enum != "" && !slices.Contains(strings.Split(enum, "|"), text) {
			return fmt.Errorf("expected one of %s, got %q", strings.ReplaceAll(enum, "|", ", "), text)
		}
		v.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("expected true or false, got %q", text)
		}
		v.SetBool(b)
	case reflect.Int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("expected a number, got %q", text)
		}
		for _, b := range []struct {
			tag string
			bad func(int) bool
			why string
		}{{"min", func(b int) bool { return n < b }, "at least"}, {"max", func(b int) bool { return n > b }, "at most"}} {
			if s := tag.Get(b.tag); s != "" {
				if limit, _ := strconv.Atoi(s); b.bad(limit) {
					return fmt.Errorf("must be %s %s, got %d", b.why, s, n)
				}
			}
		}
		v.SetInt(int64(n))
	case reflect.Slice:
		if text == "" {
			v.SetZero()
			return nil
		}
		parts := strings.Split(text, ",")
		out := reflect.MakeSlice(v.Type(), len(parts), len(parts))
		for i, p := range parts {
			if err := scalar(out.Index(i), strings.TrimSpace(p), tag); err != nil {
				return err
			}
		}
		v.Set(out)
	default:
		return fmt.Errorf("cannot be set from text")
	}
	return nil
}

func typeName(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "a duration such as 30m"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Int:
		return "a number"
	}
	return "text"
}

// Leaf is one settable value, for documentation and environment overrides.
type Leaf struct {
	Key, Default, Doc, Enum string
	Type                    string
	value                   reflect.Value
	tag                     reflect.StructTag
}

// Leaves lists the values of the struct dst points to, in order of declaration.
func Leaves(dst any) []Leaf { return leaves(nil, reflect.ValueOf(dst).Elem(), "") }

func leaves(out []Leaf, v reflect.Value, key string) []Leaf {
	for i := range v.NumField() {
		f, sf := v.Field(i), v.Type().Field(i)
		path := join(key, sf.Tag.Get("yaml"))
		_, alias := f.Addr().Interface().(Alias)
		if f.Kind() == reflect.Struct && !alias {
			out = leaves(out, f, path)
			continue
		}
		t := typeName(f.Type())
		if f.Kind() == reflect.Slice {
			t = "a list"
		}
		out = append(out, Leaf{path, sf.Tag.Get("default"), sf.Tag.Get("doc"), sf.Tag.Get("enum"), t, f, sf.Tag})
	}
	return out
}

// Override sets each value for which lookup knows a text. Lookup gets the key
// and returns the name of the source for messages.
func Override(dst any, lookup func(key string) (text, source string, ok bool)) Problems {
	var ps Problems
	for _, l := range Leaves(dst) {
		text, source, ok := lookup(l.Key)
		if !ok {
			continue
		}
		if err := scalar(l.value, text, l.tag); err != nil {
			ps = append(ps, Problem{source, l.Key, err.Error()})
		}
	}
	return ps
}

// Nearest returns the known word that differs least from word, or "" when
// none is near.
func Nearest(word string, known []string) string {
	best, at := "", len(word)/2+1
	for _, k := range known {
		if d := distance(strings.ToLower(word), k); d < at {
			best, at = k, d
		}
	}
	return best
}

// distance counts insertions, deletions and replacements (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		prev := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := prev
			if a[i-1] != b[j-1] {
				cost++
			}
			prev = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
