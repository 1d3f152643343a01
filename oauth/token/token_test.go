package token_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/lib/phc"
	"gatehouse/oauth"
	"gatehouse/oauth/clientauth"
	"gatehouse/oauth/clients"
	"gatehouse/oauth/endpoint"
	"gatehouse/oauth/keys"
	"gatehouse/oauth/mint"
	"gatehouse/oauth/token"
	"gatehouse/store/embedded"
	"gatehouse/store/memory"
	"gatehouse/store/postgres"
	"gatehouse/test/fixtures"
)

func TestMain(m *testing.M) { os.Exit(fixtures.Main(m)) }

// counting counts statements and can be made to fail.
type counting struct {
	oauth.Store
	reads, writes atomic.Int64
	broken        atomic.Bool
}

var errBroken = fault.New(fault.Unavailable, "the database is away: secret detail")

func (c *counting) Get(ctx context.Context, refs ...oauth.Ref) ([]oauth.Record, error) {
	c.reads.Add(1)
	if c.broken.Load() {
		return nil, errBroken
	}
	return c.Store.Get(ctx, refs...)
}

func (c *counting) Put(ctx context.Context, rs ...oauth.Record) error {
	c.writes.Add(1)
	if c.broken.Load() {
		return errBroken
	}
	return c.Store.Put(ctx, rs...)
}

type provider struct {
	t        testing.TB
	settings *oauth.Settings
	store    *counting
	mint     *mint.Mint
	clients  *clients.Registry
	token    *token.Endpoint
	living   *token.Living
	short    *endpoint.Endpoints
	info     *endpoint.Introspector
	clock    atomic.Int64
	flows    atomic.Int64
	secrets  map[string]string
}

func (p *provider) now() time.Time       { return time.Unix(0, p.clock.Load()).UTC() }
func (p *provider) pass(d time.Duration) { p.clock.Add(int64(d)) }

func start(t testing.TB, change func(*oauth.Settings)) *provider {
	t.Helper()
	return startOn(t, func(now func() time.Time) oauth.Store { return memory.NewRecords(now) }, change)
}

