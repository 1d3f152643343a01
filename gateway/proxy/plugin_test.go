package proxy

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"gatehouse/gateway"
	"gatehouse/resource"
)

// trace is a plugin that writes down in which order it is called.
type trace struct {
	name string
	c    traceConf
}

type traceConf struct {
	Tag    string `json:"tag"`
	Reply  int    `json:"reply"`
	Panic  string `json:"panic"`
	Set    string `json:"set"`
	Filter bool   `json:"filter"`
}

func (p *trace) step(x *gateway.Exchange, phase string) {
	x.Answer.Set("X-Trace", strings.TrimSpace(x.Answer.Get("X-Trace")+" "+p.c.Tag+"."+phase))
	if p.c.Panic == phase {
		panic("secret of " + p.name)
	}
}

func (p *trace) Rewrite(x *gateway.Exchange) *gateway.Reply {
	p.step(x, "rewrite")
	if u := x.Req.Header.Get("Login"); u != "" && p.name == "auth" {
		c, ok := x.Consumers.FindConsumer("auth", u)
		if !ok {
			return gateway.JSONReply(401, map[string]string{"message": "who?"})
		}
		x.SetConsumer(c)
	}
	if k, v, ok := strings.Cut(p.c.Set, "="); ok {
		x.Req.Header.Set(k, v)
	}
	return nil
}

func (p *trace) Access(x *gateway.Exchange) *gateway.Reply {
	p.step(x, "access")
	if p.c.Reply != 0 {
		return &gateway.Reply{Status: p.c.Reply}
	}
	return nil
}

func (p *trace) BeforeProxy(x *gateway.Exchange) *gateway.Reply {
	p.step(x, "before")
	return nil
}

func (p *trace) FilterHeader(x *gateway.Exchange) {
	x.Resp.Header.Set("X-Trace", strings.TrimSpace(x.Resp.Header.Get("X-Trace")+" "+p.c.Tag+".header"))
	if p.c.Panic == "header" {
		panic("secret")
	}
}

func (p *trace) Log(*gateway.Exchange) {}

// upper is a plugin that changes bodies.
type upper struct{ panics bool }

func (u upper) FilterBody(_ *gateway.Exchange, chunk []byte, last bool) []byte {
	if u.panics && len(chunk) > 0 {
		panic("secret")
	}
	out := []byte(strings.ToUpper(string(chunk)))
	if last {
		out = append(out, '!')
	}
	return out
}

func testPlugins() []gateway.Plugin {
	make := func(name string, priority int, opts ...gateway.Option) gateway.Plugin {
		return gateway.Define(name, priority, func(c traceConf, _ *gateway.Env) (any, error) {
			if c.Tag == "" {
				c.Tag = name
			}
			return &trace{name: name, c: c}, nil
		}, opts...)
	}
	type key struct {
		Key string `json:"key"`
	}
	return []gateway.Plugin{
		make("a", 30), make("b", 20), make("c", 10), make("prefer", 5, gateway.PreferRoute()),
		make("auth", 100, gateway.Authenticates(func(k key) (string, error) { return k.Key, nil })),
		gateway.Define("upper", 1, func(c struct {
			Panics bool `json:"panics"`
		}, _ *gateway.Env) (any, error) {
			return upper{c.Panics}, nil
		}),
	}
}

