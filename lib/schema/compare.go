package schema

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
)

// Differences names the properties that a written schema and a derived one do
// not describe alike: a plugin's test holds its schema.json against its struct
// with it. What a schema says of several properties at once (oneOf, required,
// dependencies) is not compared: that is why it was written.
func Differences(written, derived json.RawMessage) ([]string, error) {
	var w, d struct {
		Properties map[string]any `json:"properties"`
	}
	if err := json.Unmarshal(written, &w); err != nil {
		return nil, fmt.Errorf("reading the written schema: %w", err)
	}
	if err := json.Unmarshal(derived, &d); err != nil {
		return nil, fmt.Errorf("reading the derived schema: %w", err)
	}
	all := map[string]bool{}
	for k := range w.Properties {
		all[k] = true
	}
	for k := range d.Properties {
		all[k] = true
	}
	var out []string
	for _, k := range slices.Sorted(maps.Keys(all)) {
		a, aok := w.Properties[k]
		b, bok := d.Properties[k]
		switch {
		case !aok:
			out = append(out, k+": not in the written schema")
		case !bok:
			out = append(out, k+": not in the struct")
		case !reflect.DeepEqual(a, b):
			out = append(out, fmt.Sprintf("%s: written %v, derived %v", k, a, b))
		}
	}
	return out, nil
}
