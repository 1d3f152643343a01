package proxyrewrite

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"gatehouse/gateway"
	"gatehouse/lib/schema"
)

func TestSchemaIsTheStructs(t *testing.T) {
	derived, err := schema.Derive(reflect.TypeFor[Config]())
	if err != nil {
		t.Fatal(err)
	}
	diff, err := schema.Differences(schemaJSON, derived)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range diff {
		t.Error(d)
	}
}

func TestConfig(t *testing.T) {
	s, err := schema.Compile(Plugin.Schema())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ conf, want string }{
		{`{"uri":"/new"}`, ""},
		{`{"headers":{"X-A":"1","X-B":2}}`, ""},
		{`{"headers":{"set":"a flat field called set"}}`, ""},
		{`{"headers":{"remove":["User-Agent"]}}`, ""},
		{`{"headers":{"set":{"X-A":["a",1]}},"_meta":{"priority":3}}`, ""},
		{`{"headers":{"Host":"$arg_h"}}`, ""},
		{`{"use_real_request_uri_unsafe":true}`, ""},
		{`{}`, "schema"},
		{`{"uri":"new"}`, "schema"},
		{`{"uri":1}`, "schema"},
		{`{"unknown":1}`, "schema"},
		{`{"method":"CONNECT"}`, "schema"},
		{`{"host":"a b"}`, "schema"},
		{`{"regex_uri":["^/a"]}`, "schema"},
		{`{"headers":{}}`, "schema"},
		{`{"headers":{"set":{}}}`, "schema"},
		{`{"headers":{"set":{"X-A":[]}}}`, "schema"},
		{`{"headers":{"X-A":true}}`, "schema"},
		{`{"regex_uri":["^/a","/b","^/c"]}`, "has no replacement"},
		{`{"regex_uri":["(","/b"]}`, "regex_uri"},
		{`{"regex_uri":["(?=a)","/b"]}`, "lookaheads are not supported"},
		{`{"uri":"/x","use_real_request_uri_unsafe":true}`, "cannot be combined"},
		{`{"headers":{"set":{"X-A":"a\r\nX-B: c"}}}`, "line break"},
		{`{"headers":{"X A":"1"}}`, "no name of a header field"},
		{`{"headers":{"Content-Length":"1"}}`, "belongs to the connection"},
		{`{"headers":{"remove":["transfer_encoding"]}}`, "belongs to the connection"},
		{`{"headers":{"add":{"Host":"a"}}}`, "one Host"},
		{`{"headers":{"remove":["host"]}}`, "must have a Host"},
		{`{"headers":{"Host":"a b"}}`, "one host"},
	} {
		err := s.ValidateJSON([]byte(c.conf))
		if c.want == "schema" {
			if err == nil {
				t.Errorf("%s: the schema accepts it", c.conf)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: the schema refuses it: %v", c.conf, err)
		}
		err = Plugin.Check(json.RawMessage(c.conf))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", c.conf, err, c.want)
		}
	}
}

func exchange(path, query string) *gateway.Exchange {
	x := &gateway.Exchange{}
	x.Req.Method, x.Req.Scheme, x.Req.Proto = "GET", "http", "HTTP/1.1"
	x.Req.Path, x.Req.Query = path, query
	x.Req.Target = strings.ReplaceAll(path, " ", "%20")
	if query != "" {
		x.Req.Target += "?" + query
	}
	x.Req.Client = netip.MustParseAddr("127.0.0.1")
	return x
}

