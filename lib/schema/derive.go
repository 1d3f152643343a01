package schema

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// Describer is a type that writes its own schema, because its JSON form is
// not that of its Go kind.
type Describer interface{ JSONSchema() json.RawMessage }

// Derive writes the JSON Schema (draft 7) of a struct, from its type and the
// tags of its fields. Structs are closed: unknown properties do not fit. It
// fails for types and tags it does not understand, which is a mistake of the
// programmer.
//
//	json      the name; "-" leaves the field out; options are ignored
//	doc       description
//	default   for strings the text itself, else JSON
//	required  "true"
//	enum      a|b|c
//	min, max  bounds of a number, length of a string, items, properties
//	over      exclusive minimum of a number
//	pattern   of a string
//	keys      pattern of the names in a map, whose other names are refused
//	items     tags of the elements of a list or map: `items:"min=1,pattern=^a"`;
//	          pattern must be the last, as it may contain commas
//	unique    "true": no two items alike
//	secret    "true": the value is a credential
//	schema    the schema of this field as JSON, instead of all of the above but
//	          default, doc and required
//
// A field without json name whose struct is embedded adds its fields to ours.
func Derive(t reflect.Type) (json.RawMessage, error) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil, fmt.Errorf("deriving a schema of %s: not a struct", t)
	}
	o, err := ofStruct(t, 0)
	if err != nil {
		return nil, fmt.Errorf("deriving a schema of %s: %w", t, err)
	}
	return json.Marshal(o)
}

// maxDepth bounds nesting; a type that contains itself reaches it.
const maxDepth = 16

// object is a JSON object that keeps its order.
type object []member

type member struct {
	name  string
	value any
}

func (o *object) add(name string, value any) { *o = append(*o, member{name, value}) }

// MarshalJSON writes the members in order.
func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		for j, v := range []any{m.name, m.value} {
			if j == 1 {
				b.WriteByte(':')
			}
			enc := json.NewEncoder(&b)
			enc.SetEscapeHTML(false)
			if err := enc.Encode(v); err != nil {
				return nil, err
			}
			b.Truncate(b.Len() - 1) // the encoder's line feed
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// field is one property of a struct.
type field struct {
	name  string
	index []int
	typ   reflect.Type
	tag   reflect.StructTag
}

// fields lists the properties of a struct in order, embedded ones in place.
func fields(t reflect.Type) []field {
	var out []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "" && f.Anonymous && f.Type.Kind() == reflect.Struct:
			for _, e := range fields(f.Type) {
				e.index = append([]int{i}, e.index...)
				out = append(out, e)
			}
		case f.IsExported() && name != "-":
			if name == "" {
				name = f.Name
			}
			out = append(out, field{name, []int{i}, f.Type, f.Tag})
		}
	}
	return out
}

func ofStruct(t reflect.Type, depth int) (object, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("%s is nested too deeply", t)
	}
	var props object
	var required []string
	for _, f := range fields(t) {
		p, err := ofField(f, depth)
		if err != nil {
			return nil, fmt.Errorf("field %s: %w", f.name, err)
		}
		props.add(f.name, p)
		if f.tag.Get("required") == "true" {
			required = append(required, f.name)
		}
	}
	if props == nil {
		props = object{}
	}
	o := object{{"type", "object"}, {"properties", props}}
	if required != nil {
		o.add("required", required)
	}
	o.add("additionalProperties", false)
	return o, nil
}

func ofField(f field, depth int) (object, error) {
	var o object
	if raw := f.tag.Get("schema"); raw != "" {
		var err error
		if o, err = decodeObject(json.RawMessage(raw)); err != nil {
			return nil, fmt.Errorf("tag schema: %w", err)
		}
	} else {
		tags := map[string]string{}
		for _, k := range []string{"enum", "min", "max", "over", "pattern", "keys", "items", "unique"} {
			if v, ok := f.tag.Lookup(k); ok {
				tags[k] = v
			}
		}
		var err error
		if o, err = ofType(f.typ, tags, depth); err != nil {
			return nil, err
		}
	}
	if d, ok := f.tag.Lookup("default"); ok {
		v, err := defaultValue(f.typ, d)
		if err != nil {
			return nil, err
		}
		o.add("default", v)
	}
	if f.tag.Get("secret") == "true" {
		o.add("writeOnly", true)
	}
	if d := f.tag.Get("doc"); d != "" {
		o.add("description", d)
	}
	return o, nil
}

// decodeObject reads an object and keeps its order.
func decodeObject(raw json.RawMessage) (object, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, fmt.Errorf("expected an object: %v", err)
	}
	var o object
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, err
		}
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			return nil, err
		}
		o.add(name.(string), v)
	}
	_, err := dec.Token()
	return o, err
}

func ofType(t reflect.Type, tags map[string]string, depth int) (object, error) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if d, ok := reflect.New(t).Interface().(Describer); ok {
		return decodeObject(d.JSONSchema())
	}
	if t == rawMessage {
		return object{}, nil
	}
	switch t.Kind() {
	case reflect.Bool:
		return object{{"type", "boolean"}}, noTags(tags)
	case reflect.String:
		return ofString(tags)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return ofNumber("integer", tags)
	case reflect.Float32, reflect.Float64:
		return ofNumber("number", tags)
	case reflect.Slice:
		return ofList(t, tags, depth)
	case reflect.Map:
		return ofMap(t, tags, depth)
	case reflect.Struct:
		if err := noTags(tags); err != nil {
			return nil, err
		}
		return ofStruct(t, depth+1)
	case reflect.Interface:
		return object{}, noTags(tags)
	}
	return nil, fmt.Errorf("no schema for %s", t)
}

