package interaction

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"context"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
	"gatehouse/oauth/session"
	"gatehouse/store/memory"
)

var at = time.Date(2026, 11, 23, 7, 25, 26, 0, time.UTC)

type oneClient oauth.Client

func (c *oneClient) Client(_ context.Context, id string) (*oauth.Client, error) {
	if id != c.ID {
		return nil, fault.New(fault.NotFound, "no such client")
	}
	return (*oauth.Client)(c), nil
}

var client = &oauth.Client{ID: "43f52814-04d1-424d-9f5f-1ea442ba4b21", RedirectURIs: []string{"http://a.example/", "http://127.0.0.1/cb", "app:/cb"}}

func newDesk(t testing.TB, secrets ...string) *Desk {
	t.Helper()
	set := &oauth.Settings{Issuer: "http://op.example", TTLInteraction: 30 * time.Minute, TTLSession: time.Hour, TTLCode: time.Minute, Now: func() time.Time { return at }}
	for _, s := range secrets {
		set.Secrets = append(set.Secrets, []byte(s))
	}
	store := memory.NewRecords(set.Now)
	keeper, err := session.New(set, store)
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(set, store, (*oneClient)(client), keeper)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

const secret, secret2 = "a-secret-of-enough-length", "another-secret-of-enough-length"

func flows() map[string]*flow {
	base := Request{ClientID: client.ID, RedirectURI: "http://a.example/", ResponseMode: "query", Scopes: []string{"openid", "offline", "photos.read"}, State: "0123456789abcdef"}
	with := func(f func(*Request)) *flow {
		q := base
		f(&q)
		return newFlow(&q, client, at, 30*time.Minute)
	}
	full := with(func(q *Request) {
		q.Audience = []string{"https://api"}
		q.Nonce, q.CodeChallenge, q.CodeChallengeMethod = "n", "m67ujaBrEoL_ZPaaKxw0eC7a2YCLlMefl5DQzfbXITs", "S256"
		q.Prompt, q.HasMaxAge, q.MaxAge = []string{"login", "consent"}, true, time.Hour
		q.ACRValues, q.UILocales, q.Display, q.LoginHint, q.IDTokenHint = []string{"a"}, []string{"de", "fr"}, "page", "x@y", "e30.e30.s"
		q.ResponseMode = "form_post"
	})
	full.session, full.subject, full.skip = full.freshSID(), "u7", true
	full.tag = tagOf("x")
	done := *full
	done.login = &loggedIn{subject: "u7", session: "not-a-uuid", authTime: at.Local(), acr: "1", amr: []string{"pwd"}, context: json.RawMessage(`{"a":1}`)}
	done.consent = &oauth.Answer{
		Scopes: []string{"openid", "photos.read"}, Audience: []string{"https://api"}, Remember: true, RememberFor: time.Hour,
		IDTokenClaims: map[string]any{"email": "x@y"}, AccessTokenClaims: map[string]any{"n": 1.0}, Context: json.RawMessage(`[]`), HandledAt: at,
	}
	answered := *full
	answered.answer = &oauth.Answer{Subject: "u7", ACR: "2", AMR: []string{"otp"}, Remember: true, ExtendSession: true, IDPSessionID: "idp", HandledAt: at}
	rejected := *full
	rejected.reject = &oauth.Error{Code: "access_denied", Description: "no", Hint: "never"}
	return map[string]*flow{
		"small":    with(func(*Request) {}),
		"loopback": with(func(q *Request) { q.RedirectURI = "http://127.0.0.1:9010/cb" }),
		"omitted":  with(func(q *Request) { q.RedirectURI, q.RedirectOmitted = "app:/cb", true }),
		"plain":    with(func(q *Request) { q.CodeChallenge, q.CodeChallengeMethod = strings.Repeat("x", 43), "plain" }),
		"none":     with(func(q *Request) { q.Scopes = nil; q.Prompt = []string{"none"}; q.ResponseMode = "fragment" }),
		"full":     full, "answered": &answered, "done": &done, "rejected": &rejected,
	}
}

func TestFlowRoundTrip(t *testing.T) {
	for name, f := range flows() {
		b, err := f.encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeFlow(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got.request.RedirectURI, _ = got.ref.resolve(client)
		got.ref, got.client = redirectRef{}, f.client
		got.started, got.expires = got.started.UTC(), got.expires.UTC()
		if !reflect.DeepEqual(got, f) {
			t.Errorf("%s:\n got %+v %+v %+v\nwant %+v %+v %+v", name, got, got.login, got.consent, f, f.login, f.consent)
		}
		for n := range b { // every cut is noticed
			if _, err := decodeFlow(b[:n]); err == nil {
				t.Errorf("%s: %d of %d bytes decode", name, n, len(b))
			}
		}
		if _, err := decodeFlow(append(slices.Clone(b), 0)); err == nil {
			t.Errorf("%s: a byte too many decodes", name)
		}
	}
}

func FuzzDecodeFlow(f *testing.F) {
	for _, fl := range flows() {
		b, err := fl.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fl, err := decodeFlow(b)
		if err != nil {
			return
		}
		uri, ok := fl.ref.resolve(client)
		if !ok {
			return
		}
		fl.request.RedirectURI, fl.client = uri, client
		again, err := fl.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeFlow(again); err != nil {
			t.Fatalf("what was decoded does not decode again: %v", err)
		}
	})
}

func FuzzDecodeLogout(f *testing.F) {
	d := newDesk(f, secret)
	f.Add(d.newLogout(session.LogoutRequest{SessionID: "s", Subject: "u", ClientID: client.ID, RedirectURI: "http://a/", State: "x", RPInitiated: true}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := decodeLogout(b)
		if err != nil {
			return
		}
		if _, err := decodeLogout(l.encode()); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzOpen changes a challenge anywhere, or sends something else.
func FuzzOpen(f *testing.F) {
	d := newDesk(f, secret)
	s, err := d.seal(context.Background(), loginChallenge, flows()["full"])
	if err != nil {
		f.Fatal(err)
	}
	box, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("", []byte{0, 0, 1})
	f.Add("garbage", []byte{})
	f.Fuzz(func(t *testing.T, other string, mask []byte) {
		changed := slices.Clone(box)
		for i, m := range mask {
			changed[i%len(changed)] ^= m
		}
		for _, in := range []string{other, base64.RawURLEncoding.EncodeToString(changed)} {
			for _, k := range []oauth.ChallengeKind{oauth.AskLogin, oauth.AskConsent, oauth.AskLogout} {
				_, err := d.Open(t.Context(), k, in)
				if same := in == s && k == oauth.AskLogin; same != (err == nil) {
					t.Fatalf("%q as %s: %v", in, k, err)
				}
			}
		}
	})
}

func TestSealedSizes(t *testing.T) {
	d := newDesk(t, secret)
	for name, f := range flows() {
		s, err := d.seal(t.Context(), consentVerifier, f)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d characters", name, len(s))
		if len(s) > 600 {
			t.Errorf("%s: %d characters", name, len(s))
		}
	}
	// At the border between sealed and stored.
	for n := maxInline - 300; n < maxInline+50; n++ {
		f := newFlow(&Request{ClientID: client.ID, RedirectURI: "http://a.example/", ResponseMode: "query", State: strings.Repeat("s", n)}, client, at, time.Minute)
		s, err := d.seal(t.Context(), loginVerifier, f)
		if err != nil || len(s) > maxSealed {
			t.Fatalf("state of %d: %d characters (%v)", n, len(s), err)
		}
		got, _, err := d.open(t.Context(), loginVerifier, s, nil)
		if err != nil || got.request.State != f.request.State {
			t.Fatalf("state of %d: %v", n, err)
		}
	}
}

func TestSecretRotation(t *testing.T) {
	old := newDesk(t, secret)
	s, err := old.seal(t.Context(), loginChallenge, flows()["full"])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newDesk(t, secret2, secret).Open(t.Context(), oauth.AskLogin, s); err != nil {
		t.Errorf("after a rotation: %v", err)
	}
	if _, err := newDesk(t, secret2).Open(t.Context(), oauth.AskLogin, s); fault.KindOf(err) != fault.NotFound {
		t.Errorf("with another secret: %v", err)
	}
}

func TestRedirectMoved(t *testing.T) {
	f := flows()["small"]
	b, err := f.encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeFlow(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		uris []string
		ok   bool
	}{
		{[]string{"http://a.example/"}, true},
		{[]string{"http://b.example/", "http://a.example/"}, true},
		{[]string{"http://b.example/"}, false},
		{nil, false},
	} {
		if uri, ok := got.ref.resolve(&oauth.Client{RedirectURIs: c.uris}); ok != c.ok || ok && uri != "http://a.example/" {
			t.Errorf("%v: %q %v", c.uris, uri, ok)
		}
	}
}

func TestMatchRedirect(t *testing.T) {
	for _, c := range []struct {
		registered, requested string
		want                  bool
	}{
		{"https://a/cb", "https://a/cb", true},
		{"https://a/cb", "https://a/cb?x", false},
		{"https://a/cb?x", "https://a/cb?x", true},
		{"http://127.0.0.1/cb", "http://127.0.0.1:1/cb", true},
		{"http://127.0.0.1:9/cb", "http://127.0.0.1:65535/cb", true},
		{"http://[::1]/cb", "http://[::1]:80/cb", true},
		{"http://127.0.0.1/cb", "http://[::1]:80/cb", false},
		{"http://127.0.0.1/cb", "http://127.0.0.1:1/cb/", false},
		{"http://127.0.0.1/cb", "http://127.0.0.1:1/cb?x=1", false},
		{"http://127.0.0.1/cb", "http://127.0.0.1:1/cb#f", false},
		{"http://127.0.0.1/cb", "http://127.0.0.1:1@evil/cb", false},
		{"http://127.0.0.1/cb", "http://x@127.0.0.1:1/cb", false},
		{"http://127.0.0.1/cb", "http://127.0.0.1:1/%63b", false},
		{"http://127.0.0.1/cb", "HTTP://127.0.0.1:1/cb", false},
		{"http://127.0.0.1/cb", "http://127.0.0.1:x/cb", false},
		{"http://127.0.0.1/cb", "http://127.0.0.2:1/cb", false},
		{"http://localhost/cb", "http://localhost:1/cb", false},
		{"http://localhost:1/cb", "http://localhost:1/cb", true},
		{"https://127.0.0.1/cb", "https://127.0.0.1:1/cb", false},
		{"app:/cb", "app:/cb", true},
		{"/cb", "/cb", false},
		{"javascript:alert(1)", "javascript:alert(1)", false},
		{"JavaScript:alert(1)", "JavaScript:alert(1)", false},
		{"data:text/html,x", "data:text/html,x", false},
		{"https://u:p@a/cb", "https://u:p@a/cb", false},
		{"https://a/cb#f", "https://a/cb#f", false},
		{"https:///cb", "https:///cb", false},
		{`https://a\@b/`, `https://a\@b/`, false},
		{"https://a/\ncb", "https://a/\ncb", false},
		{"", "", false},
	} {
		if got := MatchRedirect(c.registered, c.requested); got != c.want {
			t.Errorf("%q for %q: %v", c.requested, c.registered, got)
		}
	}
}

func FuzzMatchRedirect(f *testing.F) {
	f.Add("http://127.0.0.1:1/cb")
	f.Add("http://127.0.0.1:1@evil/cb")
	f.Fuzz(func(t *testing.T, s string) {
		if !MatchRedirect("http://127.0.0.1/cb", s) {
			return
		}
		rest, ok := strings.CutPrefix(s, "http://127.0.0.1")
		port, path := strings.TrimSuffix(rest, "/cb"), strings.HasSuffix(rest, "/cb")
		if !ok || !path || port != "" && strings.Trim(port, "0123456789") != ":" {
			t.Fatalf("%q matches", s)
		}
	})
}

func TestBindingsAreBounded(t *testing.T) {
	d := newDesk(t, secret)
	jar := map[string]string{}
	var order []string
	for i := range 40 {
		r := httptest.NewRequest("GET", "/oauth2/auth", nil)
		for _, name := range order {
			r.AddCookie(&http.Cookie{Name: name, Value: jar[name]})
		}
		w := httptest.NewRecorder()
		d.bind(w, r, stepLogin, strings.Repeat("c", i+1))
		for _, c := range w.Result().Cookies() {
			if c.MaxAge < 0 {
				delete(jar, c.Name)
				order = slices.DeleteFunc(order, func(n string) bool { return n == c.Name })
				continue
			}
			jar[c.Name] = c.Value
			order = append(order, c.Name)
		}
		if len(jar) > maxBindings {
			t.Fatalf("%d cookies", len(jar))
		}
	}
	r := httptest.NewRequest("GET", "/oauth2/auth", nil)
	r.AddCookie(&http.Cookie{Name: d.bindingName(stepLogin, "x"), Value: "chosen by somebody else"})
	w := httptest.NewRecorder()
	d.bind(w, r, stepLogin, "x")
	if c := w.Result().Cookies(); len(c) != 1 || !validBinding(c[0].Value) {
		t.Errorf("malformed cookie is kept: %v", c)
	}
}

func TestSpentCarriesTheWayBack(t *testing.T) {
	var err error = &oauth.SpentError{RedirectTo: "x"}
	var s *oauth.SpentError
	if fault.KindOf(err) != fault.Spent || !errors.As(err, &s) {
		t.Error("a spent challenge is not fault.Spent")
	}
}

func BenchmarkOpen(b *testing.B) {
	d := newDesk(b, secret)
	s, err := d.seal(b.Context(), loginChallenge, flows()["full"])
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := d.Open(b.Context(), oauth.AskLogin, s); err != nil {
			b.Fatal(err)
		}
	}
}
