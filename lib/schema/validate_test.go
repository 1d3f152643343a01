package schema

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestValidate(t *testing.T) {
	for _, c := range []struct{ schema, doc, want string }{
		{`{"required":["count"]}`, `{}`, `property "count" is required`},
		{`{"properties":{"a":{"type":["string","integer"]}}}`, `{"a":true}`, `property "a" validation failed: wrong type: expected one of string, integer, got boolean`},
		{`{"type":"integer"}`, `1e3`, ""},
		{`{"type":"integer","maximum":599}`, `600`, "expected 600 to be at most 599"},
		{`{"exclusiveMaximum":1}`, `1`, "expected 1 to be smaller than 1"},
		{`{"multipleOf":2}`, `3`, "expected 3 to be a multiple of 2"},
		{`{"minProperties":1}`, `{}`, "expect object to have at least 1 properties"},
		{`{"maxProperties":1}`, `{"a":1,"b":2}`, "expect object to have at most 1 properties"},
		{`{"maxItems":1}`, `[1,2]`, "expect array to have at most 1 items"},
		{`{"uniqueItems":true}`, `[{"a":1,"b":2},{"b":2.0,"a":1}]`, "expected unique items but items 1 and 2 are equal"},
		{`{"items":[{"type":"string"},{"type":"number"}]}`, `["a","b"]`, "failed to validate item 2: wrong type: expected number, got string"},
		{`{"minLength":2}`, `"é"`, "string too short, expected at least 2, got 1"},
		{`{"additionalProperties":{"type":"string"}}`, `{"a":1}`, "failed to validate additional property a: wrong type: expected string, got number"},
		{`{"patternProperties":{"^x-":{"type":"string"}},"additionalProperties":false}`, `{"x-a":"1","y":"2"}`, "additional properties forbidden, found y"},
		{`{"dependencies":{"a":["b"]}}`, `{"a":1}`, `property "b" is required when "a" is set`},
		{`{"dependencies":{"a":{"required":["b"]}}}`, `{"a":1}`, `failed to validate dependent schema for "a": property "b" is required`},
		{`{"const":{"a":[1]}}`, `{"a":[1.0]}`, ""},
		{`{"const":1}`, `2`, "matches none of the enum values"},
		{`{"if":{"required":["a"]},"then":{"required":["b"]},"else":{"required":["c"]}}`, `{"a":1}`, "then clause did not match"},
		{`{"if":{"required":["a"]},"then":{"required":["b"]},"else":{"required":["c"]}}`, `{}`, "else clause did not match"},
		{`{"anyOf":[{"type":"string"},{"type":"number"}]}`, `true`, "object matches none of the required"},
		{`{"properties":{"a":false}}`, `{"a":1}`, `property "a" validation failed: value wasn't supposed to match schema`},
		{`{"format":"ipv6"}`, `"fe80::1%eth0"`, "expected a valid ipv6 address"},
	} {
		s, err := Compile([]byte(c.schema))
		if err != nil {
			t.Errorf("%s: %v", c.schema, err)
			continue
		}
		got := ""
		if err := s.ValidateJSON([]byte(c.doc)); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s with %s:\n got %s\nwant %s", c.schema, c.doc, got, c.want)
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	for _, doc := range []string{`{"type":"nosuch"}`, `{"$ref":"#/definitions/a","definitions":{"a":{}}}`, `{"contains":{}}`, `{"format":"email"}`,
		`{"pattern":"("}`, `{"properties":{"a":{"minimum":"x"}}}`, `{"then":{}}`, `[]`, `{`, `{"exclusiveMinimum":true}`} {
		if _, err := Compile([]byte(doc)); err == nil {
			t.Errorf("compiled %s", doc)
		}
	}
}

func TestValidateNormalizes(t *testing.T) {
	s, err := Compile([]byte(`{"properties":{"o":{"type":"object"},"a":{"type":"array"},"n":{"type":"integer"},"f":{"type":"number"},
		"x":{"anyOf":[{"type":"object"},{"type":"array"}]}}}`))
	if err != nil {
		t.Fatal(err)
	}
	v, err := Parse([]byte(`{"o":[],"a":{},"n":1.0e2,"f":1.0,"x":[]}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(v); err != nil {
		t.Fatal(err)
	}
	if got, want := string(v.JSON()), `{"o":{},"a":[],"n":100,"f":1.0,"x":[]}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestLargeDocuments: the time is not quadratic in what the other side sends.
func TestLargeDocuments(t *testing.T) {
	s, err := Compile([]byte(`{"properties":{"a":{"uniqueItems":true,"items":{"type":"integer"}},"o":{"patternProperties":{".*":{"type":"integer"}}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString(`{"a":[0`)
	for i := range 100_000 {
		fmt.Fprintf(&b, ",%d", i+1)
	}
	b.WriteString(`],"o":{"x":1`)
	for i := range 50_000 {
		fmt.Fprintf(&b, `,"k%d":1`, i)
	}
	b.WriteString(`}}`)
	start := time.Now()
	if err := s.ValidateJSON([]byte(b.String())); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %s", took)
	}
}
