package authorize

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
	"gatehouse/oauth/fallback"
	"gatehouse/oauth/interaction"
	"gatehouse/oauth/session"
	"gatehouse/store/memory"
)

// house is a provider's browser side with one confidential and one public
// client, and no login application: the tests answer through the desk.
type house struct {
	t     *testing.T
	set   *oauth.Settings
	store *counting
	desk  *interaction.Desk
	srv   *httptest.Server
	now   *clock

	clients map[string]*oauth.Client
}

type clock struct {
	sync.Mutex
	at time.Time
}

func (c *clock) Now() time.Time                 { c.Lock(); defer c.Unlock(); return c.at }
func (c *clock) add(d time.Duration)            { c.Lock(); defer c.Unlock(); c.at = c.at.Add(d) }
func (h *house) client(id string) *oauth.Client { return h.clients[id] }

func (h *house) Client(_ context.Context, id string) (*oauth.Client, error) {
	if c, ok := h.clients[id]; ok {
		return c, nil
	}
	return nil, fault.New(fault.NotFound, "no such client")
}

func (h *house) Code(a *oauth.Authorization) (string, error) { return "code-" + a.ID, nil }

// VerifyIDTokenHint takes unsigned tokens whose signature reads "ok".
func (h *house) VerifyIDTokenHint(_ context.Context, raw string) (map[string]any, error) {
	parts := strings.Split(raw, ".")
	if len(parts) != 3 || parts[2] != "ok" {
		return nil, errors.New("bad signature")
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, err
	}
	var m map[string]any
	return m, json.Unmarshal(body, &m)
}

func idToken(claims map[string]any) string {
	b, _ := json.Marshal(claims)
	return "e30." + base64.RawURLEncoding.EncodeToString(b) + ".ok"
}

// counting counts what is written.
type counting struct {
	oauth.Store
	mu   sync.Mutex
	puts int
	rows int
}

func (c *counting) Put(ctx context.Context, rs ...oauth.Record) error {
	c.mu.Lock()
	c.puts++
	c.rows += len(rs)
	c.mu.Unlock()
	return c.Store.Put(ctx, rs...)
}

const (
	webID  = "43f52814-04d1-424d-9f5f-1ea442ba4b21"
	appID  = "native-app"
	cb     = "http://app.example/callback"
	pkceOK = "m67ujaBrEoL_ZPaaKxw0eC7a2YCLlMefl5DQzfbXITs"
)

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{t: t, now: &clock{at: time.Date(2026, 11, 23, 7, 25, 26, 0, time.UTC)}}
	h.clients = map[string]*oauth.Client{
		webID: {ID: webID, RedirectURIs: []string{"http://other.example/", cb}, GrantTypes: []string{"authorization_code"}, ResponseTypes: []string{"code", "id_token"},
			Scope: "openid offline photos.*", Audience: []string{"https://api.example"}, TokenEndpointAuthMethod: "client_secret_basic",
			PostLogoutRedirectURIs: []string{"http://app.example/logged-out"}},
		appID: {ID: appID, RedirectURIs: []string{"http://127.0.0.1/cb"}, Scope: "photos.read", TokenEndpointAuthMethod: "none"},
	}
	mux := http.NewServeMux()
	h.srv = httptest.NewServer(mux)
	t.Cleanup(h.srv.Close)
	h.set = &oauth.Settings{
		Issuer: h.srv.URL + "/", LoginURL: "http://login.example/login", ConsentURL: "http://login.example/consent",
		Secrets: [][]byte{[]byte("a-secret-of-enough-length")}, TTLInteraction: 30 * time.Minute, TTLSession: 720 * time.Hour,
		TTLCode: 10 * time.Minute, Dev: true, Now: h.now.Now, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	h.store = &counting{Store: memory.NewRecords(h.now.Now)}
	keeper, err := session.New(h.set, h.store)
	if err != nil {
		t.Fatal(err)
	}
	if h.desk, err = interaction.New(h.set, h.store, h, keeper); err != nil {
		t.Fatal(err)
	}
	pages, err := fallback.New()
	if err != nil {
		t.Fatal(err)
	}
	mux.Handle("/oauth2/auth", &Endpoint{Settings: h.set, Clients: h, Desk: h.desk, Coder: h, Hints: h, Pages: pages})
	mux.Handle("/oauth2/sessions/logout", &session.Logout{Settings: h.set, Keeper: keeper, Desk: h.desk, Clients: h, Hints: h, Pages: pages})
	mux.Handle("/oauth2/fallbacks/", pages.Handler())
	return h
}

// browser keeps cookies and follows nothing.
func browser(t *testing.T) *http.Client {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (h *house) get(b *http.Client, u string) *http.Response {
	h.t.Helper()
	if strings.HasPrefix(u, "/") {
		u = h.srv.URL + u
	}
	res, err := b.Get(u)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { res.Body.Close() })
	return res
}

// where is the redirect of a response, with its parameters.
func (h *house) where(res *http.Response) (string, url.Values) {
	h.t.Helper()
	u, err := res.Location()
	if err != nil {
		body, _ := io.ReadAll(res.Body)
		h.t.Fatalf("%s without Location: %s", res.Status, body)
	}
	q := u.Query()
	u.RawQuery = ""
	return u.String(), q
}

func params(change ...string) url.Values {
	v := url.Values{"client_id": {webID}, "response_type": {"code"}, "scope": {"openid offline photos.read"}, "redirect_uri": {cb},
		"state": {"0123456789abcdef"}, "nonce": {"nonce-12345678"}, "code_challenge": {pkceOK}, "code_challenge_method": {"S256"}}
	for i := 0; i+1 < len(change); i += 2 {
		if change[i+1] == "" {
			v.Del(change[i])
		} else {
			v.Set(change[i], change[i+1])
		}
	}
	return v
}