var rawMessage = reflect.TypeFor[json.RawMessage]()

func noTags(tags map[string]string) error {
	for k := range tags {
		return fmt.Errorf("tag %s means nothing here", k)
	}
	return nil
}

// number takes a bound out of tags and adds it under name.
func number(o *object, tags map[string]string, tag, name string) error {
	s, ok := tags[tag]
	if !ok {
		return nil
	}
	delete(tags, tag)
	if _, err := strconv.ParseFloat(s, 64); err != nil {
		return fmt.Errorf("tag %s: %q is no number", tag, s)
	}
	o.add(name, json.Number(s))
	return nil
}

func ofString(tags map[string]string) (object, error) {
	o := object{{"type", "string"}}
	if e, ok := tags["enum"]; ok {
		delete(tags, "enum")
		o.add("enum", strings.Split(e, "|"))
	}
	if err := number(&o, tags, "min", "minLength"); err != nil {
		return nil, err
	}
	if err := number(&o, tags, "max", "maxLength"); err != nil {
		return nil, err
	}
	if p, ok := tags["pattern"]; ok {
		delete(tags, "pattern")
		o.add("pattern", p)
	}
	return o, noTags(tags)
}

func ofNumber(name string, tags map[string]string) (object, error) {
	o := object{{"type", name}}
	if e, ok := tags["enum"]; ok {
		delete(tags, "enum")
		var ns []json.Number
		for s := range strings.SplitSeq(e, "|") {
			if _, err := strconv.ParseFloat(s, 64); err != nil {
				return nil, fmt.Errorf("tag enum: %q is no number", s)
			}
			ns = append(ns, json.Number(s))
		}
		o.add("enum", ns)
	}
	for _, b := range [...][2]string{{"min", "minimum"}, {"over", "exclusiveMinimum"}, {"max", "maximum"}} {
		if err := number(&o, tags, b[0], b[1]); err != nil {
			return nil, err
		}
	}
	return o, noTags(tags)
}

func ofList(t reflect.Type, tags map[string]string, depth int) (object, error) {
	o := object{{"type", "array"}}
	if err := number(&o, tags, "min", "minItems"); err != nil {
		return nil, err
	}
	if err := number(&o, tags, "max", "maxItems"); err != nil {
		return nil, err
	}
	if tags["unique"] == "true" {
		delete(tags, "unique")
		o.add("uniqueItems", true)
	}
	items, err := ofType(t.Elem(), split(tags), depth+1)
	if err != nil {
		return nil, err
	}
	o.add("items", items)
	return o, noTags(tags)
}

func ofMap(t reflect.Type, tags map[string]string, depth int) (object, error) {
	if t.Key().Kind() != reflect.String {
		return nil, fmt.Errorf("no schema for %s: keys must be strings", t)
	}
	o := object{{"type", "object"}}
	if err := number(&o, tags, "min", "minProperties"); err != nil {
		return nil, err
	}
	if err := number(&o, tags, "max", "maxProperties"); err != nil {
		return nil, err
	}
	values, err := ofType(t.Elem(), split(tags), depth+1)
	if err != nil {
		return nil, err
	}
	if p, ok := tags["keys"]; ok {
		delete(tags, "keys")
		o.add("patternProperties", object{{p, values}})
		o.add("additionalProperties", false)
	} else {
		o.add("additionalProperties", values)
	}
	return o, noTags(tags)
}

// split takes the tag items apart: "min=1,pattern=^a,b".
func split(tags map[string]string) map[string]string {
	out := map[string]string{}
	s := tags["items"]
	delete(tags, "items")
	for s != "" {
		var part string
		if strings.HasPrefix(s, "pattern=") {
			part, s = s, ""
		} else {
			part, s, _ = strings.Cut(s, ",")
		}
		k, v, _ := strings.Cut(part, "=")
		out[k] = v
	}
	return out
}

// defaultValue reads a default tag.
func defaultValue(t reflect.Type, text string) (any, error) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if _, own := reflect.New(t).Interface().(Describer); t.Kind() == reflect.String && !own {
		return text, nil
	}
	raw := json.RawMessage(text)
	if !json.Valid(raw) {
		return nil, fmt.Errorf("tag default: %q is not JSON", text)
	}
	return raw, nil
}

// AddProperty adds a property to an object's schema and keeps its order. It
// fails when there is one of that name.
func AddProperty(raw json.RawMessage, name string, property json.RawMessage) (json.RawMessage, error) {
	o, err := decodeObject(raw)
	if err != nil {
		return nil, fmt.Errorf("reading a schema: %w", err)
	}
	props := object{}
	at := len(o)
	for i, m := range o {
		if m.name == "properties" {
			at = i
			if props, err = decodeObject(m.value.(json.RawMessage)); err != nil {
				return nil, fmt.Errorf("reading the properties of a schema: %w", err)
			}
		}
	}
	for _, m := range props {
		if m.name == name {
			return nil, fmt.Errorf("the schema has a property %s", name)
		}
	}
	props.add(name, property)
	if at == len(o) {
		o.add("properties", nil)
	}
	o[at].value = props
	return json.Marshal(o)
}
