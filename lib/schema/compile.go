package schema

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Schema is a compiled JSON Schema. Immutable and safe for concurrent use.
type Schema struct {
	never bool // the schema "false"

	types []string

	properties   []property
	required     []string
	dependencies []dependency
	patterns     []pattern
	additional   *Schema // nil: anything goes
	minProps     int
	maxProps     int // -1: any number

	items    *Schema
	tuple    []*Schema
	minItems int
	maxItems int // -1
	unique   bool

	minLength int
	maxLength int // -1
	match     *regexp.Regexp
	format    string

	bounds []bound
	enum   []string // as canonical JSON; nil: anything goes

	allOf, anyOf, oneOf []*Schema
	not                 *Schema
	ifs, then, els      *Schema
}

type property struct {
	name   string
	schema *Schema
}

type dependency struct {
	name     string
	required []string
	schema   *Schema
}

type pattern struct {
	text   string
	match  *regexp.Regexp
	schema *Schema
}

type bound struct {
	words string // "at least"
	limit float64
	ok    func(v, limit float64) bool
}

// annotations are keywords that say nothing about validity.
var annotations = []string{"$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly",
	"encrypt_fields", "contentEncoding", "contentMediaType"}

// Compile reads a schema document. A document that is no valid draft 7 schema,
// or uses a keyword or format that is not implemented, is an error: schemas
// are part of the program, not input.
func Compile(doc json.RawMessage) (*Schema, error) {
	tree, err := Parse(doc)
	if err != nil {
		return nil, fmt.Errorf("reading a schema: %w", err)
	}
	plain, err := jsonschema.UnmarshalJSON(strings.NewReader(string(doc)))
	if err != nil {
		return nil, fmt.Errorf("reading a schema: %w", err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft7)
	if err := c.AddResource("schema.json", plain); err != nil {
		return nil, fmt.Errorf("compiling a schema: %w", err)
	}
	if _, err := c.Compile("schema.json"); err != nil {
		return nil, fmt.Errorf("compiling a schema: %w", err)
	}
	return compile(tree)
}

func compile(v *Value) (*Schema, error) {
	s := &Schema{maxProps: -1, maxItems: -1, maxLength: -1}
	if v.Type == Bool {
		s.never = !v.Bool
		return s, nil
	}
	for _, m := range v.Members {
		if err := s.keyword(m.Name, m.Value); err != nil {
			return nil, fmt.Errorf("%s: %w", m.Name, err)
		}
	}
	if s.ifs == nil && (s.then != nil || s.els != nil) {
		return nil, fmt.Errorf("then or else without if")
	}
	return s, nil
}

func (s *Schema) keyword(name string, v *Value) (err error) {
	switch name {
	case "type":
		if s.types = texts(v); v.Type == String {
			s.types = []string{v.Text}
		}
	case "properties":
		for _, m := range v.Members {
			sub, err := compile(m.Value)
			if err != nil {
				return fmt.Errorf("%s: %w", m.Name, err)
			}
			s.properties = append(s.properties, property{m.Name, sub})
		}
	case "required":
		s.required = texts(v)
	case "dependencies", "dependentRequired", "dependentSchemas":
		for _, m := range v.Members {
			d := dependency{name: m.Name}
			if d.required = texts(m.Value); m.Value.Type != Array {
				if d.schema, err = compile(m.Value); err != nil {
					return fmt.Errorf("%s: %w", m.Name, err)
				}
			}
			s.dependencies = append(s.dependencies, d)
		}
	case "patternProperties":
		for _, m := range v.Members {
			p := pattern{text: m.Name}
			if p.match, err = regexp.Compile(m.Name); err != nil {
				return err
			}
			if p.schema, err = compile(m.Value); err != nil {
				return err
			}
			s.patterns = append(s.patterns, p)
		}
	case "additionalProperties":
		s.additional, err = compile(v)
	case "minProperties":
		s.minProps = int(v.Float())
	case "maxProperties":
		s.maxProps = int(v.Float())
	case "items":
		if v.Type == Array {
			s.tuple, err = compileAll(v)
		} else {
			s.items, err = compile(v)
		}
	case "minItems":
		s.minItems = int(v.Float())
	case "maxItems":
		s.maxItems = int(v.Float())
	case "uniqueItems":
		s.unique = v.Bool
	case "minLength":
		s.minLength = int(v.Float())
	case "maxLength":
		s.maxLength = int(v.Float())
	case "pattern":
		s.match, err = regexp.Compile(v.Text)
	case "format":
		if !slices.Contains([]string{"ipv4", "ipv6"}, v.Text) {
			return fmt.Errorf("format %q is not implemented", v.Text)
		}
		s.format = v.Text
	case "minimum":
		s.bounds = append(s.bounds, bound{"at least", v.Float(), func(v, l float64) bool { return v >= l }})
	case "maximum":
		s.bounds = append(s.bounds, bound{"at most", v.Float(), func(v, l float64) bool { return v <= l }})
	case "exclusiveMinimum":
		s.bounds = append(s.bounds, bound{"greater than", v.Float(), func(v, l float64) bool { return v > l }})
	case "exclusiveMaximum":
		s.bounds = append(s.bounds, bound{"smaller than", v.Float(), func(v, l float64) bool { return v < l }})
	case "multipleOf":
		s.bounds = append(s.bounds, bound{"a multiple of", v.Float(), func(v, l float64) bool { return math.Mod(v, l) == 0 }})
	case "enum":
		s.enum = []string{}
		for _, i := range v.Items {
			s.enum = append(s.enum, canonical(i))
		}
	case "const":
		s.enum = []string{canonical(v)}
	case "allOf":
		s.allOf, err = compileAll(v)
	case "anyOf":
		s.anyOf, err = compileAll(v)
	case "oneOf":
		s.oneOf, err = compileAll(v)
	case "not":
		s.not, err = compile(v)
	case "if":
		s.ifs, err = compile(v)
	case "then":
		s.then, err = compile(v)
	case "else":
		s.els, err = compile(v)
	default:
		if !slices.Contains(annotations, name) {
			return fmt.Errorf("the keyword is not implemented")
		}
	}
	return err
}

func compileAll(v *Value) (out []*Schema, err error) {
	for i, item := range v.Items {
		s, err := compile(item)
		if err != nil {
			return nil, fmt.Errorf("%d: %w", i, err)
		}
		out = append(out, s)
	}
	return out, nil
}

func texts(v *Value) (out []string) {
	for _, i := range v.Items {
		out = append(out, i.Text)
	}
	return out
}

// canonical writes a value so that equal values are equal texts: members
// sorted, numbers by value.
func canonical(v *Value) string {
	c := v.Clone()
	normalize(c)
	return string(c.JSON())
}

func normalize(v *Value) {
	if v.Type == Number {
		v.Text = strconv.FormatFloat(v.Float(), 'g', -1, 64)
	}
	for _, i := range v.Items {
		normalize(i)
	}
	slices.SortFunc(v.Members, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	for _, m := range v.Members {
		normalize(m.Value)
	}
}