func (h *house) authorize(b *http.Client, v url.Values) *http.Response {
	h.t.Helper()
	return h.get(b, "/oauth2/auth?"+v.Encode())
}

// ask begins a flow and returns the login challenge.
func (h *house) ask(b *http.Client, v url.Values) string {
	h.t.Helper()
	to, q := h.where(h.authorize(b, v))
	if to != h.set.LoginURL {
		h.t.Fatalf("sent to %s?%s, want the login page", to, q.Encode())
	}
	return q.Get("login_challenge")
}

func (h *house) accept(k oauth.ChallengeKind, challenge string, a oauth.Answer) string {
	h.t.Helper()
	to, err := h.desk.Accept(h.t.Context(), k, challenge, a)
	if err != nil {
		h.t.Fatalf("accepting the %s: %v", k, err)
	}
	return to
}

// signIn answers the login and returns the consent challenge.
func (h *house) signIn(b *http.Client, challenge, subject string, remember bool) string {
	h.t.Helper()
	to, q := h.where(h.get(b, h.accept(oauth.AskLogin, challenge, oauth.Answer{Subject: subject, Remember: remember})))
	if to != h.set.ConsentURL {
		h.t.Fatalf("sent to %s?%s, want the consent page", to, q.Encode())
	}
	return q.Get("consent_challenge")
}

func (h *house) consent(b *http.Client, challenge string, remember bool) url.Values {
	h.t.Helper()
	c, err := h.desk.Open(h.t.Context(), oauth.AskConsent, challenge)
	if err != nil {
		h.t.Fatal(err)
	}
	_, q := h.where(h.get(b, h.accept(oauth.AskConsent, challenge, oauth.Answer{
		Scopes: c.RequestedScopes, Audience: c.RequestedAudience, Remember: remember,
		IDTokenClaims: map[string]any{"email": "foo@bar.com"}})))
	return q
}

func TestCodeFlow(t *testing.T) {
	h := newHouse(t)
	b := browser(t)
	challenge := h.ask(b, params("audience", "https://api.example"))
	if len(challenge) > 450 {
		t.Errorf("challenge has %d characters", len(challenge))
	}
	c, err := h.desk.Open(t.Context(), oauth.AskLogin, challenge)
	if err != nil {
		t.Fatal(err)
	}
	if c.Skip || c.Subject != "" || c.Client.ID != webID || !slices.Equal(c.RequestedScopes, []string{"openid", "offline", "photos.read"}) ||
		!slices.Equal(c.RequestedAudience, []string{"https://api.example"}) || c.SessionID == "" {
		t.Errorf("login question: %+v", c)
	}
	if u, err := url.Parse(c.RequestURL); err != nil || !maps.EqualFunc(u.Query(), params("audience", "https://api.example"), slices.Equal) {
		t.Errorf("request URL %s (%v)", c.RequestURL, err)
	}
	if h.store.puts != 0 {
		t.Errorf("%d writes before anybody answered", h.store.puts)
	}

	cc := h.signIn(b, challenge, "foo@bar.com", true)
	q, err := h.desk.Open(t.Context(), oauth.AskConsent, cc)
	if err != nil {
		t.Fatal(err)
	}
	if q.Skip || q.Subject != "foo@bar.com" || q.SessionID != c.SessionID || q.ConsentRequestID == "" {
		t.Errorf("consent question: %+v", q)
	}
	if len(cc) > 550 {
		t.Errorf("consent challenge has %d characters", len(cc))
	}
	res := h.get(b, h.accept(oauth.AskConsent, cc, oauth.Answer{Scopes: []string{"openid", "photos.read"}, Remember: true,
		IDTokenClaims: map[string]any{"email": "foo@bar.com"}, Context: json.RawMessage(`{"b":2}`)}))
	if res.StatusCode != http.StatusSeeOther || res.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("answer: %s %v", res.Status, res.Header)
	}
	to, v := h.where(res)
	if to != cb || v.Get("code") != "code-"+q.ConsentRequestID || v.Get("state") != "0123456789abcdef" || v.Get("scope") != "openid photos.read" || v.Get("iss") != h.set.Issuer {
		t.Errorf("answer: %s %v", to, v)
	}
	if h.store.puts != 2 || h.store.rows > 4 {
		t.Errorf("%d writes of %d rows, want 2 writes", h.store.puts, h.store.rows)
	}

	rs, err := h.store.Get(t.Context(), oauth.Ref{Kind: oauth.Authorizations, Key: q.ConsentRequestID})
	if err != nil || len(rs) != 1 {
		t.Fatalf("authorization: %v %v", rs, err)
	}
	a, err := oauth.OpenAuthorization(rs[0])
	if err != nil {
		t.Fatal(err)
	}
	if a.Generation != 1 || a.Subject != "foo@bar.com" || a.SessionID != c.SessionID || a.RedirectURI != cb || a.CodeChallenge != pkceOK || a.CodeChallengeMethod != "S256" ||
		a.Nonce != "nonce-12345678" || !a.AuthTime.Equal(h.now.Now()) || a.IDTokenClaims["email"] != "foo@bar.com" || string(a.Context) != `{"b":2}` {
		t.Errorf("authorization: %+v", a)
	}
}

