package openidconnect

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"gatehouse/gateway"
)

func TestTamperedSession(t *testing.T) {
	for name, change := range map[string]func(string) string{
		"flipped":    flip,
		"cut":        func(v string) string { return v[:len(v)-5] },
		"garbage":    func(string) string { return "%00\x7f<script>" },
		"no parts":   func(v string) string { return "0" + v[1:] },
		"more parts": func(v string) string { return "9" + v[1:] },
		"oversized":  func(v string) string { return v + strings.Repeat("A", 8000) },
		"one byte":   func(string) string { return "1" },
	} {
		for action, want := range map[string]int{"auth": 302, "deny": 401, "pass": 401} {
			o := newOP(t)
			p := guard(t, newEnv(o), map[string]any{"unauth_action": action})
			b := newBrowser(t)
			b.signIn(o, guard(t, p.env, nil), "/")
			b.cookies["session"] = change(b.cookies["session"])
			if r := b.get(p, "/"); status(r) != want {
				t.Errorf("%s, %s: %s", name, action, show(r))
			}
			if b.cookies["session"] != "" {
				t.Errorf("%s: the cookie stays", name)
			}
		}
	}
}

func TestSessionOfAnotherApplication(t *testing.T) {
	o := newOP(t)
	env := newEnv(o)
	b := newBrowser(t)
	b.signIn(o, guard(t, env, nil), "/")
	cookie := b.header()
	for name, change := range map[string]map[string]any{
		"client":   {"client_id": "other"},
		"provider": {"discovery": "https://op.example/tenant/.well-known/openid-configuration"},
		"secret":   {"session": map[string]any{"secret": "another secret of 16+"}},
	} {
		change["unauth_action"] = "deny"
		r := guard(t, env, change).Rewrite(exchange("/", gateway.Field{Name: "Cookie", Value: cookie}))
		if status(r) != 401 {
			t.Errorf("other %s: %s", name, show(r))
		}
	}
	// Another route of the same application shares the login.
	if r := b.get(guard(t, env, map[string]any{"set_userinfo_header": false}), "/other"); r != nil {
		t.Error(show(r))
	}
}

func TestAttemptIsNoSession(t *testing.T) {
	o := newOP(t)
	p := guard(t, newEnv(o), map[string]any{})
	b := newBrowser(t)
	b.get(p, "/")
	for _, v := range b.cookies {
		b.cookies["session"] = "1" + v
	}
	if r := b.get(p, "/"); status(r) != 302 {
		t.Error(show(r))
	}
}

func TestLargeSessionIsSplit(t *testing.T) {
	o := newOP(t)
	p := guard(t, newEnv(o), map[string]any{"session": map[string]any{"cookie_domain": "app.example", "cookie_path": "/"}})
	o.answer = func(a map[string]any) { a["access_token"] = noise(9000) }
	b := newBrowser(t)
	b.cookies["session_7"] = "left-over" // of an older, larger session
	b.signIn(o, p, "/")
	if n := len(b.cookies); n < 3 || b.cookies["session_2"] == "" || b.cookies["session_7"] != "" {
		t.Fatalf("%d cookies", n)
	}
	if r := b.get(p, "/"); r != nil || len(b.x.Req.Header.Get("X-Access-Token")) != 9000 || b.x.Req.Header.Has("Cookie") {
		t.Errorf("got %s", show(r))
	}
	// A missing part is a broken session.
	delete(b.cookies, "session_2")
	if r := b.get(p, "/"); status(r) != 302 {
		t.Error(show(r))
	}
	// A smaller session removes the parts it does not need.
	o.answer = nil
	b = newBrowser(t)
	o.answer = func(a map[string]any) { a["access_token"] = noise(9000) }
	b.signIn(o, p, "/")
	o.answer = nil
	o.clock.pass(2 * time.Hour)
	b.signIn(o, p, "/")
	if len(b.cookies) != 1 {
		t.Errorf("left: %d cookies", len(b.cookies))
	}
}