func instance(t testing.TB, conf string) gateway.Rewriter {
	t.Helper()
	p, err := Plugin.New(json.RawMessage(conf), &gateway.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return p.(gateway.Rewriter)
}

func TestTarget(t *testing.T) {
	for _, c := range []struct{ conf, path, query, want string }{
		{`{"uri":"/new"}`, "/h", "x=1", "/new?x=1"},
		{`{"uri":"/new"}`, "/h", "", "/new"},
		{`{"uri":"/new?a=b"}`, "/h", "x=1", "/new?a=b&x=1"},
		{`{"uri":"/new?"}`, "/h", "x=1", "/new?x=1"},
		{`{"uri":"/new?$args"}`, "/h", "x=1&y=%20", "/new?x=1&y=%20"},
		{`{"uri":"/p$request_uri"}`, "/a b", "x=1", "/p/a%20b?x=1"},
		{`{"uri":"/p$uri"}`, "/a?b#c", "x=1", "/p/a%3Fb%23c?x=1"},
		{`{"uri":"/p/${arg_n}/q"}`, "/h", "n=1%3Fz%3D2%23", "/p/1%3Fz=2%23/q?n=1%3Fz%3D2%23"},
		{`{"uri":"/p?v=$arg_n"}`, "/h", "n=1%26z%3D2", "/p?v=1%26z%3D2&n=1%26z%3D2"},
		{`{"uri":"/p/$arg_n"}`, "/h", "n=a%0D%0AX:1", "/p/a%0D%0AX:1?n=a%0D%0AX:1"},
		{`{"uri":"/a b/é%20"}`, "/h", "", "/a%20b/%C3%A9%20"},
		{`{"uri":"/new"}`, "/h", `q={"a":[1]}`, `/new?q={"a":[1]}`},
		{`{"uri":"/a/../b"}`, "/h", "", "/a/../b"},
		{`{"uri":"/p/${arg_none ?? d}"}`, "/h", "", "/p/d"},
		{`{"regex_uri":["^/v1/(.*)","/$1"]}`, "/v1/a b", "x=1", "/a%20b?x=1"},
		{`{"regex_uri":["^/v1/(.*)","/$1"]}`, "/v2/a", "x=1", ""},
		{`{"regex_uri":["^/a/(\\d+)/(\\w+)$","/$2/$1?id=$1"]}`, "/a/7/b", "x=1", "/b/7?id=7&x=1"},
		{`{"regex_uri":["^/no","/1","^/a","/2","a","/3"]}`, "/ab", "", "/2b"},
		{`{"regex_uri":["/b/","/$remote_addr/"]}`, "/a/b/c d", "", "/a/127.0.0.1/c%20d"},
		{`{"regex_uri":["^/(a)(x)?","$1-$2-"]}`, "/abc", "", "/a--bc"},
		{`{"regex_uri":["^/x/(.*)","/y?q=$1"]}`, "/x/a&b=c", "", "/y?q=a%26b%3Dc"},
		{`{"uri":"/u","regex_uri":["^/h","/r"]}`, "/h", "", "/u"},
		{`{"use_real_request_uri_unsafe":true}`, "/h", "", ""},
	} {
		x := exchange(c.path, c.query)
		if r := instance(t, c.conf).Rewrite(x); r != nil {
			t.Errorf("%s %s: got %+v", c.conf, c.path, r)
		} else if x.Out.Target != c.want {
			t.Errorf("%s %s?%s: got %q, want %q", c.conf, c.path, c.query, x.Out.Target, c.want)
		}
	}
}

func TestClimbingIsRefused(t *testing.T) {
	for _, c := range []struct{ conf, path, query string }{
		{`{"uri":"/files/$arg_n"}`, "/h", "n=../admin"},
		{`{"uri":"/files/$arg_n/x"}`, "/h", "n=.."},
		{`{"regex_uri":["^/v1(.*)","/x/$1"]}`, "/v1..", ""},
		{`{"uri":"/p$real_request_uri"}`, "/a/%2e%2E/b", ""},
	} {
		x := exchange(c.path, c.query)
		if r := instance(t, c.conf).Rewrite(x); r == nil || r.Status != 400 {
			t.Errorf("%s %s: went to %q", c.conf, c.path, x.Out.Target)
		}
	}
}

func TestMethodHostHeaders(t *testing.T) {
	x := exchange("/h", "")
	x.Req.Header.Add("User-Agent", "u")
	x.Req.Header.Add("X-Old", "1")
	x.Req.Header.Add("X-Old", "2")
	p := instance(t, `{"method":"POST","host":"pr.example","headers":{"set":{"X-A":"$remote_addr","X-Old":["$http_x_old","3"]},"add":{"X-B":"b"},"remove":["user-agent"]}}`)
	if r := p.Rewrite(x); r != nil {
		t.Fatal(r)
	}
	if x.Out.Method != "POST" || x.Out.Host != "pr.example" || x.Out.Target != "" {
		t.Errorf("got %+v", x.Out)
	}
	want := []gateway.Field{{Name: "X-Old", Value: "1, 2"}, {Name: "X-B", Value: "b"}, {Name: "X-A", Value: "127.0.0.1"}, {Name: "X-Old", Value: "3"}}
	if got := x.Req.Header.Fields(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestHeaderValues(t *testing.T) {
	x := exchange("/v1/a", "n=%0D%0AEvil:%201&h=b.example:8080")
	x.Req.Header.Add("X-Gone", "1")
	p := instance(t, `{"regex_uri":["^/v1/(.*)","/$1"],"headers":{"X-Gone":"","X-Seg":"<$1>","X-N":"a$arg_n","X-Num":1.50,"Host":"$arg_h"}}`)
	if r := p.Rewrite(x); r != nil {
		t.Fatal(r)
	}
	if x.Req.Header.Has("X-Gone") {
		t.Error("an empty value did not remove the field")
	}
	for name, want := range map[string]string{"X-Seg": "<a>", "X-N": "a  Evil: 1", "X-Num": "1.50"} {
		if got := x.Req.Header.Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if x.Out.Host != "b.example:8080" || x.Req.Header.Has("Host") {
		t.Errorf("Host: got %q", x.Out.Host)
	}
	if r := p.Rewrite(exchange("/v1/a", "h=a%0d%0ab")); r == nil || r.Status != 400 {
		t.Error("a broken Host passed")
	}
}

func FuzzTarget(f *testing.F) {
	f.Add("/files/$arg_n?x=$arg_n", "/a", "n=1")
	f.Add("$request_uri", "/a/b", "n=%2e%2e")
	f.Add("/$1/$uri", "/x\r\n?#", "&&=")
	f.Fuzz(func(t *testing.T, to, path, query string) {
		if !strings.HasPrefix(path, "/") || hasDotSegment(path) || strings.ContainsAny(query, " #\r\n") {
			return
		}
		conf, err := json.Marshal(Config{RegexURI: []string{"^/(.*)$", to}})
		if err != nil {
			t.Skip()
		}
		var m map[string]any
		if err := json.Unmarshal(conf, &m); err != nil {
			t.Fatal(err)
		}
		delete(m, "headers")
		conf, _ = json.Marshal(m)
		p, err := Plugin.New(conf, &gateway.Env{})
		if err != nil {
			return
		}
		x := exchange(path, query)
		if r := p.(gateway.Rewriter).Rewrite(x); r != nil {
			return
		}
		got := x.Out.Target
		if got == "" {
			return
		}
		if got[0] != '/' || strings.IndexFunc(got, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '#' }) >= 0 {
			t.Errorf("template %q, path %q, query %q: target %q", to, path, query, got)
		}
		// Without a "?" of the template's, the query is the client's alone.
		if !strings.Contains(to, "?") && !strings.Contains(to, "request_uri") {
			if _, q, _ := strings.Cut(got, "?"); q != string(appendQuery(nil, query)) {
				t.Errorf("template %q, path %q, query %q: query became %q", to, path, query, q)
			}
		}
	})
}
