package schema

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"gatehouse/lib/fault"
)

// MaxDepth is how deep arrays and objects may nest in a parsed document.
const MaxDepth = 100

// Type is the type of a JSON value.
type Type uint8

const (
	Null Type = iota
	Bool
	Number
	String
	Array
	Object
)

// Value is a JSON document as a tree that keeps the order of members and the
// spelling of numbers. Parse makes it; it may be changed by its owner.
type Value struct {
	Type    Type
	Bool    bool
	Text    string   // of a String, decoded; of a Number, as written
	Items   []*Value // of an Array
	Members []Member // of an Object
}

// Member is a name in an object with what stands there.
type Member struct {
	Name  string
	Value *Value
}

// Text makes a string value.
func Text(s string) *Value { return &Value{Type: String, Text: s} }

// Int makes a number value.
func Int(n int64) *Value { return &Value{Type: Number, Text: strconv.FormatInt(n, 10)} }

// Get returns what stands under a name, nil when v is no object or has none.
func (v *Value) Get(name string) *Value {
	if v == nil {
		return nil
	}
	for i := range v.Members {
		if v.Members[i].Name == name {
			return v.Members[i].Value
		}
	}
	return nil
}

// At follows names through nested objects.
func (v *Value) At(names ...string) *Value {
	for _, n := range names {
		v = v.Get(n)
	}
	return v
}

// Set puts a value under a name, in its old place or at the end.
func (v *Value) Set(name string, to *Value) {
	for i := range v.Members {
		if v.Members[i].Name == name {
			v.Members[i].Value = to
			return
		}
	}
	v.Members = append(v.Members, Member{name, to})
}

// Delete removes a name.
func (v *Value) Delete(name string) {
	v.Members = slices.DeleteFunc(v.Members, func(m Member) bool { return m.Name == name })
}

// Clone copies the whole tree.
func (v *Value) Clone() *Value {
	if v == nil {
		return nil
	}
	c := &Value{Type: v.Type, Bool: v.Bool, Text: v.Text}
	for _, i := range v.Items {
		c.Items = append(c.Items, i.Clone())
	}
	for _, m := range v.Members {
		c.Members = append(c.Members, Member{m.Name, m.Value.Clone()})
	}
	return c
}

// String returns a string or number as text, "" for anything else and for nil.
func (v *Value) String() string {
	if v == nil || v.Type != String && v.Type != Number {
		return ""
	}
	return v.Text
}

// Float returns the value of a number.
func (v *Value) Float() float64 {
	f, _ := strconv.ParseFloat(v.Text, 64)
	return f
}

// JSON writes the document without white space.
func (v *Value) JSON() []byte { return v.Append(nil) }

// Append appends the document to b.
func (v *Value) Append(b []byte) []byte {
	switch {
	case v == nil || v.Type == Null:
		return append(b, "null"...)
	case v.Type == Bool:
		return strconv.AppendBool(b, v.Bool)
	case v.Type == Number:
		return append(b, v.Text...)
	case v.Type == String:
		return appendQuoted(b, v.Text)
	case v.Type == Array:
		b = append(b, '[')
		for i, item := range v.Items {
			if i > 0 {
				b = append(b, ',')
			}
			b = item.Append(b)
		}
		return append(b, ']')
	}
	b = append(b, '{')
	for i, m := range v.Members {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendQuoted(b, m.Name), ':')
		b = m.Value.Append(b)
	}
	return append(b, '}')
}

func appendQuoted(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, '\\', 'n')
		case c == '\r':
			b = append(b, '\\', 'r')
		case c == '\t':
			b = append(b, '\\', 't')
		case c < 0x20 || c == 0x7f:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}

// Parse reads one JSON document (RFC 8259). It is stricter than most: names
// in an object must be unique, text must be UTF-8, numbers must be finite,
// nesting ends at MaxDepth. Errors are fault.Invalid and name the character,
// counted in bytes from 1. The size is the caller's to limit.
func Parse(data []byte) (*Value, error) {
	p := parser{in: data}
	v, err := p.value(p.next(), 0)
	if err != nil {
		return nil, err
	}
	if t := p.next(); t.kind != "T_END" {
		return nil, t.expected("the end")
	}
	return v, nil
}

type parser struct {
	in []byte
	at int
}

type token struct {
	kind string // "T_STRING", …, or "T_ERROR" with the reason in text
	text string
	at   int
}

func (t token) expected(what string) error {
	found := t.kind
	if t.kind == "T_ERROR" {
		found = t.text
	}
	return fault.New(fault.Invalid, fmt.Sprintf("Expected %s but found %s at character %d", what, found, t.at+1))
}

// punctuation maps a byte to its token.
var punctuation = map[byte]string{
	'{': "T_OBJ_BEGIN", '}': "T_OBJ_END", '[': "T_ARR_BEGIN", ']': "T_ARR_END", ':': "T_COLON", ',': "T_COMMA",
}

