package authorize

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"gatehouse/oauth"
)

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
		{"audience below one with userinfo", params("audience", "https://own.example/a/x"), false, "invalid_request"},
		{"audience below one with a fragment", params("audience", "https://own.example/b/x"), false, "invalid_request"},
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
