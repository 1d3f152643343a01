// Package expr parses and evaluates the expressions by which a route or a
// plugin says when it applies: JSON arrays such as
//
//	[["arg_user", "==", "jack"], ["http_x_level", ">", 10]]
//	["OR", ["host", "==", "a.com"], ["remote_addr", "ipmatch", ["10.0.0.0/8"]]]
//
// A list of conditions holds when all do. A condition is [variable, operator,
// value], [variable, "!", operator, value] for its opposite, or [variable,
// value] for equality. "AND", "OR", "!AND" and "!OR" join two conditions or
// more.
//
// The package knows no variable: the caller looks them up. Regular expressions
// are Go's (RE2), so that none takes more than linear time; syntax only PCRE
// has is refused when parsing.
package expr

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

// Limits of an expression.
const (
	maxBytes = 64 << 10 // of its JSON
	maxDepth = 32       // of nesting
	maxNodes = 2048     // conditions and operators
	maxRegex = 4096     // bytes of one regular expression
)

// Expr is a parsed expression. It is immutable; nil always holds.
type Expr struct{ root node }

type node interface {
	eval(lookup func(string) (string, bool)) bool
}

// Parse reads an expression. An empty list always holds, as does null.
func Parse(raw json.RawMessage) (*Expr, error) {
	if len(raw) > maxBytes {
		return nil, fmt.Errorf("expression is longer than %d bytes", maxBytes)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, fmt.Errorf("reading an expression: %w", err)
	}
	if dec.More() {
		return nil, errors.New("reading an expression: text after its end")
	}
	if v == nil {
		return nil, nil
	}
	list, ok := v.([]any)
	if !ok {
		return nil, errors.New("expression must be an array")
	}
	p := parser{}
	n, err := p.list(list, 0)
	if err != nil {
		return nil, err
	}
	return &Expr{n}, nil
}

// Eval says whether the expression holds. A variable that lookup does not
// have is null: equal to null only, and no operator but == and ~= or a
// negation holds for it.
func (e *Expr) Eval(lookup func(name string) (string, bool)) bool {
	return e == nil || e.root.eval(lookup)
}

type parser struct{ nodes int }

// list parses any array: a joined list, a list of conditions or a condition.
func (p *parser) list(l []any, depth int) (node, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("expression is nested deeper than %d", maxDepth)
	}
	if p.nodes++; p.nodes > maxNodes {
		return nil, fmt.Errorf("expression has more than %d conditions", maxNodes)
	}
	if len(l) == 0 {
		if depth == 0 {
			return all(nil), nil
		}
		return nil, errors.New("empty condition")
	}
	switch first := l[0].(type) {
	case []any:
		nodes, err := p.each(l, depth)
		return all(nodes), err
	case string:
		if not, or, ok := joiner(first); ok {
			return p.join(first, not, or, l[1:], depth)
		}
		return p.leaf(first, l[1:])
	}
	return nil, fmt.Errorf("condition must begin with the name of a variable, got %s", kind(l[0]))
}