// A second flow in the same browser asks with skip, and needs no cookie but its own.
func TestSkip(t *testing.T) {
	h := newHouse(t)
	b := browser(t)
	h.consent(b, h.signIn(b, h.ask(b, params()), "u7", true), true)
	h.now.add(time.Hour)

	for _, c := range []struct {
		name          string
		params        url.Values
		login, skip   bool // skip of the login and of the consent question
		error         string
		sessionEnding bool
	}{
		{name: "same again", params: params(), login: true, skip: true},
		{name: "fewer scopes", params: params("scope", "openid"), login: true, skip: true},
		{name: "more scopes", params: params("scope", "openid photos.write"), login: true},
		{name: "an audience", params: params("audience", "https://api.example"), login: true},
		{name: "prompt=login", params: params("prompt", "login"), skip: true},
		{name: "prompt=select_account", params: params("prompt", "select_account"), skip: true},
		{name: "prompt=create", params: params("prompt", "create"), skip: true},
		{name: "prompt=consent", params: params("prompt", "consent"), login: true},
		{name: "young enough", params: params("max_age", "7200"), login: true, skip: true},
		{name: "too old", params: params("max_age", "60"), skip: true},
		{name: "max_age=0", params: params("max_age", "0"), skip: true},
		{name: "hint of the same user", params: params("id_token_hint", idToken(map[string]any{"sub": "u7"})), login: true, skip: true},
		{name: "prompt=none", params: params("prompt", "none"), login: true, skip: true},
		{name: "prompt=none, too old", params: params("prompt", "none", "max_age", "1"), error: "login_required"},
		{name: "prompt=none, hint of another", params: params("prompt", "none", "id_token_hint", idToken(map[string]any{"sub": "u8"})), error: "login_required"},
		{name: "prompt=none, more scopes", params: params("prompt", "none", "scope", "openid photos.write"), login: true, error: "consent_required"},
	} {
		t.Run(c.name, func(t *testing.T) {
			to, q := h.where(h.authorize(b, c.params))
			if c.error != "" && !c.login {
				if to != cb || q.Get("error") != c.error {
					t.Fatalf("sent to %s %v", to, q)
				}
				return
			}
			ch := q.Get("login_challenge")
			open, err := h.desk.Open(t.Context(), oauth.AskLogin, ch)
			if err != nil {
				t.Fatal(err)
			}
			if open.Skip != c.login || c.login && open.Subject != "u7" || !c.login && open.Subject != "" {
				t.Errorf("login: skip %v subject %q", open.Skip, open.Subject)
			}
			to, q = h.where(h.get(b, h.accept(oauth.AskLogin, ch, oauth.Answer{Subject: "u7", Remember: true})))
			if c.error != "" {
				if to != cb || q.Get("error") != c.error {
					t.Errorf("sent to %s %v", to, q)
				}
				return
			}
			open, err = h.desk.Open(t.Context(), oauth.AskConsent, q.Get("consent_challenge"))
			if err != nil {
				t.Fatal(err)
			}
			if open.Skip != c.skip {
				t.Errorf("consent: skip %v, want %v", open.Skip, c.skip)
			}
			// All fresh logins were a new authentication of the session; put the clock
			// of the table back by signing in again an hour before.
			if !c.login {
				h.now.add(time.Hour)
			}
		})
	}
}

func TestSkipKeepsAuthTime(t *testing.T) {
	h := newHouse(t)
	b := browser(t)
	first := h.now.Now()
	h.consent(b, h.signIn(b, h.ask(b, params()), "u7", true), true)
	h.now.add(time.Hour)
	code := h.consent(b, h.signIn(b, h.ask(b, params()), "u7", true), true).Get("code")
	rs, _ := h.store.Get(t.Context(), oauth.Ref{Kind: oauth.Authorizations, Key: strings.TrimPrefix(code, "code-")})
	if len(rs) != 1 {
		t.Fatal("no authorization")
	}
	if a, _ := oauth.OpenAuthorization(rs[0]); !a.AuthTime.Equal(first) {
		t.Errorf("auth_time %v, want %v", a.AuthTime, first)
	}
}

func TestNotRememberedAsksAgain(t *testing.T) {
	h := newHouse(t)
	b := browser(t)
	h.consent(b, h.signIn(b, h.ask(b, params()), "u7", false), false)
	open, err := h.desk.Open(t.Context(), oauth.AskLogin, h.ask(b, params()))
	if err != nil || open.Skip {
		t.Errorf("skip %v (%v), want a question", open.Skip, err)
	}
	if _, q := h.where(h.authorize(b, params("prompt", "none"))); q.Get("error") != "login_required" {
		t.Errorf("prompt=none: %v", q)
	}
}

func TestSkipWithOtherSubjectRestarts(t *testing.T) {
	h := newHouse(t)
	b := browser(t)
	h.consent(b, h.signIn(b, h.ask(b, params()), "u7", true), true)
	u, err := url.Parse(h.accept(oauth.AskLogin, h.ask(b, params()), oauth.Answer{Subject: "u8"}))
	if err != nil || u.Query().Get("prompt") != "login" || u.Query().Has("login_verifier") {
		t.Fatalf("redirect_to %s (%v)", u, err)
	}
	_, q := h.where(h.get(b, u.String()))
	if open, err := h.desk.Open(t.Context(), oauth.AskLogin, q.Get("login_challenge")); err != nil || open.Skip {
		t.Errorf("after the restart: %+v %v", open, err)
	}
	_, q = h.where(h.get(b, h.accept(oauth.AskLogin, h.ask(b, params("prompt", "none")), oauth.Answer{Subject: "u8"})))
	if q.Get("error") != "login_required" {
		t.Errorf("with prompt=none: %v", q)
	}
}

