package authorize

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
)

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
