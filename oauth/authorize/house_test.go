package authorize

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
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

func (c *clock) Now() time.Time      { c.Lock(); defer c.Unlock(); return c.at }
func (c *clock) add(d time.Duration) { c.Lock(); defer c.Unlock(); c.at = c.at.Add(d) }

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
			Scope: "openid offline photos.*", Audience: []string{"https://api.example", "https://u@own.example/a", "https://own.example/b#f"}, TokenEndpointAuthMethod: "client_secret_basic",
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
