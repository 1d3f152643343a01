package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
)

// call is what the provider saw.
type call struct {
	method, path, challenge, body string
	proto                         string
}

// provider answers with a status and body per path and notes what it was asked.
func provider(t *testing.T, answers map[string]string) (*Desk, *[]call) {
	t.Helper()
	var calls []call
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		c := call{r.Method, r.URL.Path, "", string(b), r.Header.Get("X-Forwarded-Proto")}
		for k, v := range r.URL.Query() {
			c.challenge = k + "=" + v[0]
		}
		calls = append(calls, c)
		a, ok := answers[r.Method+" "+r.URL.Path]
		if !ok {
			http.Error(w, "404 page not found", 404)
			return
		}
		var status int
		var body string
		fmt.Sscanf(a, "%d", &status)
		_, body, _ = strings.Cut(a, " ")
		w.WriteHeader(status)
		io.WriteString(w, body)
	}))
	t.Cleanup(s.Close)
	return New(s.URL+"/", s.Client()), &calls
}

func TestOpenLogin(t *testing.T) {
	d, calls := provider(t, map[string]string{"GET /admin/oauth2/auth/requests/login": `200 {"challenge":"x","requested_scope":["openid","photos.read"],
		"requested_access_token_audience":["https://api"],"skip":true,"subject":"u7","oidc_context":{"acr_values":["a"],"ui_locales":["de","fr"],"login_hint":"x@y"},
		"client":{"client_id":"c1","client_name":"Photos","contacts":null,"jwks":{},"metadata":{},"skip_logout_consent":null,"created_at":"2026-11-23T07:30:21Z"},
		"request_url":"http://127.0.0.1:4444/oauth2/auth?client_id=c1&x=1","session_id":"s1","new_field":1}`})
	got, err := d.Open(t.Context(), oauth.AskLogin, "a+b=&c")
	if err != nil {
		t.Fatal(err)
	}
	if got.Client == nil || got.Client.ID != "c1" || got.Client.Name != "Photos" {
		t.Errorf("client = %+v", got.Client)
	}
	got.Client = nil
	want := &oauth.Challenge{Kind: oauth.AskLogin, ID: "a+b=&c", RequestURL: "http://127.0.0.1:4444/oauth2/auth?client_id=c1&x=1",
		RequestedScopes: []string{"openid", "photos.read"}, RequestedAudience: []string{"https://api"}, Skip: true, Subject: "u7", SessionID: "s1",
		OIDC: oauth.OIDCContext{ACRValues: []string{"a"}, UILocales: []string{"de", "fr"}, LoginHint: "x@y"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("challenge = %+v, want %+v", got, want)
	}
	c := (*calls)[0]
	if c.challenge != "login_challenge=a+b=&c" || c.proto != "https" {
		t.Errorf("provider saw %+v", c)
	}
}

func TestOpenConsentAndLogout(t *testing.T) {
	d, _ := provider(t, map[string]string{
		"GET /admin/oauth2/auth/requests/consent": `200 {"challenge":"x","consent_request_id":"r","login_challenge":"l","login_session_id":"s","acr":"0","amr":["pwd"],"context":{"a":1},"subject":"u"}`,
		"GET /admin/oauth2/auth/requests/logout":  `200 {"challenge":"x","subject":"u","sid":"s","request_url":"/oauth2/sessions/logout","rp_initiated":true,"expires_at":"2026-11-23T08:00:22Z","client":null}`,
	})
	c, err := d.Open(t.Context(), oauth.AskConsent, "x")
	if err != nil || c.ConsentRequestID != "r" || c.LoginChallenge != "l" || c.SessionID != "s" || c.AMR[0] != "pwd" || string(c.Context) != `{"a":1}` {
		t.Errorf("consent = %+v, %v", c, err)
	}
	c, err = d.Open(t.Context(), oauth.AskLogout, "x")
	if err != nil || c.SessionID != "s" || !c.RPInitiated || c.Client != nil || c.Expires.Year() != 2026 {
		t.Errorf("logout = %+v, %v", c, err)
	}
}

func TestBodies(t *testing.T) {
	ok := `200 {"redirect_to":"http://p/oauth2/auth?a=b\u0026login_verifier=v"}`
	d, calls := provider(t, map[string]string{
		"PUT /admin/oauth2/auth/requests/login/accept":   ok,
		"PUT /admin/oauth2/auth/requests/consent/accept": ok,
		"PUT /admin/oauth2/auth/requests/logout/accept":  ok,
		"PUT /admin/oauth2/auth/requests/login/reject":   ok,
		"PUT /admin/oauth2/auth/requests/consent/reject": ok,
		"PUT /admin/oauth2/auth/requests/logout/reject":  `204`,
	})
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		name string
		do   func() (string, error)
		to   bool
		body string
	}{
		{"login", func() (string, error) {
			return d.Accept(t.Context(), oauth.AskLogin, "x", oauth.Answer{Subject: "u", Remember: true, RememberFor: time.Hour, ACR: "0", AMR: []string{"pwd"}, Scopes: []string{"never sent"}})
		}, true, `{"subject":"u","remember":true,"remember_for":3600,"acr":"0","amr":["pwd"]}`},
		{"consent", func() (string, error) {
			return d.Accept(t.Context(), oauth.AskConsent, "x", oauth.Answer{Scopes: []string{"openid"}, IDTokenClaims: map[string]any{"email": "u@x"}, HandledAt: at, Subject: "never sent"})
		}, true, `{"grant_scope":["openid"],"grant_access_token_audience":[],"remember":false,"remember_for":0,"session":{"id_token":{"email":"u@x"}},"handled_at":"2026-01-02T03:04:05Z"}`},
		{"logout", func() (string, error) { return d.Accept(t.Context(), oauth.AskLogout, "x", oauth.Answer{}) }, true, `{}`},
		{"reject login", func() (string, error) { return d.Reject(t.Context(), oauth.AskLogin, "x", oauth.ErrLoginRequired) }, true,
			`{"error":"login_required","error_description":"The user must sign in.","status_code":400}`},
		{"reject consent without reason", func() (string, error) { return d.Reject(t.Context(), oauth.AskConsent, "x", nil) }, true,
			`{"error":"access_denied","error_description":"The user or the server denied the request.","status_code":403}`},
		{"reject logout", func() (string, error) { return d.Reject(t.Context(), oauth.AskLogout, "x", nil) }, false, ``},
	} {
		to, err := c.do()
		want := ""
		if c.to {
			want = "http://p/oauth2/auth?a=b&login_verifier=v"
		}
		if err != nil || to != want {
			t.Errorf("%s: %q, %v, want %q", c.name, to, err, want)
		}
		if got := (*calls)[len(*calls)-1].body; got != c.body {
			t.Errorf("%s: body\n%s want\n%s", c.name, got, c.body)
		}
	}
}