func TestTooLargeSession(t *testing.T) {
	o := newOP(t)
	p := guard(t, newEnv(o), nil)
	o.user["noise"] = noise(40 << 10)
	b := newBrowser(t)
	b.signIn(o, p, "/") // without userinfo
	if r := b.get(p, "/"); r != nil || b.x.Req.Header.Has("X-Userinfo") {
		t.Error(show(r))
	}
	o.answer = func(a map[string]any) { a["access_token"], a["refresh_token"] = noise(15<<10), noise(15<<10) }
	o.claims = func(c map[string]any) { c["noise"] = noise(9 << 10) }
	b = newBrowser(t)
	if r := b.get(p, o.approve(header(b.get(p, "/"), "Location")).RequestURI()); status(r) != 500 || b.cookies["session"] != "" {
		t.Errorf("got %s", show(r))
	}
	o.claims = nil
	p = guard(t, p.env, map[string]any{"session_contents": map[string]any{"id_token": true}})
	b = newBrowser(t)
	b.signIn(o, p, "/")
	if r := b.get(p, "/"); r != nil || !b.x.Req.Header.Has("X-ID-Token") || b.x.Req.Header.Has("X-Access-Token") || len(b.cookies) != 1 {
		t.Errorf("session_contents: %s", show(r))
	}
}

func noise(n int) string {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
	b := make([]byte, n)
	for i := range b {
		b[i] = letters[rand.IntN(len(letters))]
	}
	return string(b)
}

func TestTimeouts(t *testing.T) {
	for name, c := range map[string]struct {
		session map[string]any
		every   time.Duration // between two requests
		lives   time.Duration // at least, and ends within twice that
	}{
		"idling":   {map[string]any{"idling_timeout": 100}, 101 * time.Second, 0},
		"used":     {map[string]any{"idling_timeout": 100, "absolute_timeout": 2000}, 50 * time.Second, 1900 * time.Second},
		"rolling":  {map[string]any{"idling_timeout": 0, "rolling_timeout": 100, "absolute_timeout": 0}, 101 * time.Second, 0},
		"rolled":   {map[string]any{"idling_timeout": 0, "rolling_timeout": 100, "absolute_timeout": 3000}, 80 * time.Second, 2900 * time.Second},
		"absolute": {map[string]any{"absolute_timeout": 300}, 30 * time.Second, 280 * time.Second},
		"lifetime": {map[string]any{"cookie": map[string]any{"lifetime": 300}}, 30 * time.Second, 280 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOP(t)
			o.expires = 1 << 20
			p := guard(t, newEnv(o), map[string]any{"session": c.session})
			b := newBrowser(t)
			b.signIn(o, p, "/")
			start := o.clock.now()
			for o.clock.now().Sub(start) < 2*c.lives+200*time.Second {
				o.clock.pass(c.every)
				if b.get(p, "/") != nil {
					break
				}
			}
			lived := o.clock.now().Sub(start)
			if lived < c.lives || lived > 2*c.lives+150*time.Second {
				t.Errorf("lived %v", lived)
			}
		})
	}
}

