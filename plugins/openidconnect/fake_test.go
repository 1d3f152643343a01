package openidconnect

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"gatehouse/gateway"
)

const (
	issuer    = "https://op.example"
	discovery = issuer + "/.well-known/openid-configuration"
)

type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.at }
func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// op is a provider in memory. It is the gateway's Caller.
type op struct {
	t     *testing.T
	clock *clock
	key   *ecdsa.PrivateKey
	kid   string

	mu       sync.Mutex
	down     bool
	calls    map[string]int // by path
	codes    map[string]url.Values
	refresh  map[string]bool // good refresh tokens
	rotate   bool
	hold     chan struct{} // the token endpoint waits for it
	entered  chan struct{} // and says that it does
	doc      map[string]any
	claims   func(map[string]any)    // last word on the ID token
	sign     func(any) string        // how it is signed
	user     map[string]any          // of userinfo
	answer   func(map[string]any)    // last word on the token answer
	tokens   map[string]any          // introspection: active tokens
	lastForm map[string]url.Values   // by path
	lastHead map[string]gateway.Call // by path
	expires  int
}

func newOP(t *testing.T) *op {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	o := &op{
		t: t, clock: &clock{at: time.Unix(1_700_000_000, 0)}, key: key, kid: "k1", calls: map[string]int{}, codes: map[string]url.Values{},
		refresh: map[string]bool{}, rotate: true, tokens: map[string]any{}, lastForm: map[string]url.Values{}, lastHead: map[string]gateway.Call{}, expires: 3600,
		user: map[string]any{"sub": "ada", "name": "Ada"},
		doc: map[string]any{
			"issuer": issuer, "authorization_endpoint": issuer + "/auth?tenant=1", "token_endpoint": issuer + "/token", "userinfo_endpoint": issuer + "/userinfo",
			"jwks_uri": issuer + "/jwks", "introspection_endpoint": issuer + "/introspect", "revocation_endpoint": issuer + "/revoke",
			"end_session_endpoint": issuer + "/end", "id_token_signing_alg_values_supported": []string{"ES256", "none", "HS256"},
			"authorization_response_iss_parameter_supported": true,
		},
	}
	o.sign = func(c any) string { return signJWT(t, jose.ES256, o.key, o.kid, c, nil) }
	return o
}

func signJWT(t *testing.T, alg jose.SignatureAlgorithm, key any, kid string, claims any, header map[jose.HeaderKey]any) string {
	t.Helper()
	opts := (&jose.SignerOptions{ExtraHeaders: header}).WithHeader("kid", kid)
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, opts)
	if err != nil {
		t.Fatal(err)
	}
	body, ok := claims.([]byte)
	if !ok {
		if body, err = json.Marshal(claims); err != nil {
			t.Fatal(err)
		}
	}
	sig, err := s.Sign(body)
	if err != nil {
		t.Fatal(err)
	}
	out, err := sig.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (o *op) count(path string) int { o.mu.Lock(); defer o.mu.Unlock(); return o.calls[path] }

func (o *op) Call(ctx context.Context, c gateway.Call) (*gateway.CallAnswer, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, err
	}
	form, _ := url.ParseQuery(string(c.Body))
	o.mu.Lock()
	o.calls[u.Path]++
	o.lastForm[u.Path], o.lastHead[u.Path] = form, c
	down, hold, entered := o.down, o.hold, o.entered
	o.mu.Unlock()
	if down {
		return nil, errors.New("connection refused")
	}
	if u.Path == "/token" && hold != nil {
		if entered != nil {
			entered <- struct{}{}
		}
		<-hold
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	switch u.Path {
	case "/.well-known/openid-configuration":
		return jsonAnswer(200, o.doc), nil
	case "/jwks":
		return jsonAnswer(200, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: o.key.Public(), KeyID: o.kid, Algorithm: "ES256", Use: "sig"}}}), nil
	case "/token":
		return o.token(form), nil
	case "/userinfo":
		return jsonAnswer(200, o.user), nil
	case "/introspect":
		if v, ok := o.tokens[form.Get("token")]; ok {
			return jsonAnswer(200, v), nil
		}
		return jsonAnswer(200, map[string]any{"active": false}), nil
	case "/revoke":
		delete(o.refresh, form.Get("token"))
		return &gateway.CallAnswer{Status: 200}, nil
	}
	return &gateway.CallAnswer{Status: 404}, nil
}

func jsonAnswer(status int, v any) *gateway.CallAnswer {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return &gateway.CallAnswer{Status: status, Body: b}
}

func (o *op) token(form url.Values) *gateway.CallAnswer {
	refuse := func() *gateway.CallAnswer { return jsonAnswer(400, map[string]any{"error": "invalid_grant"}) }
	a := map[string]any{"access_token": "at-" + rand.Text(), "token_type": "bearer", "expires_in": o.expires, "scope": "openid offline"}
	claims := map[string]any{"iss": issuer, "sub": "ada", "aud": []string{"app"}, "iat": o.clock.now().Unix(), "exp": o.clock.now().Unix() + 600}
	switch form.Get("grant_type") {
	case "authorization_code":
		q, ok := o.codes[form.Get("code")]
		delete(o.codes, form.Get("code"))
		sum := sha256.Sum256([]byte(form.Get("code_verifier")))
		if !ok || q.Get("redirect_uri") != form.Get("redirect_uri") ||
			q.Has("code_challenge") && q.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(sum[:]) {
			return refuse()
		}
		claims["nonce"] = q.Get("nonce")
	case "refresh_token":
		if !o.refresh[form.Get("refresh_token")] {
			return refuse()
		}
		if o.rotate {
			delete(o.refresh, form.Get("refresh_token"))
		}
	default:
		return refuse()
	}
	if form.Get("grant_type") == "authorization_code" || o.rotate {
		rt := "rt-" + rand.Text()
		o.refresh[rt] = true
		a["refresh_token"] = rt
	}
	if o.claims != nil {
		o.claims(claims)
	}
	a["id_token"] = o.sign(claims)
	if o.answer != nil {
		o.answer(a)
	}
	return jsonAnswer(200, a)
}

