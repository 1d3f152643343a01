package pages

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/login"
	"gatehouse/oauth"
)

// desk is an oauth.Desk with prepared challenges; it notes the answers.
type desk struct {
	mu         sync.Mutex
	challenges map[string]*oauth.Challenge // by ID
	err        error                       // of Accept and Reject
	openErr    error
	to         string // where answers lead

	accepted []oauth.Answer
	rejected []*oauth.Error
}

func (d *desk) Open(_ context.Context, k oauth.ChallengeKind, id string) (*oauth.Challenge, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.openErr != nil {
		return nil, d.openErr
	}
	c := d.challenges[id]
	if c == nil || c.Kind != k {
		return nil, fault.New(fault.NotFound, "no such challenge")
	}
	copied := *c
	copied.ID = id
	return &copied, nil
}

func (d *desk) Accept(_ context.Context, _ oauth.ChallengeKind, _ string, a oauth.Answer) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return "", d.err
	}
	d.accepted = append(d.accepted, a)
	return d.to, nil
}

func (d *desk) Reject(_ context.Context, k oauth.ChallengeKind, _ string, e *oauth.Error) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return "", d.err
	}
	d.rejected = append(d.rejected, e)
	if k == oauth.AskLogout {
		return "", nil
	}
	return d.to + "?rejected", nil
}

// people knows ann, whose password is "correct horse", and off, who is disabled.
type people struct {
	mu   sync.Mutex
	from []netip.Addr
	err  error // of everything
}

var ann = login.User{ID: "u1", Email: "ann@example.com", Name: "Ann Archer", UpdatedAt: time.Unix(1700000000, 0)}

func (p *people) VerifyFrom(_ context.Context, from netip.Addr, email, password string) (login.User, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.from = append(p.from, from)
	switch {
	case p.err != nil:
		return login.User{}, p.err
	case email == ann.Email && password == "correct horse":
		return ann, nil
	}
	return login.User{}, fault.Wrap(fault.Denied, "no", errors.New("cause that must not be shown"))
}

func (p *people) Find(_ context.Context, id string) (login.User, error) {
	switch {
	case p.err != nil:
		return login.User{}, p.err
	case id == ann.ID:
		return ann, nil
	case id == "off":
		return login.User{ID: "off", Email: "off@example.com", Disabled: true}, nil
	}
	return login.User{}, fault.New(fault.NotFound, "no such user")
}

const (
	begin  = "https://id.example/oauth2/auth?client_id=c1&redirect_uri=https%3A%2F%2Fapp.example%2Fcb&state=s"
	secret = "0123456789abcdef0123456789abcdef"
)

func challenges() map[string]*oauth.Challenge {
	photos := &oauth.Client{ID: "c1", Name: "Photo Box", PolicyURI: "https://app.example/privacy", TOSURI: "javascript:alert(1)"}
	yes := true
	scopes := []string{"openid", "email", "profile", "offline_access", "photos.read"}
	return map[string]*oauth.Challenge{
		"in":       {Kind: oauth.AskLogin, Client: photos, RequestURL: begin},
		"in2":      {Kind: oauth.AskLogin, Client: photos, RequestURL: begin},
		"hint":     {Kind: oauth.AskLogin, Client: photos, OIDC: oauth.OIDCContext{LoginHint: "ann@example.com", UILocales: []string{"fr", "de-AT"}}},
		"skip":     {Kind: oauth.AskLogin, Client: photos, Skip: true, Subject: "u1", RequestURL: begin},
		"skipoff":  {Kind: oauth.AskLogin, Client: photos, Skip: true, Subject: "off", RequestURL: begin},
		"skipgone": {Kind: oauth.AskLogin, Client: photos, Skip: true, Subject: "gone", RequestURL: begin},
		"skippar":  {Kind: oauth.AskLogin, Client: photos, Skip: true, Subject: "gone", RequestURL: begin + "&request_uri=urn:x"},
		"none":     {Kind: oauth.AskLogin, Client: photos, Skip: true, Subject: "gone", RequestURL: begin + "&prompt=none"},
		"ask": {Kind: oauth.AskConsent, Client: photos, Subject: "u1", RequestURL: begin,
			RequestedScopes: scopes, RequestedAudience: []string{"https://api"}},
		"askskip": {Kind: oauth.AskConsent, Client: photos, Subject: "u1", Skip: true, RequestedScopes: []string{"openid", "email"}},
		"asktrusted": {Kind: oauth.AskConsent, Client: &oauth.Client{ID: "c2", SkipConsent: true}, Subject: "u1",
			RequestedScopes: []string{"openid"}},
		"askagain": {Kind: oauth.AskConsent, Client: &oauth.Client{ID: "c2", SkipConsent: true}, Subject: "u1", RequestURL: begin + "&prompt=login+consent",
			RequestedScopes: []string{"openid"}},
		"askoff": {Kind: oauth.AskConsent, Client: photos, Subject: "off", Skip: true, RequestedScopes: scopes},
		"evil": {Kind: oauth.AskConsent, Subject: "u1", RequestURL: `javascript:alert("x")`,
			Client:          &oauth.Client{ID: "c3", Name: "<script>alert(1)</script>\u202eevil", PolicyURI: "javascript:alert(2)", TOSURI: `https://x.example/"onmouseover="alert(3)`},
			RequestedScopes: []string{`"><script>alert(4)</script>`}},
		"out":     {Kind: oauth.AskLogout, Client: photos, Subject: "u1", RPInitiated: true},
		"outself": {Kind: oauth.AskLogout, Subject: "unknown"},
		"outskip": {Kind: oauth.AskLogout, Client: &oauth.Client{ID: "c2", SkipLogoutConsent: &yes}, Subject: "u1", RPInitiated: true},
		"outbare": {Kind: oauth.AskLogout, Client: &oauth.Client{ID: "c2", SkipLogoutConsent: &yes}, Subject: "u1"},
	}
}