func TestHeadersFromOutsideAreStripped(t *testing.T) {
	names := []string{
		"X-Access-Token", "x-access-token", "X_Access_Token", "X-ID-Token", "x_id_token", "X-Id_Token", "X-Userinfo", "X_Userinfo", "X_USERINFO", "x.userinfo",
		"X-Refresh-Token", "x_refresh-token", "X-Raw-ID-Token", "X_RAW_ID_TOKEN",
	}
	o := newOP(t)
	env := newEnv(o)
	b := newBrowser(t)
	b.signIn(o, guard(t, env, nil), "/")
	for name, c := range map[string]struct {
		conf   map[string]any
		cookie string
		down   bool
	}{
		"session":   {nil, b.header(), false},
		"pass":      {map[string]any{"unauth_action": "pass"}, "", false},
		"deny":      {map[string]any{"unauth_action": "deny"}, "", false},
		"bearer":    {map[string]any{"bearer_only": true}, "", false},
		"down":      {map[string]any{"discovery": "https://down.example/"}, "", true},
		"tampered":  {map[string]any{"unauth_action": "pass"}, "session=1abc", false},
		"callback":  {map[string]any{"redirect_uri": "/"}, "", false},
		"logged in": {map[string]any{"set_access_token_header": false, "set_id_token_header": false, "set_userinfo_header": false}, b.header(), false},
	} {
		o.down = c.down
		x := exchange("/")
		for _, n := range names {
			x.Req.Header.Add(n, "spoof")
		}
		x.Req.Header.Add("X-Userinformation", "kept")
		if c.cookie != "" {
			x.Req.Header.Add("Cookie", c.cookie+"; other=1")
		}
		guard(t, env, c.conf).Rewrite(x)
		for _, f := range x.Req.Header.Fields() {
			if f.Value == "spoof" {
				t.Errorf("%s: %s passed", name, f.Name)
			}
			if f.Name == "Cookie" && f.Value != "other=1" {
				t.Errorf("%s: cookies passed: %s", name, f.Value)
			}
		}
		if !x.Req.Header.Has("X-Userinformation") {
			t.Errorf("%s: another header was removed", name)
		}
	}
}

func TestAuthorizationHeader(t *testing.T) {
	o := newOP(t)
	env := newEnv(o)
	conf := map[string]any{"access_token_in_authorization_header": true, "unauth_action": "pass"}
	p := guard(t, env, conf)
	x := exchange("/", gateway.Field{Name: "Authorization", Value: "Bearer spoof"})
	if r := p.Rewrite(x); r != nil || x.Req.Header.Has("Authorization") {
		t.Errorf("anonymous: %s", show(r))
	}
	b := newBrowser(t)
	b.signIn(o, guard(t, env, nil), "/")
	if r := b.get(p, "/"); r != nil || !strings.HasPrefix(b.x.Req.Header.Get("Authorization"), "Bearer at-") || b.x.Req.Header.Has("X-Access-Token") {
		t.Error(show(r))
	}
}

func TestRequiredScopesAndClaims(t *testing.T) {
	o := newOP(t)
	env := newEnv(o)
	b := newBrowser(t)
	b.signIn(o, guard(t, env, nil), "/") // granted: openid offline
	r := b.get(guard(t, env, map[string]any{"required_scopes": []string{"openid", "admin"}}), "/")
	if status(r) != 403 || string(r.Body) != `{"error":"required scopes openid, admin not present"}` {
		t.Error(show(r))
	}
	if r := b.get(guard(t, env, map[string]any{"required_scopes": []string{"offline"}}), "/"); r != nil {
		t.Error(show(r))
	}
	schema := func(name string) map[string]any {
		return map[string]any{"claim_schema": map[string]any{"required": []string{"user"}, "properties": map[string]any{
			"user": map[string]any{"properties": map[string]any{"name": map[string]any{"const": name}}}}}}
	}
	if r := b.get(guard(t, env, schema("Ada")), "/"); r != nil {
		t.Error(show(r))
	}
	if r := b.get(guard(t, env, schema("Eve")), "/"); status(r) != 401 || !strings.Contains(header(r, "WWW-Authenticate"), "invalid_token") {
		t.Error(show(r))
	}
}