func TestErrorsGoOnlyToCheckedAddresses(t *testing.T) {
	h := newHouse(t)
	double := func(name string) url.Values { v := params(); v.Add(name, v.Get(name)+"x"); return v }
	app := func(change ...string) url.Values {
		return params(append([]string{"client_id", appID, "scope", "photos.read", "redirect_uri", "http://127.0.0.1:9010/cb"}, change...)...)
	}
	for _, c := range []struct {
		name   string
		params url.Values
		user   bool // told to the user, not to the client
		error  string
	}{
		{"unknown client", params("client_id", "nobody"), true, "invalid_client"},
		{"no client", params("client_id", ""), true, "invalid_client"},
		{"foreign redirect", params("redirect_uri", "http://evil.example/callback"), true, "invalid_request"},
		{"redirect with other case", params("redirect_uri", "http://APP.example/callback"), true, "invalid_request"},
		{"redirect with query", params("redirect_uri", cb+"?x=1"), true, "invalid_request"},
		{"redirect with trailing slash", params("redirect_uri", cb+"/"), true, "invalid_request"},
		{"redirect with fragment", params("redirect_uri", cb+"#"), true, "invalid_request"},
		{"redirect with dots", params("redirect_uri", "http://app.example/x/../callback"), true, "invalid_request"},
		{"redirect with user", params("redirect_uri", "http://app.example@evil.example/callback"), true, "invalid_request"},
		{"redirect with port", params("redirect_uri", "http://app.example:80/callback"), true, "invalid_request"},
		{"no redirect with openid", params("redirect_uri", ""), true, "invalid_request"},
		{"no redirect, two registered", params("redirect_uri", "", "scope", "photos.read"), true, "invalid_request"},
		{"two redirects", double("redirect_uri"), true, "invalid_request"},
		{"two clients", double("client_id"), true, "invalid_request"},
		{"two states", double("state"), true, "invalid_request"},
		{"unknown response mode", params("response_mode", "foo"), true, "unsupported_response_mode"},
		{"loopback with other path", app("redirect_uri", "http://127.0.0.1:9010/cb2"), true, "invalid_request"},
		{"loopback by name", app("redirect_uri", "http://localhost:9010/cb"), true, "invalid_request"},
		{"loopback over https", app("redirect_uri", "https://127.0.0.1:9010/cb"), true, "invalid_request"},
		{"loopback with user", app("redirect_uri", "http://127.0.0.1:9010@evil.example/cb"), true, "invalid_request"},

		{"two scopes", double("scope"), false, "invalid_request"},
		{"two of something unknown", url.Values{"client_id": {webID}, "redirect_uri": {cb}, "state": {"0123456789abcdef"}, "foo": {"1", "2"}}, false, "invalid_request"},
		{"no state", params("state", ""), false, "invalid_state"},
		{"short state", params("state", "1234567"), false, "invalid_state"},
		{"long state", params("state", strings.Repeat("s", 3000)), false, "invalid_request"},
		{"unknown scope", params("scope", "openid nope"), false, "invalid_scope"},
		{"audience", params("audience", "https://evil.example"), false, "invalid_request"},
		{"response type", params("response_type", "token"), false, "unsupported_response_type"},
		{"no response type", params("response_type", ""), false, "unsupported_response_type"},
		{"request", params("request", "a.b.c"), false, "request_not_supported"},
		{"request_uri", params("request_uri", "http://x/"), false, "request_uri_not_supported"},
		{"registration", params("registration", "{}"), false, "registration_not_supported"},
		{"bad hint", params("id_token_hint", "a.b.c"), false, "invalid_request"},
		{"bad prompt", params("prompt", "maybe"), false, "invalid_request"},
		{"prompt none and login", params("prompt", "none login"), false, "invalid_request"},
		{"prompt none, no session", params("prompt", "none"), false, "login_required"},
		{"bad max_age", params("max_age", "-1"), false, "invalid_request"},
		{"bad display", params("display", "billboard"), false, "invalid_request"},
		{"bad challenge", params("code_challenge", "short"), false, "invalid_request"},
		{"bad challenge method", params("code_challenge_method", "S512"), false, "invalid_request"},
		{"method alone", params("code_challenge", ""), false, "invalid_request"},
		{"public client without PKCE", app("code_challenge", "", "code_challenge_method", ""), false, "invalid_request"},
		{"public client with plain", app("code_challenge_method", "plain"), false, "invalid_request"},
		{"public client, method left out", app("code_challenge_method", ""), false, "invalid_request"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := browser(t)
			res := h.authorize(b, c.params)
			to, q := h.where(res)
			if q.Get("error") != c.error {
				t.Errorf("error %v, want %s", q, c.error)
			}
			if user := to == h.srv.URL+"/oauth2/fallbacks/error"; user != c.user {
				t.Errorf("sent to %s", to)
			}
			if !c.user {
				if res.StatusCode != http.StatusSeeOther || q.Get("iss") != h.set.Issuer || len(c.params.Get("state")) < 2048 && q.Get("state") != c.params.Get("state") {
					t.Errorf("answer %s %v", res.Status, q)
				}
			}
			if len(res.Cookies()) > 0 {
				t.Error("a refused request sets a cookie")
			}
		})
	}
	if h.store.puts != 0 {
		t.Errorf("%d writes", h.store.puts)
	}
}

func TestAcceptedRequests(t *testing.T) {
	h := newHouse(t)
	app := func(change ...string) url.Values {
		return params(append([]string{"client_id", appID, "scope", "photos.read", "redirect_uri", "http://127.0.0.1:9010/cb"}, change...)...)
	}
	for name, v := range map[string]url.Values{
		"loopback, any port":         app(),
		"loopback, no port":          app("redirect_uri", "http://127.0.0.1/cb"),
		"no redirect, one":           app("redirect_uri", ""),
		"plain":                      params("code_challenge_method", "plain"),
		"no PKCE, has a secret":      params("code_challenge", "", "code_challenge_method", ""),
		"resource twice":             func() url.Values { v := params(); v["resource"] = []string{"a", "b"}; return v }(),
		"audience below a known one": params("audience", "https://api.example/v1"),
		"large":                      params("state", strings.Repeat("s", 2000), "login_hint", strings.Repeat("h", 1000)),
	} {
		t.Run(name, func(t *testing.T) {
			b := browser(t)
			challenge := h.ask(b, v)
			if len(challenge) > 1000 {
				t.Errorf("%d characters", len(challenge))
			}
			q := h.consent(b, h.signIn(b, challenge, "u", false), false)
			if q.Get("code") == "" || q.Get("state") != v.Get("state") {
				t.Errorf("answer %v", q)
			}
		})
	}
}

