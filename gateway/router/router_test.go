package router

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"gatehouse/gateway"
)

func ask(t *Table[string], method, host, path string) string {
	x := &gateway.Exchange{}
	x.Req.Method, x.Req.Host, x.Req.Path = method, host, path
	x.Req.Client = netip.MustParseAddr("10.1.2.3")
	v, _, _ := t.Match(x)
	return v
}

func table(t testing.TB, rules ...Rule[string]) *Table[string] {
	t.Helper()
	tb, err := New(rules)
	if err != nil {
		t.Fatal(err)
	}
	return tb
}

type argIs string

func (a argIs) Holds(x *gateway.Exchange) bool { return x.Req.Query == string(a) }

func TestPrecedence(t *testing.T) {
	tb := table(t,
		Rule[string]{URIs: []string{"/*"}, Priority: 100, Value: "root"},
		Rule[string]{URIs: []string{"/m/*"}, Priority: 50, Value: "m-prefix"},
		Rule[string]{URIs: []string{"/m/x"}, Value: "m-exact"},
		Rule[string]{URIs: []string{"/m/x"}, Methods: []string{"PUT"}, Priority: 1, Value: "m-exact-put"},
		Rule[string]{URIs: []string{"/eq*"}, Value: "eq-old"},
		Rule[string]{URIs: []string{"/eq*"}, Value: "eq-young"},
		Rule[string]{URIs: []string{"/a/*/b"}, Value: "mid"},
		Rule[string]{URIs: []string{"/a/*"}, Value: "a"},
		Rule[string]{URIs: []string{"/u1", "/u2"}, Value: "two"},
		Rule[string]{URIs: []string{"/:name"}, Value: "literal colon"},
		Rule[string]{URIs: []string{"/m/*"}, Hosts: []string{"*.Example.com"}, Value: "wild"},
		Rule[string]{URIs: []string{"/m/*"}, Hosts: []string{"*.b.example.com"}, Value: "longer wild"},
		Rule[string]{URIs: []string{"/m/*"}, Hosts: []string{"a.example.com"}, Value: "exact host"},
		Rule[string]{URIs: []string{"/star"}, Hosts: []string{"*"}, Value: "any host"},
		Rule[string]{URIs: []string{"/star"}, Priority: 9, Value: "hostless"},
		Rule[string]{URIs: []string{"/net"}, RemoteAddrs: []string{"10.0.0.0/8"}, Value: "net"},
		Rule[string]{URIs: []string{"/net"}, Value: "elsewhere"},
		Rule[string]{URIs: []string{"/net1"}, RemoteAddrs: []string{"10.1.2.4"}, Value: "not me"},
	)
	rows := []struct{ method, host, path, want string }{
		{"GET", "h", "/", "root"},
		{"GET", "h", "/m", "root"},
		{"GET", "h", "/m/", "m-prefix"},
		{"GET", "h", "/m/x", "m-exact"},
		{"PUT", "h", "/m/x", "m-exact-put"},
		{"GET", "h", "/m/xy", "m-prefix"},
		{"GET", "h", "/eq", "eq-old"},
		{"GET", "h", "/a/1/2/b", "mid"},
		{"GET", "h", "/a/1/2/c", "a"},
		{"GET", "h", "/a/b", "a"},
		{"GET", "h", "/u2", "two"},
		{"GET", "h", "/:name", "literal colon"},
		{"GET", "h", "/name", "root"},
		{"GET", "a.example.com", "/m/x", "exact host"},
		{"GET", "x.example.com", "/m/x", "wild"},
		{"GET", "x.y.example.com", "/m/x", "wild"},
		{"GET", "x.b.example.com", "/m/x", "longer wild"},
		{"GET", "example.com", "/m/x", "m-exact"},
		{"GET", "a.example.com", "/u1", "two"}, // falls back to the routes without host
		{"GET", "h", "/star", "any host"},
		{"GET", "h", "/net", "net"},
		{"GET", "h", "/net1", "root"},
	}
	for _, r := range rows {
		if got := ask(tb, r.method, r.host, r.path); got != r.want {
			t.Errorf("%s %s%s = %q, want %q", r.method, r.host, r.path, got, r.want)
		}
	}
	empty := table(t)
	if got := ask(empty, "GET", "h", "/"); got != "" {
		t.Errorf("empty table matched %q", got)
	}
}

func TestConditionFallsThrough(t *testing.T) {
	tb := table(t,
		Rule[string]{URIs: []string{"/x"}, Priority: 1, When: argIs("v=2"), Value: "v2"},
		Rule[string]{URIs: []string{"/*"}, Value: "rest"},
	)
	x := &gateway.Exchange{}
	x.Req.Path, x.Req.Query = "/x", "v=2"
	if v, uri, ok := tb.Match(x); !ok || v != "v2" || uri != "/x" {
		t.Errorf("got %q %q", v, uri)
	}
	x.Req.Query = "v=1"
	if v, uri, ok := tb.Match(x); !ok || v != "rest" || uri != "/*" {
		t.Errorf("got %q %q", v, uri)
	}
}