// 100 requests that carry a session with an ended access token lead to one
// refresh, and so do stragglers that still carry the old cookie.
func TestRefreshStampede(t *testing.T) {
	for _, rotate := range []bool{true, false} {
		o := newOP(t)
		o.rotate = rotate
		o.answer = func(a map[string]any) { // without rotation only the first answer has one
			if _, ok := a["refresh_token"]; !ok && len(o.refresh) == 0 {
				o.refresh["rt-fixed"] = true
				a["refresh_token"] = "rt-fixed"
			}
		}
		o.expires = 500
		p := guard(t, newEnv(o), nil)
		b := newBrowser(t)
		b.signIn(o, p, "/")
		old := b.header()
		o.clock.pass(500 * time.Second)
		before := o.count("/token")
		o.hold, o.entered = make(chan struct{}), make(chan struct{}, 200)
		var wg sync.WaitGroup
		var mu sync.Mutex
		seen := map[string]int{}
		for range 100 {
			wg.Go(func() {
				x := exchange("/", gateway.Field{Name: "Cookie", Value: old})
				r := p.Rewrite(x)
				mu.Lock()
				defer mu.Unlock()
				if r != nil || !x.Answer.Has("Set-Cookie") {
					t.Errorf("got %s", show(r))
				}
				seen[x.Req.Header.Get("X-Access-Token")]++
			})
		}
		<-o.entered
		close(o.hold)
		wg.Wait()
		o.mu.Lock()
		o.hold, o.entered = nil, nil
		o.mu.Unlock()
		if got := o.count("/token") - before; got != 1 || len(seen) != 1 {
			t.Errorf("rotate %v: %d refreshes, %d tokens", rotate, got, len(seen))
		}
		o.clock.pass(keepRenewal - time.Second)
		x := exchange("/", gateway.Field{Name: "Cookie", Value: old})
		if r := p.Rewrite(x); r != nil || o.count("/token")-before != 1 || seen[x.Req.Header.Get("X-Access-Token")] == 0 {
			t.Errorf("rotate %v, straggler: %s", rotate, show(r))
		}
		// The straggler's answer brings the new session: it works alone.
		b.store(x)
		o.clock.pass(10 * time.Minute)
		if r := b.get(p, "/"); r != nil || o.count("/token")-before != 2 {
			t.Errorf("rotate %v, next refresh: %s, %d", rotate, show(r), o.count("/token")-before)
		}
	}
}

func TestRefreshFails(t *testing.T) {
	start := func(t *testing.T, conf map[string]any) (*op, *relyingParty, *browser) {
		o := newOP(t)
		o.expires = 100
		p := guard(t, newEnv(o), conf)
		b := newBrowser(t)
		b.signIn(o, guard(t, p.env, nil), "/")
		return o, p, b
	}
	t.Run("unreachable while the token lives", func(t *testing.T) {
		o, p, b := start(t, nil)
		o.down = true
		o.clock.pass(95 * time.Second)
		if r := b.get(p, "/"); r != nil || o.count("/token") != 2 {
			t.Error(show(r))
		}
	})
	for _, action := range []string{"auth", "deny", "pass"} {
		t.Run("unreachable, "+action, func(t *testing.T) {
			o, p, b := start(t, map[string]any{"unauth_action": action})
			o.down = true
			o.clock.pass(101 * time.Second)
			if r := b.get(p, "/"); status(r) != 503 || header(r, "Retry-After") == "" {
				t.Error(show(r))
			}
			o.down = false
			o.clock.pass(keepOutage)
			if r := b.get(p, "/"); r != nil {
				t.Errorf("back again: %s", show(r))
			}
		})
		t.Run("refused, "+action, func(t *testing.T) {
			o, p, b := start(t, map[string]any{"unauth_action": action})
			clear(o.refresh)
			o.clock.pass(101 * time.Second)
			want := map[string]int{"auth": 302, "deny": 401, "pass": 0}[action]
			if r := b.get(p, "/"); status(r) != want || b.cookies["session"] != "" || b.x.Req.Header.Has("X-Access-Token") {
				t.Error(show(r))
			}
		})
	}
	t.Run("another user", func(t *testing.T) {
		o, p, b := start(t, nil)
		o.claims = func(c map[string]any) { c["sub"] = "eve" }
		o.clock.pass(101 * time.Second)
		if r := b.get(p, "/"); status(r) != 302 {
			t.Error(show(r))
		}
	})
	t.Run("not wanted", func(t *testing.T) {
		o, p, b := start(t, map[string]any{"renew_access_token_on_expiry": false})
		o.clock.pass(101 * time.Second)
		if r := b.get(p, "/"); r != nil || o.count("/token") != 1 {
			t.Error(show(r))
		}
	})
	t.Run("access token not kept", func(t *testing.T) {
		o := newOP(t)
		o.expires = 100
		p := guard(t, newEnv(o), map[string]any{"session_contents": map[string]any{"id_token": true, "user": true}})
		b := newBrowser(t)
		b.signIn(o, p, "/")
		for range 3 {
			o.clock.pass(101 * time.Second)
			if r := b.get(p, "/"); r != nil || b.x.Req.Header.Has("X-Access-Token") || o.count("/token") != 1 {
				t.Fatal(show(r))
			}
		}
		o.clock.pass(900 * time.Second)
		if r := b.get(p, "/"); status(r) != 302 {
			t.Errorf("after idling_timeout: %s", show(r))
		}
	})
	t.Run("access token no longer kept", func(t *testing.T) {
		o, p, b := start(t, map[string]any{"session_contents": map[string]any{"id_token": true, "user": true}})
		for range 2 {
			o.clock.pass(101 * time.Second)
			if r := b.get(p, "/"); r != nil || b.x.Req.Header.Has("X-Access-Token") {
				t.Error("an expired token travels on: ", show(r))
			}
		}
	})
	t.Run("no refresh token", func(t *testing.T) {
		o := newOP(t)
		o.expires = 100
		o.answer = func(a map[string]any) { delete(a, "refresh_token") }
		p := guard(t, newEnv(o), nil)
		b := newBrowser(t)
		b.signIn(o, p, "/")
		o.clock.pass(95 * time.Second)
		if r := b.get(p, "/"); r != nil {
			t.Error(show(r))
		}
		o.clock.pass(5 * time.Second)
		if r := b.get(p, "/"); status(r) != 302 {
			t.Error(show(r))
		}
	})
}