func TestPost(t *testing.T) {
	h := newHouse(t)
	res, err := browser(t).Post(h.srv.URL+"/oauth2/auth", "application/x-www-form-urlencoded", strings.NewReader(params().Encode()))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if to, _ := h.where(res); to != h.set.LoginURL {
		t.Errorf("sent to %s", to)
	}
}

func TestResponseModes(t *testing.T) {
	h := newHouse(t)
	b := browser(t)
	finish := func(mode string) *http.Response {
		cc := h.signIn(b, h.ask(b, params("response_mode", mode)), "u", false)
		return h.get(b, h.accept(oauth.AskConsent, cc, oauth.Answer{Scopes: []string{"openid"}}))
	}
	u, err := finish("fragment").Location()
	if v, perr := url.ParseQuery(u.Fragment); err != nil || perr != nil || v.Get("code") == "" || u.RawQuery != "" {
		t.Errorf("fragment: %s", u)
	}
	res := finish("form_post")
	body, _ := io.ReadAll(res.Body)
	for _, want := range []string{`action="` + cb + `"`, `name="code"`, `name="state" value="0123456789abcdef"`, `name="iss"`} {
		if !strings.Contains(string(body), want) {
			t.Errorf("form_post: no %s in %s", want, body)
		}
	}
	if res.Header.Get("Cache-Control") != "no-store" {
		t.Error("form_post may be stored")
	}
}

func TestChallengeIsUsedOnce(t *testing.T) {
	h := newHouse(t)
	b := browser(t)
	lc := h.ask(b, params())
	again := h.accept(oauth.AskLogin, lc, oauth.Answer{Subject: "u"}) // a second acceptance is fine ...
	cc := h.signIn(b, lc, "u", false)
	var spent *oauth.SpentError
	if _, err := h.desk.Open(t.Context(), oauth.AskLogin, lc); fault.KindOf(err) != fault.Spent || !errors.As(err, &spent) || !strings.HasPrefix(spent.RedirectTo, h.srv.URL+"/oauth2/auth?") {
		t.Errorf("used login challenge: %v", err)
	}
	if _, err := h.desk.Accept(t.Context(), oauth.AskLogin, lc, oauth.Answer{Subject: "u"}); fault.KindOf(err) != fault.Spent {
		t.Errorf("accepting a used challenge: %v", err)
	}
	if _, err := h.desk.Reject(t.Context(), oauth.AskLogin, lc, oauth.ErrAccessDenied); fault.KindOf(err) != fault.Spent {
		t.Errorf("rejecting a used challenge: %v", err)
	}
	if _, q := h.where(h.get(b, again)); q.Get("error") != "access_denied" { // ... its redemption is not
		t.Errorf("second login verifier: %v", q)
	}

	first := h.accept(oauth.AskConsent, cc, oauth.Answer{Scopes: []string{"openid"}})
	second := h.accept(oauth.AskConsent, cc, oauth.Answer{Scopes: []string{"openid", "offline"}})
	no, err := h.desk.Reject(t.Context(), oauth.AskConsent, cc, oauth.ErrAccessDenied)
	if err != nil {
		t.Fatal(err)
	}
	if _, q := h.where(h.get(b, first)); q.Get("code") == "" {
		t.Errorf("consent: %v", q)
	}
	for _, u := range []string{first, second, no} {
		if _, q := h.where(h.get(b, u)); q.Get("error") != "access_denied" || q.Has("code") {
			t.Errorf("second consent verifier: %v", q)
		}
	}
	if _, err := h.desk.Open(t.Context(), oauth.AskConsent, cc); fault.KindOf(err) != fault.Spent {
		t.Errorf("used consent challenge: %v", err)
	}
}

func TestOneWinner(t *testing.T) {
	h := newHouse(t)
	b := browser(t)
	u := h.accept(oauth.AskConsent, h.signIn(b, h.ask(b, params()), "u", false), oauth.Answer{Scopes: []string{"openid"}})
	var wg sync.WaitGroup
	codes := make(chan string, 16)
	for range 16 {
		wg.Go(func() {
			res, err := b.Get(u)
			if err != nil {
				t.Error(err)
				return
			}
			res.Body.Close()
			if to, err := res.Location(); err == nil && to.Query().Get("code") != "" {
				codes <- to.Query().Get("code")
			}
		})
	}
	wg.Wait()
	if len(codes) != 1 {
		t.Errorf("%d codes for one consent", len(codes))
	}
}

func TestRejection(t *testing.T) {
	h := newHouse(t)
	b := browser(t)
	lc := h.ask(b, params())
	yes := h.accept(oauth.AskLogin, lc, oauth.Answer{Subject: "u"})
	no, err := h.desk.Reject(t.Context(), oauth.AskLogin, lc, &oauth.Error{Code: "login_required", Description: "nope", Hint: "hint"})
	if err != nil {
		t.Fatal(err)
	}
	if to, q := h.where(h.get(b, no)); to != cb || q.Get("error") != "login_required" || q.Get("error_description") != "nope hint" || q.Get("state") == "" {
		t.Errorf("rejected login: %s %v", to, q)
	}
	if _, err := h.desk.Open(t.Context(), oauth.AskLogin, lc); fault.KindOf(err) != fault.Spent {
		t.Errorf("challenge after a rejection: %v", err)
	}
	if _, q := h.where(h.get(b, yes)); q.Get("error") != "access_denied" {
		t.Errorf("acceptance after a rejection: %v", q)
	}

	cc := h.signIn(b, h.ask(b, params()), "u", false)
	yes = h.accept(oauth.AskConsent, cc, oauth.Answer{Scopes: []string{"openid"}})
	if no, err = h.desk.Reject(t.Context(), oauth.AskConsent, cc, nil); err != nil {
		t.Fatal(err)
	}
	if _, q := h.where(h.get(b, no)); q.Get("error") != "access_denied" {
		t.Errorf("rejected consent: %v", q)
	}
	if _, q := h.where(h.get(b, yes)); q.Has("code") {
		t.Errorf("acceptance after a rejection: %v", q)
	}
}

