package openidconnect

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"gatehouse/gateway"
)

func TestSignIn(t *testing.T) {
	o := newOP(t)
	p := guard(t, newEnv(o), map[string]any{"set_raw_id_token_header": true, "set_refresh_token_header": true, "authorization_params": map[string]any{"audience": "api", "n": 1000000}})
	b := newBrowser(t)
	b.cookies["theme"] = "dark"
	r := b.get(p, "/a%20b?x=1")
	if r == nil || r.Status != 302 || header(r, "Cache-Control") != "no-cache, no-store, max-age=0" {
		t.Fatalf("start: %s", show(r))
	}
	to, err := url.Parse(header(r, "Location"))
	if err != nil {
		t.Fatal(err)
	}
	q := to.Query()
	for name, want := range map[string]string{
		"response_type": "code", "client_id": "app", "redirect_uri": "http://app.example/callback", "scope": "openid",
		"code_challenge_method": "S256", "tenant": "1", "audience": "api", "n": "1000000",
	} {
		if got := q.Get(name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"state", "nonce", "code_challenge"} {
		if len(q.Get(name)) < 32 {
			t.Errorf("%s is too short: %q", name, q.Get(name))
		}
	}
	r = b.get(p, o.approve(to.String()).RequestURI())
	if r == nil || r.Status != 302 || header(r, "Location") != "/a%20b?x=1" {
		t.Fatalf("callback: %s", show(r))
	}
	if len(b.cookies) != 2 || b.cookies["session"] == "" {
		t.Errorf("cookies after sign-in: %v", b.header())
	}
	if r := b.get(p, "/a%20b?x=1"); r != nil {
		t.Fatalf("signed in but %s", show(r))
	}
	h := &b.x.Req.Header
	if got := h.Get("Cookie"); got != "theme=dark" {
		t.Errorf("upstream gets Cookie %q", got)
	}
	for _, name := range []string{"X-ID-Token", "X-Userinfo"} {
		raw, err := base64.StdEncoding.DecodeString(h.Get(name))
		var m map[string]any
		if err != nil || json.Unmarshal(raw, &m) != nil || m["sub"] != "ada" {
			t.Errorf("%s = %q", name, h.Get(name))
		}
	}
	if !strings.HasPrefix(h.Get("X-Access-Token"), "at-") || !strings.HasPrefix(h.Get("X-Refresh-Token"), "rt-") || strings.Count(h.Get("X-Raw-ID-Token"), ".") != 2 {
		t.Errorf("headers: %v", h.Fields())
	}
	call := o.lastHead["/token"]
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("app:s3cret%3Awith%2Fodd+chars"))
	if got := fieldOf(call.Header, "Authorization"); got != want || call.Insecure {
		t.Errorf("token call: %q insecure %v", got, call.Insecure)
	}
	if got := o.count("/.well-known/openid-configuration"); got != 1 {
		t.Errorf("discovery was read %d times", got)
	}
}