func TestLogout(t *testing.T) {
	o := newOP(t)
	p := guard(t, newEnv(o), map[string]any{"revoke_tokens_on_logout": true, "post_logout_redirect_uri": "/bye"})
	o.answer = func(a map[string]any) { a["access_token"] = noise(5000) }
	b := newBrowser(t)
	b.get(p, "/abandoned")
	o.clock.pass(time.Second)
	b.signIn(o, p, "/")
	kept := b.header()
	r := b.get(p, "/logout?x=1")
	to := header(r, "Location")
	if status(r) != 302 || !strings.HasPrefix(to, issuer+"/end?") || !strings.Contains(to, "id_token_hint=ey") || !strings.Contains(to, "post_logout_redirect_uri=http%3A%2F%2Fapp.example%2Fbye") {
		t.Errorf("got %s", show(r))
	}
	if len(b.cookies) != 0 || len(o.refresh) != 0 || o.count("/revoke") != 2 {
		t.Errorf("left: %d cookies, %d refresh tokens", len(b.cookies), len(o.refresh))
	}
	if r := b.get(p, "/"); status(r) != 302 {
		t.Error(show(r))
	}
	if r := p.Rewrite(exchange("/", gateway.Field{Name: "Cookie", Value: kept})); status(r) != 302 {
		t.Errorf("a copy of the cookie: %s", show(r))
	}

	// The provider is away: signed out here all the same.
	b = newBrowser(t)
	b.signIn(o, p, "/")
	o.down = true
	o.clock.pass(25 * time.Hour)
	fresh := guard(t, newEnv(o), nil)
	if r := b.get(fresh, "/logout"); status(r) != 503 || len(b.cookies) != 0 {
		t.Error(show(r))
	}
	o.down = false
	delete(o.doc, "end_session_endpoint")
	p = guard(t, newEnv(o), nil)
	if r := b.get(p, "/logout"); status(r) != 200 || !strings.Contains(string(r.Body), "signed out") {
		t.Error(show(r))
	}
}