func TestOtherBrowserIsRefused(t *testing.T) {
	h := newHouse(t)
	mine, other := browser(t), browser(t)
	verifier := h.accept(oauth.AskLogin, h.ask(mine, params()), oauth.Answer{Subject: "attacker"})
	h.ask(other, params()) // has a cookie of its own
	for name, b := range map[string]*http.Client{"without cookies": browser(t), "with its own": other} {
		res := h.get(b, verifier)
		if _, q := h.where(res); q.Get("error") != "request_forbidden" || len(res.Cookies()) > 0 {
			t.Errorf("%s: login verifier: %v", name, q)
		}
	}
	_, q := h.where(h.get(mine, verifier))
	cc := q.Get("consent_challenge")
	if cc == "" {
		t.Fatalf("refusals used the verifier up: %v", q)
	}
	verifier = h.accept(oauth.AskConsent, cc, oauth.Answer{Scopes: []string{"openid"}})
	if _, q := h.where(h.get(other, verifier)); q.Get("error") != "request_forbidden" {
		t.Errorf("consent verifier: %v", q)
	}
}

func TestParallelTabs(t *testing.T) {
	h := newHouse(t)
	b := browser(t)
	one, two, three := h.ask(b, params()), h.ask(b, params("state", "state-of-two")), h.ask(b, params("client_id", appID, "scope", "photos.read", "redirect_uri", ""))
	c1 := h.signIn(b, one, "u", true)
	c3 := h.signIn(b, three, "u", true)
	c2 := h.signIn(b, two, "u", true)
	if q := h.consent(b, c2, false); q.Get("state") != "state-of-two" || q.Get("code") == "" {
		t.Errorf("second tab: %v", q)
	}
	if q := h.consent(b, c1, false); q.Get("code") == "" {
		t.Errorf("first tab: %v", q)
	}
	if q := h.consent(b, c3, false); q.Get("code") == "" {
		t.Errorf("other client's tab: %v", q)
	}
}

func TestExpiryAndTampering(t *testing.T) {
	h := newHouse(t)
	b := browser(t)
	lc := h.ask(b, params())
	verifier := h.accept(oauth.AskLogin, lc, oauth.Answer{Subject: "u"})
	u, _ := url.Parse(verifier)
	v := u.Query()
	for name, bad := range map[string]string{
		"garbage": "garbage", "challenge as verifier": lc, "changed": flip(v.Get("login_verifier")), "long": strings.Repeat("A", 5000), "cut": v.Get("login_verifier")[:100],
	} {
		w := maps.Clone(v)
		w.Set("login_verifier", bad)
		if to, q := h.where(h.authorize(b, w)); to != cb || q.Get("error") != "access_denied" || q.Get("state") == "" {
			t.Errorf("%s: %s %v", name, to, q)
		}
		if to, q := h.where(h.get(b, "/oauth2/auth?login_verifier="+bad)); to != h.srv.URL+"/oauth2/fallbacks/error" || q.Get("error") != "access_denied" {
			t.Errorf("%s, alone: %s %v", name, to, q)
		}
		if _, err := h.desk.Open(t.Context(), oauth.AskLogin, bad); bad != lc && fault.KindOf(err) != fault.NotFound {
			t.Errorf("%s as challenge: %v", name, err)
		}
	}
	if _, err := h.desk.Open(t.Context(), oauth.AskConsent, lc); fault.KindOf(err) != fault.NotFound {
		t.Errorf("login challenge as consent challenge: %v", err)
	}
	if _, err := h.desk.Open(t.Context(), oauth.AskLogin, v.Get("login_verifier")); fault.KindOf(err) != fault.NotFound {
		t.Errorf("verifier as challenge: %v", err)
	}
	h.now.add(31 * time.Minute)
	if _, err := h.desk.Open(t.Context(), oauth.AskLogin, lc); fault.KindOf(err) != fault.NotFound {
		t.Errorf("expired challenge: %v", err)
	}
	if _, q := h.where(h.get(b, verifier)); q.Get("error") != "access_denied" {
		t.Errorf("expired verifier: %v", q)
	}
}

func flip(s string) string {
	b := []byte(s)
	if b[len(b)/2]++; b[len(b)/2] > 'y' || b[len(b)/2] == '[' {
		b[len(b)/2] = 'A'
	}
	return string(b)
}

func TestClientChangedMeanwhile(t *testing.T) {
	h := newHouse(t)
	b := browser(t)
	verifier := h.accept(oauth.AskLogin, h.ask(b, params()), oauth.Answer{Subject: "u"})
	c := *h.clients[webID]
	c.RedirectURIs = []string{"http://other.example/", "http://new.example/"}
	h.clients[webID] = &c
	if to, q := h.where(h.get(b, verifier)); to != h.srv.URL+"/oauth2/fallbacks/error" {
		t.Errorf("redirect URI taken away: %s %v", to, q)
	}
	delete(h.clients, webID)
	if to, q := h.where(h.get(b, verifier)); to != h.srv.URL+"/oauth2/fallbacks/error" {
		t.Errorf("client deleted: %s %v", to, q)
	}
}

func TestGrantIsWithinTheRequest(t *testing.T) {
	h := newHouse(t)
	b := browser(t)
	cc := h.signIn(b, h.ask(b, params()), "u", false)
	for _, a := range []oauth.Answer{{Scopes: []string{"admin"}}, {Audience: []string{"https://api.example"}}, {Context: json.RawMessage("{")},
		{IDTokenClaims: map[string]any{"x": strings.Repeat("y", 20<<10)}}} {
		if _, err := h.desk.Accept(t.Context(), oauth.AskConsent, cc, a); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%v: %v", a.Scopes, err)
		}
	}
}