func fieldOf(fields []gateway.Field, name string) string {
	for _, f := range fields {
		if strings.EqualFold(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

func TestParallelTabs(t *testing.T) {
	o := newOP(t)
	p := guard(t, newEnv(o), nil)
	b := newBrowser(t)
	var backs []string
	for i := range 5 {
		backs = append(backs, o.approve(header(b.get(p, fmt.Sprintf("/tab%d", i)), "Location")).RequestURI())
		o.clock.pass(time.Second)
	}
	for i, back := range backs {
		if r := b.get(p, back); header(r, "Location") != fmt.Sprintf("/tab%d", i) {
			t.Errorf("tab %d: %s", i, show(r))
		}
	}
	if len(b.cookies) != 1 {
		t.Errorf("left over: %s", b.header())
	}
}

func TestAttemptsAreBounded(t *testing.T) {
	o := newOP(t)
	p := guard(t, newEnv(o), nil)
	b := newBrowser(t)
	var last *gateway.Reply
	first := o.approve(header(b.get(p, "/"), "Location"))
	for range 40 {
		o.clock.pass(time.Second)
		last = b.get(p, "/"+strings.Repeat("x", 3000))
	}
	if len(b.cookies) > maxAttempts || len(b.header()) > 12<<10 {
		t.Errorf("%d attempts, %d bytes", len(b.cookies), len(b.header()))
	}
	if r := b.get(p, first.RequestURI()); status(r) != 400 {
		t.Errorf("oldest attempt: %s", show(r))
	}
	if r := b.get(p, o.approve(header(last, "Location")).RequestURI()); header(r, "Location") != "/" {
		t.Errorf("newest attempt: %s", show(r))
	}
}

// Every answer that is not the one this browser waits for is a clear page and
// never a session.
func TestCallbackRefuses(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, o *op, p *relyingParty, b *browser, q url.Values){
		"no state":    func(t *testing.T, _ *op, _ *relyingParty, _ *browser, q url.Values) { q.Del("state") },
		"short state": func(t *testing.T, _ *op, _ *relyingParty, _ *browser, q url.Values) { q.Set("state", "x") },
		"other state": func(t *testing.T, _ *op, _ *relyingParty, _ *browser, q url.Values) {
			q.Set("state", q.Get("state")+"x")
		},
		"two states": func(t *testing.T, _ *op, _ *relyingParty, _ *browser, q url.Values) { q.Add("state", q.Get("state")) },
		"two codes":  func(t *testing.T, _ *op, _ *relyingParty, _ *browser, q url.Values) { q.Add("code", "x") },
		"no code":    func(t *testing.T, _ *op, _ *relyingParty, _ *browser, q url.Values) { q.Del("code") },
		"wrong code": func(t *testing.T, _ *op, _ *relyingParty, _ *browser, q url.Values) { q.Set("code", "x") },
		"other issuer": func(t *testing.T, _ *op, _ *relyingParty, _ *browser, q url.Values) {
			q.Set("iss", "https://evil.example")
		},
		"no issuer":       func(t *testing.T, _ *op, _ *relyingParty, _ *browser, q url.Values) { q.Del("iss") },
		"other client":    func(t *testing.T, _ *op, _ *relyingParty, _ *browser, q url.Values) { q.Set("client_id", "other") },
		"another browser": func(t *testing.T, _ *op, _ *relyingParty, b *browser, q url.Values) { clear(b.cookies) },
		"changed cookie":  func(t *testing.T, _ *op, _ *relyingParty, b *browser, q url.Values) { mapAll(b, flip) },
		"broken cookie": func(t *testing.T, _ *op, _ *relyingParty, b *browser, q url.Values) {
			mapAll(b, func(string) string { return "%%%" })
		},
		"expired": func(t *testing.T, o *op, _ *relyingParty, b *browser, q url.Values) { o.clock.pass(attemptLife) },
		"long query": func(t *testing.T, o *op, _ *relyingParty, b *browser, q url.Values) {
			q.Set("x", strings.Repeat("x", maxCallbackQuery))
		},
		"error with state": func(t *testing.T, o *op, _ *relyingParty, b *browser, q url.Values) { q.Set("error", "<script>") },
		"cookie of another attempt": func(t *testing.T, o *op, p *relyingParty, b *browser, q url.Values) {
			name := p.attemptName(q.Get("state"))
			b.get(p, "/second")
			for n, v := range b.cookies {
				if n != name {
					b.cookies[name] = v
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOP(t)
			p := guard(t, newEnv(o), nil)
			b := newBrowser(t)
			back := o.approve(header(b.get(p, "/page"), "Location"))
			q := back.Query()
			change(t, o, p, b, q)
			r := b.get(p, back.Path+"?"+q.Encode())
			if status(r) != 400 || !strings.HasPrefix(header(r, "Content-Type"), "text/html") || header(r, "Retry-After") != "" {
				t.Errorf("got %s", show(r))
			}
			if strings.Contains(string(r.Body), "<script") || strings.Contains(string(r.Body), "evil") {
				t.Errorf("page reflects input: %s", r.Body)
			}
			if b.cookies["session"] != "" {
				t.Error("a session was made")
			}
			if r := b.get(p, "/page"); status(r) != 302 {
				t.Errorf("afterwards: %s", show(r))
			}
		})
	}
}

func mapAll(b *browser, f func(string) string) {
	for k, v := range b.cookies {
		b.cookies[k] = f(v)
	}
}

// flip changes one character in the middle.
func flip(v string) string {
	if v == "" {
		return v
	}
	c := byte('A')
	if v[len(v)/2] == c {
		c = 'B'
	}
	return v[:len(v)/2] + string(c) + v[len(v)/2+1:]
}

func TestStateIsUsedOnce(t *testing.T) {
	o := newOP(t)
	p := guard(t, newEnv(o), nil)
	b := newBrowser(t)
	back := o.approve(header(b.get(p, "/page"), "Location"))
	kept := b.header()
	if r := b.get(p, back.RequestURI()); status(r) != 302 {
		t.Fatalf("first: %s", show(r))
	}
	if r := b.get(p, back.RequestURI()); status(r) != 400 {
		t.Errorf("again, cookie gone: %s", show(r))
	}
	x := exchange(back.RequestURI(), gateway.Field{Name: "Cookie", Value: kept})
	if r := p.Rewrite(x); status(r) != 400 || o.count("/token") != 1 {
		t.Errorf("again, cookie kept: %s", show(r))
	}
	if r := b.get(p, "/page"); r != nil {
		t.Errorf("the session of the first: %s", show(r))
	}
}

func TestErrorAnswers(t *testing.T) {
	for code, want := range map[string]int{"access_denied": 403, "temporarily_unavailable": 503, "login_required": 400, "made_up": 400} {
		o := newOP(t)
		p := guard(t, newEnv(o), nil)
		b := newBrowser(t)
		back := o.approve(header(b.get(p, "/page?a=1&b=2"), "Location"))
		q := back.Query()
		q.Del("code")
		q.Set("error", code)
		q.Set("error_description", "call +1 555")
		r := b.get(p, back.Path+"?"+q.Encode())
		body := string(r.Body)
		if r.Status != want || strings.Contains(body, "555") || !strings.Contains(body, `href="/page?a=1&amp;b=2"`) || !strings.Contains(body, code) {
			t.Errorf("%s: %s", code, show(r))
		}
	}
}

// What the ID token says is checked in full; none of these makes a session.
func TestIDTokenRefused(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	set := func(name string, v any) func(*op) {
		return func(o *op) {
			o.claims = func(c map[string]any) {
				if c[name] = v; v == nil {
					delete(c, name)
				}
			}
		}
	}
	signed := func(f func(o *op, c any) string) func(*op) {
		return func(o *op) { o.sign = func(c any) string { return f(o, c) } }
	}
	for name, change := range map[string]func(*op){
		"other issuer":       set("iss", "https://evil.example"),
		"issuer with slash":  set("iss", issuer+"/"),
		"no issuer":          set("iss", nil),
		"no subject":         set("sub", ""),
		"other audience":     set("aud", "other"),
		"two audiences":      set("aud", []string{"app", "other"}),
		"other azp":          set("azp", "other"),
		"no exp":             set("exp", nil),
		"expired":            set("exp", 1_600_000_000),
		"no iat":             set("iat", nil),
		"iat in the future":  set("iat", 1_700_001_000),
		"nbf in the future":  set("nbf", 1_700_001_000),
		"other nonce":        set("nonce", "x"),
		"no nonce":           set("nonce", nil),
		"other at_hash":      set("at_hash", "AAAAAAAAAAAAAAAAAAAAAA"),
		"sub is a number":    set("sub", 7),
		"aud is an object":   set("aud", map[string]any{}),
		"exp is huge":        set("exp", 1e300),
		"no ID token":        func(o *op) { o.answer = func(a map[string]any) { delete(a, "id_token") } },
		"too long":           func(o *op) { o.answer = func(a map[string]any) { a["access_token"] = strings.Repeat("x", 17<<10) } },
		"not a bearer token": func(o *op) { o.answer = func(a map[string]any) { a["token_type"] = "mac" } },
		"foreign key":        signed(func(o *op, c any) string { return signJWT(t, jose.ES256, foreign, o.kid, c, nil) }),
		"unknown kid":        signed(func(o *op, c any) string { return signJWT(t, jose.ES256, o.key, "../../etc/passwd' or 1=1", c, nil) }),
		"unadvertised alg":   signed(func(o *op, c any) string { return signJWT(t, jose.RS256, weak, o.kid, c, nil) }),
		"alg none": signed(func(o *op, c any) string {
			body, _ := json.Marshal(c)
			return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + base64.RawURLEncoding.EncodeToString(body) + "."
		}),
		"HS256 with the secret": signed(func(o *op, c any) string {
			return signJWT(t, jose.HS256, []byte("s3cret:with/odd chars-s3cret:with/odd chars"), o.kid, c, nil)
		}),
		"HS256 with the public key": signed(func(o *op, c any) string {
			pub, _ := json.Marshal(jose.JSONWebKey{Key: o.key.Public()})
			return signJWT(t, jose.HS256, pub, o.kid, c, nil)
		}),
		"embedded jwk": signed(func(o *op, c any) string {
			return signJWT(t, jose.ES256, foreign, o.kid, c, map[jose.HeaderKey]any{"jwk": jose.JSONWebKey{Key: foreign.Public()}})
		}),
		"crit": signed(func(o *op, c any) string {
			return signJWT(t, jose.ES256, o.key, o.kid, c, map[jose.HeaderKey]any{"crit": []string{"exp"}, "exp": 1})
		}),
		"an access token": signed(func(o *op, c any) string {
			return signJWT(t, jose.ES256, o.key, o.kid, c, map[jose.HeaderKey]any{"typ": "at+jwt"})
		}),
		"claim given twice": signed(func(o *op, c any) string {
			body, _ := json.Marshal(c)
			return signJWT(t, jose.ES256, o.key, o.kid, append([]byte(`{"sub":"eve",`), body[1:]...), nil)
		}),
		"not three parts": signed(func(o *op, c any) string { return "a.b.c.d.e" }),
	} {
		t.Run(name, func(t *testing.T) {
			o := newOP(t)
			change(o)
			p := guard(t, newEnv(o), nil)
			b := newBrowser(t)
			back := o.approve(header(b.get(p, "/page"), "Location"))
			r := b.get(p, back.RequestURI())
			if s := status(r); s != 400 && s != 500 {
				t.Errorf("got %s", show(r))
			}
			if b.cookies["session"] != "" {
				t.Error("a session was made")
			}
		})
	}
}

func TestIDTokenAccepted(t *testing.T) {
	for name, change := range map[string]func(*op){
		"jku is not followed": func(o *op) {
			o.sign = func(c any) string {
				return signJWT(t, jose.ES256, o.key, o.kid, c, map[jose.HeaderKey]any{"jku": "https://evil.example/jwks", "typ": "JWT"})
			}
		},
		"several audiences with azp": func(o *op) {
			o.claims = func(c map[string]any) { c["aud"], c["azp"] = []string{"app", "other"}, "app" }
		},
		"rotated key": func(o *op) {
			o.claims = func(map[string]any) {
				k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
				if err != nil {
					t.Fatal(err)
				}
				o.key, o.kid = k, "k2"
			}
		},
		"userinfo of somebody else is dropped": func(o *op) { o.user["sub"] = "eve" },
		"expires_in as text":                   func(o *op) { o.answer = func(a map[string]any) { a["expires_in"] = "600" } },
	} {
		t.Run(name, func(t *testing.T) {
			o := newOP(t)
			change(o)
			p := guard(t, newEnv(o), nil)
			b := newBrowser(t)
			b.signIn(o, p, "/")
			if r := b.get(p, "/"); r != nil {
				t.Fatal(show(r))
			}
			if got := b.x.Req.Header.Has("X-Userinfo"); got != (o.user["sub"] == "ada") {
				t.Errorf("X-Userinfo present: %v", got)
			}
		})
	}
}

func TestTargetStaysHere(t *testing.T) {
	for in, want := range map[string]string{
		"/a?b=c": "/a?b=c", "//evil.example/x": "/evil.example/x", "///evil": "/evil", `/\evil`: "/", "/\t/evil": "/",
		"https://evil": "/", "javascript:alert(1)": "/", "": "/", "/a\nb": "/", "/ü": "/", `/a"b`: `/a"b`,
	} {
		if got := localTarget(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestRedirectURI(t *testing.T) {
	o := newOP(t)
	for _, c := range []struct {
		conf           any
		target, scheme string
		want           string
	}{
		{nil, "/", "http", "http://app.example/.apisix/redirect"},
		{nil, "/a/b/", "https", "https://app.example/a/b/.apisix/redirect"},
		{"/cb", "/x", "http", "http://app.example/cb"},
		{"https://www.example/cb", "/x", "http", "https://www.example/cb"},
	} {
		p := guard(t, newEnv(o), map[string]any{"redirect_uri": c.conf})
		b := newBrowser(t)
		x := exchange(c.target)
		x.Req.Scheme = c.scheme
		r := p.Rewrite(x)
		back := o.approve(header(r, "Location"))
		if got := back.Scheme + "://" + back.Host + back.Path; got != c.want {
			t.Errorf("%v at %s: %s, want %s", c.conf, c.target, got, c.want)
		}
		b.store(x)
		if secure := strings.Contains(x.Answer.Get("Set-Cookie"), "; Secure"); secure != strings.HasPrefix(c.want, "https") {
			t.Errorf("%v: Secure is %v", c.conf, secure)
		}
		if r := b.get(p, back.RequestURI()); status(r) != 302 || header(r, "Location") != c.target {
			t.Errorf("%v: callback %s", c.conf, show(r))
		}
	}
	p := guard(t, newEnv(o), map[string]any{"redirect_uri": nil})
	x := exchange("/")
	x.Req.Authority = "evil.example/?x="
	if r := p.Rewrite(x); status(r) != 400 {
		t.Errorf("odd host: %s", show(r))
	}
}

func TestStrictCookiesDoNotLoop(t *testing.T) {
	o := newOP(t)
	p := guard(t, newEnv(o), map[string]any{"session": map[string]any{"cookie_same_site": "Strict"}})
	b := newBrowser(t)
	back := o.approve(header(b.get(p, "/page"), "Location"))
	if v := b.x.Answer.Get("Set-Cookie"); !strings.Contains(v, "SameSite=Lax") {
		t.Errorf("attempt: %s", v)
	}
	r := b.get(p, back.RequestURI())
	if status(r) != 200 || !strings.Contains(string(r.Body), `content="0;url=/page"`) {
		t.Errorf("got %s", show(r))
	}
	if r := b.get(p, "/page"); r != nil {
		t.Error(show(r))
	}
}

func TestProviderDown(t *testing.T) {
	o := newOP(t)
	env := newEnv(o)
	o.down = true
	for _, action := range []string{"auth", "deny", "pass"} {
		p := guard(t, env, map[string]any{"unauth_action": action})
		r := newBrowser(t).get(p, "/")
		want := map[string]int{"auth": 503, "deny": 401, "pass": 0}[action]
		if status(r) != want || want == 503 && header(r, "Retry-After") == "" {
			t.Errorf("%s: %s", action, show(r))
		}
	}
	if got := o.count("/.well-known/openid-configuration"); got != 1 {
		t.Errorf("asked %d times within the pause", got)
	}
	p := guard(t, env, nil)
	o.down = false
	o.clock.pass(pauseUnknown)
	b := newBrowser(t)
	back := o.approve(header(b.get(p, "/"), "Location"))
	o.down = true
	if r := b.get(p, back.RequestURI()); status(r) != 503 || b.cookies["session"] != "" {
		t.Errorf("down at the callback: %s", show(r))
	}
	// The document is known: it serves on after its time.
	o.clock.pass(25 * time.Hour)
	if r := b.get(p, "/"); status(r) != 302 {
		t.Errorf("with an old document: %s", show(r))
	}
	if r := b.get(p, "/"); status(r) != 302 {
		t.Errorf("with an old document, again: %s", show(r))
	}
}

func TestUnsafeMetadataRefused(t *testing.T) {
	for name, change := range map[string]func(map[string]any){
		"http token endpoint":  func(d map[string]any) { d["token_endpoint"] = "http://op.example/token" },
		"script as endpoint":   func(d map[string]any) { d["authorization_endpoint"] = "javascript:alert(1)" },
		"no issuer":            func(d map[string]any) { delete(d, "issuer") },
		"password in endpoint": func(d map[string]any) { d["jwks_uri"] = "https://a:b@op.example/jwks" },
	} {
		o := newOP(t)
		change(o.doc)
		if r := newBrowser(t).get(guard(t, newEnv(o), nil), "/"); status(r) != 503 {
			t.Errorf("%s: %s", name, show(r))
		}
	}
	o := newOP(t)
	o.doc["token_endpoint"] = "http://127.0.0.1:4444/token"
	if r := newBrowser(t).get(guard(t, newEnv(o), nil), "/"); status(r) != 302 {
		t.Errorf("http on this machine: %s", show(r))
	}
}

func TestClientAuthentication(t *testing.T) {
	for method, check := range map[string]func(url.Values, string) bool{
		methodPost: func(f url.Values, _ string) bool { return f.Get("client_secret") != "" && f.Get("client_id") == "app" },
		methodNone: func(f url.Values, auth string) bool {
			return f.Get("client_id") == "app" && !f.Has("client_secret") && auth == ""
		},
		methodSecretJWT: func(f url.Values, auth string) bool {
			return strings.Count(f.Get("client_assertion"), ".") == 2 && !f.Has("client_secret") && auth == ""
		},
	} {
		o := newOP(t)
		p := guard(t, newEnv(o), map[string]any{"token_endpoint_auth_method": method, "client_secret": "0123456789012345678901234567890123456789"})
		newBrowser(t).signIn(o, p, "/")
		if f := o.lastForm["/token"]; !check(f, fieldOf(o.lastHead["/token"].Header, "Authorization")) {
			t.Errorf("%s: %v", method, f)
		}
	}
}
