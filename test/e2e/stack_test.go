package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"gatehouse/test/fixtures"
)

const (
	testUser     = "ann@example.com"
	testPassword = "correct horse battery staple"
)

// stack is all of gatehouse on free ports, over plain HTTP.
type stack struct {
	t                                           *testing.T
	data, config                                string
	gateway, admin, provider, hydraAdmin, login string
	env                                         []string
	*process
}

// newStack writes a configuration; dsn may be empty.
func newStack(t *testing.T, dsn string) *stack {
	t.Helper()
	p := freePorts(t, 7)
	at := func(i int) string { return fmt.Sprintf("http://127.0.0.1:%d", p[i]) }
	s := &stack{t: t, data: t.TempDir(), gateway: at(0), admin: at(1), provider: at(2), hydraAdmin: at(3), login: at(4)}
	s.config = filepath.Join(t.TempDir(), "gatehouse.yaml")
	text := fmt.Sprintf(`
gateway:
  apisix: {node_listen: ["127.0.0.1:%d"], ssl: {listen: ["127.0.0.1:%d"]}}
  deployment: {admin: {admin_listen: "127.0.0.1:%d"}}
  plugin_attr: {prometheus: {export_addr: "127.0.0.1:%d"}}
provider:
  dev: true
  dsn: %q
  secrets: {system: [a-secret-for-tests-only]}
  serve: {public: {host: 127.0.0.1, port: %d}, admin: {port: %d}}
  urls: {self: {issuer: %q}, login: %q, consent: %q, logout: %q, error: %q}
login: {port: %d}
`, p[0], p[5], p[1], p[6], dsn, p[2], p[3], s.provider+"/", s.login+"/login", s.login+"/consent", s.login+"/logout", s.login+"/error", p[4])
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.env = []string{"GATEHOUSE_DATA=" + s.data}
	if dsn != "" {
		shell(t, append(s.env, "DSN="+dsn), `hydra migrate sql --yes $DSN`)
	}
	return s
}

// startAll runs all of it in one process and adds the test user.
func startAll(t *testing.T, dsn string) *stack {
	t.Helper()
	s := newStack(t, dsn)
	s.process = s.serve("all")
	s.addUser()
	return s
}

func (s *stack) serve(part string) *process {
	s.t.Helper()
	p := start(s.t, s.env, "gatehouse", "serve", part, "-c", s.config)
	if part == "all" || part == "provider" {
		p.wait("provider", answers(http.DefaultClient, s.provider+"/health/ready"))
	}
	if part == "all" || part == "login" {
		p.wait("login app", answers(http.DefaultClient, s.login+"/health/ready"))
	}
	if part == "all" || part == "gateway" {
		p.wait("gateway", answers(http.DefaultClient, s.gateway+"/"))
		p.wait("Admin API", answers(http.DefaultClient, s.admin+"/apisix/admin/routes"))
	}
	return p
}

func (s *stack) addUser() {
	s.t.Helper()
	shell(s.t, s.env, "echo '"+testPassword+"' | gatehouse users add -c "+s.config+" "+testUser+" --name Ann --password-stdin")
}

// backends are the databases of the provider, each fresh.
func backends(t *testing.T, test func(t *testing.T, s *stack)) {
	t.Run("sqlite", func(t *testing.T) { test(t, startAll(t, "")) })
	t.Run("postgres", func(t *testing.T) { test(t, startAll(t, fixtures.Postgres(t))) })
}

// client registers a client at the provider.
func (s *stack) client(body string) {
	s.t.Helper()
	status, out := send(s.t, http.MethodPost, s.hydraAdmin+"/admin/clients", "", body)
	if status != http.StatusCreated {
		s.t.Fatalf("creating the client: %d %s", status, out)
	}
}

// put writes a resource of the gateway.
func (s *stack) put(path, body string) {
	s.t.Helper()
	status, out := send(s.t, http.MethodPut, s.admin+"/apisix/admin/"+path, readFile(s.t, filepath.Join(s.data, "admin.key")), body)
	if status != http.StatusOK && status != http.StatusCreated {
		s.t.Fatalf("PUT %s: %d %s", path, status, out)
	}
}

