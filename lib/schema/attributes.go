package schema

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Attributes writes the properties of an object's schema as a table in
// Markdown, nested ones under their path. Properties that begin with "_" are
// left out.
func Attributes(raw json.RawMessage) (string, error) {
	var b strings.Builder
	b.WriteString("| Name | Type | Required | Default | Values | Description |\n|---|---|---|---|---|---|\n")
	if err := attributes(&b, raw, ""); err != nil {
		return "", err
	}
	return b.String(), nil
}

// shape is what a table says of a schema.
type shape struct {
	Type             any               `json:"type"`
	Properties       json.RawMessage   `json:"properties"`
	Required         []string          `json:"required"`
	Items            json.RawMessage   `json:"items"`
	OneOf            []json.RawMessage `json:"oneOf"`
	AnyOf            []json.RawMessage `json:"anyOf"`
	Enum             []json.RawMessage `json:"enum"`
	Default          json.RawMessage   `json:"default"`
	Description      string            `json:"description"`
	Pattern          string            `json:"pattern"`
	Minimum          json.Number       `json:"minimum"`
	Maximum          json.Number       `json:"maximum"`
	ExclusiveMinimum json.Number       `json:"exclusiveMinimum"`
}

func attributes(b *strings.Builder, raw json.RawMessage, path string) error {
	var s shape
	if err := json.Unmarshal(raw, &s); err != nil {
		return fmt.Errorf("reading a schema: %w", err)
	}
	if s.Properties == nil {
		return nil
	}
	props, err := decodeObject(s.Properties)
	if err != nil {
		return fmt.Errorf("reading properties: %w", err)
	}
	for _, m := range props {
		if strings.HasPrefix(m.name, "_") {
			continue
		}
		var p shape
		praw := m.value.(json.RawMessage)
		if err := json.Unmarshal(praw, &p); err != nil {
			return fmt.Errorf("property %s: %w", m.name, err)
		}
		required := "no"
		if slices.Contains(s.Required, m.name) {
			required = "yes"
		}
		name := below(path, m.name)
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s |\n", name, typeOf(praw), required, code(string(p.Default)), values(p), cell(p.Description))
		if err := attributes(b, praw, name); err != nil {
			return err
		}
		if p.Items != nil {
			if err := attributes(b, p.Items, name+"[]"); err != nil {
				return err
			}
		}
	}
	return nil
}

// typeOf names a type in a word or two.
func typeOf(raw json.RawMessage) string {
	var s shape
	if json.Unmarshal(raw, &s) != nil {
		return "any"
	}
	switch t := s.Type.(type) {
	case string:
		if t == "array" && s.Items != nil {
			return "array of " + typeOf(s.Items)
		}
		return t
	case []any:
		var names []string
		for _, n := range t {
			names = append(names, fmt.Sprint(n))
		}
		return strings.Join(names, " or ")
	}
	var names []string
	for _, alt := range slices.Concat(s.OneOf, s.AnyOf) {
		if n := typeOf(alt); !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	if names == nil {
		return "any"
	}
	return strings.Join(names, " or ")
}

// values says what a property is limited to.
func values(s shape) string {
	switch {
	case s.Enum != nil:
		var l []string
		for _, e := range s.Enum {
			l = append(l, code(string(e)))
		}
		return strings.Join(l, ", ")
	case s.Pattern != "":
		return code(s.Pattern)
	case s.Minimum != "" && s.Maximum != "":
		return fmt.Sprintf("%s to %s", s.Minimum, s.Maximum)
	case s.Minimum != "":
		return fmt.Sprintf("at least %s", s.Minimum)
	case s.ExclusiveMinimum != "":
		return fmt.Sprintf("more than %s", s.ExclusiveMinimum)
	case s.Maximum != "":
		return fmt.Sprintf("at most %s", s.Maximum)
	}
	return ""
}

func code(s string) string {
	if s == "" {
		return ""
	}
	if strings.Contains(s, "`") {
		return "`` " + cell(s) + " ``"
	}
	return "`" + cell(s) + "`"
}

func cell(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "\n", " "), "|", `\|`)
}
