package openidconnect

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"gatehouse/gateway"
)

func bearer(p *relyingParty, value string) (*gateway.Exchange, *gateway.Reply) {
	x := exchange("/api")
	if value != "" {
		x.Req.Header.Add("Authorization", value)
	}
	return x, p.Rewrite(x)
}

func (o *op) accessToken(change map[string]any) string {
	c := map[string]any{"iss": issuer, "sub": "ada", "aud": "app", "scope": "read write", "exp": o.clock.now().Unix() + 60, "n": json.Number("12345678901234567890")}
	maps.Copy(c, change)
	for k, v := range c {
		if v == nil {
			delete(c, k)
		}
	}
	return o.sign(c)
}

func TestBearerJWT(t *testing.T) {
	o := newOP(t)
	env := newEnv(o)
	p := guard(t, env, map[string]any{"bearer_only": true, "use_jwks": true, "realm": `a"b`})
	good := o.accessToken(nil)
	x, r := bearer(p, "bEaReR "+good)
	if r != nil {
		t.Fatal(show(r))
	}
	raw, err := base64.StdEncoding.DecodeString(x.Req.Header.Get("X-Userinfo"))
	if err != nil || !strings.Contains(string(raw), `"n":12345678901234567890`) || x.Req.Header.Get("X-Access-Token") != good || x.Req.Header.Has("X-ID-Token") {
		t.Errorf("headers: %s %v", raw, x.Req.Header.Fields())
	}
	for name, c := range map[string]struct {
		value  string
		status int
		auth   string
	}{
		"none":          {"", 401, `Bearer realm="a'b"`},
		"basic":         {"Basic abc", 401, `Bearer realm="a'b"`},
		"one word":      {"Bearer", 400, ""},
		"garbage":       {"Bearer x", 401, "invalid_token"},
		"changed":       {"Bearer " + flip(good), 401, "invalid_token"},
		"expired":       {"Bearer " + o.accessToken(map[string]any{"exp": 1_600_000_000}), 401, "expired"},
		"no expiry":     {"Bearer " + o.accessToken(map[string]any{"exp": nil}), 401, "invalid_token"},
		"other issuer":  {"Bearer " + o.accessToken(map[string]any{"iss": "https://evil.example"}), 401, "invalid_token"},
		"an ID token":   {"Bearer " + o.accessToken(map[string]any{"at_hash": "x"}), 401, "invalid_token"},
		"a typed ID":    {"Bearer " + o.accessToken(map[string]any{"typ": "ID"}), 401, "invalid_token"},
		"logout token":  {"Bearer " + o.accessToken(map[string]any{"events": map[string]any{}}), 401, "invalid_token"},
		"too long":      {"Bearer " + strings.Repeat("a", 17<<10), 401, "too long"},
		"secret signed": {"Bearer " + signJWT(t, jose.HS256, []byte("s3cret:with/odd chars-s3cret:with/odd chars"), "k1", map[string]any{"iss": issuer, "exp": 1_800_000_000}, nil), 401, "invalid_token"},
	} {
		_, r := bearer(p, c.value)
		if status(r) != c.status || !strings.Contains(header(r, "WWW-Authenticate"), c.auth) {
			t.Errorf("%s: %s %s", name, show(r), header(r, "WWW-Authenticate"))
		}
	}
	if got := o.count("/jwks"); got != 1 {
		t.Errorf("keys were fetched %d times", got)
	}
	x = exchange("/api", gateway.Field{Name: "X-Access-Token", Value: good})
	if r := p.Rewrite(x); status(r) != 401 || x.Req.Header.Has("X-Access-Token") {
		t.Errorf("token in X-Access-Token alone: %s", show(r))
	}
	// A verified token is not verified again, and not used beyond its time.
	_, r = bearer(p, "Bearer "+good)
	if r != nil {
		t.Error(show(r))
	}
	o.clock.pass(60*time.Second + 120*time.Second)
	if _, r = bearer(p, "Bearer "+good); status(r) != 401 {
		t.Errorf("expired in the cache: %s", show(r))
	}
}

