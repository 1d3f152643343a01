package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse/oauth"
	"gatehouse/oauth/authorize"
	"gatehouse/oauth/clients"
	"gatehouse/oauth/fallback"
	"gatehouse/oauth/interaction"
	"gatehouse/oauth/keys"
	"gatehouse/oauth/session"
	"gatehouse/store/memory"
)

// hydraHouse is a provider with its management API, both over HTTP.
type hydraHouse struct {
	t             *testing.T
	store         oauth.Store
	set           *oauth.Settings
	public, admin *httptest.Server
}

type hydraHasher struct{}

func (hydraHasher) Hash(_ context.Context, s string) (string, error) { return "$test$" + s, nil }

type hydraCoder struct{}

func (hydraCoder) Code(a *oauth.Authorization) (string, error) { return "ory_ac_" + a.ID, nil }

type hydraHints struct{}

func (hydraHints) VerifyIDTokenHint(context.Context, string) (map[string]any, error) {
	return map[string]any{}, nil
}

func newHydraHouse(t *testing.T) *hydraHouse {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	store := memory.NewRecords(time.Now)
	h := &hydraHouse{t: t, store: store}
	mux := http.NewServeMux()
	h.public = httptest.NewServer(mux)
	t.Cleanup(h.public.Close)
	h.set = &oauth.Settings{
		Issuer: h.public.URL, LoginURL: "http://127.0.0.1:3000/login", ConsentURL: "http://127.0.0.1:3000/consent", LogoutURL: "http://127.0.0.1:3000/logout",
		Secrets: [][]byte{[]byte("a-secret-of-enough-length")}, TTLInteraction: 30 * time.Minute, TTLSession: 720 * time.Hour, TTLCode: 10 * time.Minute, Dev: true, Now: time.Now,
	}
	registry := clients.New(clients.Config{Store: store, Hasher: hydraHasher{}})
	keeper, err := session.New(h.set, store)
	must(err)
	desk, err := interaction.New(h.set, store, registry, keeper)
	must(err)
	pages, err := fallback.New()
	must(err)
	ring, err := keys.Open(t.Context(), keys.Config{Store: store, Secrets: h.set.Secrets, Alg: "ES256"})
	must(err)
	mux.Handle("/oauth2/auth", &authorize.Endpoint{Settings: h.set, Clients: registry, Desk: desk, Coder: hydraCoder{}, Hints: hydraHints{}, Pages: pages})
	mux.Handle("/oauth2/sessions/logout", &session.Logout{Settings: h.set, Keeper: keeper, Desk: desk, Clients: registry, Hints: hydraHints{}, Pages: pages})
	mux.Handle("/oauth2/fallbacks/", pages.Handler())
	api, err := (&Hydra{
		Store: store, Desk: desk, Clients: registry, Keys: ring, Version: "v1.2.3", PublicBase: h.public.URL, Secrets: h.set.Secrets, Now: time.Now,
		Introspect: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "introspected "+r.FormValue("token")) }),
		Metrics:    http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "metrics") }),
	}).Handler()
	must(err)
	h.admin = httptest.NewServer(api)
	t.Cleanup(h.admin.Close)
	return h
}

