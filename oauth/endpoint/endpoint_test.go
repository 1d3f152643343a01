package endpoint_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"gatehouse/lib/phc"
	"gatehouse/oauth"
	"gatehouse/oauth/clientauth"
	"gatehouse/oauth/clients"
	"gatehouse/oauth/endpoint"
	"gatehouse/oauth/keys"
	"gatehouse/oauth/mint"
	"gatehouse/oauth/token"
	"gatehouse/store/memory"
)

// store counts reads and can be made to fail.
type store struct {
	*memory.Records
	reads  atomic.Int64
	broken atomic.Bool
}

func (s *store) Get(ctx context.Context, refs ...oauth.Ref) ([]oauth.Record, error) {
	s.reads.Add(1)
	if s.broken.Load() {
		return nil, errors.New("secret detail of the database")
	}
	return s.Records.Get(ctx, refs...)
}

type provider struct {
	*endpoint.Endpoints
	t       *testing.T
	store   *store
	mint    *mint.Mint
	secrets map[string]string
	clients map[string]*oauth.Client
	now     time.Time
}

func start(t *testing.T) *provider {
	t.Helper()
	p := &provider{t: t, now: time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC), secrets: map[string]string{}, clients: map[string]*oauth.Client{}}
	now := func() time.Time { return p.now }
	set := &oauth.Settings{
		Issuer: "https://id.example.com/", PublicURL: "https://id.example.com", Secrets: [][]byte{[]byte("a-system-secret-of-32-bytes-long")},
		TTLInteraction: 30 * time.Minute, TTLCode: 10 * time.Minute, SigningAlg: "ES256", Log: slog.New(slog.DiscardHandler), Now: now,
	}
	p.store = &store{Records: memory.NewRecords(now)}
	ring, err := keys.Open(t.Context(), keys.Config{Store: p.store, Secrets: set.Secrets, Alg: set.SigningAlg, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if p.mint, err = mint.New(set, ring); err != nil {
		t.Fatal(err)
	}
	registry := clients.New(clients.Config{Store: p.store, Hasher: phc.New(0, 0), SigningAlgs: keys.Algs(), Now: now})
	for _, c := range []*oauth.Client{
		{ID: "app", GrantTypes: []string{"authorization_code", "refresh_token"}},
		{ID: "other"},
		{ID: "signed", UserinfoSignedResponseAlg: "ES256"},
	} {
		if p.clients[c.ID], p.secrets[c.ID], err = registry.Create(t.Context(), c, ""); err != nil {
			t.Fatal(err)
		}
	}
	p.Endpoints = endpoint.New(endpoint.Config{
		Settings: set, Store: p.store, Clients: registry, Mint: p.mint, Keys: ring,
		Auth:         clientauth.New(clientauth.Config{Clients: registry, Hasher: phc.New(0, 0), Now: now}),
		Introspector: endpoint.NewIntrospector(set, p.mint, token.NewLiving(p.store, set), registry),
	})
	return p
}

// grant stores an authorization, as it is after its code was redeemed.
func (p *provider) grant(client, id string, scopes ...string) *oauth.Authorization {
	p.t.Helper()
	a := &oauth.Authorization{
		ID: id, ClientID: client, Subject: "foo@bar.com", Scopes: scopes, ACR: "0",
		AuthTime: time.Unix(1795418727, 0), RequestedAt: time.Unix(1795418726, 0), IssuedAt: p.now, RefreshExpires: p.now.Add(720 * time.Hour),
		IDTokenClaims: map[string]any{"name": "Foo"}, AccessTokenClaims: map[string]any{"role": "x"}, Expires: p.now.Add(721 * time.Hour),
	}
	for range 2 {
		rec, err := a.Record()
		if err != nil {
			p.t.Fatal(err)
		}
		if err := p.store.Put(p.t.Context(), rec); err != nil {
			p.t.Fatal(err)
		}
		a.Generation++
	}
	return a
}

func (p *provider) access(a *oauth.Authorization) string {
	p.t.Helper()
	raw, err := p.mint.AccessToken(p.t.Context(), p.mint.ForAuthorization(a, a.Scopes, time.Hour), p.clients[a.ClientID], a)
	if err != nil {
		p.t.Fatal(err)
	}
	return raw
}

func (p *provider) own(client string) string {
	p.t.Helper()
	raw, err := p.mint.Opaque(p.mint.ForClient(p.clients[client], []string{"photos.*"}, nil, time.Hour))
	if err != nil {
		p.t.Fatal(err)
	}
	return raw
}

func (p *provider) introspect(form string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "/admin/oauth2/introspect", strings.NewReader(form))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	p.Introspection().ServeHTTP(w, r)
	return w
}

