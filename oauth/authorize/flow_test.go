package authorize

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse/oauth"
)

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
		name        string
		params      url.Values
		login, skip bool // skip of the login and of the consent question
		error       string
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
			// A fresh login made the session young; the rows below want an hour old one.
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