func (p *parser) next() token {
	for p.at < len(p.in) && strings.IndexByte(" \t\r\n", p.in[p.at]) >= 0 {
		p.at++
	}
	start := p.at
	if start == len(p.in) {
		return token{"T_END", "", start}
	}
	c := p.in[start]
	if kind, ok := punctuation[c]; ok {
		p.at++
		return token{kind, "", start}
	}
	switch {
	case c == '"':
		s, problem := p.quoted()
		if problem != "" {
			return token{"T_ERROR", problem, p.at}
		}
		return token{"T_STRING", s, start}
	case c == '-' || c >= '0' && c <= '9':
		n := numberLen(p.in[start:])
		p.at += n
		text := string(p.in[start:p.at])
		if f, err := strconv.ParseFloat(text, 64); n == 0 || err != nil || math.IsInf(f, 0) {
			return token{"T_ERROR", "invalid number", start}
		}
		return token{"T_NUMBER", text, start}
	}
	for word, kind := range map[string]string{"true": "T_BOOLEAN", "false": "T_BOOLEAN", "null": "T_NULL"} {
		if strings.HasPrefix(string(p.in[start:min(len(p.in), start+len(word))]), word) {
			p.at += len(word)
			return token{kind, word, start}
		}
	}
	return token{"T_ERROR", "invalid token", start}
}

// numberLen is the length of the number b begins with, 0 when there is none.
func numberLen(b []byte) int {
	i := 0
	digits := func() bool {
		from := i
		for i < len(b) && b[i] >= '0' && b[i] <= '9' {
			i++
		}
		return i > from
	}
	if i < len(b) && b[i] == '-' {
		i++
	}
	from := i
	if !digits() || b[from] == '0' && i > from+1 {
		return 0
	}
	if i < len(b) && b[i] == '.' {
		if i++; !digits() {
			return 0
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if !digits() {
			return 0
		}
	}
	return i
}

// quoted reads a string; problem says why it is none, at p.at.
func (p *parser) quoted() (s, problem string) {
	p.at++
	var out []byte
	for p.at < len(p.in) {
		c := p.in[p.at]
		switch {
		case c == '"':
			p.at++
			return string(out), ""
		case c < 0x20:
			return "", "invalid token"
		case c >= utf8.RuneSelf:
			r, n := utf8.DecodeRune(p.in[p.at:])
			if r == utf8.RuneError && n == 1 {
				return "", "invalid UTF-8"
			}
			out = append(out, p.in[p.at:p.at+n]...)
			p.at += n
		case c == '\\':
			if p.at+1 >= len(p.in) {
				return "", "unexpected end of string"
			}
			if i := strings.IndexByte(`"\/bfnrt`, p.in[p.at+1]); i >= 0 {
				out = append(out, "\"\\/\b\f\n\r\t"[i])
				p.at += 2
				continue
			}
			r, ok := p.escape(p.at)
			if p.in[p.at+1] != 'u' {
				return "", "invalid escape code"
			}
			if !ok {
				return "", "invalid unicode escape code"
			}
			p.at += 6
			if utf16.IsSurrogate(r) {
				low, ok := p.escape(p.at)
				if r = utf16.DecodeRune(r, low); !ok || r == utf8.RuneError {
					p.at -= 6
					return "", "invalid unicode escape code"
				}
				p.at += 6
			}
			out = utf8.AppendRune(out, r)
		default:
			out = append(out, c)
			p.at++
		}
	}
	return "", "unexpected end of string"
}

// escape reads a \uXXXX at an offset.
func (p *parser) escape(at int) (rune, bool) {
	if at+6 > len(p.in) || p.in[at] != '\\' || p.in[at+1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(p.in[at+2:at+6]), 16, 32)
	return rune(n), err == nil
}

func (p *parser) value(t token, depth int) (*Value, error) {
	switch t.kind {
	case "T_STRING":
		return Text(t.text), nil
	case "T_NUMBER":
		return &Value{Type: Number, Text: t.text}, nil
	case "T_BOOLEAN":
		return &Value{Type: Bool, Bool: t.text == "true"}, nil
	case "T_NULL":
		return &Value{}, nil
	case "T_OBJ_BEGIN", "T_ARR_BEGIN":
		if depth == MaxDepth {
			return nil, fault.New(fault.Invalid, fmt.Sprintf("Found too many nested data structures (%d) at character %d", depth+1, t.at+1))
		}
		if t.kind == "T_ARR_BEGIN" {
			return p.array(depth + 1)
		}
		return p.object(depth + 1)
	}
	return nil, t.expected("value")
}

func (p *parser) array(depth int) (*Value, error) {
	v := &Value{Type: Array}
	t := p.next()
	if t.kind == "T_ARR_END" {
		return v, nil
	}
	for {
		item, err := p.value(t, depth)
		if err != nil {
			return nil, err
		}
		v.Items = append(v.Items, item)
		switch t = p.next(); t.kind {
		case "T_ARR_END":
			return v, nil
		case "T_COMMA":
			t = p.next()
		default:
			return nil, t.expected("comma or array end")
		}
	}
}

func (p *parser) object(depth int) (*Value, error) {
	v := &Value{Type: Object}
	t := p.next()
	if t.kind == "T_OBJ_END" {
		return v, nil
	}
	seen := map[string]bool{}
	for {
		if t.kind != "T_STRING" {
			return nil, t.expected("object key string")
		}
		if seen[t.text] {
			return nil, fault.New(fault.Invalid, fmt.Sprintf("Found the object key %q twice at character %d", t.text, t.at+1))
		}
		seen[t.text] = true
		if c := p.next(); c.kind != "T_COLON" {
			return nil, c.expected("colon")
		}
		member, err := p.value(p.next(), depth)
		if err != nil {
			return nil, err
		}
		v.Members = append(v.Members, Member{t.text, member})
		switch t = p.next(); t.kind {
		case "T_OBJ_END":
			return v, nil
		case "T_COMMA":
			t = p.next()
		default:
			return nil, t.expected("comma or object end")
		}
	}
}
