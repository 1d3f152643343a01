package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
)

// Decode reads one JSON object into the struct dst points to. What is absent
// gets the default of its tag, in nested structs and in the elements of lists
// and maps too; a nested struct that is no pointer is filled even when it is
// absent. Names it does not know are errors, and names must match in case.
func Decode(raw json.RawMessage, dst any) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var doc any
	if err := dec.Decode(&doc); err != nil {
		return fmt.Errorf("reading JSON: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("reading JSON: text after the object")
	}
	if _, ok := doc.(map[string]any); !ok {
		return errors.New("wrong type: expected object")
	}
	doc, err := fill(reflect.TypeOf(dst).Elem(), doc, "")
	if err != nil {
		return err
	}
	full, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	var wrong *json.UnmarshalTypeError
	switch err := json.Unmarshal(full, dst); {
	case errors.As(err, &wrong):
		return fmt.Errorf("property %q: wrong type: %s given", wrong.Field, wrong.Value)
	case err != nil:
		return err
	}
	return nil
}

// fill adds defaults to doc, a value of type t, and refuses unknown names.
func fill(t reflect.Type, doc any, path string) (any, error) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if reads(t) {
		return doc, nil
	}
	switch t.Kind() {
	case reflect.Struct:
		m, ok := doc.(map[string]any)
		if !ok {
			return doc, nil // Unmarshal says what is wrong
		}
		return m, fillStruct(t, m, path)
	case reflect.Slice:
		l, ok := doc.([]any)
		if !ok {
			return doc, nil
		}
		for i := range l {
			v, err := fill(t.Elem(), l[i], fmt.Sprintf("%s[%d]", path, i))
			if err != nil {
				return nil, err
			}
			l[i] = v
		}
	case reflect.Map:
		m, ok := doc.(map[string]any)
		if !ok {
			return doc, nil
		}
		for k := range m {
			v, err := fill(t.Elem(), m[k], below(path, k))
			if err != nil {
				return nil, err
			}
			m[k] = v
		}
	}
	return doc, nil
}

// reads says whether a type reads its JSON itself.
func reads(t reflect.Type) bool {
	_, ok := reflect.New(t).Interface().(json.Unmarshaler)
	return ok
}

func fillStruct(t reflect.Type, m map[string]any, path string) error {
	known := map[string]bool{}
	for _, f := range fields(t) {
		known[f.name] = true
		v, present := m[f.name]
		if !present {
			d, ok := f.tag.Lookup("default")
			switch {
			case ok:
				dv, err := defaultValue(f.typ, d)
				if err != nil {
					return fmt.Errorf("property %q: %w", below(path, f.name), err)
				}
				if raw, ok := dv.(json.RawMessage); ok {
					if err := json.Unmarshal(raw, &dv); err != nil {
						return err
					}
				}
				v = dv
			case f.typ.Kind() == reflect.Struct && !reads(f.typ):
				v = map[string]any{}
			default:
				continue
			}
		}
		v, err := fill(f.typ, v, below(path, f.name))
		if err != nil {
			return err
		}
		m[f.name] = v
	}
	for k := range m {
		if !known[k] {
			if path == "" {
				return fmt.Errorf("additional properties forbidden, found %s", k)
			}
			return fmt.Errorf("property %q validation failed: additional properties forbidden, found %s", path, k)
		}
	}
	return nil
}

func below(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
