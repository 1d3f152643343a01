package gateway

import (
	"fmt"
	"strings"
)

// Template is a text with variables: $name, ${name}, or ${name ?? text} with a
// text for when there is none. A backslash before "$" takes its meaning away.
// A name is made of letters, digits and underscores; one that begins with a
// digit is made of digits only, so that "$1st" is the first capture and "st".
// Immutable.
type Template struct {
	parts []part
	plain string // the whole text, when there are no variables
}

// part is a literal, or a variable with its default.
type part struct {
	text string // literal, or default
	name string // "" for a literal
}

// Limits of a template.
const (
	maxTemplate = 64 << 10 // bytes
	maxParts    = 256
)

// ParseTemplate reads a template. What does not make a variable stands for
// itself, so only one that is too large fails.
func ParseTemplate(s string) (*Template, error) {
	if len(s) > maxTemplate {
		return nil, fmt.Errorf("template is longer than %d bytes", maxTemplate)
	}
	t := &Template{}
	var lit strings.Builder
	flush := func() {
		if lit.Len() > 0 {
			t.parts = append(t.parts, part{text: lit.String()})
			lit.Reset()
		}
	}
	for i := 0; i < len(s); {
		switch {
		case s[i] == '\\' && i+1 < len(s) && s[i+1] == '$':
			lit.WriteByte('$')
			i += 2
			continue
		case s[i] == '$':
			if p, n := variable(s[i+1:]); n > 0 {
				flush()
				t.parts = append(t.parts, p)
				i += 1 + n
				continue
			}
		}
		lit.WriteByte(s[i])
		i++
	}
	flush()
	if len(t.parts) > maxParts {
		return nil, fmt.Errorf("template has more than %d parts", maxParts)
	}
	switch {
	case len(t.parts) == 0:
	case len(t.parts) == 1 && t.parts[0].name == "":
		t.plain, t.parts = t.parts[0].text, nil
	}
	return t, nil
}

// variable reads what follows a "$" and returns how much of s it is, 0 for
// nothing.
func variable(s string) (part, int) {
	if !strings.HasPrefix(s, "{") {
		n := nameLen(s)
		return part{name: s[:n]}, n
	}
	inner, _, ok := strings.Cut(s[1:], "}")
	if !ok {
		return part{}, 0
	}
	size := len(inner) + 2
	name, def, _ := strings.Cut(inner, "??")
	name, def = strings.TrimSpace(name), strings.TrimSpace(def)
	if name == "" || nameLen(name) != len(name) {
		return part{}, 0
	}
	return part{text: def, name: name}, size
}

func nameLen(s string) int {
	isDigit := func(c byte) bool { return '0' <= c && c <= '9' }
	digits := s != "" && isDigit(s[0])
	for i := 0; i < len(s); i++ {
		c := s[i]
		letter := c == '_' || 'a' <= c|0x20 && c|0x20 <= 'z'
		if !isDigit(c) && (digits || !letter) {
			return i
		}
	}
	return len(s)
}

// Plain returns the text of a template without variables.
func (t *Template) Plain() (string, bool) { return t.plain, t.parts == nil }

// Expand puts the variables of x in; those it does not have are empty or
// their default.
func (t *Template) Expand(x *Exchange) string {
	if t.parts == nil {
		return t.plain
	}
	return string(t.Append(nil, x.Var, nil))
}

// Append appends the text to dst. Values that lookup finds go through escape,
// when there is one; literals and defaults do not.
func (t *Template) Append(dst []byte, lookup func(name string) (string, bool), escape func(dst []byte, value string) []byte) []byte {
	if t.parts == nil {
		return append(dst, t.plain...)
	}
	for _, p := range t.parts {
		if p.name == "" {
			dst = append(dst, p.text...)
			continue
		}
		v, ok := lookup(p.name)
		switch {
		case !ok:
			dst = append(dst, p.text...)
		case escape != nil:
			dst = escape(dst, v)
		default:
			dst = append(dst, v...)
		}
	}
	return dst
}