func startOn(t testing.TB, open func(now func() time.Time) oauth.Store, change func(*oauth.Settings)) *provider {
	t.Helper()
	p := &provider{t: t, secrets: map[string]string{"nobody": "x"}}
	p.clock.Store(time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC).UnixNano())
	p.settings = &oauth.Settings{
		Issuer: "http://127.0.0.1:4444", Secrets: [][]byte{[]byte("a-system-secret-of-32-bytes-long")},
		TTLInteraction: 30 * time.Minute, TTLAccessToken: time.Hour, TTLRefreshToken: 720 * time.Hour, TTLIDToken: time.Hour, TTLCode: 10 * time.Minute,
		SigningAlg: "ES256", Log: slog.New(slog.DiscardHandler), Now: p.now,
	}
	if change != nil {
		change(p.settings)
	}
	p.store = &counting{Store: open(p.now)}
	ring, err := keys.Open(context.Background(), keys.Config{Store: p.store, Secrets: p.settings.Secrets, Alg: p.settings.SigningAlg, Now: p.now})
	if err != nil {
		t.Fatal(err)
	}
	if p.mint, err = mint.New(p.settings, ring); err != nil {
		t.Fatal(err)
	}
	hasher := phc.New(2, 64)
	p.clients = clients.New(clients.Config{Store: p.store, Hasher: hasher, SigningAlgs: keys.Algs(), Now: p.now})
	auth := clientauth.New(clientauth.Config{Clients: p.clients, Hasher: hasher, Upgrader: p.clients, Now: p.now})
	p.living = token.NewLiving(p.store, p.settings)
	p.token = &token.Endpoint{Settings: p.settings, Store: p.store, Living: p.living, Auth: auth, Mint: p.mint}
	p.info = endpoint.NewIntrospector(p.settings, p.mint, p.living, p.clients)
	p.short = endpoint.New(endpoint.Config{
		Settings: p.settings, Store: p.store, Clients: p.clients, Auth: auth, Mint: p.mint, Keys: ring, Introspector: p.info,
	})
	all := []string{"authorization_code", "refresh_token", "client_credentials"}
	for _, c := range []*oauth.Client{
		{ID: "app", GrantTypes: all, Scope: "openid offline offline_access photos.*", Audience: []string{"https://api/v1"}},
		{ID: "other", GrantTypes: all, Scope: "openid offline photos.*"},
		{ID: "codeonly", Scope: "openid offline"},
		{ID: "spa", TokenEndpointAuthMethod: "none", GrantTypes: all, Scope: "openid offline"},
	} {
		c.RedirectURIs = []string{"http://127.0.0.1:9999/callback"}
		if c.TokenEndpointAuthMethod != "none" {
			c.TokenEndpointAuthMethod = "client_secret_post"
		}
		if _, p.secrets[c.ID], err = p.clients.Create(context.Background(), c, ""); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

const verifier = "aaaaaaaaaaaaaaaaaaaaverifier-0123456789-0123456789"

func challenge() string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// consent stores what a user granted, as the browser's side does, and returns
// the code.
func (p *provider) consent(client string, change func(*oauth.Authorization)) (code, id string) {
	p.t.Helper()
	a := &oauth.Authorization{
		ID: fmt.Sprintf("%032x", p.flows.Add(1)), ClientID: client, Subject: "foo@bar.com", SessionID: "sid-1",
		Scopes: []string{"openid", "offline", "photos.read"}, RedirectURI: "http://127.0.0.1:9999/callback",
		CodeChallenge: challenge(), CodeChallengeMethod: "S256", Nonce: "nonce-1", AuthTime: p.now(), RequestedAt: p.now(),
		AccessTokenClaims: map[string]any{"role": "x"}, IDTokenClaims: map[string]any{"name": "Foo"},
		Expires: p.now().Add(11 * time.Minute),
	}
	if change != nil {
		change(a)
	}
	rec, err := a.Record()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.store.Put(context.Background(), rec); err != nil {
		p.t.Fatal(err)
	}
	if code, err = p.mint.Code(a); err != nil {
		p.t.Fatal(err)
	}
	return code, a.ID
}

type reply struct {
	status int
	header http.Header
	body   string
	Access string `json:"access_token"`
	ID     string `json:"id_token"`
	Next   string `json:"refresh_token"`
	Scope  string `json:"scope"`
	In     int    `json:"expires_in"`
	Type   string `json:"token_type"`
	Error  string `json:"error"`
	Text   string `json:"error_description"`
}

// post sends a form: name, value, name, value; client "" authenticates none.
func (p *provider) post(client string, form ...string) reply {
	v := url.Values{}
	for i := 0; i < len(form); i += 2 {
		v.Add(form[i], form[i+1])
	}
	if client != "" {
		v.Set("client_id", client)
		if client != "spa" && !v.Has("client_secret") {
			v.Set("client_secret", p.secrets[client])
		}
	}
	r := httptest.NewRequest("POST", "/oauth2/token", strings.NewReader(v.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	p.token.ServeHTTP(w, r)
	out := reply{status: w.Code, header: w.Header(), body: w.Body.String()}
	json.Unmarshal(w.Body.Bytes(), &out)
	return out
}

func (p *provider) redeem(client, code string, more ...string) reply {
	return p.post(client, append([]string{
		"grant_type", "authorization_code", "code", code, "redirect_uri", "http://127.0.0.1:9999/callback", "code_verifier", verifier,
	}, more...)...)
}

func (p *provider) refresh(client, raw string, more ...string) reply {
	return p.post(client, append([]string{"grant_type", "refresh_token", "refresh_token", raw}, more...)...)
}

func (p *provider) active(raw string) bool {
	p.t.Helper()
	ok, _, err := p.info.Introspect(context.Background(), raw)
	if err != nil {
		p.t.Fatal(err)
	}
	return ok
}

func TestCodeIsExchanged(t *testing.T) {
	p := start(t, nil)
	code, _ := p.consent("app", nil)
	p.pass(time.Minute)
	p.store.reads.Store(0)
	p.store.writes.Store(0)
	got := p.redeem("app", code)
	if got.status != 200 || got.Scope != "openid offline photos.read" || got.In != 3600 || got.Type != "bearer" || got.ID == "" ||
		!strings.HasPrefix(got.Access, "ory_at_") || !strings.HasPrefix(got.Next, "ory_rt_") {
		t.Fatalf("%+v", got)
	}
	for name, want := range map[string]string{"Cache-Control": "no-store", "Pragma": "no-cache", "Content-Type": "application/json;charset=UTF-8"} {
		if h := got.header.Get(name); h != want {
			t.Errorf("%s: %q", name, h)
		}
	}
	if n := p.store.writes.Load(); n != 1 {
		t.Errorf("%d writes, want 1", n)
	}
	ok, info, err := p.info.Introspect(t.Context(), got.Access)
	if !ok || err != nil || info.Scope != got.Scope || info.Subject != "foo@bar.com" || info.ClientID != "app" || info.Ext["role"] != "x" || info.Expires != p.now().Unix()+3600 {
		t.Errorf("%+v, %v", info, err)
	}
	if !p.active(got.Next) || p.active(got.ID) || p.active(code) {
		t.Error("introspection of the refresh token, ID token or code")
	}
	claims, err := p.mint.VerifyIDTokenHint(t.Context(), got.ID)
	if err != nil || claims["sub"] != "foo@bar.com" || claims["nonce"] != "nonce-1" || claims["sid"] != "sid-1" || claims["name"] != "Foo" {
		t.Errorf("%v, %v", claims, err)
	}
}

// A code belongs to who can prove it all; whoever cannot does not spoil it.
func TestMismatchDoesNotBurnTheCode(t *testing.T) {
	p := start(t, nil)
	code, _ := p.consent("app", nil)
	for name, got := range map[string]reply{
		"wrong redirect":    p.redeem("app", code, "redirect_uri", "x"), // repeated
		"another redirect":  p.post("app", "grant_type", "authorization_code", "code", code, "redirect_uri", "http://127.0.0.1:9999/evil", "code_verifier", verifier),
		"no redirect":       p.post("app", "grant_type", "authorization_code", "code", code, "code_verifier", verifier),
		"another client":    p.redeem("other", code),
		"no verifier":       p.post("app", "grant_type", "authorization_code", "code", code, "redirect_uri", "http://127.0.0.1:9999/callback"),
		"wrong verifier":    p.post("app", "grant_type", "authorization_code", "code", code, "redirect_uri", "http://127.0.0.1:9999/callback", "code_verifier", verifier+"x"),
		"short verifier":    p.post("app", "grant_type", "authorization_code", "code", code, "redirect_uri", "http://127.0.0.1:9999/callback", "code_verifier", "x"),
		"changed code":      p.redeem("app", code[:len(code)-2]+"AA"),
		"public client":     p.redeem("spa", code),
		"wrong secret":      p.redeem("app", code, "client_secret", "wrong"),
		"missing code":      p.post("app", "grant_type", "authorization_code"),
		"no authentication": p.redeem("", code),
	} {
		if got.status == 200 || got.Error == "" || got.Access != "" {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := p.redeem("app", code); got.status != 200 {
		t.Errorf("then the right one: %+v", got)
	}
}

func TestPKCE(t *testing.T) {
	for _, c := range []struct {
		name, method, challenge, verifier, client string
		ok                                        bool
	}{
		{"S256", "S256", challenge(), verifier, "app", true},
		{"plain", "plain", verifier, verifier, "app", true},
		{"none", "", "", "", "app", true},
		{"plain is not S256", "S256", verifier, verifier, "app", false},
		{"verifier without challenge", "", "", verifier, "app", false},
		{"public client without", "", "", "", "spa", false},
		{"public client", "S256", challenge(), verifier, "spa", true},
		{"unknown method", "S512", challenge(), verifier, "app", false},
	} {
		p := start(t, nil)
		code, _ := p.consent(c.client, func(a *oauth.Authorization) { a.CodeChallenge, a.CodeChallengeMethod = c.challenge, c.method })
		got := p.post(c.client, "grant_type", "authorization_code", "code", code, "redirect_uri", "http://127.0.0.1:9999/callback", "code_verifier", c.verifier)
		if (got.status == 200) != c.ok || (!c.ok && got.Error != "invalid_grant") {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

func TestReplayedCodeEndsTheAuthorization(t *testing.T) {
	p := start(t, nil)
	code, _ := p.consent("app", nil)
	first := p.redeem("app", code)
	if again := p.redeem("app", code); again.status != 400 || again.Error != "invalid_grant" {
		t.Errorf("%+v", again)
	}
	if p.active(first.Access) || p.active(first.Next) {
		t.Error("tokens of a replayed code live on")
	}
	if next := p.refresh("app", first.Next); next.Error != "invalid_grant" {
		t.Errorf("%+v", next)
	}
}

func TestExpiredCode(t *testing.T) {
	p := start(t, nil)
	code, _ := p.consent("app", nil)
	p.pass(10 * time.Minute)
	if got := p.redeem("app", code); got.Error != "invalid_grant" {
		t.Errorf("%+v", got)
	}
}

func TestOfflineAccessMustBeGranted(t *testing.T) {
	p := start(t, nil)
	code, _ := p.consent("app", func(a *oauth.Authorization) { a.Scopes = []string{"photos.read"} })
	if got := p.redeem("app", code); got.status != 200 || got.Next != "" || got.ID != "" {
		t.Errorf("%+v", got)
	}
	code, _ = p.consent("codeonly", func(a *oauth.Authorization) { a.Scopes = []string{"openid", "offline"} })
	if got := p.redeem("codeonly", code); got.status != 200 || got.Next != "" || got.ID == "" {
		t.Errorf("client without the grant: %+v", got)
	}
}

func TestRefresh(t *testing.T) {
	p := start(t, nil)
	code, id := p.consent("app", nil)
	first := p.redeem("app", code)
	p.pass(time.Minute)
	p.store.writes.Store(0)
	second := p.refresh("app", first.Next)
	if second.status != 200 || second.Scope != first.Scope || second.Next == first.Next || second.ID == "" {
		t.Fatalf("%+v", second)
	}
	if n := p.store.writes.Load(); n != 1 {
		t.Errorf("%d writes, want 1", n)
	}
	if p.active(first.Access) || p.active(first.Next) || !p.active(second.Access) || !p.active(second.Next) {
		t.Error("old tokens live on, or new ones do not")
	}
	claims, _ := p.mint.VerifyIDTokenHint(t.Context(), second.ID)
	if claims["nonce"] != "nonce-1" || claims["sid"] != "sid-1" {
		t.Errorf("%v", claims)
	}
	if got := p.refresh("other", second.Next); got.Error != "invalid_grant" || !p.active(second.Access) {
		t.Errorf("another client: %+v", got)
	}
	third := p.refresh("app", second.Next, "scope", "photos.read")
	if third.status != 200 || third.Scope != "photos.read" || third.ID != "" {
		t.Errorf("narrowed: %+v", third)
	}
	if _, info, _ := p.info.Introspect(t.Context(), third.Access); info == nil || info.Scope != "photos.read" {
		t.Errorf("narrowed token: %+v", info)
	}
	for _, wide := range []string{"openid admin", "photos.write"} {
		if got := p.refresh("app", third.Next, "scope", wide); got.Error != "invalid_scope" || got.status != 400 {
			t.Errorf("widened to %q: %+v", wide, got)
		}
	}
	fourth := p.refresh("app", third.Next)
	if fourth.Scope != first.Scope {
		t.Errorf("the next refresh has the original scope again: %+v", fourth)
	}
	if used := p.refresh("app", first.Next); used.Error != "invalid_grant" || !strings.Contains(used.Text, "already used") {
		t.Errorf("reuse: %+v", used)
	}
	if p.active(fourth.Access) || p.active(fourth.Next) {
		t.Error("after a reuse the newest tokens live on")
	}
	if recs, _ := p.store.Get(t.Context(), oauth.Ref{Kind: oauth.Authorizations, Key: id}); len(recs) != 0 {
		t.Error("after a reuse the authorization is still there")
	}
}

func TestRefreshTokenExpires(t *testing.T) {
	p := start(t, nil)
	code, _ := p.consent("app", nil)
	got := p.redeem("app", code)
	p.pass(720*time.Hour - time.Second)
	if !p.active(got.Next) {
		t.Error("expired early")
	}
	got = p.refresh("app", got.Next)
	if got.status != 200 {
		t.Fatalf("%+v", got)
	}
	p.pass(720 * time.Hour)
	if p.active(got.Next) {
		t.Error("active after its time")
	}
	if late := p.refresh("app", got.Next); late.Error != "invalid_grant" {
		t.Errorf("%+v", late)
	}

	p = start(t, func(s *oauth.Settings) { s.TTLRefreshToken = -1 })
	code, _ = p.consent("app", nil)
	got = p.redeem("app", code)
	p.pass(10 * 365 * 24 * time.Hour)
	if got = p.refresh("app", got.Next); got.status != 200 {
		t.Errorf("one that never expires: %+v", got)
	}
}

func TestLifespansOfTheClient(t *testing.T) {
	p := start(t, nil)
	if _, err := p.clients.SetLifespans(t.Context(), "app", oauth.Lifespans{
		CodeAccess: 31 * time.Second, CodeRefresh: 10 * time.Second, ClientCredentialsAccess: 2 * time.Hour, RefreshAccess: 5 * time.Second,
	}); err != nil {
		t.Fatal(err)
	}
	code, _ := p.consent("app", nil)
	got := p.redeem("app", code)
	if got.In != 31 {
		t.Errorf("%+v", got)
	}
	p.pass(9 * time.Second)
	next := p.refresh("app", got.Next)
	if next.In != 5 {
		t.Errorf("%+v", next)
	}
	if cc := p.post("app", "grant_type", "client_credentials"); cc.In != 7200 {
		t.Errorf("%+v", cc)
	}
}

func TestGracePeriodHandsOutTheSameSuccessor(t *testing.T) {
	p := start(t, func(s *oauth.Settings) { s.RefreshGrace = 10 * time.Second })
	code, _ := p.consent("app", nil)
	first := p.redeem("app", code)
	p.pass(time.Minute)
	second := p.refresh("app", first.Next)
	p.pass(9 * time.Second)
	retry := p.refresh("app", first.Next)
	if retry.status != 200 || retry.Next != second.Next || retry.Access == second.Access || !p.active(retry.Access) || !p.active(second.Access) {
		t.Errorf("%+v, want the successor %s", retry, second.Next)
	}
	third := p.refresh("app", second.Next)
	if old := p.refresh("app", first.Next); old.Error != "invalid_grant" || p.active(third.Access) {
		t.Errorf("the token before the previous one: %+v", old)
	}

	code, _ = p.consent("app", nil)
	first = p.redeem("app", code)
	second = p.refresh("app", first.Next)
	p.pass(10 * time.Second)
	if late := p.refresh("app", first.Next); late.Error != "invalid_grant" || p.active(second.Next) {
		t.Errorf("after the grace period: %+v", late)
	}
}

// race sends one request 16 times at once and returns the winners.
func race(send func() reply) (winners []reply, losers []reply) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	gate := make(chan struct{})
	for range 16 {
		wg.Go(func() {
			<-gate
			got := send()
			mu.Lock()
			defer mu.Unlock()
			if got.status == 200 {
				winners = append(winners, got)
			} else {
				losers = append(losers, got)
			}
		})
	}
	close(gate)
	wg.Wait()
	return winners, losers
}

func TestOneWinner(t *testing.T) {
	t.Run("memory", func(t *testing.T) { oneWinner(t, start(t, nil)) })
	t.Run("embedded", func(t *testing.T) {
		oneWinner(t, startOn(t, func(now func() time.Time) oauth.Store {
			s, err := embedded.OpenRecords(t.Context(), t.TempDir(), now)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			return s
		}, nil))
	})
}

func TestOneWinnerOnPostgres(t *testing.T) {
	dsn := fixtures.Postgres(t)
	if err := postgres.Migrate(t.Context(), dsn, func(string) {}); err != nil {
		t.Fatal(err)
	}
	oneWinner(t, startOn(t, func(now func() time.Time) oauth.Store {
		s, err := postgres.OpenRecords(t.Context(), dsn, now)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}, nil))
}

func oneWinner(t *testing.T, p *provider) {
	check := func(name string, winners, losers []reply) {
		t.Helper()
		if len(winners) != 1 {
			t.Fatalf("%s: %d winners", name, len(winners))
		}
		for _, l := range losers {
			if l.status != 400 || l.Error != "invalid_grant" {
				t.Errorf("%s: loser got %+v", name, l)
			}
		}
		if p.active(winners[0].Access) || p.active(winners[0].Next) {
			t.Errorf("%s: a replay was noticed, yet tokens live on", name)
		}
	}
	for range 100 {
		code, _ := p.consent("app", nil)
		w, l := race(func() reply { return p.redeem("app", code) })
		check("code", w, l)
		code, _ = p.consent("app", nil)
		first := p.redeem("app", code)
		w, l = race(func() reply { return p.refresh("app", first.Next) })
		check("refresh", w, l)
	}
}

func TestParallelRefreshInGracePeriod(t *testing.T) {
	p := start(t, func(s *oauth.Settings) { s.RefreshGrace = 10 * time.Second })
	code, _ := p.consent("app", nil)
	first := p.redeem("app", code)
	winners, losers := race(func() reply { return p.refresh("app", first.Next) })
	if len(losers) != 0 {
		t.Fatalf("losers: %+v", losers)
	}
	for _, w := range winners {
		if w.Next != winners[0].Next || !p.active(w.Access) {
			t.Errorf("%+v", w)
		}
	}
}

func TestClientCredentials(t *testing.T) {
	p := start(t, nil)
	got := p.post("app", "grant_type", "client_credentials", "scope", "photos.read photos.read", "audience", "https://api/v1", "audience", "https://api/v1/x")
	if got.status != 200 || got.Scope != "photos.read" || got.ID != "" || got.Next != "" {
		t.Fatalf("%+v", got)
	}
	p.store.reads.Store(0)
	p.store.writes.Store(0)
	for range 10 {
		p.post("app", "grant_type", "client_credentials")
	}
	if r, w := p.store.reads.Load(), p.store.writes.Load(); r+w != 0 {
		t.Errorf("a cached client costs %d reads, %d writes", r, w)
	}
	ok, info, _ := p.info.Introspect(t.Context(), got.Access)
	if !ok || info.Subject != "app" || info.ClientID != "app" || !reflect.DeepEqual(info.Audience, []string{"https://api/v1", "https://api/v1/x"}) || info.Authorization != nil {
		t.Errorf("%+v", info)
	}
	if n := p.store.reads.Load(); n != 1 {
		t.Errorf("introspection costs %d reads", n)
	}
	if plain := p.post("app", "grant_type", "client_credentials"); !strings.Contains(plain.body, `"scope":""`) {
		t.Errorf("%s", plain.body)
	}
	if err := p.clients.Delete(t.Context(), "app"); err != nil {
		t.Fatal(err)
	}
	if p.active(got.Access) {
		t.Error("a deleted client's token is active")
	}
}

func TestChosenSecret(t *testing.T) {
	p := start(t, nil)
	p.secrets["tutorial"] = "some-secret"
	in := &oauth.Client{ID: "tutorial", GrantTypes: []string{"client_credentials"}, TokenEndpointAuthMethod: "client_secret_post"}
	if _, _, err := p.clients.Create(t.Context(), in, "some-secret"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := p.post("tutorial", "grant_type", "client_credentials"); got.status != 200 {
			t.Errorf("%+v", got)
		}
	}
	if got := p.post("tutorial", "grant_type", "client_credentials", "client_secret", "some-secreT"); got.status != 401 {
		t.Errorf("%+v", got)
	}
}

func TestErrors(t *testing.T) {
	p := start(t, nil)
	for _, c := range []struct {
		name   string
		got    reply
		status int
		code   string
	}{
		{"no grant type", p.post("app"), 400, "invalid_request"},
		{"unknown grant", p.post("app", "grant_type", "foo"), 400, "unsupported_grant_type"},
		{"password", p.post("app", "grant_type", "password", "username", "a", "password", "b"), 400, "unsupported_grant_type"},
		{"grant not registered", p.post("codeonly", "grant_type", "client_credentials"), 400, "unauthorized_client"},
		{"unknown scope", p.post("app", "grant_type", "client_credentials", "scope", "nope"), 400, "invalid_scope"},
		{"unknown audience", p.post("app", "grant_type", "client_credentials", "audience", "https://other"), 400, "invalid_request"},
		{"audience beside", p.post("app", "grant_type", "client_credentials", "audience", "https://api/v1x"), 400, "invalid_request"},
		{"audience above", p.post("app", "grant_type", "client_credentials", "audience", "https://api/v1/../v2"), 400, "invalid_request"},
		{"wrong secret", p.post("app", "grant_type", "client_credentials", "client_secret", "bad"), 401, "invalid_client"},
		{"unknown client", p.post("nobody", "grant_type", "client_credentials"), 401, "invalid_client"},
		{"no client", p.post("", "grant_type", "client_credentials"), 400, "invalid_request"},
		{"public client", p.post("spa", "grant_type", "client_credentials"), 400, "invalid_grant"},
		{"repeated parameter", p.post("app", "grant_type", "client_credentials", "grant_type", "client_credentials"), 400, "invalid_request"},
		{"no refresh token", p.post("app", "grant_type", "refresh_token"), 400, "invalid_request"},
		{"forged refresh token", p.refresh("app", "ory_rt_AAAA"), 400, "invalid_grant"},
	} {
		if c.got.status != c.status || c.got.Error != c.code || c.got.Text == "" || c.got.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %+v", c.name, c.got)
		}
		if strings.HasSuffix(c.got.body, "\n") {
			t.Errorf("%s: a newline at the end", c.name)
		}
	}
	w := httptest.NewRecorder()
	p.token.ServeHTTP(w, httptest.NewRequest("GET", "/oauth2/token?grant_type=client_credentials", nil))
	if w.Code != 405 || w.Header().Get("Allow") != "POST" {
		t.Errorf("GET: %d", w.Code)
	}
}

func TestStoreAwayIsNoRefusal(t *testing.T) {
	p := start(t, nil)
	code, _ := p.consent("app", nil)
	p.post("app", "grant_type", "client_credentials") // the client is cached
	p.store.broken.Store(true)
	got := p.redeem("app", code)
	if got.status != 503 || got.Error != "temporarily_unavailable" || got.header.Get("Retry-After") == "" || strings.Contains(got.body, "secret detail") {
		t.Errorf("%+v", got)
	}
	p.store.broken.Store(false)
	if got := p.redeem("app", code); got.status != 200 {
		t.Errorf("and then: %+v", got)
	}
}

func TestEpochsEndWhatCameBefore(t *testing.T) {
	for name, e := range map[string][2]string{"client": {"", "app"}, "subject": {"foo@bar.com", ""}, "both": {"foo@bar.com", "app"}} {
		p := start(t, nil)
		code, _ := p.consent("app", nil)
		got := p.redeem("app", code)
		late, _ := p.consent("app", nil)
		p.pass(time.Second)
		if err := p.store.Put(t.Context(), oauth.Epoch(e[0], e[1], p.now(), time.Time{})); err != nil {
			t.Fatal(err)
		}
		if p.active(got.Access) || p.active(got.Next) {
			t.Errorf("%s: tokens live on", name)
		}
		if next := p.refresh("app", got.Next); next.Error != "invalid_grant" {
			t.Errorf("%s: %+v", name, next)
		}
		if next := p.redeem("app", late); next.Error != "invalid_grant" {
			t.Errorf("%s: a code of before: %+v", name, next)
		}
		code, _ = p.consent("app", nil)
		if got = p.redeem("app", code); got.status != 200 || !p.active(got.Access) || !p.active(got.Next) {
			t.Errorf("%s: what comes after is dead too: %+v", name, got)
		}
	}
}

func TestJWTAccessTokens(t *testing.T) {
	p := start(t, func(s *oauth.Settings) { s.JWTAccessTokens = true })
	code, _ := p.consent("app", nil)
	got := p.redeem("app", code)
	if strings.Count(got.Access, ".") != 2 || !p.active(got.Access) {
		t.Fatalf("%+v", got)
	}
	next := p.refresh("app", got.Next)
	if p.active(got.Access) || !p.active(next.Access) {
		t.Error("a refresh does not end the signed token of before")
	}
	cc := p.post("app", "grant_type", "client_credentials", "scope", "photos.read")
	if strings.Count(cc.Access, ".") != 2 || !p.active(cc.Access) {
		t.Errorf("%+v", cc)
	}
}

func TestRevokedFamilyStaysDead(t *testing.T) {
	p := start(t, nil)
	code, id := p.consent("app", nil)
	got := p.redeem("app", code)
	if err := p.living.Revoke(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	a := &oauth.Authorization{ID: id, ClientID: "app", Subject: "foo@bar.com", Expires: p.now().Add(time.Hour)}
	rec, _ := a.Record()
	if err := p.store.Put(t.Context(), rec); fault.KindOf(err) != fault.Denied {
		t.Errorf("a late write: %v, want Denied", err)
	}
	if p.active(got.Access) {
		t.Error("active")
	}
}

func BenchmarkClientCredentials(b *testing.B) {
	p := start(b, nil)
	body := "grant_type=client_credentials&scope=photos.read&client_id=app&client_secret=" + p.secrets["app"]
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequest("POST", "/oauth2/token", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		p.token.ServeHTTP(w, r)
		if w.Code != 200 {
			b.Fatal(w.Body)
		}
	}
}

func BenchmarkIntrospect(b *testing.B) {
	p := start(b, nil)
	code, _ := p.consent("app", nil)
	got := p.redeem("app", code)
	b.ReportAllocs()
	for b.Loop() {
		if ok, _, _ := p.info.Introspect(b.Context(), got.Access); !ok {
			b.Fatal("inactive")
		}
	}
}
