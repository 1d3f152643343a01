package clientauth

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
)

// finder is a map of clients.
type finder map[string]*oauth.Client

func (f finder) Client(_ context.Context, id string) (*oauth.Client, error) {
	if c, ok := f[id]; ok {
		return c, nil
	}
	return nil, fault.New(fault.NotFound, "no client")
}

// hasher is a slow hash that takes no time and counts: "$new$x" or "$old$x".
type hasher struct {
	checks atomic.Int64
	err    error
}

func (h *hasher) Hash(_ context.Context, s string) (string, error) { return "$new$" + s, nil }
func (h *hasher) Outdated(phc string) bool                         { return strings.HasPrefix(phc, "$old$") }
func (h *hasher) Verify(_ context.Context, phc, s string) (bool, error) {
	h.checks.Add(1)
	return phc == "$new$"+s || phc == "$old$"+s, h.err
}

type upgrader struct{ calls []string }

func (u *upgrader) UpgradeSecret(_ context.Context, id, old, hash string) error {
	u.calls = append(u.calls, id+" "+old+" "+hash)
	return nil
}

func sum(secret string) string {
	s := sha256.Sum256([]byte(secret))
	return "sha256:" + hex.EncodeToString(s[:])
}

var clients = finder{
	"basic":   {ID: "basic", TokenEndpointAuthMethod: "client_secret_basic", SecretHash: sum("s3cret")},
	"a:b c":   {ID: "a:b c", TokenEndpointAuthMethod: "client_secret_basic", SecretHash: sum("p+q%:")},
	"post":    {ID: "post", TokenEndpointAuthMethod: "client_secret_post", SecretHash: "$new$chosen"},
	"old":     {ID: "old", TokenEndpointAuthMethod: "client_secret_post", SecretHash: "$old$chosen"},
	"rotated": {ID: "rotated", TokenEndpointAuthMethod: "client_secret_post", SecretHash: sum("new"), RotatedSecretHashes: []string{"$new$older", sum("old")}},
	"public":  {ID: "public", TokenEndpointAuthMethod: "none"},
	"broken":  {ID: "broken", TokenEndpointAuthMethod: "client_secret_post"},
}

type request struct {
	header string // Authorization
	form   string
	peer   string
}

func (q request) do(t *testing.T, a *Authenticator) (*oauth.Client, *http.Request, error) {
	t.Helper()
	form, err := url.ParseQuery(q.form)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("POST", "/oauth2/token", nil)
	if q.header != "" {
		r.Header.Set("Authorization", q.header)
	}
	if q.peer != "" {
		r.RemoteAddr = q.peer
	}
	c, err := a.Authenticate(t.Context(), r, form)
	return c, r, err
}

func header(id, secret string) string {
	r := &http.Request{Header: http.Header{}}
	r.SetBasicAuth(id, secret)
	return r.Header.Get("Authorization")
}