func (p *provider) do(method, path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	return w
}

func (p *provider) revoke(client, raw string) *httptest.ResponseRecorder {
	form := url.Values{"token": {raw}}
	r := httptest.NewRequest("POST", "/oauth2/revoke", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth(client, p.secrets[client])
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	return w
}

const inactive = `{"active":false}`

func TestIntrospect(t *testing.T) {
	p := start(t)
	a := p.grant("app", "f1", "openid", "offline", "photos.read")
	access, refresh, own := p.access(a), p.mint.RefreshToken(a.ID, a.Generation), p.own("other")
	p.introspect("token=" + access) // whose authorization it is, and both clients, are known from now on
	p.introspect("token=" + own)
	for _, c := range []struct{ name, form, want string }{
		{"access", "token=" + access, `{"active":true,"scope":"openid offline photos.read","client_id":"app","sub":"foo@bar.com","exp":1795424400,"iat":1795420800,"nbf":1795420800,"aud":[],"iss":"https://id.example.com/","token_type":"Bearer","token_use":"access_token","ext":{"role":"x"}}`},
		{"refresh", "token=" + refresh + "&token_type_hint=access_token", `{"active":true,"scope":"openid offline photos.read","client_id":"app","sub":"foo@bar.com","exp":1798012800,"iat":1795420800,"nbf":1795420800,"aud":[],"iss":"https://id.example.com/","token_type":"Bearer","token_use":"refresh_token","ext":{"role":"x"}}`},
		{"the client's own", "token=" + own, `{"active":true,"scope":"photos.*","client_id":"other","sub":"other","exp":1795424400,"iat":1795420800,"nbf":1795420800,"aud":[],"iss":"https://id.example.com/","token_type":"Bearer","token_use":"access_token"}`},
		{"another scope", "token=" + access + "&scope=admin", inactive},
		{"garbage", "token=garbage", inactive},
		{"empty", "token=", inactive},
		{"nothing", "x=y", inactive},
		{"a refresh token never handed out", "token=" + p.mint.RefreshToken(a.ID, a.Generation+1), inactive},
		{"an authorization there is not", "token=" + p.mint.RefreshToken("f9", 2), inactive},
	} {
		p.store.reads.Store(0)
		w := p.introspect(c.form)
		if w.Code != 200 || w.Body.String() != c.want {
			t.Errorf("%s: %d %s", c.name, w.Code, w.Body)
		}
		if n := p.store.reads.Load(); n > 1 {
			t.Errorf("%s costs %d reads", c.name, n)
		}
	}
	for _, scope := range []string{"photos.read", "openid offline", ""} {
		if w := p.introspect("token=" + access + "&scope=" + url.QueryEscape(scope)); w.Body.String() == inactive {
			t.Errorf("scope %q is refused", scope)
		}
	}
	if w := p.introspect("token=" + own + "&scope=photos.write"); w.Body.String() == inactive {
		t.Error("a wildcard covers no scope")
	}
	if w := p.introspect("token=a&token=b"); w.Code != 400 {
		t.Errorf("two tokens: %d", w.Code)
	}
	p.store.broken.Store(true)
	if w := p.introspect("token=" + access); w.Code != 500 || strings.Contains(w.Body.String(), "secret detail") {
		t.Errorf("store away: %d %s", w.Code, w.Body)
	}
	p.store.broken.Store(false)
	p.now = p.now.Add(time.Hour)
	if w := p.introspect("token=" + access); w.Body.String() != inactive {
		t.Errorf("expired: %s", w.Body)
	}
}

func TestRevoke(t *testing.T) {
	p := start(t)
	a := p.grant("app", "f1", "openid", "offline")
	access, refresh := p.access(a), p.mint.RefreshToken(a.ID, a.Generation)
	active := func(raw string) bool { return p.introspect("token="+raw).Body.String() != inactive }

	if w := p.revoke("other", access); w.Code != 400 || !active(access) {
		t.Errorf("of another client: %d, active %v", w.Code, active(access))
	}
	if w := p.revoke("other", refresh); w.Code != 400 || !active(refresh) {
		t.Errorf("of another client: %d, active %v", w.Code, active(refresh))
	}
	if w := p.do("POST", "/oauth2/revoke", "token="+access, "Authorization", "Basic YXBwOndyb25n"); w.Code != 401 || w.Header().Get("WWW-Authenticate") == "" || !active(access) {
		t.Errorf("wrong secret: %d %v", w.Code, w.Header())
	}
	if w := p.do("POST", "/oauth2/revoke", "token="+access); w.Code != 400 || !active(access) {
		t.Errorf("no client: %d", w.Code)
	}
	if w := p.revoke("app", "unknown"); w.Code != 200 || w.Body.Len() != 0 {
		t.Errorf("unknown: %d %s", w.Code, w.Body)
	}
	if w := p.revoke("app", ""); w.Code != 400 {
		t.Errorf("no token: %d", w.Code)
	}
	if w := p.revoke("app", access); w.Code != 200 || w.Body.Len() != 0 || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if active(access) || active(refresh) {
		t.Error("revoking the access token does not end the authorization")
	}
	if w := p.revoke("app", access); w.Code != 200 {
		t.Errorf("twice: %d", w.Code)
	}
	b := p.grant("app", "f2", "openid", "offline")
	access = p.access(b)
	if w := p.revoke("app", p.mint.RefreshToken(b.ID, b.Generation)); w.Code != 200 || active(access) {
		t.Errorf("revoking the refresh token: %d", w.Code)
	}
	own, another := p.own("app"), p.own("app")
	if w := p.revoke("other", own); w.Code != 400 || !active(own) {
		t.Errorf("own token, by another client: %d", w.Code)
	}
	if w := p.revoke("app", own); w.Code != 200 || active(own) || !active(another) {
		t.Errorf("own token: %d, %v, %v", w.Code, active(own), active(another))
	}
}

func TestUserinfo(t *testing.T) {
	p := start(t)
	access := p.access(p.grant("app", "f1", "openid"))
	const want = `{"acr":"0","aud":["app"],"auth_time":1795418727,"iat":1795420800,"iss":"https://id.example.com/","name":"Foo","rat":1795418726,"sub":"foo@bar.com"}`
	for name, w := range map[string]*httptest.ResponseRecorder{
		"GET":    p.do("GET", "/userinfo", "", "Authorization", "Bearer "+access),
		"bearer": p.do("GET", "/userinfo", "", "Authorization", "bearer "+access),
		"POST":   p.do("POST", "/userinfo", "access_token="+access),
		"both":   p.do("POST", "/userinfo", "", "Authorization", "Bearer "+access),
	} {
		if w.Code != 200 || w.Body.String() != want || !strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	for name, c := range map[string]struct {
		w            *httptest.ResponseRecorder
		status       int
		code, header string
	}{
		"none":         {p.do("GET", "/userinfo", ""), 401, "request_unauthorized", "Bearer"},
		"query":        {p.do("GET", "/userinfo?access_token="+access, ""), 401, "request_unauthorized", "Bearer"},
		"bad":          {p.do("GET", "/userinfo", "", "Authorization", "Bearer ory_at_bogus"), 401, "invalid_token", `Bearer error="invalid_token"`},
		"twice":        {p.do("POST", "/userinfo", "access_token="+access, "Authorization", "Bearer "+access), 400, "invalid_request", `Bearer error="invalid_request"`},
		"own":          {p.do("GET", "/userinfo", "", "Authorization", "Bearer "+p.own("app")), 403, "insufficient_scope", `Bearer error="insufficient_scope"`},
		"no openid":    {p.do("GET", "/userinfo", "", "Authorization", "Bearer "+p.access(p.grant("app", "f2", "photos"))), 403, "insufficient_scope", `Bearer error="insufficient_scope"`},
		"refreshtoken": {p.do("GET", "/userinfo", "", "Authorization", "Bearer "+p.mint.RefreshToken("f1", 2)), 401, "invalid_token", `Bearer error="invalid_token"`},
	} {
		var e struct{ Error string }
		json.Unmarshal(c.w.Body.Bytes(), &e)
		if c.w.Code != c.status || e.Error != c.code || !strings.HasPrefix(c.w.Header().Get("WWW-Authenticate"), c.header) {
			t.Errorf("%s: %d %s %v", name, c.w.Code, c.w.Body, c.w.Header())
		}
	}
	w := p.do("GET", "/userinfo", "", "Authorization", "Bearer "+p.access(p.grant("signed", "f3", "openid")))
	if _, err := jose.ParseSignedCompact(w.Body.String(), []jose.SignatureAlgorithm{"ES256"}); err != nil || w.Header().Get("Content-Type") != "application/jwt" {
		t.Errorf("signed: %s, %v", w.Body, err)
	}
}

func TestDiscovery(t *testing.T) {
	p := start(t)
	for _, path := range []string{"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"} {
		w := p.do("GET", path, "")
		var doc map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || w.Code != 200 {
			t.Fatalf("%s: %d %v", path, w.Code, err)
		}
		if doc["issuer"] != "https://id.example.com/" || doc["token_endpoint"] != "https://id.example.com/oauth2/token" ||
			doc["jwks_uri"] != "https://id.example.com/.well-known/jwks.json" {
			t.Errorf("%s", w.Body)
		}
		grants, _ := json.Marshal(doc["grant_types_supported"])
		if string(grants) != `["authorization_code","client_credentials","refresh_token"]` {
			t.Errorf("grants are %s", grants)
		}
		tag := w.Header().Get("ETag")
		if again := p.do("GET", path, "", "If-None-Match", tag); again.Code != 304 || tag == "" {
			t.Errorf("with its tag: %d", again.Code)
		}
	}
}

func TestPublishedKeysVerifyTokens(t *testing.T) {
	p := start(t)
	raw, err := p.mint.IDToken(t.Context(), p.clients["app"], p.grant("app", "f1", "openid"), "", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	w := p.do("GET", "/.well-known/jwks.json", "")
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(w.Body.Bytes(), &set); err != nil || !strings.Contains(w.Header().Get("Cache-Control"), "max-age") {
		t.Fatalf("%s: %v", w.Body, err)
	}
	jws, err := jose.ParseSignedCompact(raw, []jose.SignatureAlgorithm{"ES256"})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(set.Key(jws.Signatures[0].Protected.KeyID), func(k jose.JSONWebKey) bool {
		_, err := jws.Verify(k)
		return err == nil
	}) {
		t.Error("no published key verifies an ID token")
	}
}

func TestHealth(t *testing.T) {
	p := start(t)
	if w := p.do("GET", "/health/alive", ""); w.Code != 200 || w.Body.String() != `{"status":"ok"}` {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := p.do("GET", "/health/ready", ""); w.Code != 200 || w.Body.String() != `{"status":"ok"}` {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	p.store.broken.Store(true)
	if w := p.do("GET", "/health/ready", ""); w.Code != 503 || strings.Contains(w.Body.String(), "secret detail") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := p.do("GET", "/health/alive", ""); w.Code != 200 {
		t.Errorf("%d", w.Code)
	}
	for _, path := range []string{"/version", "/admin/oauth2/introspect", "/oauth2/introspect"} {
		if w := p.do("POST", path, "token=x"); w.Code != 404 {
			t.Errorf("%s on the public port: %d", path, w.Code)
		}
	}
	if w := p.do("GET", "/nope", "", "Accept", "application/json"); w.Code != 404 || !strings.Contains(w.Body.String(), `"code":404`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