func TestConfigRefused(t *testing.T) {
	base := `{"client_id":"app","client_secret":"x","discovery":"https://op.example/"`
	for add, want := range map[string]string{
		`,"par":{"enabled":true}`:                                      "par",
		`,"dpop":{"enabled":true,"private_key":"x"}`:                   "dpop",
		`,"accept_none_alg":true`:                                      "accept_none_alg",
		`,"session":{"storage":"redis","redis":{}}`:                    "session.storage redis",
		`,"session":{"secret":"short"}`:                                "session.secret",
		`,"session":{"cookie_name":"a b"}`:                             "session.cookie_name",
		`,"session":{"cookie_path":"/;x"}`:                             "session.cookie_path",
		`,"session":{"cookie_same_site":"None","cookie_secure":false}`: "cookie_same_site",
		`,"redirect_uri":"callback"`:                                   "redirect_uri",
		`,"redirect_uri":"//evil"`:                                     "redirect_uri",
		`,"redirect_uri":"http://a.example"`:                           "redirect_uri",
		`,"post_logout_redirect_uri":"javascript:x"`:                   "post_logout_redirect_uri",
		`,"authorization_params":{"state":"x"}`:                        "state",
		`,"authorization_params":{"a":[]}`:                             "authorization_params.a",
		`,"use_par":true`:                                              "use_par",
		`,"required_scope":["a"]`:                                      "required_scope",
		`,"public_key":"x"`:                                            "public_key",
		`,"token_signing_alg_values_expected":"HS256"`:                 "token_signing_alg_values_expected",
		`,"token_endpoint_auth_method":"private_key_jwt"`:              "client_rsa_private_key",
		`,"token_endpoint_auth_method":"tls_client_auth"`:              "token_endpoint_auth_method",
		`,"proxy_opts":{"http_proxy_authorization":"x"}`:               "proxy_opts.http_proxy_authorization",
		`,"response_mode":"form_post"`:                                 "response_mode",
		`,"force_reauthorize":true`:                                    "force_reauthorize",
		`,"claim_schema":{"$ref":"file:///etc/passwd"}`:                "claim_schema",
		`,"client_id":""`:                                              "client_id",
		`,"client_secret":""`:                                          "client_secret",
		`,"ssl_verify":"maybe"`:                                        "ssl_verify",
	} {
		err := Plugin.Check([]byte(base + add + "}"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", add, err)
		}
	}
}

// What APISIX stores for a route, defaults included, is accepted.
func TestConfigAccepted(t *testing.T) {
	var doc any
	if err := json.Unmarshal(Plugin.Schema(), &doc); err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, raw := range []string{
		`{"client_id":"facebook-photo-backup","client_secret":"some-secret","discovery":"https://127.0.0.1:5444/.well-known/openid-configuration","scope":"openid","token_endpoint_auth_method":"client_secret_basic","bearer_only":false,"redirect_uri":"http://127.0.0.1:9080/callback"}`,
		`{"client_id":"a","client_secret":"b","discovery":"https://op/","ssl_verify":"no","timeout":3000,"accept_unsupported_alg":true,"accept_none_alg":false,"use_nonce":false,"use_pkce":false,"session":{"secret":"0123456789abcdef","storage":"cookie","cookie":{"lifetime":60}},"par":{"enabled":false},"dpop":{"enabled":false,"signing_alg":"ES256"},"proxy_opts":{},"_meta":{"disable":false}}`,
		`{"client_id":"a","use_pkce":true,"discovery":"https://op/"}`,
		`{"client_id":"a","bearer_only":true,"use_jwks":true,"discovery":"https://op/","claim_validator":{"audience":{"match_with_client_id":true}}}`,
	} {
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(v); err != nil {
			t.Errorf("schema: %s: %v", raw, err)
		}
		if err := Plugin.Check([]byte(raw)); err != nil {
			t.Errorf("check: %s: %v", raw, err)
		}
	}
	c, err := parseConfig([]byte(`{"client_id":"a","client_secret":"b","discovery":"https://op/","ssl_verify":"no","timeout":3000}`))
	if err != nil || c.verify || c.timeout != 3*time.Second || !c.pkce {
		t.Errorf("%v %+v", err, c)
	}
	// Every field of the schema is known to the configuration, and the reverse.
	props := doc.(map[string]any)["properties"].(map[string]any)
	for name := range props {
		if _, err := parseConfig([]byte(`{"client_id":"a","client_secret":"b","discovery":"https://op/","` + name + `":null}`)); err != nil && strings.Contains(err.Error(), "unknown field") {
			t.Errorf("%s: %v", name, err)
		}
	}
	all, err := json.Marshal(defaults())
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(all, &fields); err != nil {
		t.Fatal(err)
	}
	for name, v := range fields {
		p, ok := props[name].(map[string]any)
		if !ok {
			t.Errorf("%s is not in the schema", name)
			continue
		}
		switch v.(type) {
		case string, float64, bool:
			if want, ok := p["default"]; ok && want != v && name != "use_pkce" {
				t.Errorf("%s: default %v in the schema, %v in the code", name, want, v)
			}
		}
	}
}

func FuzzSessionCookie(f *testing.F) {
	o := &op{clock: &clock{at: time.Unix(1_700_000_000, 0)}}
	env := newEnv(o)
	p, err := build([]byte(`{"client_id":"app","client_secret":"x","discovery":"`+discovery+`","unauth_action":"deny"}`), env)
	if err != nil {
		f.Fatal(err)
	}
	good, err := p.encodeSession(p.newSession(&tokens{Access: "secret-token"}, issuer, "ada", nil, nil, nil))
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{"session=1" + good, "session=2ab; session_2=cd", "session=", "a=b; session_state_x=y;;;=;", "session_2=x", "session=9", " session = 1 ; x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, cookie string) {
		x := exchange("/", gateway.Field{Name: "Cookie", Value: cookie})
		r := p.Rewrite(x)
		if r == nil && x.Req.Header.Get("X-Access-Token") != "secret-token" { // sealed by us, whatever stands around it
			t.Errorf("let in by %q", cookie)
		}
		for pair := range strings.SplitSeq(x.Req.Header.Get("Cookie"), ";") {
			name, _, _ := strings.Cut(strings.Trim(pair, " \t"), "=")
			if name = strings.TrimRight(name, " \t"); name == "session" || strings.HasPrefix(name, "session_state_") {
				t.Errorf("%q travels on", pair)
			}
		}
	})
}

