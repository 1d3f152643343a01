package expr

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// matcher compares the value of a variable; ok is false when there is none.
type matcher interface {
	match(v string, ok bool) bool
}

// equal compares with one value. A variable is always a string, so a number
// is compared as one, and true, false and arrays are equal to nothing.
type equal struct {
	null     bool
	isNumber bool
	isString bool
	number   float64
	text     string
}

func newEqual(value any) (equal, error) {
	switch v := value.(type) {
	case nil:
		return equal{null: true}, nil
	case string:
		return equal{isString: true, text: v}, nil
	case json.Number:
		f, err := v.Float64()
		if err != nil {
			return equal{}, fmt.Errorf("number %s is too large", v)
		}
		return equal{isNumber: true, number: f}, nil
	case bool, []any:
		return equal{}, nil
	}
	return equal{}, fmt.Errorf("cannot compare with %s", kind(value))
}

func (e equal) match(v string, ok bool) bool {
	switch {
	case e.null:
		return !ok
	case !ok:
		return false
	case e.isString:
		return v == e.text
	case e.isNumber:
		f, ok := parseNumber(v)
		return ok && f == e.number
	}
	return false
}

type differs struct{ equal }

func (d differs) match(v string, ok bool) bool { return !d.equal.match(v, ok) }

type compared struct {
	op string
	n  float64
}

func (c compared) match(v string, ok bool) bool {
	f, isNumber := parseNumber(v)
	if !ok || !isNumber {
		return false
	}
	switch c.op {
	case ">":
		return f > c.n
	case ">=":
		return f >= c.n
	case "<":
		return f < c.n
	default:
		return f <= c.n
	}
}

type matches struct{ re *regexp.Regexp }

func (m matches) match(v string, ok bool) bool { return ok && m.re.MatchString(v) }

// oneOf is membership: strings in a set, numbers compared as such.
type oneOf struct {
	texts   map[string]bool
	numbers []float64
}

func newOneOf(l []any) (matcher, error) {
	out := oneOf{texts: make(map[string]bool, len(l))}
	for _, v := range l {
		e, err := newEqual(v)
		switch {
		case err != nil:
			return nil, err
		case e.isString:
			out.texts[e.text] = true
		case e.isNumber:
			out.numbers = append(out.numbers, e.number)
		default:
			return nil, fmt.Errorf("operator \"in\" takes strings and numbers, got %s", kind(v))
		}
	}
	return out, nil
}

func (o oneOf) match(v string, ok bool) bool {
	if !ok {
		return false
	}
	if o.texts[v] {
		return true
	}
	if len(o.numbers) > 0 {
		if f, ok := parseNumber(v); ok {
			for _, n := range o.numbers {
				if n == f {
					return true
				}
			}
		}
	}
	return false
}

// never is "has": it asks whether a list contains a value, and no variable is
// a list.
type never struct{}

func (never) match(string, bool) bool { return false }

type addrs []netip.Prefix

func (as addrs) match(v string, ok bool) bool {
	if !ok {
		return false
	}
	a, err := netip.ParseAddr(v)
	if err != nil {
		return false
	}
	a = a.WithZone("").Unmap()
	for _, p := range as {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// toNumber reads the value of a numeric comparison: a number, or a string
// that is one.
func toNumber(v any) (float64, bool) {
	switch v := v.(type) {
	case json.Number:
		return parseNumber(v.String())
	case string:
		return parseNumber(v)
	}
	return 0, false
}

// parseNumber reads a finite decimal number, blanks around it allowed.
func parseNumber(s string) (float64, bool) {
	s = strings.TrimSpace(s)
	if s == "" || len(s) > 64 {
		return 0, false
	}
	// ParseFloat also knows "inf", "nan", hexadecimal and underscores.
	if strings.IndexFunc(s, func(r rune) bool {
		return (r < '0' || r > '9') && r != '+' && r != '-' && r != '.' && r != 'e' && r != 'E'
	}) >= 0 {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil && !math.IsInf(f, 0)
}