func TestLargeAnswers(t *testing.T) {
	h := newHouse(t)
	b := browser(t)
	big := json.RawMessage(`"` + strings.Repeat("c", 6000) + `"`)
	lc := h.ask(b, params())
	to := h.accept(oauth.AskLogin, lc, oauth.Answer{Subject: "u", Context: big})
	if len(to) > 2000 {
		t.Errorf("redirect_to has %d characters", len(to))
	}
	_, q := h.where(h.get(b, to))
	c, err := h.desk.Open(t.Context(), oauth.AskConsent, q.Get("consent_challenge"))
	if err != nil || string(c.Context) != string(big) {
		t.Fatalf("context lost (%v)", err)
	}
	claims := map[string]any{"groups": strings.Repeat("g", 3000)}
	_, q = h.where(h.get(b, h.accept(oauth.AskConsent, c.ID, oauth.Answer{Scopes: []string{"openid"}, AccessTokenClaims: claims})))
	rs, _ := h.store.Get(t.Context(), oauth.Ref{Kind: oauth.Authorizations, Key: strings.TrimPrefix(q.Get("code"), "code-")})
	if len(rs) != 1 {
		t.Fatalf("no authorization: %v", q)
	}
	if a, _ := oauth.OpenAuthorization(rs[0]); a.AccessTokenClaims["groups"] != claims["groups"] {
		t.Error("claims lost")
	}
}

// signedOut walks through a logout and returns where it ends.
func (h *house) signOut(b *http.Client, query string) (string, url.Values) {
	h.t.Helper()
	to, q := h.where(h.get(b, "/oauth2/sessions/logout"+query))
	if to != h.set.LogoutURL {
		return to, q
	}
	return h.where(h.get(b, h.accept(oauth.AskLogout, q.Get("logout_challenge"), oauth.Answer{})))
}

func TestLogout(t *testing.T) {
	h := newHouse(t)
	h.set.LogoutURL = "http://login.example/logout"
	b := browser(t)
	online := h.consent(b, h.signIn(b, h.ask(b, params("scope", "openid photos.read")), "u7", true), true).Get("code")
	offline := h.consent(b, h.signIn(b, h.ask(b, params()), "u7", true), true).Get("code")
	open, err := h.desk.Open(t.Context(), oauth.AskLogin, h.ask(b, params()))
	if err != nil || !open.Skip {
		t.Fatal("no session")
	}
	hint := idToken(map[string]any{"sub": "u7", "sid": open.SessionID, "aud": []string{webID}})
	bye := "?id_token_hint=" + hint + "&post_logout_redirect_uri=http%3A%2F%2Fapp.example%2Flogged-out&state=lo-state"

	for name, query := range map[string]string{
		"foreign address": "?id_token_hint=" + hint + "&post_logout_redirect_uri=http%3A%2F%2Fevil.example%2F",
		"no client":       "?post_logout_redirect_uri=http%3A%2F%2Fapp.example%2Flogged-out",
		"bad hint":        "?id_token_hint=a.b.c",
		"other client":    "?id_token_hint=" + hint + "&client_id=" + appID,
		"repeated":        "?state=a&state=b",
		"bad verifier":    "?logout_verifier=garbage",
	} {
		if to, q := h.signOut(b, query); to != h.srv.URL+"/oauth2/fallbacks/error" || q.Get("error") != "invalid_request" {
			t.Errorf("%s: %s %v", name, to, q)
		}
	}

	// Rejected, and then no longer to be accepted.
	_, q := h.where(h.get(b, "/oauth2/sessions/logout"+bye))
	c, err := h.desk.Open(t.Context(), oauth.AskLogout, q.Get("logout_challenge"))
	if err != nil || c.Subject != "u7" || c.SessionID != open.SessionID || !c.RPInitiated || c.Client == nil || c.Client.ID != webID {
		t.Errorf("logout question: %+v %v", c, err)
	}
	if to, err := h.desk.Reject(t.Context(), oauth.AskLogout, c.ID, nil); to != "" || err != nil {
		t.Errorf("rejecting: %q %v", to, err)
	}
	if _, err := h.desk.Accept(t.Context(), oauth.AskLogout, c.ID, oauth.Answer{}); fault.KindOf(err) != fault.Spent {
		t.Errorf("accepting a rejected logout: %v", err)
	}

	_, q = h.where(h.get(b, "/oauth2/sessions/logout"+bye))
	verifier := h.accept(oauth.AskLogout, q.Get("logout_challenge"), oauth.Answer{})
	res := h.get(b, verifier)
	if to, q := h.where(res); to != "http://app.example/logged-out" || q.Get("state") != "lo-state" {
		t.Errorf("after the logout: %s %v", to, q)
	}
	if cs := res.Cookies(); len(cs) != 1 || cs[0].Name != "ory_hydra_session_dev" || cs[0].MaxAge >= 0 {
		t.Errorf("cookies %v", cs)
	}
	if to, _ := h.where(h.get(b, verifier)); to != h.srv.URL+"/oauth2/fallbacks/error" {
		t.Errorf("replayed verifier: %s", to)
	}
	if _, q := h.where(h.authorize(b, params("prompt", "none"))); q.Get("error") != "login_required" {
		t.Errorf("still signed in: %v", q)
	}
	for code, want := range map[string]int{online: 0, offline: 1} {
		rs, err := h.store.Get(t.Context(), oauth.Ref{Kind: oauth.Authorizations, Key: strings.TrimPrefix(code, "code-")})
		if err != nil || len(rs) != want {
			t.Errorf("%d authorizations after the logout, want %d (%v)", len(rs), want, err)
		}
	}
	if to, _ := h.signOut(b, ""); to != h.srv.URL+"/oauth2/fallbacks/logout/callback" {
		t.Errorf("without a session: %s", to)
	}
}