// browser keeps cookies and follows no redirect.
type browser struct {
	t       *testing.T
	h       http.Handler
	cookies map[string]string
	header  http.Header
}

type reply struct {
	status int
	header http.Header
	body   string
}

func setup(t *testing.T, change ...func(*Config)) (*browser, *desk, *people) {
	t.Helper()
	d, p := &desk{challenges: challenges(), to: "https://id.example/next"}, &people{}
	c := Config{Desk: d, Users: p, Secret: []byte(secret), Secure: true, Now: func() time.Time { return time.Unix(1e9, 0) }}
	for _, f := range change {
		f(&c)
	}
	h, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t, h, map[string]string{}, http.Header{"Sec-Fetch-Site": {"same-origin"}}}, d, p
}

func (b *browser) do(method, target, body string) reply {
	b.t.Helper()
	r := httptest.NewRequest(method, "https://login.example"+target, strings.NewReader(body))
	for k, v := range b.header {
		r.Header[k] = v
	}
	if method == "POST" && r.Header.Get("Content-Type") == "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for n, v := range b.cookies {
		r.AddCookie(&http.Cookie{Name: n, Value: v})
	}
	w := httptest.NewRecorder()
	b.h.ServeHTTP(w, r)
	res := w.Result()
	for _, c := range res.Cookies() {
		b.cookies[c.Name] = c.Value
	}
	raw, _ := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(raw)}
}

func (b *browser) get(target string) reply { b.t.Helper(); return b.do("GET", target, "") }

var hidden = regexp.MustCompile(`<input type="hidden" name="([^"]+)" value="([^"]*)">`)

// submit opens a page and sends its form with fields added or replaced.
func (b *browser) submit(page, challenge string, fields url.Values) reply {
	b.t.Helper()
	return b.do("POST", "/"+page, b.fill(page, challenge, fields).Encode())
}

func (b *browser) fill(page, challenge string, fields url.Values) url.Values {
	b.t.Helper()
	shown := b.get("/" + page + "?" + page + "_challenge=" + url.QueryEscape(challenge))
	form := url.Values{}
	for _, m := range hidden.FindAllStringSubmatch(shown.body, -1) {
		form.Set(m[1], m[2])
	}
	if form.Get("challenge") != challenge || form.Get("_csrf") == "" {
		b.t.Fatalf("no form for %s: %d %s", challenge, shown.status, shown.body)
	}
	for k, v := range fields {
		form[k] = v
	}
	return form
}

func (r reply) leads(t *testing.T, to string) {
	t.Helper()
	if got := r.header.Get("Location"); r.status != http.StatusSeeOther || got != to {
		t.Errorf("answer is %d to %q, want 303 to %q\n%s", r.status, got, to, r.body)
	}
}

func (r reply) has(t *testing.T, status int, texts ...string) {
	t.Helper()
	if r.status != status {
		t.Errorf("status = %d, want %d", r.status, status)
	}
	for _, s := range texts {
		if !strings.Contains(r.body, s) {
			t.Errorf("page lacks %q:\n%s", s, r.body)
		}
	}
}

var right = url.Values{"email": {"ann@example.com"}, "password": {"correct horse"}, "submit": {"login"}}