func FuzzAttempt(f *testing.F) {
	o := &op{clock: &clock{at: time.Unix(1_700_000_000, 0)}}
	p, err := build([]byte(`{"client_id":"app","client_secret":"x","discovery":"`+discovery+`","redirect_uri":"/cb"}`), newEnv(o))
	if err != nil {
		f.Fatal(err)
	}
	f.Add("state=abcdefghijklmnopqrstuvwxyz&code=1", "session_state_abcdefghijklmnopqrst=AAAA")
	f.Add("error=<x>&state=a", "")
	f.Fuzz(func(t *testing.T, query, cookie string) {
		x := exchange("/cb", gateway.Field{Name: "Cookie", Value: cookie})
		x.Req.Query = query
		if r := p.Rewrite(x); r == nil || r.Status != 400 {
			t.Errorf("%q, %q: %s", query, cookie, show(r))
		}
	})
}

func BenchmarkSessionHit(b *testing.B) {
	o := &op{clock: &clock{at: time.Unix(1_700_000_000, 0)}}
	p, err := build([]byte(`{"client_id":"app","client_secret":"x","discovery":"`+discovery+`"}`), newEnv(o))
	if err != nil {
		b.Fatal(err)
	}
	good, err := p.encodeSession(p.newSession(&tokens{Access: noise(800), Refresh: noise(80), ExpiresIn: 9999, ID: "a.e30.b"}, issuer, "ada", nil, nil, nil))
	if err != nil {
		b.Fatal(err)
	}
	x := exchange("/")
	b.ReportAllocs()
	for b.Loop() {
		x.Req.Header.Reset()
		x.Req.Header.Add("Cookie", "session=1"+good)
		if r := p.Rewrite(x); r != nil {
			b.Fatal(show(r))
		}
	}
}

func TestReadmeExamples(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(text), "```json\n")
	if len(parts) < 4 {
		t.Fatal("examples are missing")
	}
	o := newOP(t)
	for _, part := range parts[1:] {
		raw, _, _ := strings.Cut(part, "```")
		if _, err := build([]byte(raw), newEnv(o)); err != nil {
			t.Errorf("%s: %v", raw, err)
		}
	}
}