func TestBadRulesAreRefused(t *testing.T) {
	for _, r := range []Rule[string]{
		{URIs: []string{""}}, {URIs: []string{"a"}},
		{URIs: []string{"/"}, Hosts: []string{"a*.b"}}, {URIs: []string{"/"}, Hosts: []string{""}},
		{URIs: []string{"/"}, RemoteAddrs: []string{"10.0.0.0/33"}}, {URIs: []string{"/"}, RemoteAddrs: []string{"x"}},
	} {
		if _, err := New([]Rule[string]{r}); err == nil {
			t.Errorf("%+v accepted", r)
		}
	}
}

// naive is the documented order, written down without cleverness.
func naive(rules []Rule[string], host, path string) string {
	type cand struct {
		host, exact, prefix, priority, length, order int
		value                                        string
	}
	var all []cand
	for i, r := range rules {
		for _, u := range r.URIs {
			c := cand{priority: r.Priority, length: len(u), order: i, value: r.Value}
			star := strings.IndexByte(u, '*')
			switch {
			case star < 0 && u == path:
				c.exact = 1
			case star < 0 || !globs(u, path):
				continue
			default:
				c.prefix = star
			}
			hosts := r.Hosts
			if len(hosts) == 0 {
				hosts = []string{""}
			}
			for _, h := range hosts {
				switch {
				case h == "":
					c.host = -2
				case h == host:
					c.host = 1 << 20
				case h[0] == '*' && strings.HasSuffix(host, h[1:]):
					c.host = len(h)
				default:
					continue
				}
				all = append(all, c)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b cand) int {
		return cmp.Or(b.host-a.host, b.exact-a.exact, b.prefix-a.prefix, b.priority-a.priority, b.length-a.length, a.order-b.order)
	})
	if len(all) == 0 {
		return ""
	}
	return all[0].value
}

func FuzzAgainstNaive(f *testing.F) {
	f.Add([]byte("abcdefgh"), "/a/b", "a.b")
	f.Add([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 99, 200, 255, 0, 7, 7}, "/a/b/a/b", "b.a.b")
	uris := []string{"/*", "/a", "/a*", "/a/*", "/a/b", "/a/*/b", "/ab/*", "*", "/a/b/*", "/*/b"}
	hosts := []string{"", "", "*", "*.b", "*b", "a.b", "*.a.b", "b"}
	f.Fuzz(func(t *testing.T, spec []byte, path, host string) {
		if len(spec) > 60 || len(path) > 64 || len(host) > 64 || path == "" || path[0] != '/' || strings.Contains(path, "*") || strings.Contains(host, "*") || host == "" {
			return
		}
		var rules []Rule[string]
		for i := 0; i+2 < len(spec); i += 3 {
			r := Rule[string]{URIs: []string{uris[int(spec[i])%len(uris)]}, Priority: int(spec[i+2] % 3), Value: fmt.Sprint("r", i)}
			if h := hosts[int(spec[i+1])%len(hosts)]; h != "" {
				r.Hosts = []string{h}
			}
			rules = append(rules, r)
		}
		tb, err := New(rules)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := ask(tb, "GET", host, path), naive(rules, host, path); got != want {
			t.Errorf("%q %q: got %q, want %q, rules %+v", host, path, got, want, rules)
		}
	})
}

func tenThousand() []Rule[int] {
	var rules []Rule[int]
	for i := range 10_000 {
		r := Rule[int]{URIs: []string{fmt.Sprintf("/api/v%d/thing%d/*", i%7, i)}, Value: i}
		if i%10 == 0 {
			r.Hosts = []string{fmt.Sprintf("h%d.example.com", i%100)}
		}
		rules = append(rules, r)
	}
	return rules
}

func TestMatchDoesNotAllocate(t *testing.T) {
	tb, err := New(tenThousand())
	if err != nil {
		t.Fatal(err)
	}
	x := &gateway.Exchange{}
	x.Req.Host, x.Req.Path = "h5.example.com", "/api/v1/thing9108/x"
	if n := testing.AllocsPerRun(100, func() {
		if v, _, ok := tb.Match(x); !ok || v != 9108 {
			t.Fatal(v, ok)
		}
	}); n != 0 {
		t.Errorf("%v allocations per match, want 0", n)
	}
}

func BenchmarkMatch10k(b *testing.B) {
	tb, err := New(tenThousand())
	if err != nil {
		b.Fatal(err)
	}
	x := &gateway.Exchange{}
	x.Req.Host, x.Req.Path = "h5.example.com", "/api/v1/thing9108/x"
	for b.Loop() {
		tb.Match(x)
	}
}

func BenchmarkBuild10k(b *testing.B) {
	rules := tenThousand()
	for b.Loop() {
		if _, err := New(rules); err != nil {
			b.Fatal(err)
		}
	}
}