func TestSignIn(t *testing.T) {
	b, d, p := setup(t)
	b.get("/login?login_challenge=in").has(t, 200, `id="email"`, `id="password"`, `id="remember"`, `id="submit"`, "Photo Box", `autocomplete="current-password"`)
	b.submit("login", "in", right).leads(t, "https://id.example/next")
	b.submit("login", "in", url.Values{"email": right["email"], "password": right["password"], "remember": {"1"}}).leads(t, "https://id.example/next")
	want := []oauth.Answer{
		{Subject: "u1", ACR: "0", AMR: []string{"pwd"}},
		{Subject: "u1", ACR: "0", AMR: []string{"pwd"}, Remember: true, RememberFor: 30 * 24 * time.Hour},
	}
	if !reflect.DeepEqual(d.accepted, want) {
		t.Errorf("accepted %+v, want %+v", d.accepted, want)
	}
	if len(p.from) != 2 || p.from[0] != netip.MustParseAddr("192.0.2.1") {
		t.Errorf("addresses = %v", p.from)
	}
	b.submit("login", "in", url.Values{"submit": {"reject"}}).leads(t, "https://id.example/next?rejected")
	if len(d.rejected) != 1 || d.rejected[0].Code != "access_denied" {
		t.Errorf("rejected %+v", d.rejected)
	}
	b.get("/login?login_challenge=hint").has(t, 200, `lang="de"`, `value="ann@example.com"`, "Passwort")
}

func TestWrongPasswordAndUnknownUserLookAlike(t *testing.T) {
	b, d, _ := setup(t)
	var bodies []string
	for _, email := range []string{"ann@example.com", "nob@example.com"} {
		r := b.submit("login", "in", url.Values{"email": {email}, "password": {"guess-secret"}})
		r.has(t, 401, `role="alert"`, `value="`+email+`"`)
		if strings.Contains(r.body, "guess-secret") || strings.Contains(r.body, "cause that") {
			t.Error("the page repeats the password or the cause")
		}
		bodies = append(bodies, strings.ReplaceAll(r.body, email, "EMAIL"))
	}
	if bodies[0] != bodies[1] {
		t.Errorf("pages differ:\n%s\n%s", bodies[0], bodies[1])
	}
	b.submit("login", "in", url.Values{"email": {"ann@example.com"}}).has(t, 400, `role="alert"`)
	if len(d.accepted) != 0 {
		t.Errorf("accepted %+v", d.accepted)
	}
}

func TestKnownSession(t *testing.T) {
	b, d, p := setup(t)
	b.do("HEAD", "/login?login_challenge=skip", "").has(t, 200)
	if len(d.accepted) != 0 {
		t.Error("HEAD accepted")
	}
	b.get("/login?login_challenge=skip").leads(t, "https://id.example/next")
	if len(d.accepted) != 1 || d.accepted[0].Subject != "u1" || d.accepted[0].Remember {
		t.Errorf("accepted %+v", d.accepted)
	}
	again := "https://id.example/oauth2/auth?client_id=c1&prompt=login&redirect_uri=https%3A%2F%2Fapp.example%2Fcb&state=s"
	b.get("/login?login_challenge=skipoff").leads(t, again)
	b.get("/login?login_challenge=skipgone").leads(t, again)
	b.get("/login?login_challenge=skippar").has(t, 200, `id="password"`)
	b.get("/login?login_challenge=none").leads(t, "https://id.example/next?rejected")
	if len(d.rejected) != 1 || d.rejected[0].Code != "login_required" {
		t.Errorf("rejected %+v", d.rejected)
	}
	p.err = errors.New("disk")
	b.get("/login?login_challenge=skip").has(t, 500)
	if len(d.accepted) != 1 {
		t.Error("accepted although the user could not be read")
	}
}