func send(t *testing.T, method, url, key, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set("X-API-KEY", key)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	out, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(out)
}

// agent is a browser without a screen: cookies, redirects and forms.
type agent struct {
	t *testing.T
	*http.Client
}

// newAgent follows no redirect to an URL with the prefix stopAt, unless empty.
func newAgent(t *testing.T, stopAt string) *agent {
	jar, _ := cookiejar.New(nil)
	return &agent{t, &http.Client{Jar: jar, Timeout: 20 * time.Second, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if stopAt != "" && strings.HasPrefix(req.URL.String(), stopAt) {
			return http.ErrUseLastResponse
		}
		if len(via) > 15 {
			return fmt.Errorf("too many redirects, at %s", req.URL)
		}
		return nil
	}}}
}

// page is where a request ended: a page, or a redirect that is not followed.
type page struct {
	status   int
	url      *url.URL
	location *url.URL // set when the redirect was not followed
	body     string
	header   http.Header
}

func (a *agent) read(res *http.Response, err error) *page {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	p := &page{status: res.StatusCode, url: res.Request.URL, body: string(b), header: res.Header}
	if l := res.Header.Get("Location"); l != "" {
		p.location, _ = res.Request.URL.Parse(l)
	}
	return p
}

func (a *agent) open(u string) *page { a.t.Helper(); return a.read(a.Get(u)) }

var (
	inputTag = regexp.MustCompile(`<(?:input|button)\b[^>]*>`)
	formTag  = regexp.MustCompile(`<form\b[^>]*>`)
	attrs    = regexp.MustCompile(`([a-z_-]+)="([^"]*)"`)
)

func attributes(tag string) map[string]string {
	out := map[string]string{}
	for _, m := range attrs.FindAllStringSubmatch(tag, -1) {
		out[m[1]] = html.UnescapeString(m[2])
	}
	return out
}

// submit sends the first form of a page with what is in it and what is given;
// of the buttons, the one with the id is pressed.
func (a *agent) submit(p *page, button string, given url.Values) *page {
	a.t.Helper()
	form := url.Values{}
	for _, tag := range inputTag.FindAllString(p.body, -1) {
		at := attributes(tag)
		switch {
		case at["name"] == "":
		case strings.HasPrefix(tag, "<button"), at["type"] == "submit":
			if at["id"] == button {
				form.Add(at["name"], at["value"])
			}
		case at["type"] == "checkbox":
			if strings.Contains(tag, "checked") {
				form.Add(at["name"], at["value"])
			}
		default:
			form.Add(at["name"], at["value"])
		}
	}
	for k, v := range given {
		form[k] = v
	}
	action, err := p.url.Parse(attributes(formTag.FindString(p.body))["action"])
	if err != nil {
		a.t.Fatal(err)
	}
	return a.read(a.PostForm(action.String(), form))
}

// walk goes from an authorization request to the client's redirect URI,
// signing in and allowing access where asked.
func (a *agent) walk(authURL string) *page {
	a.t.Helper()
	p := a.open(authURL)
	for range 4 {
		switch {
		case p.location != nil:
			return p
		case strings.Contains(p.body, `id="email"`):
			p = a.submit(p, "submit", url.Values{"email": {testUser}, "password": {testPassword}})
		case strings.Contains(p.body, `id="accept"`):
			p = a.submit(p, "accept", nil)
		default:
			a.t.Fatalf("walked into %s (%d): %s", p.url, p.status, p.body)
		}
	}
	a.t.Fatalf("walked in circles, at %s (%d): %s", p.url, p.status, p.body)
	return nil
}

func parse[T any](t *testing.T, raw string) T {
	t.Helper()
	var v T
	d := json.NewDecoder(bytes.NewReader([]byte(raw)))
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%v in %s", err, raw)
	}
	return v
}