func TestOrderOfPhases(t *testing.T) {
	r := newRig(t, testPlugins())
	n := says(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	r.put(resource.GlobalRules, "1", `{"plugins":{"c":{"tag":"g"}}}`)
	if status, h, _ := r.get("/none"); status != 404 || h.Get("X-Trace") != "g.rewrite g.access g.header" {
		t.Errorf("without a route: %d %q", status, h.Get("X-Trace"))
	}
	r.route(`"plugins":{"b":{},"a":{}}`, n.addr)
	_, h, body := r.get("/")
	want := "g.rewrite a.rewrite b.rewrite g.access a.access b.access g.before a.before b.before g.header a.header b.header"
	if h.Get("X-Trace") != want || body != "ok" {
		t.Errorf("%q\nwant %q", h.Get("X-Trace"), want)
	}
	r.route(`"plugins":{"b":{"_meta":{"priority":99}},"a":{},"c":{"_meta":{"disable":true}}}`, n.addr)
	if _, h, _ := r.get("/"); !strings.Contains(h.Get("X-Trace"), "g.rewrite b.rewrite a.rewrite g.access") {
		t.Errorf("_meta: %q", h.Get("X-Trace"))
	}
	r.route(`"plugins":{"b":{"_meta":{"filter":[["arg_x","==","1"]]}},"a":{"reply":403,"_meta":{"error_response":{"no":"way"}}}}`, n.addr)
	status, h, body := r.get("/")
	if status != 403 || body != "{\"no\":\"way\"}\n" || strings.Contains(h.Get("X-Trace"), "b.") || h.Get("X-Trace") != "g.rewrite a.rewrite g.access a.access g.header a.header" {
		t.Errorf("filtered out: %d %q %q", status, body, h.Get("X-Trace"))
	}
	if _, h, _ := r.get("/?x=1"); !strings.Contains(h.Get("X-Trace"), "b.rewrite") {
		t.Errorf("filtered in: %q", h.Get("X-Trace"))
	}
}

func TestPreferRoute(t *testing.T) {
	r := newRig(t, testPlugins())
	n := says(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	r.put(resource.GlobalRules, "1", `{"plugins":{"prefer":{"tag":"g"},"c":{}}}`)
	r.route(`"plugins":{"prefer":{"tag":"r"}}`, n.addr)
	if _, h, _ := r.get("/"); strings.Contains(h.Get("X-Trace"), "g.") || !strings.Contains(h.Get("X-Trace"), "r.rewrite") || !strings.Contains(h.Get("X-Trace"), "c.rewrite") {
		t.Errorf("%q", h.Get("X-Trace"))
	}
	r.route("", n.addr)
	if _, h, _ := r.get("/"); !strings.Contains(h.Get("X-Trace"), "g.rewrite") {
		t.Errorf("%q", h.Get("X-Trace"))
	}
}

func TestMergePrecedence(t *testing.T) {
	r := newRig(t, testPlugins())
	n := says(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	r.put(resource.Services, "s", fmt.Sprintf(`{"plugins":{"a":{"tag":"service"},"b":{"tag":"service"},"auth":{}},"upstream":{"nodes":{"%s":1}}}`, n.addr))
	r.put(resource.PluginConfigs, "p", `{"plugins":{"a":{"tag":"config"},"b":{"tag":"config"},"c":{"tag":"config"}}}`)
	r.put(resource.ConsumerGroups, "g", `{"plugins":{"a":{"tag":"group"},"c":{"tag":"group"},"prefer":{"tag":"group"}}}`)
	r.put(resource.Consumers, "jack", `{"username":"jack","group_id":"g","plugins":{"auth":{"key":"k"},"a":{"tag":"consumer"}}}`)
	r.put(resource.Routes, "1", `{"uri":"/*","service_id":"s","plugin_config_id":"p","plugins":{"a":{"tag":"route"}}}`)
	if _, h, _ := r.get("/"); !strings.HasPrefix(h.Get("X-Trace"), "auth.rewrite route.rewrite config.rewrite config.rewrite auth.access route.access config.access config.access") {
		t.Errorf("nobody: %q", h.Get("X-Trace"))
	}
	_, h, _ := r.get("/", "Login: k")
	// The rewriters of the route have run; of the consumer's only the new one does.
	want := "auth.rewrite route.rewrite config.rewrite config.rewrite group.rewrite auth.access consumer.access config.access group.access group.access"
	if !strings.HasPrefix(h.Get("X-Trace"), want) {
		t.Errorf("jack: %q\nwant   %q", h.Get("X-Trace"), want)
	}
	if status, _, body := r.get("/", "Login: other"); status != 401 || !json.Valid([]byte(body)) {
		t.Errorf("wrong key: %d %q", status, body)
	}
	// A change of the consumer is seen at once.
	r.put(resource.Consumers, "jack", `{"username":"jack","plugins":{"auth":{"key":"k2"}}}`)
	if status, _, _ := r.get("/", "Login: k"); status != 401 {
		t.Errorf("old key: %d", status)
	}
}

func TestPluginsHeaderSurvivesConnection(t *testing.T) {
	r := newRig(t, testPlugins())
	n := echo(t)
	r.route(`"plugins":{"a":{"set":"X-Userinfo=me"}}`, n.addr)
	if _, _, got := r.get("/", "Connection: X-Userinfo", "X-Userinfo: root"); !strings.Contains(got, "X-Userinfo: me\r\n") || strings.Contains(got, "root") {
		t.Errorf("%q", got)
	}
}

func TestBodyFilter(t *testing.T) {
	r := newRig(t, testPlugins())
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
	} {
		n := says(t, answer)
		r.route(`"plugins":{"upper":{}}`, n.addr)
		if _, _, body := r.get("/"); body != "HELLO!" {
			t.Errorf("%q", body)
		}
	}
	r.put(resource.Routes, "1", `{"uri":"/*","plugins":{"upper":{},"a":{"reply":400}}}`)
	if status, h, body := r.get("/"); status != 400 || !strings.HasSuffix(body, "</HTML>\n!") || h.Get("Content-Length") != fmt.Sprint(len(body)) {
		t.Errorf("%d %v %q", status, h, body)
	}
}

func TestPanicsEndOneRequest(t *testing.T) {
	r := newRig(t, testPlugins())
	n := says(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	for _, phase := range []string{"rewrite", "access", "before", "header"} {
		r.route(`"plugins":{"a":{"panic":"`+phase+`"}}`, n.addr)
		status, _, body := r.get("/")
		if status != 500 || strings.Contains(body, "secret") {
			t.Errorf("%s: %d %q", phase, status, body)
		}
	}
	r.route("", n.addr)
	if status, _, _ := r.get("/"); status != 200 {
		t.Errorf("afterwards: %d", status)
	}
	if !strings.Contains(r.logs.String(), "plugin panicked") {
		t.Error("not logged")
	}
}

// A stored resource that cannot run takes down nothing else, and does not open
// what it protects.
func TestBrokenResources(t *testing.T) {
	r := newRig(t, testPlugins())
	n := says(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	r.put(resource.Routes, "all", `{"uri":"/*","upstream":{"nodes":{"`+n.addr+`":1}}}`)
	r.force(resource.Routes, "2", `{"uri":"/guarded","plugins":{"gone":{}},"upstream":{"nodes":{"`+n.addr+`":1}}}`)
	r.force(resource.Routes, "3", `{"uri":17}`)
	r.force(resource.Routes, "4", `{"uri":"/vars","vars":[["a","nonsense","b"]],"upstream":{"nodes":{}}}`)
	r.force(resource.SSLs, "1", `{"sni":"a","cert":"x","key":"y"}`)
	r.force(resource.Consumers, "c", `[]`)
	for path, want := range map[string]int{"/": 200, "/guarded": 503, "/vars": 200} {
		if status, _, _ := r.get(path); status != want {
			t.Errorf("%s: %d, want %d", path, status, want)
		}
	}
}

// A global rule protects every route: while one cannot run, none is open. It
// ends when the rule is mended or deleted.
func TestBrokenGlobalRuleClosesAll(t *testing.T) {
	for name, doc := range map[string]string{"unknown plugin": `{"plugins":{"gone":{}}}`, "unreadable": `[]`} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, testPlugins())
			n := says(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			r.put(resource.Routes, "all", `{"uri":"/a","upstream":{"nodes":{"`+n.addr+`":1}}}`)
			r.force(resource.GlobalRules, "1", doc)
			for _, path := range []string{"/a", "/nowhere"} {
				if status, _, _ := r.get(path); status != 503 {
					t.Errorf("%s: %d, want 503", path, status)
				}
			}
			r.force(resource.GlobalRules, "1", "")
			if status, _, _ := r.get("/a"); status != 200 {
				t.Errorf("after the rule was deleted: %d, want 200", status)
			}
		})
	}
}