func TestOldPathsAreFoundOnceAndRemembered(t *testing.T) {
	answers := map[string]string{"GET /oauth2/auth/requests/login": `200 {"subject":"old"}`}
	d, calls := provider(t, answers)
	for range 3 {
		c, err := d.Open(t.Context(), oauth.AskLogin, "x")
		if err != nil || c.Subject != "old" {
			t.Fatalf("open = %+v, %v", c, err)
		}
	}
	if len(*calls) != 4 {
		t.Errorf("%d calls, want 4 (one in vain)", len(*calls))
	}
	// The provider is upgraded under the running login application.
	delete(answers, "GET /oauth2/auth/requests/login")
	answers["GET /admin/oauth2/auth/requests/login"] = `200 {"subject":"new"}`
	if c, err := d.Open(t.Context(), oauth.AskLogin, "x"); err != nil || c.Subject != "new" {
		t.Errorf("after the upgrade: %+v, %v", c, err)
	}
}

func TestErrors(t *testing.T) {
	const login = "GET /admin/oauth2/auth/requests/login"
	for _, c := range []struct {
		name, answer string
		want         fault.Kind
	}{
		{"unknown challenge", `404 {"error":"Not Found","error_description":"Unable to locate the requested resource"}`, fault.NotFound},
		{"used", `410 {"redirect_to":"http://p/oauth2/auth?x=1"}`, fault.Spent},
		{"bad answer", `400 {"error":"invalid_request"}`, fault.Invalid},
		{"overloaded", `429 {}`, fault.Unavailable},
		{"broken", `500 {"error":"error"}`, fault.Unavailable},
		{"down behind a proxy", `502 <html>`, fault.Unavailable},
		{"not an admin API", `404 {"error":{"code":404,"message":"Not Found"}}`, fault.Unavailable},
		{"no JSON", `200 <html>`, fault.Internal},
		{"wrong JSON", `200 []`, fault.Internal},
		{"forbidden", `403 {"error":"forbidden"}`, fault.Internal},
		{"redirect is not followed", `307 {}`, fault.Internal},
		{"too long", `200 "` + strings.Repeat("x", maxBody) + `"`, fault.Internal},
	} {
		d, _ := provider(t, map[string]string{login: c.answer})
		_, err := d.Open(t.Context(), oauth.AskLogin, "x")
		if err == nil || fault.KindOf(err) != c.want {
			t.Errorf("%s: %v (kind %d), want kind %d", c.name, err, fault.KindOf(err), c.want)
		}
		var spent *oauth.SpentError
		if c.want == fault.Spent && (!errors.As(err, &spent) || spent.RedirectTo != "http://p/oauth2/auth?x=1") {
			t.Errorf("%s: does not say where the flow began: %v", c.name, err)
		}
	}
	if _, err := New("nonsense", nil).Open(t.Context(), oauth.AskLogin, "x"); err == nil {
		t.Error("nonsense URL accepted")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	_, err = New("http://"+l.Addr().String(), nil).Open(t.Context(), oauth.AskLogin, "secret-challenge")
	if fault.KindOf(err) != fault.Unavailable {
		t.Errorf("unreachable: %v", err)
	}
	if cause := errors.Unwrap(err); cause == nil || strings.Contains(cause.Error(), "secret-challenge") {
		t.Errorf("cause is missing or names the challenge: %v", cause)
	}
	d, _ := provider(t, map[string]string{"PUT /admin/oauth2/auth/requests/login/accept": `200 {}`})
	if _, err := d.Accept(t.Context(), oauth.AskLogin, "x", oauth.Answer{}); err == nil {
		t.Error("an acceptance without redirect is taken as success")
	}
	if _, err := d.Open(t.Context(), "../x", "y"); fault.KindOf(err) != fault.Invalid {
		t.Errorf("unknown kind: %v", err)
	}
}

func TestCancelled(t *testing.T) {
	release := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer s.Close()
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := New(s.URL, nil).Open(ctx, oauth.AskLogin, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
}

func TestUnixSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "desk")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(map[string]string{"subject": r.URL.Path})
	})}
	go s.Serve(l)
	defer s.Close()
	for _, base := range []string{"unix:" + path, "unix://" + path} {
		c, err := New(base, nil).Open(t.Context(), oauth.AskLogin, "x")
		if err != nil || c.Subject != "/admin/oauth2/auth/requests/login" {
			t.Errorf("%s: %+v, %v", base, c, err)
		}
	}
}

func FuzzRefusal(f *testing.F) {
	f.Add(404, []byte(`{"error":"Not Found"}`))
	f.Add(410, []byte(`{"redirect_to":1}`))
	f.Add(500, []byte(`{"error":{}}`))
	f.Fuzz(func(t *testing.T, status int, raw []byte) {
		if refusal(status, raw) == nil {
			t.Error("a refusal became a success")
		}
	})
}