func (p *parser) each(l []any, depth int) ([]node, error) {
	nodes := make([]node, 0, len(l))
	for _, v := range l {
		sub, ok := v.([]any)
		if !ok {
			return nil, fmt.Errorf("condition must be an array, got %s", kind(v))
		}
		n, err := p.list(sub, depth+1)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}

func joiner(s string) (not, or, ok bool) {
	switch s {
	case "AND":
		return false, false, true
	case "OR":
		return false, true, true
	case "!AND":
		return true, false, true
	case "!OR":
		return true, true, true
	}
	return false, false, false
}

func (p *parser) join(op string, not, or bool, rest []any, depth int) (node, error) {
	if len(rest) < 2 {
		return nil, fmt.Errorf("operator %q needs at least two conditions", op)
	}
	nodes, err := p.each(rest, depth)
	if err != nil {
		return nil, err
	}
	var n node = all(nodes)
	if or {
		n = some(nodes)
	}
	if not {
		n = negated{n}
	}
	return n, nil
}

func (p *parser) leaf(name string, rest []any) (node, error) {
	if name == "" {
		return nil, errors.New("name of a variable is empty")
	}
	var op string
	not := false
	switch len(rest) {
	case 1:
		op = "=="
	case 2:
		op, _ = rest[0].(string)
	case 3:
		op, _ = rest[1].(string)
		if s, _ := rest[0].(string); s != "!" {
			return nil, fmt.Errorf("condition on %q has four elements, but the second is not \"!\"", name)
		}
		not = true
	default:
		return nil, fmt.Errorf("condition on %q must have two to four elements, got %d", name, len(rest)+1)
	}
	if op == "" {
		return nil, fmt.Errorf("condition on %q: the operator must be a string", name)
	}
	m, err := matcherFor(op, rest[len(rest)-1])
	if err != nil {
		return nil, fmt.Errorf("condition on %q: %w", name, err)
	}
	var n node = condition{name, m}
	if not {
		n = negated{n}
	}
	return n, nil
}

type (
	all       []node
	some      []node
	negated   struct{ node }
	condition struct {
		name string
		m    matcher
	}
)

func (ns all) eval(lookup func(string) (string, bool)) bool {
	for _, n := range ns {
		if !n.eval(lookup) {
			return false
		}
	}
	return true
}

func (ns some) eval(lookup func(string) (string, bool)) bool {
	for _, n := range ns {
		if n.eval(lookup) {
			return true
		}
	}
	return false
}

func (n negated) eval(lookup func(string) (string, bool)) bool { return !n.node.eval(lookup) }

func (c condition) eval(lookup func(string) (string, bool)) bool {
	v, ok := lookup(c.name)
	return c.m.match(v, ok)
}

func matcherFor(op string, value any) (matcher, error) {
	switch op {
	case "==":
		return newEqual(value)
	case "~=":
		eq, err := newEqual(value)
		return differs{eq}, err
	case ">", ">=", "<", "<=":
		n, ok := toNumber(value)
		if !ok {
			return nil, fmt.Errorf("operator %q compares numbers, got %s", op, kind(value))
		}
		return compared{op, n}, nil
	case "~~", "~*":
		s, ok := value.(string)
		if !ok {
			return nil, fmt.Errorf("operator %q takes a regular expression, got %s", op, kind(value))
		}
		re, err := Regexp(s, op == "~*")
		return matches{re}, err
	case "in":
		l, ok := value.([]any)
		if !ok {
			return nil, fmt.Errorf("operator \"in\" takes an array, got %s", kind(value))
		}
		return newOneOf(l)
	case "has":
		if _, err := newEqual(value); err != nil {
			return nil, err
		}
		return never{}, nil
	case "ipmatch":
		return newAddrs(value)
	}
	return nil, fmt.Errorf("invalid operator '%s'", op)
}

// Regexp compiles a regular expression and says in plain words when it uses
// what only PCRE has.
func Regexp(s string, fold bool) (*regexp.Regexp, error) {
	if len(s) > maxRegex {
		return nil, fmt.Errorf("regular expression is longer than %d bytes", maxRegex)
	}
	flags := ""
	if fold {
		flags = "(?i)"
	}
	re, err := regexp.Compile(flags + s)
	if err == nil {
		return re, nil
	}
	for _, f := range pcreOnly {
		if strings.Contains(s, f.text) {
			return nil, fmt.Errorf("regular expression %q: %s are not supported", s, f.what)
		}
	}
	return nil, fmt.Errorf("regular expression %q: %w", s, err)
}

// pcreOnly is what a regular expression may not use: RE2 has none of it.
var pcreOnly = []struct{ text, what string }{
	{"(?=", "lookaheads"}, {"(?!", "lookaheads"},
	{"(?<=", "lookbehinds"}, {"(?<!", "lookbehinds"},
	{"(?>", "atomic groups"}, {"(?R", "recursions"}, {"(?#", "comments"}, {"(?|", "branch resets"},
	{"*+", "possessive quantifiers"}, {"++", "possessive quantifiers"}, {"?+", "possessive quantifiers"}, {"}+", "possessive quantifiers"},
	{`\K`, `resets of the match (\K)`}, {`\G`, `continued matches (\G)`},
	{`\k`, "back references"}, {`\g`, "back references"}, {`(?P=`, "back references"},
	{`\1`, "back references"}, {`\2`, "back references"}, {`\3`, "back references"},
}

func newAddrs(value any) (matcher, error) {
	l, ok := value.([]any)
	if s, one := value.(string); one {
		l, ok = []any{s}, true
	}
	if !ok || len(l) == 0 {
		return nil, fmt.Errorf("operator \"ipmatch\" takes addresses, got %s", kind(value))
	}
	var out addrs
	for _, v := range l {
		s, ok := v.(string)
		if !ok {
			return nil, fmt.Errorf("operator \"ipmatch\" takes addresses, got %s", kind(v))
		}
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a, aerr := netip.ParseAddr(s)
			if aerr != nil || a.Zone() != "" {
				return nil, fmt.Errorf("%q is neither an address nor a network", s)
			}
			p = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

func kind(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case string:
		return "a string"
	case json.Number:
		return "a number"
	case bool:
		return "a boolean"
	case []any:
		return "an array"
	}
	return "an object"
}
