package authorize

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
)

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