func TestAuthenticate(t *testing.T) {
	for _, c := range []struct {
		name   string
		q      request
		client string // "": refused
		code   string
		hint   string
	}{
		{"basic", request{header: header("basic", "s3cret")}, "basic", "", ""},
		{"basic with the id in the body too", request{header: header("basic", "s3cret"), form: "client_id=basic"}, "basic", "", ""},
		{"basic, form-encoded", request{header: header(url.QueryEscape("a:b c"), url.QueryEscape("p+q%:"))}, "a:b c", "", ""},
		{"basic, wrong secret", request{header: header("basic", "s3creT")}, "", "invalid_client", ""},
		{"basic, unknown client", request{header: header("nobody", "s3cret")}, "", "invalid_client", ""},
		{"basic for post", request{header: header("post", "chosen")}, "", "invalid_client", "client_secret_post"},
		{"basic for post, wrong secret: no hint", request{header: header("post", "x")}, "", "invalid_client", ""},
		{"basic and post", request{header: header("basic", "s3cret"), form: "client_id=basic&client_secret=s3cret"}, "", "invalid_request", "more than one"},
		{"basic and another id", request{header: header("basic", "s3cret"), form: "client_id=post"}, "", "invalid_request", "differs"},
		{"broken header", request{header: "Basic !!!"}, "", "invalid_request", "missing"},
		{"post", request{form: "client_id=post&client_secret=chosen"}, "post", "", ""},
		{"post for basic", request{form: "client_id=basic&client_secret=s3cret"}, "", "invalid_client", "client_secret_basic"},
		{"post without id", request{form: "client_secret=chosen"}, "", "invalid_client", ""},
		{"post, rotated: new", request{form: "client_id=rotated&client_secret=new"}, "rotated", "", ""},
		{"post, rotated: old", request{form: "client_id=rotated&client_secret=old"}, "rotated", "", ""},
		{"post, rotated: older", request{form: "client_id=rotated&client_secret=older"}, "rotated", "", ""},
		{"none", request{form: "client_id=public"}, "public", "", ""},
		{"none with an empty secret", request{header: header("public", "")}, "public", "", ""},
		{"none for basic", request{form: "client_id=basic"}, "", "invalid_client", "'none'"},
		{"none, unknown", request{form: "client_id=nobody"}, "", "invalid_client", ""},
		{"secret of a public client", request{form: "client_id=public&client_secret=x"}, "", "invalid_client", "'none'"},
		{"no secret stored", request{form: "client_id=broken&client_secret=x"}, "", "invalid_client", ""},
		{"nothing", request{}, "", "invalid_request", "missing"},
		{"assertion", request{form: "client_id=basic&client_assertion=x"}, "", "invalid_client", "assertions"},
	} {
		a := New(Config{Clients: clients, Hasher: &hasher{}})
		got, _, err := c.q.do(t, a)
		if c.client != "" {
			if err != nil || got.ID != c.client {
				t.Errorf("%s: %v, %v", c.name, got, err)
			}
			continue
		}
		e := oauth.AsError(err)
		if got != nil || err == nil || e.Code != c.code || !strings.Contains(e.Hint, c.hint) || (c.hint == "") != (e.Hint == "") {
			t.Errorf("%s: %v, %v", c.name, got, err)
		}
	}
}

func TestChallengeAnswersInKind(t *testing.T) {
	a := New(Config{Clients: clients, Hasher: &hasher{}})
	for _, c := range []struct {
		q    request
		want bool
	}{
		{request{header: header("basic", "x")}, true},
		{request{form: "client_id=post&client_secret=x"}, false},
	} {
		_, r, err := c.q.do(t, a)
		h := http.Header{}
		Challenge(h, r, err)
		if got := h.Get("WWW-Authenticate") != ""; got != c.want {
			t.Errorf("%+v: %v", c.q, h)
		}
	}
}

func TestChosenSecretsAreCheckedOnce(t *testing.T) {
	h := &hasher{}
	now := time.Unix(1e9, 0)
	a := New(Config{Clients: clients, Hasher: h, Now: func() time.Time { return now }})
	q := request{form: "client_id=post&client_secret=chosen"}
	for range 10 {
		if _, _, err := q.do(t, a); err != nil {
			t.Fatal(err)
		}
	}
	if n := h.checks.Load(); n != 1 {
		t.Errorf("10 requests cost %d checks", n)
	}
	if _, _, err := (request{form: "client_id=post&client_secret=chosem"}).do(t, a); err == nil {
		t.Error("a wrong secret rides on the memory of the right one")
	}
	now = now.Add(verifiedFor)
	q.do(t, a)
	if n := h.checks.Load(); n != 3 {
		t.Errorf("%d checks, want another one after %v", n, verifiedFor)
	}
	changed := finder{"post": {ID: "post", TokenEndpointAuthMethod: "client_secret_post", SecretHash: "$new$changed"}}
	a.cfg.Clients = changed
	if _, _, err := q.do(t, a); err == nil {
		t.Error("a changed secret: the old one still works")
	}
}