// call makes an API call and returns status and body.
func (h *hydraHouse) call(method, path, body string) (*http.Response, string) {
	h.t.Helper()
	req, err := http.NewRequest(method, h.admin.URL+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return res, string(b)
}

func (h *hydraHouse) want(status int, method, path, body string) map[string]any {
	h.t.Helper()
	res, got := h.call(method, path, body)
	if res.StatusCode != status {
		h.t.Fatalf("%s %s: %s %s, want %d", method, path, res.Status, got, status)
	}
	var m map[string]any
	if got != "" && json.Unmarshal([]byte(got), &m) != nil && !strings.HasPrefix(got, "[") {
		h.t.Fatalf("%s %s: no JSON: %s", method, path, got)
	}
	return m
}

func (h *hydraHouse) browser() *http.Client {
	jar, err := cookiejar.New(nil)
	if err != nil {
		h.t.Fatal(err)
	}
	return &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (h *hydraHouse) follow(b *http.Client, u string) *url.URL {
	h.t.Helper()
	res, err := b.Get(u)
	if err != nil {
		h.t.Fatal(err)
	}
	res.Body.Close()
	to, err := res.Location()
	if err != nil {
		h.t.Fatalf("%s: %s", u, res.Status)
	}
	return to
}

const hydraApp = `{"client_id":"app","client_name":"Oracle App","client_secret":"some-secret-value","grant_types":["authorization_code","refresh_token"],"response_types":["code","id_token"],` +
	`"scope":"openid offline photos.read","redirect_uris":["http://127.0.0.1:9999/callback"],"token_endpoint_auth_method":"client_secret_basic","audience":["https://api"]}`

const hydraAuth = "/oauth2/auth?client_id=app&response_type=code&scope=openid+offline+photos.read&redirect_uri=http%3A%2F%2F127.0.0.1%3A9999%2Fcallback&state=0123456789abcdef&nonce=nonce-12345678&login_hint=x%40y&acr_values=a+b&ui_locales=de+fr&display=page&audience=https%3A%2F%2Fapi"

// run walks a flow as the sample login application does and returns the code.
func (h *hydraHouse) run(b *http.Client, base, subject, remember string) string {
	h.t.Helper()
	to := h.follow(b, h.public.URL+hydraAuth)
	lc := to.Query().Get("login_challenge")
	q := base + "/oauth2/auth/requests/login?login_challenge=" + url.QueryEscape(lc)
	h.want(200, "GET", q, "")
	m := h.want(200, "PUT", base+"/oauth2/auth/requests/login/accept?login_challenge="+url.QueryEscape(lc), `{"subject":"`+subject+`","remember":`+remember+`,"remember_for":3600,"acr":"0"}`)
	to = h.follow(b, m["redirect_to"].(string))
	cc := to.Query().Get("consent_challenge")
	ask := h.want(200, "GET", base+"/oauth2/auth/requests/consent?consent_challenge="+url.QueryEscape(cc), "")
	answer, _ := json.Marshal(map[string]any{
		"grant_scope": ask["requested_scope"], "grant_access_token_audience": ask["requested_access_token_audience"], "remember": remember == "true", "remember_for": 3600,
		"session": map[string]any{"access_token": map[string]any{"foo": "bar"}, "id_token": map[string]any{"email": "u7@x"}}, "context": map[string]any{"b": 2},
	})
	m = h.want(200, "PUT", base+"/oauth2/auth/requests/consent/accept?consent_challenge="+url.QueryEscape(cc), string(answer))
	to = h.follow(b, m["redirect_to"].(string))
	code := to.Query().Get("code")
	if code == "" || to.Query().Get("state") != "0123456789abcdef" {
		h.t.Fatalf("no code: %s", to)
	}
	return code
}

func TestHydraFlow(t *testing.T) {
	for _, base := range []string{"/admin", ""} {
		t.Run("prefix "+base, func(t *testing.T) {
			h := newHydraHouse(t)
			h.want(201, "POST", base+"/clients", hydraApp)
			b := h.browser()
			h.run(b, base, "u7", "true")
			// The second time everything is known.
			to := h.follow(b, h.public.URL+hydraAuth)
			m := h.want(200, "GET", base+"/oauth2/auth/requests/login?login_challenge="+to.Query().Get("login_challenge"), "")
			if m["skip"] != true || m["subject"] != "u7" {
				t.Errorf("login request %v", m)
			}
		})
	}
}

var hydraVolatile = regexp.MustCompile(`"(challenge|session_id|login_session_id|consent_request_id|login_challenge|created_at|updated_at|handled_at|expires_at|requested_at|sid)":"[^"]+"`)

func (h *hydraHouse) shape(body string) string {
	body = hydraVolatile.ReplaceAllString(body, `"$1":"…"`)
	body = strings.ReplaceAll(body, h.public.URL, "http://public")
	if i := strings.Index(body, `"client":{`); i >= 0 {
		j := strings.Index(body[i:], "}") // metadata {} and jwks {} come before the end
		for j >= 0 && !json.Valid([]byte(body[i+len(`"client":`):i+j+1])) {
			k := strings.Index(body[i+j+1:], "}")
			if k < 0 {
				break
			}
			j += k + 1
		}
		body = body[:i] + `"client":{…}` + body[i+j+1:]
	}
	return body
}

// The bodies are Hydra's, field by field and in order.
func TestHydraRequestBodies(t *testing.T) {
	h := newHydraHouse(t)
	h.want(201, "POST", "/admin/clients", hydraApp)
	b := h.browser()
	get := func(k, challenge string) string {
		_, body := h.call("GET", "/admin/oauth2/auth/requests/"+k+"?"+k+"_challenge="+challenge, "")
		return strings.TrimSpace(h.shape(body))
	}
	lc := h.follow(b, h.public.URL+hydraAuth).Query().Get("login_challenge")
	const request = `http://public/oauth2/auth?acr_values=a+b\u0026audience=https%3A%2F%2Fapi\u0026client_id=app\u0026display=page\u0026login_hint=x%40y\u0026nonce=nonce-12345678\u0026redirect_uri=http%3A%2F%2F127.0.0.1%3A9999%2Fcallback\u0026response_type=code\u0026scope=openid+offline+photos.read\u0026state=0123456789abcdef\u0026ui_locales=de+fr`
	const oidc = `{"acr_values":["a","b"],"display":"page","login_hint":"x@y","ui_locales":["de","fr"]}`
	want := `{"challenge":"…","requested_scope":["openid","offline","photos.read"],"requested_access_token_audience":["https://api"],"skip":false,"subject":"","oidc_context":` + oidc +
		`,"client":{…},"request_url":"` + request + `","session_id":"…"}`
	if got := get("login", lc); got != want {
		t.Errorf("login:\n%s\nwant\n%s", got, want)
	}
	m := h.want(200, "PUT", "/admin/oauth2/auth/requests/login/accept?login_challenge="+lc, `{"subject":"u7","remember":true,"acr":"lvl2","amr":["pwd","otp"],"context":{"a":1}}`)
	cc := h.follow(b, m["redirect_to"].(string)).Query().Get("consent_challenge")
	want = `{"challenge":"…","consent_request_id":"…","requested_scope":["openid","offline","photos.read"],"requested_access_token_audience":["https://api"],"skip":false,"subject":"u7","oidc_context":` + oidc +
		`,"client":{…},"request_url":"` + request + `","login_challenge":"…","login_session_id":"…","acr":"lvl2","amr":["pwd","otp"],"context":{"a":1}}`
	if got := get("consent", cc); got != want {
		t.Errorf("consent:\n%s\nwant\n%s", got, want)
	}
	// Used challenges say where to begin again.
	res, body := h.call("GET", "/admin/oauth2/auth/requests/login?login_challenge="+lc, "")
	if res.StatusCode != http.StatusGone || !strings.HasPrefix(body, `{"redirect_to":"`+h.public.URL+`/oauth2/auth?`) {
		t.Errorf("used challenge: %s %s", res.Status, body)
	}
	lo := h.follow(b, h.public.URL+"/oauth2/sessions/logout?client_id=app").Query().Get("logout_challenge")
	want = `{"challenge":"…","subject":"u7","sid":"…","request_url":"http://public/oauth2/sessions/logout?client_id=app","rp_initiated":true,"expires_at":"…","requested_at":"…","client":{…}}`
	if got := get("logout", lo); got != want {
		t.Errorf("logout:\n%s\nwant\n%s", got, want)
	}
	if res, _ := h.call("PUT", "/admin/oauth2/auth/requests/logout/reject?logout_challenge="+lo, ""); res.StatusCode != 204 {
		t.Errorf("rejected logout: %s", res.Status)
	}
	lo = h.follow(b, h.public.URL+"/oauth2/sessions/logout").Query().Get("logout_challenge")
	if got := get("logout", lo); !strings.HasSuffix(got, `"rp_initiated":false,"expires_at":"…","requested_at":"…","client":null}`) {
		t.Errorf("logout without a client: %s", got)
	}
	m = h.want(200, "PUT", "/admin/oauth2/auth/requests/logout/accept?logout_challenge="+lo, "")
	if to := h.follow(b, m["redirect_to"].(string)); to.Path != "/oauth2/fallbacks/logout/callback" {
		t.Errorf("after the logout: %s", to)
	}
}

func TestHydraErrors(t *testing.T) {
	h := newHydraHouse(t)
	h.want(201, "POST", "/admin/clients", `{"client_id":"fixed"}`)
	lc := ""
	{
		h.want(201, "POST", "/admin/clients", hydraApp)
		lc = h.follow(h.browser(), h.public.URL+hydraAuth).Query().Get("login_challenge")
	}
	const gone = `{"error":"Unable to locate the resource","error_description":""}`
	const nowhere = `{"error":"Not Found","error_description":"Unable to locate the requested resource"}`
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string // the body, or its beginning
	}{
		{"GET", "/admin/clients/nope", "", 404, gone},
		{"DELETE", "/admin/clients/nope", "", 404, gone},
		{"PUT", "/admin/clients/nope", "{}", 404, gone},
		{"PATCH", "/admin/clients/fixed", `[{"op":"replace","path":"/client_id","value":"zz"}]`, 404, gone},
		{"PATCH", "/admin/clients/fixed", `{`, 400, `{"error":"The request was malformed or contained invalid parameters","error_description":"`},
		{"POST", "/admin/clients", `{"client_id":"fixed"}`, 409, `{"error":"Unable to insert or update resource because a resource with that value exists already","error_description":""}`},
		{"POST", "/admin/clients", `{"client_secret":"123"}`, 400, `{"error":"invalid_client_metadata","error_description":"`},
		{"POST", "/admin/clients", `{"redirect_uris":["http://x/#a"]}`, 400, `{"error":"invalid_redirect_uri","error_description":"`},
		{"POST", "/admin/clients", `zzz`, 400, `{"error":"The request was malformed or contained invalid parameters","error_description":"`},
		{"POST", "/admin/clients", `{"client_name":"` + strings.Repeat("x", 200<<10) + `"}`, 413, `{"error":"The request was malformed`},
		{"GET", "/admin/clients?page_token=bogus", "", 400, `{"error":"The request was malformed or contained invalid parameters","error_description":"Unable to parse pagination parameters: invalid pagination token"}`},
		{"GET", "/admin/clients?page_size=x", "", 400, `{"error":"The request was malformed`},

		{"GET", "/admin/oauth2/auth/requests/login?login_challenge=bogus", "", 404, nowhere},
		{"GET", "/admin/oauth2/auth/requests/consent?consent_challenge=bogus", "", 404, nowhere},
		{"GET", "/admin/oauth2/auth/requests/logout?logout_challenge=bogus", "", 404, nowhere},
		{"GET", "/admin/oauth2/auth/requests/consent?consent_challenge=" + lc, "", 404, nowhere},
		{"GET", "/admin/oauth2/auth/requests/login", "", 400, `{"error":"invalid_request","error_description":"`},
		{"PUT", "/admin/oauth2/auth/requests/login/accept?login_challenge=" + lc, "{}", 400, `{"error":"invalid_request","error_description":"`},
		{"PUT", "/admin/oauth2/auth/requests/login/accept?login_challenge=" + lc, "{", 400, `{"error":"invalid_request","error_description":"`},
		{"PUT", "/admin/oauth2/auth/requests/login/accept?login_challenge=" + lc, `{"subject":"u","remember_for":-1}`, 400, `{"error":"invalid_request","error_description":"`},
		{"PUT", "/admin/oauth2/auth/requests/login/accept?login_challenge=" + lc, `{"subject":"` + strings.Repeat("u", 100<<10) + `"}`, 413, `{"error":"`},

		{"GET", "/admin/oauth2/auth/sessions/consent", "", 400, `{"error":"invalid_request"`},
		{"DELETE", "/admin/oauth2/auth/sessions/consent", "", 400, `{"error":"invalid_request"`},
		{"DELETE", "/admin/oauth2/auth/sessions/consent?subject=u7", "", 400, `{"error":"invalid_request"`},
		{"DELETE", "/admin/oauth2/auth/sessions/login", "", 400, `{"error":"invalid_request"`},
		{"DELETE", "/admin/oauth2/tokens", "", 400, `{"error":"invalid_request"`},

		{"POST", "/admin/keys/myset", `{"alg":"HS256","use":"sig","kid":"k"}`, 400, `{"error":"Bad Request","error_description":"`},
		{"GET", "/admin/keys/nosuchset", "", 404, nowhere},
		{"GET", "/admin/keys/nosuchset/zz", "", 404, gone},
		{"DELETE", "/admin/keys/nosuchset", "", 204, ""},
	} {
		res, body := h.call(c.method, c.path, c.body)
		if body = strings.TrimSuffix(body, "\n"); res.StatusCode != c.status || !strings.HasPrefix(body, c.want) || strings.HasSuffix(c.want, "}") && body != c.want {
			t.Errorf("%s %.80s %.40s: %d %.200s, want %d %s", c.method, c.path, c.body, res.StatusCode, body, c.status, c.want)
		}
		if ct := res.Header.Get("Content-Type"); c.status >= 400 && ct != "application/json" {
			t.Errorf("%s %.80s: %s", c.method, c.path, ct)
		}
	}
}

func TestHydraRoutes(t *testing.T) {
	h := newHydraHouse(t)
	for _, c := range []struct {
		method, path string
		status       int
		want         string
	}{
		{"GET", "/health/alive", 200, `{"status":"ok"}`},
		{"HEAD", "/health/alive", 200, ``},
		{"GET", "/admin/health/ready", 200, `{"status":"ok"}`},
		{"GET", "/version", 200, `{"version":"v1.2.3"}`},
		{"GET", "/metrics/prometheus", 200, "metrics"},
		{"GET", "/admin/metrics/prometheus", 200, "metrics"},
		{"POST", "/oauth2/introspect", 200, "introspected"},
		{"POST", "/admin/oauth2/introspect", 200, "introspected"},
		{"GET", "/admin/oauth2/introspect", 404, "<!doctype html>"},
		{"DELETE", "/admin/clients", 404, "<!doctype html>"},
		{"GET", "/nope", 404, "<!doctype html>"},
		{"GET", "/admin/admin/clients", 404, "<!doctype html>"},
		{"GET", "/", 404, "<!doctype html>"},
		{"OPTIONS", "/admin/clients", 200, ""},
	} {
		res, body := h.call(c.method, c.path, "")
		if body = strings.TrimSpace(body); res.StatusCode != c.status || !strings.HasPrefix(body, c.want) {
			t.Errorf("%s %s: %s %.100s", c.method, c.path, res.Status, body)
		}
	}
	req, _ := http.NewRequest("GET", h.admin.URL+"/nope", nil)
	req.Header.Set("Accept", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var b struct{ Error struct{ Code int } }
	if err := json.NewDecoder(res.Body).Decode(&b); err != nil || b.Error.Code != 404 || res.StatusCode != 404 {
		t.Errorf("unknown route as JSON: %s %v %v", res.Status, b, err)
	}
}

func TestHydraRefusesWebPages(t *testing.T) {
	h := newHydraHouse(t)
	for _, c := range []struct {
		name   string
		change func(*http.Request)
		status int
	}{
		{"curl", func(r *http.Request) {}, 201},
		{"localhost", func(r *http.Request) { r.Host = "localhost:4445" }, 201},
		{"IPv6", func(r *http.Request) { r.Host = "[::1]:4445" }, 201},
		{"rebound name", func(r *http.Request) { r.Host = "evil.example:4445" }, 403},
		{"other origin", func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") }, 403},
		{"cross site", func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, 403},
	} {
		req, err := http.NewRequest("POST", h.admin.URL+"/admin/clients", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		c.change(req)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != c.status {
			t.Errorf("%s: %s, want %d", c.name, res.Status, c.status)
		}
	}
	// Not on loopback, names are the operator's business.
	req := httptest.NewRequest("GET", "http://hydra:4445/version", nil)
	req = req.WithContext(context.WithValue(req.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 4445}))
	if !hydraHost(req) {
		t.Error("host name refused on a network listener")
	}
}

func TestHydraClients(t *testing.T) {
	h := newHydraHouse(t)
	res, body := h.call("POST", "/admin/clients", `{"client_name":"p0","owner":"own","metadata":{"k":"v"}}`)
	var c map[string]any
	if err := json.Unmarshal([]byte(body), &c); err != nil || res.StatusCode != 201 || c["client_secret"] == nil || res.Header.Get("Location") != fmt.Sprint("/admin/clients/", c["client_id"]) {
		t.Fatalf("%s %v %s", res.Status, res.Header, body)
	}
	path := "/admin/clients/" + c["client_id"].(string)
	if got := h.want(200, "GET", path, ""); got["client_secret"] != nil || got["client_name"] != "p0" || got["secret_hash"] != nil {
		t.Errorf("get: %v", got)
	}
	if got := h.want(200, "PUT", path, `{"client_name":"renamed","client_secret":"new-secret-value"}`); got["client_name"] != "renamed" || got["client_secret"] != "new-secret-value" {
		t.Errorf("put: %v", got)
	}
	if got := h.want(200, "PATCH", path, `[{"op":"replace","path":"/client_name","value":"patched"}]`); got["client_name"] != "patched" {
		t.Errorf("patch: %v", got)
	}
	if got := h.want(200, "PUT", path+"/lifespans", `{"client_credentials_grant_access_token_lifespan":"2h"}`); got["client_credentials_grant_access_token_lifespan"] != "2h0m0s" {
		t.Errorf("lifespans: %v", got)
	}
	if got := h.want(200, "POST", path+"/secrets/rotate", ""); got["client_secret"] == nil {
		t.Errorf("rotate: %v", got)
	}
	if got := h.want(200, "DELETE", path+"/secrets/rotate", ""); got["client_secret"] != nil {
		t.Errorf("delete rotated: %v", got)
	}
	if res, _ := h.call("DELETE", path, ""); res.StatusCode != 204 {
		t.Errorf("delete: %s", res.Status)
	}
}

var hydraNext = regexp.MustCompile(`<([^>]+)>; rel="next"`)

func TestHydraPages(t *testing.T) {
	h := newHydraHouse(t)
	for i := range 5 {
		h.want(201, "POST", "/admin/clients", fmt.Sprintf(`{"client_id":"c%d","owner":"own"}`, i))
	}
	h.want(201, "POST", "/admin/clients", `{"client_id":"c9","owner":"other"}`)
	var seen []string
	path := "/clients?page_size=2&owner=own"
	for n := 0; path != "" && n < 10; n++ {
		res, body := h.call("GET", path, "")
		var cs []struct {
			ID string `json:"client_id"`
		}
		if err := json.Unmarshal([]byte(body), &cs); err != nil || res.StatusCode != 200 {
			t.Fatalf("%s %s", res.Status, body)
		}
		for _, c := range cs {
			seen = append(seen, c.ID)
		}
		if !strings.Contains(res.Header.Get("Link"), `rel="first"`) {
			t.Errorf("Link %q", res.Header.Get("Link"))
		}
		path = ""
		if m := hydraNext.FindStringSubmatch(res.Header.Get("Link")); m != nil {
			if path = m[1]; !strings.HasPrefix(path, "/admin/clients?owner=own&page_size=2&page_token=") {
				t.Errorf("next page %s", path)
			}
		}
	}
	if !slices.Equal(seen, []string{"c0", "c1", "c2", "c3", "c4"}) {
		t.Errorf("listed %v", seen)
	}
	res, _ := h.call("GET", "/admin/clients?page_size=1", "")
	m := hydraNext.FindStringSubmatch(res.Header.Get("Link"))
	if m == nil {
		t.Fatal("no next page")
	}
	u, _ := url.Parse(m[1])
	if res, _ := h.call("GET", "/admin/oauth2/auth/sessions/consent?subject=u&page_token="+u.Query().Get("page_token"), ""); res.StatusCode != 400 {
		t.Errorf("token of another list: %s", res.Status)
	}
}

func TestHydraKeys(t *testing.T) {
	h := newHydraHouse(t)
	res, body := h.call("POST", "/admin/keys/myset", `{"alg":"ES256","use":"sig","kid":"k"}`)
	if res.StatusCode != 201 || res.Header.Get("Location") != h.public.URL+"/keys/myset" || !strings.Contains(body, `"kid":"k"`) {
		t.Fatalf("%s %v %s", res.Status, res.Header, body)
	}
	if _, got := h.call("GET", "/keys/myset/k", ""); got != body {
		t.Errorf("key %s, want %s", got, body)
	}
	h.want(200, "PUT", "/admin/keys/other", body)
	h.want(200, "GET", "/admin/keys/other", "")
	if res, _ := h.call("DELETE", "/admin/keys/myset/k", ""); res.StatusCode != 204 {
		t.Errorf("delete: %s", res.Status)
	}
	h.want(404, "GET", "/admin/keys/myset", "")
}

func TestHydraConsentSessions(t *testing.T) {
	h := newHydraHouse(t)
	h.want(201, "POST", "/admin/clients", hydraApp)
	b := h.browser()
	code := h.run(b, "/admin", "u7", "true")
	other := h.run(h.browser(), "/admin", "u7", "true")
	if _, body := h.call("GET", "/admin/oauth2/auth/sessions/consent?subject=nobody", ""); strings.TrimSpace(body) != "[]" {
		t.Errorf("nobody: %s", body)
	}
	res, body := h.call("GET", "/admin/oauth2/auth/sessions/consent?subject=u7&page_size=1", "")
	const want = `[{"consent_request_id":"…","grant_scope":["openid","offline","photos.read"],"grant_access_token_audience":["https://api"],"session":{"access_token":{"foo":"bar"},"id_token":{"email":"u7@x"}},` +
		`"remember":true,"remember_for":3600,"handled_at":"…","context":{"b":2},"consent_request":{"challenge":"","consent_request_id":"…","requested_scope":["openid","offline","photos.read"],` +
		`"requested_access_token_audience":["https://api"],"skip":false,"subject":"u7",`
	if got := strings.Replace(h.shape(body), `"skip":true`, `"skip":false`, 1); !strings.HasPrefix(got, want) || hydraNext.FindString(res.Header.Get("Link")) == "" {
		t.Errorf("list:\n%s\nwant\n%s", got, want)
	}
	count := func() int {
		_, body := h.call("GET", "/admin/oauth2/auth/sessions/consent?subject=u7", "")
		var l []any
		if err := json.NewDecoder(bytes.NewReader([]byte(body))).Decode(&l); err != nil {
			t.Fatal(err)
		}
		return len(l)
	}
	if n := count(); n != 2 {
		t.Errorf("%d sessions, want 2", n)
	}
	if res, _ := h.call("DELETE", "/admin/oauth2/auth/sessions/consent?consent_request_id="+strings.TrimPrefix(code, "ory_ac_"), ""); res.StatusCode != 204 || count() != 1 {
		t.Errorf("delete one: %s, %d left", res.Status, count())
	}
	if res, _ := h.call("DELETE", "/admin/oauth2/auth/sessions/consent?subject=u7&client=app", ""); res.StatusCode != 204 || count() != 0 {
		t.Errorf("delete of a client: %s, %d left", res.Status, count())
	}
	// Nothing is remembered any more, and nothing comes back.
	cc := h.follow(b, h.want(200, "PUT", "/admin/oauth2/auth/requests/login/accept?login_challenge="+
		h.follow(b, h.public.URL+hydraAuth).Query().Get("login_challenge"), `{"subject":"u7"}`)["redirect_to"].(string)).Query().Get("consent_challenge")
	if m := h.want(200, "GET", "/admin/oauth2/auth/requests/consent?consent_challenge="+cc, ""); m["skip"] != false {
		t.Error("consent is still remembered")
	}
	a := oauth.Authorization{ID: strings.TrimPrefix(other, "ory_ac_"), ClientID: "app", Subject: "u7"}
	rec, _ := a.Record()
	if err := h.store.Put(t.Context(), rec); err == nil {
		t.Error("a late write brings a revoked authorization back")
	}
	if res, _ := h.call("DELETE", "/admin/oauth2/auth/sessions/login?subject=u7", ""); res.StatusCode != 204 {
		t.Errorf("delete logins: %s", res.Status)
	}
	if to := h.follow(b, h.public.URL+hydraAuth+"&prompt=none"); to.Query().Get("error") != "login_required" {
		t.Errorf("after the sessions were deleted: %s", to)
	}
	if res, _ := h.call("DELETE", "/admin/oauth2/auth/sessions/login?sid=nope", ""); res.StatusCode != 204 {
		t.Errorf("unknown sid: %s", res.Status)
	}
}

func TestHydraDeleteTokens(t *testing.T) {
	h := newHydraHouse(t)
	if res, _ := h.call("DELETE", "/admin/oauth2/tokens?client_id=app", ""); res.StatusCode != 204 {
		t.Errorf("%s", res.Status)
	}
	rs, err := h.store.Get(t.Context(), oauth.Ref{Kind: oauth.Epochs, Key: oauth.EpochKey("", "app")})
	if err != nil || len(rs) != 1 || time.Since(oauth.EpochTime(rs[0])) > time.Minute {
		t.Errorf("epoch %v %v", rs, err)
	}
}