func TestConsent(t *testing.T) {
	b, d, _ := setup(t)
	r := b.get("/consent?consent_challenge=ask")
	r.has(t, 200, `id="accept"`, `id="reject"`, `id="remember"`, "Allow access", "Deny access", "Photo Box", "ann@example.com",
		"app.example", `href="https://app.example/privacy"`, "prompt=login", "photos.read")
	if n := strings.Count(r.body, `name="grant_scope" type="checkbox"`); n != 5 || strings.Count(r.body, " checked") != 5 {
		t.Errorf("%d scopes", n)
	}
	if strings.Contains(r.body, "javascript:") {
		t.Error("a javascript: link is shown")
	}

	all := url.Values{"submit": {"accept"}, "grant_scope": {"photos.read", "email", "profile", "openid"}, "remember": {"1"}}
	b.submit("consent", "ask", all).leads(t, "https://id.example/next")
	b.submit("consent", "ask", url.Values{"submit": {"accept"}, "grant_scope": {"openid", "admin", "openid"}}).leads(t, "https://id.example/next")
	b.submit("consent", "ask", url.Values{"submit": {"accept"}}).leads(t, "https://id.example/next")
	at := time.Unix(1e9, 0)
	want := []oauth.Answer{
		{Scopes: []string{"openid", "email", "profile", "photos.read"}, Audience: []string{"https://api"}, Remember: true, HandledAt: at,
			IDTokenClaims: map[string]any{"email": "ann@example.com", "name": "Ann Archer", "preferred_username": "ann", "updated_at": int64(1700000000)}},
		{Scopes: []string{"openid"}, Audience: []string{"https://api"}, HandledAt: at, IDTokenClaims: map[string]any{}},
		{Audience: []string{"https://api"}, HandledAt: at, IDTokenClaims: map[string]any{}},
	}
	if !reflect.DeepEqual(d.accepted, want) {
		t.Errorf("accepted\n%+v want\n%+v", d.accepted, want)
	}
	b.submit("consent", "ask", url.Values{"submit": {"reject"}, "grant_scope": {"openid"}}).leads(t, "https://id.example/next?rejected")
	b.submit("consent", "ask", url.Values{"submit": {"perhaps"}}).has(t, 400)
	if len(d.accepted) != 3 || len(d.rejected) != 1 || d.rejected[0].Code != "access_denied" {
		t.Errorf("accepted %d, rejected %+v", len(d.accepted), d.rejected)
	}
}

func TestConsentWithoutQuestion(t *testing.T) {
	b, d, _ := setup(t)
	b.get("/consent?consent_challenge=askskip").leads(t, "https://id.example/next")
	b.get("/consent?consent_challenge=asktrusted").leads(t, "https://id.example/next")
	if len(d.accepted) != 2 || d.accepted[0].IDTokenClaims["email"] != "ann@example.com" || d.accepted[1].IDTokenClaims["email"] != nil {
		t.Errorf("accepted %+v", d.accepted)
	}
	b.get("/consent?consent_challenge=askagain").has(t, 200, `id="accept"`)
	b.get("/consent?consent_challenge=askoff").leads(t, "https://id.example/next?rejected")
	if len(d.accepted) != 2 {
		t.Error("a disabled user consented")
	}
}

func TestSignOut(t *testing.T) {
	b, d, _ := setup(t)
	b.get("/logout?logout_challenge=out").has(t, 200, `id="accept"`, `id="reject"`, "Photo Box", "ann@example.com")
	b.get("/logout?logout_challenge=outself").has(t, 200, `id="accept"`)
	b.get("/logout?logout_challenge=outbare").has(t, 200, `id="accept"`)
	if len(d.accepted) != 0 {
		t.Error("signed out by a GET")
	}
	b.submit("logout", "out", url.Values{"submit": {"accept"}}).leads(t, "https://id.example/next")
	b.get("/logout?logout_challenge=outskip").leads(t, "https://id.example/next")
	b.submit("logout", "out", url.Values{"submit": {"reject"}}).has(t, 200, "still signed in")
	b.submit("logout", "out", url.Values{}).has(t, 400)
	if len(d.accepted) != 2 || len(d.rejected) != 1 {
		t.Errorf("accepted %d, rejected %d", len(d.accepted), len(d.rejected))
	}
}

func TestAssetsAndHealth(t *testing.T) {
	var broken error
	b, _, _ := setup(t, func(c *Config) { c.Ready = func(context.Context) error { return broken } })
	style := regexp.MustCompile(`href="(style\.css\?v=[0-9a-f]+)"`).FindStringSubmatch(b.get("/").body)
	if style == nil {
		t.Fatal("no style sheet")
	}
	r := b.get("/" + style[1])
	r.has(t, 200, "prefers-color-scheme")
	if !strings.Contains(r.header.Get("Cache-Control"), "immutable") || r.header.Get("Content-Type") != "text/css; charset=utf-8" {
		t.Errorf("headers %v", r.header)
	}
	if got := b.get("/style.css").header.Get("Cache-Control"); got != "no-cache" {
		t.Errorf("unversioned: %q", got)
	}
	b.header.Set("If-None-Match", r.header.Get("ETag"))
	b.get("/"+style[1]).has(t, 304)
	b.get("/icon.svg").has(t, 200, "<svg")
	b.get("/health/alive").has(t, 200, `"ok"`)
	b.get("/health/ready").has(t, 200, `"ok"`)
	broken = errors.New("secret cause")
	if r := b.get("/health/ready"); r.status != 503 || strings.Contains(r.body, "secret") {
		t.Errorf("not ready: %d %s", r.status, r.body)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, c := range map[string]Config{
		"no desk":      {Users: &people{}, Secret: []byte(secret)},
		"no users":     {Desk: &desk{}, Secret: []byte(secret)},
		"short secret": {Desk: &desk{}, Users: &people{}, Secret: []byte("short")},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