func TestOldHashesAreUpgraded(t *testing.T) {
	u := &upgrader{}
	a := New(Config{Clients: clients, Hasher: &hasher{}, Upgrader: u})
	(request{form: "client_id=old&client_secret=wrong"}).do(t, a)
	if len(u.calls) != 0 {
		t.Errorf("upgraded by a wrong secret: %v", u.calls)
	}
	(request{form: "client_id=old&client_secret=chosen"}).do(t, a)
	if len(u.calls) != 1 || u.calls[0] != "old $old$chosen $new$chosen" {
		t.Errorf("%v", u.calls)
	}
}

func TestGuessingIsSlowedDown(t *testing.T) {
	h := &hasher{}
	now := time.Unix(1e9, 0)
	a := New(Config{Clients: clients, Hasher: h, Now: func() time.Time { return now }})
	wrong := request{form: "client_id=post&client_secret=guess", peer: "192.0.2.1:1000"}
	right := request{form: "client_id=post&client_secret=chosen", peer: "192.0.2.1:1001"}
	elsewhere := request{form: "client_id=post&client_secret=chosen", peer: "192.0.2.2:1000"}
	for range maxFailures {
		if _, _, err := wrong.do(t, a); oauth.AsError(err).Status != 401 {
			t.Fatal(err)
		}
	}
	before := h.checks.Load()
	if _, r, err := wrong.do(t, a); oauth.AsError(err).Status != 429 {
		t.Errorf("%v, want 429", err)
	} else if hd := (http.Header{}); true {
		if Challenge(hd, r, err); hd.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}
	if _, _, err := right.do(t, a); oauth.AsError(err).Status != 429 {
		t.Errorf("a guess that hits passes: %v", err)
	}
	if h.checks.Load() != before {
		t.Error("a refused guess cost a check")
	}
	if _, _, err := elsewhere.do(t, a); err != nil {
		t.Errorf("the client itself, from elsewhere: %v", err)
	}
	if _, _, err := right.do(t, a); err != nil {
		t.Errorf("a remembered secret: %v", err)
	}
	now = now.Add(failureTime)
	if _, _, err := wrong.do(t, a); oauth.AsError(err).Status != 401 {
		t.Errorf("after a while: %v", err)
	}
	for i := range maxFailures + 1 {
		_, _, err := request{form: "client_id=nobody" + strings.Repeat("x", i) + "&client_secret=x", peer: "192.0.2.3:1"}.do(t, a)
		if want := map[bool]int{true: 401, false: 429}[i < maxFailures]; oauth.AsError(err).Status != want {
			t.Errorf("unknown client %d: %v, want %d", i, err, want)
		}
	}
}

func TestFullHasherIsNoRefusal(t *testing.T) {
	a := New(Config{Clients: clients, Hasher: &hasher{err: fault.New(fault.Unavailable, "busy")}})
	_, _, err := request{form: "client_id=post&client_secret=chosen"}.do(t, a)
	if e := oauth.AsError(err); e.Code != "temporarily_unavailable" || e.Status != 503 {
		t.Errorf("%v", err)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	a := New(Config{Clients: clients, Hasher: &hasher{}})
	now := time.Unix(1e9, 0)
	for i := range maxBuckets + 10 {
		a.failures.add(strings.Repeat("x", i%64)+string(rune(i)), now)
		a.verified.add(a.mac(string(rune(i))), now)
	}
	if len(a.failures.buckets) > maxBuckets || len(a.verified.until) > maxVerified {
		t.Errorf("%d buckets, %d checks", len(a.failures.buckets), len(a.verified.until))
	}
}

func TestParallel(t *testing.T) {
	a := New(Config{Clients: clients, Hasher: &hasher{}})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 50 {
				q := request{form: "client_id=post&client_secret=chosen"}
				if i%2 == 0 {
					q.form = "client_id=nobody&client_secret=x"
				}
				q.do(t, a)
			}
		})
	}
	wg.Wait()
}

func BenchmarkGeneratedSecret(b *testing.B) {
	a := New(Config{Clients: clients, Hasher: &hasher{}})
	r := httptest.NewRequest("POST", "/", nil)
	r.SetBasicAuth("basic", "s3cret")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Authenticate(b.Context(), r, nil); err != nil {
			b.Fatal(err)
		}
	}
}