func TestBearerPublicKey(t *testing.T) {
	o := newOP(t)
	der, err := x509.MarshalPKIXPublicKey(o.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	conf := map[string]any{"bearer_only": true, "public_key": text, "claim_validator": map[string]any{"issuer": map[string]any{"valid_issuers": []string{issuer}}}}
	p := guard(t, newEnv(o), conf)
	o.down = true
	if _, r := bearer(p, "Bearer "+o.accessToken(nil)); r != nil {
		t.Error(show(r))
	}
	hs := signJWT(t, jose.HS256, []byte(text), "k1", map[string]any{"iss": issuer, "exp": 1_800_000_000}, nil)
	if _, r := bearer(p, "Bearer "+hs); status(r) != 401 {
		t.Errorf("public key as secret: %s", show(r))
	}
	delete(conf, "claim_validator")
	if _, r := bearer(guard(t, newEnv(o), conf), "Bearer "+o.accessToken(nil)); status(r) != 503 || header(r, "Retry-After") == "" {
		t.Errorf("issuer unknown: %s", show(r))
	}
}

func TestBearerChecks(t *testing.T) {
	o := newOP(t)
	env := newEnv(o)
	audience := func(m map[string]any) map[string]any {
		return map[string]any{"claim_validator": map[string]any{"audience": m}}
	}
	for name, c := range map[string]struct {
		conf, claims map[string]any
		status       int
		body         string
	}{
		"scopes present":   {map[string]any{"required_scopes": []string{"write", "read"}}, nil, 0, ""},
		"scope missing":    {map[string]any{"required_scopes": []string{"read", "admin"}}, nil, 403, `{"error":"required scopes read, admin not present"}`},
		"no scope at all":  {map[string]any{"required_scopes": []string{"read"}}, map[string]any{"scope": nil}, 403, `{"error":"required scopes read not present"}`},
		"audience missing": {audience(map[string]any{"required": true}), map[string]any{"aud": nil}, 403, `{"error":"required audience claim not present"}`},
		"match implies":    {audience(map[string]any{"match_with_client_id": true}), map[string]any{"aud": nil}, 403, `{"error":"required audience claim not present"}`},
		"mismatch":         {audience(map[string]any{"match_with_client_id": true}), map[string]any{"aud": []string{"application"}}, 403, `{"error":"mismatched audience"}`},
		"match in list":    {audience(map[string]any{"match_with_client_id": true}), map[string]any{"aud": []string{"x", "app"}}, 0, ""},
		"other claim":      {audience(map[string]any{"match_with_client_id": true, "claim": "cid"}), map[string]any{"cid": "app"}, 0, ""},
		"schema":           {map[string]any{"claim_schema": map[string]any{"required": []string{"tenant"}}}, nil, 401, ""},
	} {
		conf := map[string]any{"bearer_only": true, "use_jwks": true}
		maps.Copy(conf, c.conf)
		_, r := bearer(guard(t, env, conf), "Bearer "+o.accessToken(c.claims))
		if status(r) != c.status || r != nil && string(r.Body) != c.body {
			t.Errorf("%s: %s", name, show(r))
		}
	}
}

func TestIntrospection(t *testing.T) {
	o := newOP(t)
	p := guard(t, newEnv(o), map[string]any{"introspection_endpoint": issuer + "/introspect", "unauth_action": "pass", "required_scopes": []string{"read"}})
	o.tokens["good"] = map[string]any{"active": true, "scope": "read", "exp": o.clock.now().Unix() + 30}
	o.tokens["long"] = map[string]any{"active": true, "scope": "read", "exp": o.clock.now().Unix() + 3000}
	o.tokens["old"] = map[string]any{"active": true, "scope": "read", "exp": o.clock.now().Unix()}
	o.tokens["text"] = map[string]any{"active": "true", "scope": "read"}
	for token, want := range map[string]int{"good": 0, "bad": 401, "old": 401, "text": 401} {
		if _, r := bearer(p, "Bearer "+token); status(r) != want {
			t.Errorf("%s: %s", token, show(r))
		}
	}
	if got := fieldOf(o.lastHead["/introspect"].Header, "Authorization"); !strings.HasPrefix(got, "Basic ") {
		t.Errorf("client authentication: %q", got)
	}
	n := o.count("/introspect")
	for range 3 {
		bearer(p, "Bearer good")
	}
	if o.count("/introspect") != n {
		t.Error("a good answer is not remembered")
	}
	delete(o.tokens, "good")
	o.clock.pass(30 * time.Second)
	if _, r := bearer(p, "Bearer good"); status(r) != 401 {
		t.Errorf("after its time: %s", show(r))
	}
	bearer(p, "Bearer long")
	delete(o.tokens, "long")
	o.clock.pass(introspectionCap)
	if _, r := bearer(p, "Bearer long"); status(r) != 401 {
		t.Errorf("revoked a minute ago: %s", show(r))
	}
	o.down = true
	if _, r := bearer(p, "Bearer x"); status(r) != 503 || header(r, "Retry-After") == "" {
		t.Errorf("provider down: %s", show(r))
	}
	if _, r := bearer(p, ""); r != nil {
		t.Errorf("nothing presented: %s", show(r))
	}
}

// What the provider says may depend on more than the token.
func TestIntrospectionVerdictsAreNotMixed(t *testing.T) {
	o := newOP(t)
	env := newEnv(o)
	with := func(more map[string]any) map[string]any {
		c := map[string]any{"bearer_only": true, "introspection_endpoint": issuer + "/introspect"}
		maps.Copy(c, more)
		return c
	}
	o.tokens["good"] = map[string]any{"active": true}
	asked := func(p *relyingParty) bool {
		t.Helper()
		n := o.count("/introspect")
		if _, r := bearer(p, "Bearer good"); r != nil {
			t.Error(show(r))
		}
		return o.count("/introspect") > n
	}
	basic := guard(t, env, with(nil))
	if !asked(basic) || asked(basic) {
		t.Error("a plain verdict is to be remembered")
	}
	if !asked(guard(t, env, with(map[string]any{"introspection_endpoint_auth_method": "client_secret_post"}))) {
		t.Error("verdict of another authentication method is used")
	}
	tenant := guard(t, env, with(map[string]any{"introspection_addon_headers": []string{"X-Tenant"}}))
	for range 2 {
		if !asked(tenant) {
			t.Error("verdict is used for a request with other headers")
		}
	}
	a, b := &conf{}, &conf{}
	b.IntrospectionHeaders = []string{"X-Tenant"}
	if policy(a) == policy(b) {
		t.Error("introspection_addon_headers are not part of the policy")
	}
}
