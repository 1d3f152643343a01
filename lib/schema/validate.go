// Package schema reads JSON strictly, validates it by JSON Schema (draft 7)
// and derives schemas from Go structs.
//
// Validation stops at the first problem and says in one sentence which field
// is wrong and why, in the words operators of API gateways know from their
// scripts and tests. Properties are checked in the order the schema document
// lists them, so the sentence is the same every time. Keywords the validator
// does not know are refused when a schema is compiled: no rule of a schema is
// ever skipped in silence. It fetches nothing: a schema has no references.
//
// Start at Compile and Parse.
package schema

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"gatehouse/lib/fault"
)

// ValidateJSON parses a document and validates it.
func (s *Schema) ValidateJSON(doc []byte) error {
	v, err := Parse(doc)
	if err != nil {
		return err
	}
	return s.Validate(v)
}

// Validate returns nil or a fault.Invalid that names the first field that does
// not fit. It brings v into the form the schema asks for where two forms mean
// the same: an empty array where an object is expected becomes an empty object
// and the reverse (some clients cannot tell them apart), and 1.0 becomes 1
// where an integer is expected.
func (s *Schema) Validate(v *Value) error {
	if text := s.check(v); text != "" {
		return fault.New(fault.Invalid, text)
	}
	return nil
}

// check returns what is wrong, or "". Keywords apply in this order: type,
// object, array, text, number, enum, combinations, condition.
func (s *Schema) check(v *Value) string {
	if s.never {
		return "value wasn't supposed to match schema"
	}
	if text := s.checkType(v); text != "" {
		return text
	}
	var text string
	switch v.Type {
	case Object:
		text = s.checkObject(v)
	case Array:
		text = s.checkArray(v)
	case String:
		text = s.checkString(v.Text)
	case Number:
		n := v.Float()
		for _, b := range s.bounds {
			if !b.ok(n, b.limit) {
				return fmt.Sprintf("expected %s to be %s %s", spell(n), b.words, spell(b.limit))
			}
		}
	}
	if text != "" {
		return text
	}
	if s.enum != nil && !slices.Contains(s.enum, canonical(v)) {
		return "matches none of the enum values"
	}
	return s.checkCombined(v)
}

func spell(f float64) string { return strconv.FormatFloat(f, 'g', 14, 64) }

func (s *Schema) checkType(v *Value) string {
	if len(s.types) == 0 || slices.ContainsFunc(s.types, func(t string) bool { return is(v, t) }) {
		return ""
	}
	for _, t := range s.types {
		if v.Type == Array && len(v.Items) == 0 && t == "object" {
			v.Type = Object
			return ""
		}
		if v.Type == Object && len(v.Members) == 0 && t == "array" {
			v.Type = Array
			return ""
		}
	}
	got := [...]string{Null: "userdata", Bool: "boolean", Number: "number", String: "string", Array: "table", Object: "table"}[v.Type]
	if len(s.types) == 1 {
		return "wrong type: expected " + s.types[0] + ", got " + got
	}
	return "wrong type: expected one of " + strings.Join(s.types, ", ") + ", got " + got
}

func is(v *Value, t string) bool {
	switch t {
	case "null":
		return v.Type == Null
	case "boolean":
		return v.Type == Bool
	case "number":
		return v.Type == Number
	case "string":
		return v.Type == String
	case "array":
		return v.Type == Array
	case "object":
		return v.Type == Object
	}
	if v.Type != Number { // integer
		return false
	}
	f := v.Float()
	if f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return false
	}
	if strings.ContainsAny(v.Text, ".eE") {
		v.Text = strconv.FormatInt(int64(f), 10)
	}
	return true
}

func (s *Schema) checkObject(v *Value) string {
	for _, p := range s.properties {
		member := v.Get(p.name)
		if member == nil {
			if slices.Contains(s.required, p.name) {
				return fmt.Sprintf(`property "%s" is required`, p.name)
			}
			continue
		}
		if text := p.schema.check(member); text != "" {
			return fmt.Sprintf(`property "%s" validation failed: %s`, p.name, text)
		}
		for _, d := range s.dependencies {
			if d.name == p.name {
				if text := d.check(v); text != "" {
					return text
				}
			}
		}
	}
	for _, name := range s.required {
		if v.Get(name) == nil {
			return fmt.Sprintf(`property "%s" is required`, name)
		}
	}
	for _, d := range s.dependencies {
		if v.Get(d.name) != nil {
			if text := d.check(v); text != "" {
				return text
			}
		}
	}
	for _, m := range v.Members {
		if text := s.checkOther(m); text != "" {
			return text
		}
	}
	if len(v.Members) < s.minProps {
		return fmt.Sprintf("expect object to have at least %d properties", s.minProps)
	}
	if s.maxProps >= 0 && len(v.Members) > s.maxProps {
		return fmt.Sprintf("expect object to have at most %d properties", s.maxProps)
	}
	return ""
}

