package keyauth

import (
	"encoding/json"
	"strings"
	"testing"

	"gatehouse/gateway"
)

// finder holds consumers by key.
type finder struct {
	byKey  map[string]*gateway.Consumer
	byName map[string]*gateway.Consumer
}

func (f finder) FindConsumer(plugin, key string) (*gateway.Consumer, bool) {
	if plugin != "key-auth" {
		return nil, false
	}
	c, ok := f.byKey[key]
	return c, ok
}

func (f finder) ConsumerNamed(name string) (*gateway.Consumer, bool) {
	c, ok := f.byName[name]
	return c, ok
}

func consumers(t *testing.T) finder {
	t.Helper()
	f := finder{map[string]*gateway.Consumer{}, map[string]*gateway.Consumer{"guest": {Username: "guest"}}}
	for key, c := range map[string]*gateway.Consumer{
		"auth-one": {Username: "jack"},
		"auth two": {Username: "jill", CredentialID: "cred-1", CustomID: "42"},
	} {
		raw, _ := json.Marshal(ConsumerConfig{key})
		d, err := Plugin.ConsumerKey(raw)
		if err != nil {
			t.Fatal(err)
		}
		f.byKey[d] = c
	}
	return f
}

func exchange(t *testing.T, target string, header ...gateway.Field) *gateway.Exchange {
	x := &gateway.Exchange{Consumers: consumers(t)}
	x.Req.Target = target
	x.Req.Path, x.Req.Query, _ = strings.Cut(target, "?")
	for _, f := range header {
		x.Req.Header.Add(f.Name, f.Value)
	}
	return x
}

func instance(t *testing.T, conf string) gateway.Rewriter {
	t.Helper()
	p, err := Plugin.New(json.RawMessage(conf), &gateway.Env{Owner: "routes/1"})
	if err != nil {
		t.Fatal(err)
	}
	return p.(gateway.Rewriter)
}

func TestRewrite(t *testing.T) {
	for _, c := range []struct {
		name, conf, target string
		header             []gateway.Field
		user, body         string
	}{
		{"no key", `{}`, "/k", nil, "", `{"message":"Missing API key in request"}`},
		{"wrong key", `{}`, "/k", []gateway.Field{{Name: "apikey", Value: "bad"}}, "", `{"message":"Invalid API key in request"}`},
		{"empty key", `{}`, "/k", []gateway.Field{{Name: "apikey", Value: ""}}, "", `{"message":"Invalid API key in request"}`},
		{"header", `{}`, "/k", []gateway.Field{{Name: "ApiKey", Value: "auth-one"}}, "jack", ""},
		{"query", `{}`, "/k?apikey=auth-one", nil, "jack", ""},
		{"query, escaped", `{}`, "/k?a=1&apikey=auth+two", nil, "jill", ""},
		{"header beats query", `{}`, "/k?apikey=auth-one", []gateway.Field{{Name: "apikey", Value: "bad"}}, "", `{"message":"Invalid API key in request"}`},
		{"own names", `{"header":"X-Key","query":"k"}`, "/k?k=auth-one", []gateway.Field{{Name: "apikey", Value: "bad"}}, "jack", ""},
		{"anonymous without key", `{"anonymous_consumer":"guest"}`, "/k", nil, "guest", ""},
		{"anonymous with wrong key", `{"anonymous_consumer":"guest"}`, "/k?apikey=bad", nil, "guest", ""},
		{"good key beats anonymous", `{"anonymous_consumer":"guest"}`, "/k?apikey=auth-one", nil, "jack", ""},
		{"anonymous unknown", `{"anonymous_consumer":"nobody"}`, "/k", nil, "", `{"message":"Invalid user authorization"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := exchange(t, c.target, c.header...)
			r := instance(t, c.conf).Rewrite(x)
			if c.body != "" {
				if r == nil || r.Status != 401 || string(r.Body) != c.body+"\n" {
					t.Fatalf("got %+v, want 401 %s", r, c.body)
				}
				h := gateway.Header{}
				for _, f := range r.Header {
					h.Add(f.Name, f.Value)
				}
				if got := h.Get("WWW-Authenticate"); got != `apikey realm="key"` {
					t.Errorf("WWW-Authenticate: got %q", got)
				}
				if x.Consumer != nil {
					t.Error("refused, but there is a consumer")
				}
				return
			}
			if r != nil {
				t.Fatalf("got %s, want to pass", r.Body)
			}
			if x.Consumer.Username != c.user || x.Req.Header.Get("X-Consumer-Username") != c.user {
				t.Errorf("got %q, want %q", x.Consumer.Username, c.user)
			}
		})
	}
}

func TestIdentityCannotBeForged(t *testing.T) {
	x := exchange(t, "/k?apikey=auth-one",
		gateway.Field{Name: "X-Consumer-Username", Value: "admin"},
		gateway.Field{Name: "x_consumer_username", Value: "admin"},
		gateway.Field{Name: "X-Credential-Identifier", Value: "forged"},
		gateway.Field{Name: "x-consumer_custom-id", Value: "forged"})
	if r := instance(t, `{}`).Rewrite(x); r != nil {
		t.Fatal(string(r.Body))
	}
	if got := x.Req.Header.Fields(); len(got) != 1 || got[0] != (gateway.Field{Name: "X-Consumer-Username", Value: "jack"}) {
		t.Errorf("got %v", got)
	}
	x = exchange(t, "/k?apikey=auth+two")
	instance(t, `{}`).Rewrite(x)
	if x.Req.Header.Get("X-Credential-Identifier") != "cred-1" || x.Req.Header.Get("X-Consumer-Custom-ID") != "42" {
		t.Errorf("got %v", x.Req.Header.Fields())
	}
}

func TestHideCredentials(t *testing.T) {
	hide := instance(t, `{"hide_credentials":true}`)
	x := exchange(t, "/a%20b?x=1&apikey=auth-one&%61pikey=again&y", gateway.Field{Name: "Apikey", Value: "auth-one"}, gateway.Field{Name: "Accept", Value: "*/*"})
	if r := hide.Rewrite(x); r != nil {
		t.Fatal(string(r.Body))
	}
	if x.Req.Header.Has("apikey") || x.Req.Query != "x=1&y" || x.Out.Target != "/a%20b?x=1&y" {
		t.Errorf("got header %v, query %q, target %q", x.Req.Header.Fields(), x.Req.Query, x.Out.Target)
	}
	x = exchange(t, "/k?apikey=auth-one")
	hide.Rewrite(x)
	if x.Out.Target != "/k" {
		t.Errorf("got target %q, want /k", x.Out.Target)
	}
	x = exchange(t, "/k?apikey=auth-one")
	instance(t, `{}`).Rewrite(x)
	if x.Out.Target != "" || x.Req.Query != "apikey=auth-one" {
		t.Errorf("credentials were hidden without being asked: %q", x.Out.Target)
	}
}

func TestRealm(t *testing.T) {
	x := exchange(t, "/k")
	r := instance(t, `{"realm":"the [house]"}`).Rewrite(x)
	if got := r.Header[len(r.Header)-1].Value; got != `apikey realm="the [house]"` {
		t.Errorf("got %q", got)
	}
}

func TestConsumerKeyRefuses(t *testing.T) {
	for _, raw := range []string{`{}`, `{"key":""}`, `{"keys":"x"}`, `{"key":1}`, `[]`, ``} {
		if _, err := Plugin.ConsumerKey(json.RawMessage(raw)); err == nil {
			t.Errorf("%q: accepted", raw)
		}
	}
}
