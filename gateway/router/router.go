// Package router finds the route of a request: by host, then by path, then by
// the other conditions, in the order operators of APISIX know
// (radixtree_host_uri). It runs nothing and stores nothing; a Table is made
// whole and never changes.
//
// The order: an exact host before a wildcard, a longer wildcard before a
// shorter, routes without a host last; a host none of whose routes fits falls
// back to the next. Within a host: routes whose path equals the request's, by
// priority; then prefixes from the longest to the shortest, each by priority,
// then the longer pattern, then the older route. Priority never lifts a prefix
// over a longer one or over an exact path.
package router

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"gatehouse/gateway"
	"gatehouse/lib/fault"
)

// Rule is the conditions of one route and what it stands for.
type Rule[T any] struct {
	URIs        []string // "/a", "/a/*", "/a/*/b"
	Hosts       []string // "a.example", "*.example", "*"; none: every host
	Methods     []string // none: every method
	RemoteAddrs []string // addresses and networks; none: every client
	Priority    int
	When        Condition // nil: always
	Value       T
}

// Condition is what else must hold; it must not change and not block.
type Condition interface {
	Holds(x *gateway.Exchange) bool
}

// Table is a set of rules, ready to match. Immutable.
type Table[T any] struct {
	exact    map[string]*paths[T]
	suffixes []suffixes[T] // the longest first; "*" is the suffix ""
	anyHost  *paths[T]
}

// suffixes are the wildcard hosts of one length.
type suffixes[T any] struct {
	length int
	paths  map[string]*paths[T]
}

// paths holds the rules of one host.
type paths[T any] struct {
	exact map[string][]*entry[T]
	tree  node[T]
	count int
}

// entry is one path of one rule.
type entry[T any] struct {
	uri      string // as written
	glob     string // what follows the literal prefix, with "*"; "" for a plain prefix
	methods  []string
	addrs    []netip.Prefix
	when     Condition
	priority int
	order    int
	value    T
}

// New makes a table. Rules come in the order in which they were created.
// A rule that cannot be understood fails with fault.Invalid; Check tells
// beforehand.
func New[T any](rules []Rule[T]) (*Table[T], error) {
	t := &Table[T]{exact: map[string]*paths[T]{}}
	wild := map[string]*paths[T]{}
	for order := range rules {
		r := &rules[order]
		addrs, err := Check(r.URIs, r.Hosts, r.RemoteAddrs)
		if err != nil {
			return nil, err
		}
		for _, uri := range r.URIs {
			e := &entry[T]{uri: uri, methods: r.Methods, addrs: addrs, when: r.When, priority: r.Priority, order: order, value: r.Value}
			if len(r.Hosts) == 0 {
				if t.anyHost == nil {
					t.anyHost = &paths[T]{}
				}
				t.anyHost.add(e)
			}
			for _, h := range r.Hosts {
				h = strings.ToLower(h)
				in, key := t.exact, h
				if h[0] == '*' {
					in, key = wild, h[1:]
				}
				if in[key] == nil {
					in[key] = &paths[T]{}
				}
				in[key].add(e)
			}
		}
	}
	for s, p := range wild {
		i := slices.IndexFunc(t.suffixes, func(x suffixes[T]) bool { return x.length == len(s) })
		if i < 0 {
			i = len(t.suffixes)
			t.suffixes = append(t.suffixes, suffixes[T]{len(s), map[string]*paths[T]{}})
		}
		t.suffixes[i].paths[s] = p
		p.finish()
	}
	slices.SortFunc(t.suffixes, func(a, b suffixes[T]) int { return cmp.Compare(b.length, a.length) })
	for _, p := range t.exact {
		p.finish()
	}
	if t.anyHost != nil {
		t.anyHost.finish()
	}
	return t, nil
}

