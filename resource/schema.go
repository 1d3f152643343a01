package resource

import (
	"embed"
	"encoding/json"
	"fmt"

	"gatehouse/lib/schema"
)

// schemas holds one JSON Schema per kind and definitions.json, whose members
// stand for {"$ref": "<name>"}.
//
//go:embed schemas/*.json
var schemas embed.FS

// Schema returns the JSON Schema (draft 7) of a kind, complete in itself.
// That of PluginMetadata takes any object: the plugin's own schema applies.
// An error is a mistake in the embedded documents or an unknown kind.
func Schema(k Kind) (json.RawMessage, error) {
	defs, err := document("definitions")
	if err != nil {
		return nil, err
	}
	doc, err := document(string(k))
	if err != nil {
		return nil, err
	}
	if doc, err = inline(doc, defs, 0); err != nil {
		return nil, fmt.Errorf("schema of %s: %w", k, err)
	}
	return doc.JSON(), nil
}

func document(name string) (*schema.Value, error) {
	raw, err := schemas.ReadFile("schemas/" + name + ".json")
	if err != nil {
		return nil, fmt.Errorf("schema of %s: %w", name, err)
	}
	doc, err := schema.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("schema of %s: %w", name, err)
	}
	return doc, nil
}

// inline replaces every reference by what it stands for.
func inline(v, defs *schema.Value, depth int) (*schema.Value, error) {
	if depth > schema.MaxDepth {
		return nil, fmt.Errorf("definitions refer to themselves")
	}
	if ref := v.Get("$ref"); ref != nil && ref.Type == schema.String {
		to := defs.Get(ref.Text)
		if to == nil {
			return nil, fmt.Errorf("no definition of %q", ref.Text)
		}
		return inline(to, defs, depth+1)
	}
	out := &schema.Value{Type: v.Type, Bool: v.Bool, Text: v.Text}
	for _, item := range v.Items {
		c, err := inline(item, defs, depth+1)
		if err != nil {
			return nil, err
		}
		out.Items = append(out.Items, c)
	}
	for _, m := range v.Members {
		c, err := inline(m.Value, defs, depth+1)
		if err != nil {
			return nil, err
		}
		out.Set(m.Name, c)
	}
	return out, nil
}