func (d dependency) check(v *Value) string {
	for _, name := range d.required {
		if v.Get(name) == nil {
			return fmt.Sprintf(`property "%s" is required when "%s" is set`, name, d.name)
		}
	}
	if d.schema == nil {
		return ""
	}
	if text := d.schema.check(v); text != "" {
		return fmt.Sprintf(`failed to validate dependent schema for "%s": %s`, d.name, text)
	}
	return ""
}

// checkOther applies patternProperties and additionalProperties to a member.
func (s *Schema) checkOther(m Member) string {
	known := slices.ContainsFunc(s.properties, func(p property) bool { return p.name == m.Name })
	for _, p := range s.patterns {
		if !p.match.MatchString(m.Name) {
			continue
		}
		known = true
		if text := p.schema.check(m.Value); text != "" {
			return fmt.Sprintf(`failed to validate %s (matching "%s"): %s`, m.Name, p.text, text)
		}
	}
	if known || s.additional == nil {
		return ""
	}
	if s.additional.never {
		return "additional properties forbidden, found " + m.Name
	}
	if text := s.additional.check(m.Value); text != "" {
		return fmt.Sprintf("failed to validate additional property %s: %s", m.Name, text)
	}
	return ""
}

func (s *Schema) checkArray(v *Value) string {
	if len(v.Items) < s.minItems {
		return fmt.Sprintf("expect array to have at least %d items", s.minItems)
	}
	if s.maxItems >= 0 && len(v.Items) > s.maxItems {
		return fmt.Sprintf("expect array to have at most %d items", s.maxItems)
	}
	seen := map[string]int{}
	for i, item := range v.Items {
		if s.unique {
			text := canonical(item)
			if first, ok := seen[text]; ok {
				return fmt.Sprintf("expected unique items but items %d and %d are equal", first+1, i+1)
			}
			seen[text] = i
		}
		of := s.items
		if i < len(s.tuple) {
			of = s.tuple[i]
		}
		if of == nil {
			continue
		}
		if text := of.check(item); text != "" {
			return fmt.Sprintf("failed to validate item %d: %s", i+1, text)
		}
	}
	return ""
}

func (s *Schema) checkString(v string) string {
	n := 0
	if s.minLength > 0 || s.maxLength >= 0 {
		n = utf8.RuneCountInString(v)
	}
	if n < s.minLength {
		return fmt.Sprintf("string too short, expected at least %d, got %d", s.minLength, n)
	}
	if s.maxLength >= 0 && n > s.maxLength {
		return fmt.Sprintf("string too long, expected at most %d, got %d", s.maxLength, n)
	}
	if s.match != nil && !s.match.MatchString(v) {
		return fmt.Sprintf(`failed to match pattern "%s" with "%s"`, strings.ReplaceAll(s.match.String(), `\`, `\\`), v)
	}
	if s.format != "" {
		a, err := netip.ParseAddr(v)
		if err != nil || a.Zone() != "" || a.Is4() != (s.format == "ipv4") {
			return "expected a valid " + s.format + " address"
		}
	}
	return ""
}

func (s *Schema) checkCombined(v *Value) string {
	for i, sub := range s.allOf {
		if text := sub.check(v); text != "" {
			return fmt.Sprintf("allOf %d failed: %s", i+1, text)
		}
	}
	given := v.Type
	if len(s.anyOf) > 0 && !slices.ContainsFunc(s.anyOf, func(sub *Schema) bool { return sub.check(v) == "" }) {
		return s.noneOf()
	}
	if as := (&Value{Type: given}); slices.ContainsFunc(s.anyOf, func(sub *Schema) bool { return sub.checkType(as) == "" && as.Type == given }) {
		v.Type = given // an alternative takes the empty list, or object, as it is
	}
	matched := -1
	for i, sub := range s.oneOf {
		if sub.check(v) != "" {
			continue
		}
		if matched >= 0 {
			return fmt.Sprintf("value should match only one schema, but matches both schemas %d and %d", matched+1, i+1)
		}
		matched = i
	}
	if len(s.oneOf) > 0 && matched < 0 {
		return "value should match only one schema, but matches none"
	}
	if s.not != nil && s.not.check(v) == "" {
		return "value wasn't supposed to match schema"
	}
	switch {
	case s.ifs == nil:
	case s.ifs.check(v) == "":
		if s.then != nil && s.then.check(v) != "" {
			return "then clause did not match"
		}
	case s.els != nil && s.els.check(v) != "":
		return "else clause did not match"
	}
	return ""
}

// noneOf lists the sets of fields one of which is required, if that is what
// the alternatives of anyOf are about.
func (s *Schema) noneOf() string {
	var sets []string
	for _, sub := range s.anyOf {
		if len(sub.required) > 0 {
			b, _ := json.Marshal(sub.required) // strings always marshal
			sets = append(sets, string(b))
		}
	}
	if len(sets) == 0 {
		return "object matches none of the required"
	}
	return "object matches none of the required: " + strings.Join(sets, " or ")
}