func TestLogoutDuringConsent(t *testing.T) {
	h := newHouse(t)
	h.set.LogoutURL = "http://login.example/logout"
	b := browser(t)
	cc := h.signIn(b, h.ask(b, params()), "u7", true)
	h.signOut(b, "")
	_, q := h.where(h.get(b, h.accept(oauth.AskConsent, cc, oauth.Answer{Scopes: []string{"openid"}})))
	if q.Get("error") != "login_required" || q.Has("code") {
		t.Errorf("consent after the logout: %v", q)
	}
}

func TestOwnLogoutPage(t *testing.T) {
	h := newHouse(t)
	b := browser(t)
	h.consent(b, h.signIn(b, h.ask(b, params()), "u7", true), true)
	res := h.get(b, "/oauth2/sessions/logout")
	body, _ := io.ReadAll(res.Body)
	_, rest, ok := strings.Cut(string(body), `name="logout_challenge" value="`)
	challenge, _, _ := strings.Cut(rest, `"`)
	if !ok || res.Header.Get("Content-Security-Policy") == "" {
		t.Fatalf("no question: %s", body)
	}
	post := func(b *http.Client, answer string) *http.Response {
		res, err := b.PostForm(h.srv.URL+"/oauth2/sessions/logout", url.Values{"logout_challenge": {challenge}, "answer": {answer}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { res.Body.Close() })
		return res
	}
	if to, _ := h.where(post(browser(t), "yes")); to != h.srv.URL+"/oauth2/fallbacks/error" {
		t.Errorf("form from another browser: %s", to)
	}
	to, q := h.where(post(b, "yes"))
	if to, _ = h.where(h.get(b, to+"?"+q.Encode())); to != h.srv.URL+"/oauth2/fallbacks/logout/callback" {
		t.Errorf("sent to %s", to)
	}
	if res := h.get(b, "/oauth2/fallbacks/logout/callback"); res.StatusCode != 200 {
		t.Errorf("done page: %s", res.Status)
	}
	if _, q := h.where(h.authorize(b, params("prompt", "none"))); q.Get("error") != "login_required" {
		t.Errorf("still signed in: %v", q)
	}
}

func TestSessionCookie(t *testing.T) {
	h := newHouse(t)
	h.set.Dev = false
	req := httptest.NewRequest("GET", "/oauth2/auth?"+params().Encode(), nil)
	rec := httptest.NewRecorder()
	e := &Endpoint{Settings: h.set, Clients: h, Desk: h.desk, Coder: h, Hints: h}
	e.ServeHTTP(rec, req)
	cs := rec.Result().Cookies()
	if len(cs) != 1 || !strings.HasPrefix(cs[0].Name, "ory_hydra_login_csrf_") || !cs[0].Secure || !cs[0].HttpOnly || cs[0].SameSite != http.SameSiteLaxMode || cs[0].MaxAge != 1800 || cs[0].Path != "/" {
		t.Fatalf("cookies %v", cs)
	}
	u, _ := rec.Result().Location()
	req = httptest.NewRequest("GET", h.accept(oauth.AskLogin, u.Query().Get("login_challenge"), oauth.Answer{Subject: "u", Remember: true, RememberFor: time.Hour}), nil)
	req.AddCookie(cs[0])
	rec = httptest.NewRecorder()
	e.ServeHTTP(rec, req)
	i := slices.IndexFunc(rec.Result().Cookies(), func(c *http.Cookie) bool { return c.Name == "ory_hydra_session" })
	if i < 0 {
		t.Fatalf("no session cookie: %s %v", rec.Result().Status, rec.Result().Header)
	}
	if c := rec.Result().Cookies()[i]; !c.Secure || !c.HttpOnly || c.MaxAge != 3600 {
		t.Errorf("session cookie %v", c)
	}
}

// A login again by the same user keeps the session's name and ends the cookie of before.
func TestSessionCookieRotates(t *testing.T) {
	h := newHouse(t)
	b := browser(t)
	h.signIn(b, h.ask(b, params()), "u7", true)
	u, _ := url.Parse(h.srv.URL)
	before := b.Jar.Cookies(u)
	h.signIn(b, h.ask(b, params("prompt", "login")), "u7", true)
	if _, q := h.where(h.authorize(b, params("prompt", "none"))); q.Get("login_challenge") == "" {
		t.Errorf("new cookie: %v", q)
	}
	old := browser(t)
	old.Jar.SetCookies(u, before)
	if _, q := h.where(h.authorize(old, params("prompt", "none"))); q.Get("error") != "login_required" {
		t.Errorf("old cookie: %v", q)
	}
}

func TestAnotherUserTakesOver(t *testing.T) {
	h := newHouse(t)
	b := browser(t)
	code := h.consent(b, h.signIn(b, h.ask(b, params("scope", "openid")), "u7", true), true).Get("code")
	h.signIn(b, h.ask(b, params("prompt", "login")), "u8", true)
	open, err := h.desk.Open(t.Context(), oauth.AskLogin, h.ask(b, params()))
	if err != nil || open.Subject != "u8" {
		t.Errorf("session of %+v (%v)", open, err)
	}
	if rs, _ := h.store.Get(t.Context(), oauth.Ref{Kind: oauth.Authorizations, Key: strings.TrimPrefix(code, "code-")}); len(rs) != 0 {
		t.Error("the first user's authorization goes on")
	}
}

func TestFloodWritesLittle(t *testing.T) {
	h := newHouse(t)
	b := browser(t)
	refused := 0
	for range 300 {
		if _, q := h.where(h.authorize(b, params("state", strings.Repeat("s", 2000)))); q.Get("error") == "temporarily_unavailable" {
			refused++
		}
	}
	if h.store.puts > 200 || refused != 300-h.store.puts {
		t.Errorf("%d writes, %d refused", h.store.puts, refused)
	}
	h.ask(b, params()) // ordinary requests go on
}