// Check says what is wrong with the conditions of a rule (fault.Invalid), and
// reads its networks.
func Check(uris, hosts, remoteAddrs []string) ([]netip.Prefix, error) {
	for _, u := range uris {
		if u == "" || u[0] != '/' && u[0] != '*' || len(u) > 4096 {
			return nil, fault.New(fault.Invalid, fmt.Sprintf("uri %q must begin with a slash", u))
		}
	}
	for _, h := range hosts {
		if h == "" || strings.LastIndexByte(h, '*') > 0 {
			return nil, fault.New(fault.Invalid, fmt.Sprintf("host %q: a \"*\" stands at the beginning only", h))
		}
	}
	var addrs []netip.Prefix
	for _, a := range remoteAddrs {
		p, err := netip.ParsePrefix(a)
		if err != nil {
			ip, err := netip.ParseAddr(a)
			if err != nil {
				return nil, fault.New(fault.Invalid, fmt.Sprintf("remote_addr %q is no address or network", a))
			}
			ip = ip.Unmap()
			p = netip.PrefixFrom(ip, ip.BitLen())
		}
		addrs = append(addrs, p.Masked())
	}
	return addrs, nil
}

// Match finds the rule of a request and the path pattern that matched.
func (t *Table[T]) Match(x *gateway.Exchange) (v T, uri string, ok bool) {
	host, path := x.Req.Host, x.Req.Path
	if p := t.exact[host]; p != nil {
		if e := p.match(x, path); e != nil {
			return e.value, e.uri, true
		}
	}
	for i := range t.suffixes {
		s := &t.suffixes[i]
		if len(host) < s.length {
			continue
		}
		if p := s.paths[host[len(host)-s.length:]]; p != nil {
			if e := p.match(x, path); e != nil {
				return e.value, e.uri, true
			}
		}
	}
	if t.anyHost != nil {
		if e := t.anyHost.match(x, path); e != nil {
			return e.value, e.uri, true
		}
	}
	return v, "", false
}

func (p *paths[T]) add(e *entry[T]) {
	p.count++
	star := strings.IndexByte(e.uri, '*')
	if star < 0 {
		if p.exact == nil {
			p.exact = map[string][]*entry[T]{}
		}
		p.exact[e.uri] = append(p.exact[e.uri], e)
		return
	}
	if rest := e.uri[star:]; rest != "*" {
		c := *e // the same rule may stand in several hosts
		c.glob = rest
		e = &c
	}
	p.tree.add(e.uri[:star], e)
}

func (p *paths[T]) finish() {
	for _, list := range p.exact {
		sortEntries(list)
	}
	p.tree.finish(nil)
}

func sortEntries[T any](list []*entry[T]) {
	slices.SortStableFunc(list, func(a, b *entry[T]) int {
		return cmp.Or(cmp.Compare(b.priority, a.priority), cmp.Compare(len(b.uri), len(a.uri)), cmp.Compare(a.order, b.order))
	})
}

func (p *paths[T]) match(x *gateway.Exchange, path string) *entry[T] {
	for _, e := range p.exact[path] {
		if e.fits(x) {
			return e
		}
	}
	for n := p.tree.deepest(path); n != nil; n = n.up {
		for _, e := range n.entries {
			if (e.glob == "" || globs(e.glob, path[n.depth:])) && e.fits(x) {
				return e
			}
		}
	}
	return nil
}

// fits tests the conditions besides host and path, the cheap ones first.
func (e *entry[T]) fits(x *gateway.Exchange) bool {
	if len(e.methods) > 0 && !slices.Contains(e.methods, x.Req.Method) {
		return false
	}
	if len(e.addrs) > 0 {
		in := false
		for _, p := range e.addrs {
			if p.Contains(x.Req.Client) {
				in = true
				break
			}
		}
		if !in {
			return false
		}
	}
	return e.when == nil || e.when.Holds(x)
}

// globs matches s against a pattern in which "*" stands for any text, slashes
// included. Linear but for the number of stars.
func globs(pattern, s string) bool {
	star, mark := -1, 0
	p, i := 0, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && pattern[p] == s[i]:
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}