// approve is the user at the provider: it answers the authorization request
// with the URL the browser is sent back to.
func (o *op) approve(location string) *url.URL {
	o.t.Helper()
	u, err := url.Parse(location)
	if err != nil {
		o.t.Fatal(err)
	}
	if u.Host != "op.example" || u.Path != "/auth" {
		o.t.Fatalf("not sent to the provider: %s", location)
	}
	q := u.Query()
	code := rand.Text()
	o.mu.Lock()
	o.codes[code] = q
	o.mu.Unlock()
	back, err := url.Parse(q.Get("redirect_uri"))
	if err != nil {
		o.t.Fatal(err)
	}
	back.RawQuery = url.Values{"code": {code}, "state": {q.Get("state")}, "iss": {issuer}}.Encode()
	return back
}

type keeper struct {
	mu sync.Mutex
	m  map[string]any
}

func (k *keeper) Keep(key string, make func() any) any {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.m[key]; !ok {
		k.m[key] = make()
	}
	return k.m[key]
}

func newEnv(o *op) *gateway.Env {
	return &gateway.Env{
		Log: slog.New(slog.DiscardHandler), Now: o.clock.now, Owner: "routes/1", Keep: &keeper{m: map[string]any{}}, Caller: o,
		SessionSecret: []byte("a-secret-of-the-data-directory"),
	}
}

// guard builds the plugin; changes go over a working configuration.
func guard(t *testing.T, env *gateway.Env, changes map[string]any) *relyingParty {
	t.Helper()
	c := map[string]any{"client_id": "app", "client_secret": "s3cret:with/odd chars", "discovery": discovery, "redirect_uri": "http://app.example/callback"}
	maps.Copy(c, changes)
	for k, v := range c {
		if v == nil {
			delete(c, k)
		}
	}
	raw, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	p, err := build(raw, env)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// browser keeps cookies and follows nothing by itself.
type browser struct {
	t       *testing.T
	cookies map[string]string
	head    []gateway.Field
	x       *gateway.Exchange // of the last request
}

func newBrowser(t *testing.T) *browser { return &browser{t: t, cookies: map[string]string{}} }

func exchange(target string, head ...gateway.Field) *gateway.Exchange {
	path, query, _ := strings.Cut(target, "?")
	if p, err := url.PathUnescape(path); err == nil {
		path = p
	}
	x := &gateway.Exchange{Ctx: context.Background(), Req: gateway.Request{
		Method: "GET", Scheme: "http", Proto: "HTTP/1.1", Authority: "app.example", Host: "app.example", Target: target, Path: path, Query: query,
		Peer: netip.MustParseAddrPort("192.0.2.1:4000"), Client: netip.MustParseAddr("192.0.2.1"),
	}}
	for _, f := range head {
		x.Req.Header.Add(f.Name, f.Value)
	}
	return x
}

func (b *browser) get(p *relyingParty, target string) *gateway.Reply {
	b.t.Helper()
	x := exchange(target, b.head...)
	if len(b.cookies) > 0 {
		x.Req.Header.Add("Cookie", b.header())
	}
	b.x = x
	r := p.Rewrite(x)
	if r != nil {
		for _, f := range r.Header {
			if strings.EqualFold(f.Name, "Set-Cookie") {
				b.t.Error("cookie in the reply instead of the answer")
			}
		}
	}
	b.store(x)
	return r
}

func (b *browser) header() string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(b.cookies)) {
		all = append(all, k+"="+b.cookies[k])
	}
	return strings.Join(all, "; ")
}

func (b *browser) store(x *gateway.Exchange) {
	b.t.Helper()
	for v := range x.Answer.Values("Set-Cookie") {
		if len(v) > 4096 {
			b.t.Errorf("cookie line of %d bytes", len(v))
		}
		first, _, _ := strings.Cut(v, ";")
		name, value, _ := strings.Cut(first, "=")
		if strings.Contains(v, "Max-Age=0") {
			delete(b.cookies, name)
		} else {
			b.cookies[name] = value
		}
	}
}

func header(r *gateway.Reply, name string) string {
	if r == nil {
		return ""
	}
	for _, f := range r.Header {
		if strings.EqualFold(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

// signIn goes all the way and demands that it works.
func (b *browser) signIn(o *op, p *relyingParty, target string) {
	b.t.Helper()
	r := b.get(p, target)
	if r == nil || r.Status != 302 {
		b.t.Fatalf("no redirect to the provider: %+v", r)
	}
	back := o.approve(header(r, "Location"))
	r = b.get(p, back.RequestURI())
	if r == nil || r.Status != 302 || header(r, "Location") != target {
		b.t.Fatalf("callback: %s, want a redirect to %s", show(r), target)
	}
}

func show(r *gateway.Reply) string {
	if r == nil {
		return "passed"
	}
	return strings.TrimSpace(strings.Join([]string{string(rune('0'+r.Status/100)) + "xx", header(r, "Location"), string(r.Body), errText(r.Err)}, " | "))
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func status(r *gateway.Reply) int {
	if r == nil {
		return 0
	}
	return r.Status
}
