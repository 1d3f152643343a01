package clients

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
	"gatehouse/store/memory"
)

type plainHasher struct{}

func (plainHasher) Hash(_ context.Context, s string) (string, error) { return "$plain$" + s, nil }

type clock struct{ t atomic.Int64 }

func (c *clock) now() time.Time      { return time.Unix(0, c.t.Load()).UTC() }
func (c *clock) add(d time.Duration) { c.t.Add(int64(d)) }

func registry(s oauth.Store, c *clock) *Registry {
	return New(Config{Store: s, Hasher: plainHasher{}, SigningAlgs: []string{"RS256", "ES256"}, Now: c.now})
}

// counting counts reads and hides that the store tells of changes.
type counting struct {
	oauth.Store
	gets atomic.Int64
}

func (c *counting) Get(ctx context.Context, refs ...oauth.Ref) ([]oauth.Record, error) {
	c.gets.Add(1)
	return c.Store.Get(ctx, refs...)
}

func start() (*clock, *memory.Records) {
	c := &clock{}
	c.add(time.Duration(time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC).UnixNano()))
	return c, memory.NewRecords(c.now)
}

func mustParse(t *testing.T, doc string) (*oauth.Client, string) {
	t.Helper()
	c, secret, err := oauth.ParseClient([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	return c, secret
}

func TestCreate(t *testing.T) {
	ck, s := start()
	r := registry(s, ck)
	ctx := t.Context()
	c, secret, err := r.Create(ctx, &oauth.Client{}, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(c.ID) != 36 || len(secret) != 32 || !strings.HasPrefix(c.SecretHash, "sha256:") || c.Scope != "offline_access offline openid" ||
		c.TokenEndpointAuthMethod != "client_secret_basic" || c.SubjectType != "public" || c.UserinfoSignedResponseAlg != "none" || !c.CreatedAt.Equal(ck.now()) {
		t.Errorf("minimal client is %+v, secret %q", c, secret)
	}
	found, err := r.Client(ctx, c.ID)
	if err != nil || !reflect.DeepEqual(found, c) {
		t.Errorf("found %+v, %v, want %+v", found, err, c)
	}
	fixed, chosen, err := r.Create(ctx, &oauth.Client{ID: "my-fixed-id"}, "some-secret")
	if err != nil || chosen != "some-secret" || fixed.SecretHash != "$plain$some-secret" {
		t.Errorf("%+v, %q, %v", fixed, chosen, err)
	}
	if _, _, err := r.Create(ctx, &oauth.Client{ID: "my-fixed-id"}, ""); fault.KindOf(err) != fault.Conflict {
		t.Errorf("same id: %v, want Conflict", err)
	}
	public, none, err := r.Create(ctx, &oauth.Client{TokenEndpointAuthMethod: "none"}, "")
	if err != nil || none != "" || public.SecretHash != "" {
		t.Errorf("public client: %+v, %q, %v", public, none, err)
	}
}

func TestCreateRefuses(t *testing.T) {
	ck, s := start()
	r := registry(s, ck)
	for _, c := range []struct{ doc, code string }{
		{`{"client_secret":"123"}`, "invalid_client_metadata"},
		{`{"client_secret":"123456","token_endpoint_auth_method":"none"}`, "invalid_client_metadata"},
		{`{"client_id":"a b"}`, "invalid_client_metadata"},
		{`{"redirect_uris":["http://x/#a"]}`, "invalid_redirect_uri"},
		{`{"redirect_uris":["/x"]}`, "invalid_redirect_uri"},
		{`{"redirect_uris":["javascript:alert(1)"]}`, "invalid_redirect_uri"},
		{`{"redirect_uris":["JavaScript:alert(1)"]}`, "invalid_redirect_uri"},
		{`{"redirect_uris":["data:text/html,x"]}`, "invalid_redirect_uri"},
		{`{"redirect_uris":["http:///x"]}`, "invalid_redirect_uri"},
		{`{"redirect_uris":["https://*.example.com/"]}`, "invalid_redirect_uri"},
		{`{"redirect_uris":["https://a\\@b/"]}`, "invalid_redirect_uri"},
		{`{"redirect_uris":["https://u:p@b/"]}`, "invalid_redirect_uri"},
		{`{"redirect_uris":[""]}`, "invalid_redirect_uri"},
		{`{"token_endpoint_auth_method":"zz"}`, "invalid_client_metadata"},
		{`{"token_endpoint_auth_method":"private_key_jwt"}`, "invalid_client_metadata"},
		{`{"subject_type":"zz"}`, "invalid_client_metadata"},
		{`{"grant_types":["zz"]}`, "invalid_client_metadata"},
		{`{"response_types":["zz"]}`, "invalid_client_metadata"},
		{`{"response_types":[""]}`, "invalid_client_metadata"},
		{`{"redirect_uris":["http://a/"],"post_logout_redirect_uris":["http://b/"]}`, "invalid_client_metadata"},
		{`{"userinfo_signed_response_alg":"HS256"}`, "invalid_client_metadata"},
		{`{"id_token_signed_response_alg":"none"}`, "invalid_client_metadata"},
		{`{"access_token_strategy":"zz"}`, "invalid_client_metadata"},
		{`{"allowed_cors_origins":["nonsense"]}`, "invalid_client_metadata"},
		{`{"allowed_cors_origins":["https://a/path"]}`, "invalid_client_metadata"},
		{`{"jwks_uri":"http://x/","jwks":{"keys":[]}}`, "invalid_client_metadata"},
		{`{"jwks":{"keys":[{"kty":"oct","k":"AAAA"}]}}`, "invalid_client_metadata"},
		{`{"jwks_uri":"ftp://x/"}`, "invalid_client_metadata"},
		{`{"policy_uri":"javascript:x"}`, "invalid_client_metadata"},
		{`{"scope":"a\"b"}`, "invalid_client_metadata"},
		{`{"audience":["a b"]}`, "invalid_client_metadata"},
	} {
		in, secret := mustParse(t, c.doc)
		_, _, err := r.Create(t.Context(), in, secret)
		var e *oauth.Error
		if !errors.As(err, &e) || e.Code != c.code {
			t.Errorf("%s: %v, want %s", c.doc, err, c.code)
		}
	}
	for _, doc := range []string{
		`{"redirect_uris":["http://127.0.0.1:9010/callback","com.example.app:/cb","https://a/b?c=d"],
		  "grant_types":["authorization_code","refresh_token","client_credentials","implicit"],
		  "response_types":["token","code","id_token","code id_token token"],"unknown":1}`,
		`{"redirect_uris":["http://a/cb"],"post_logout_redirect_uris":["http://a/out"],"allowed_cors_origins":["https://a:8443"]}`,
	} {
		in, secret := mustParse(t, doc)
		if _, _, err := r.Create(t.Context(), in, secret); err != nil {
			t.Errorf("%s: %v", doc, err)
		}
	}
}

func TestReplaceKeepsTheSecret(t *testing.T) {
	ck, s := start()
	r := registry(s, ck)
	ctx := t.Context()
	c, _, _ := r.Create(ctx, &oauth.Client{ID: "a", Owner: "own"}, "some-secret")
	n, secret, err := r.Replace(ctx, "a", &oauth.Client{ID: "other", Name: "renamed"}, "")
	if err != nil || secret != "" || n.ID != "a" || n.Name != "renamed" || n.Owner != "" || n.SecretHash != c.SecretHash || !n.CreatedAt.Equal(c.CreatedAt) {
		t.Errorf("%+v, %q, %v", n, secret, err)
	}
	n, secret, err = r.Replace(ctx, "a", n, "new-secret-value")
	if err != nil || secret != "new-secret-value" || n.SecretHash != "$plain$new-secret-value" {
		t.Errorf("%+v, %q, %v", n, secret, err)
	}
	n, _, _ = r.Replace(ctx, "a", &oauth.Client{TokenEndpointAuthMethod: "none"}, "")
	if n.SecretHash != "" {
		t.Error("a client that became public keeps its secret")
	}
	n, secret, _ = r.Replace(ctx, "a", &oauth.Client{}, "")
	if n.SecretHash == "" || secret == "" {
		t.Error("a client that became confidential has no secret")
	}
	if _, _, err := r.Replace(ctx, "nope", &oauth.Client{}, ""); fault.KindOf(err) != fault.NotFound {
		t.Errorf("missing: %v", err)
	}
}

func TestRotation(t *testing.T) {
	ck, s := start()
	r := registry(s, ck)
	ctx := t.Context()
	c, _, _ := r.Create(ctx, &oauth.Client{ID: "a"}, "")
	n, secret, err := r.RotateSecret(ctx, "a")
	if err != nil || secret == "" || n.SecretHash != hashGenerated(secret) || !reflect.DeepEqual(n.RotatedSecretHashes, []string{c.SecretHash}) {
		t.Errorf("%+v, %v", n, err)
	}
	for range 10 {
		n, _, _ = r.RotateSecret(ctx, "a")
	}
	if len(n.RotatedSecretHashes) != maxRotated {
		t.Errorf("%d old secrets work", len(n.RotatedSecretHashes))
	}
	if n, err = r.DeleteRotated(ctx, "a"); err != nil || len(n.RotatedSecretHashes) != 0 {
		t.Errorf("%+v, %v", n, err)
	}
	if err := r.UpgradeSecret(ctx, "a", n.SecretHash, "$new"); err != nil {
		t.Error(err)
	}
	if err := r.UpgradeSecret(ctx, "a", "stale", "$wrong"); err != nil {
		t.Error(err)
	}
	if n, _ = r.Client(ctx, "a"); n.SecretHash != "$new" {
		t.Errorf("hash is %q", n.SecretHash)
	}
	r.Create(ctx, &oauth.Client{ID: "p", TokenEndpointAuthMethod: "none"}, "")
	if _, _, err := r.RotateSecret(ctx, "p"); fault.KindOf(err) != fault.Invalid {
		t.Errorf("public: %v, want Invalid", err)
	}
}

func TestDeleteEndsWhatWasGranted(t *testing.T) {
	ck, s := start()
	r := registry(s, ck)
	ctx := t.Context()
	r.Create(ctx, &oauth.Client{ID: "a"}, "")
	a := oauth.Authorization{ID: "f", ClientID: "a", Subject: "u"}
	rec, _ := a.Record()
	if err := s.Put(ctx, rec); err != nil {
		t.Fatal(err)
	}
	if err := r.Delete(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	left, _ := s.Get(ctx, oauth.Ref{Kind: oauth.Authorizations, Key: "f"}, oauth.Ref{Kind: oauth.Epochs, Key: oauth.EpochKey("", "a")})
	if len(left) != 1 || left[0].Kind != oauth.Epochs || !oauth.EpochTime(left[0]).Equal(ck.now()) {
		t.Errorf("left is %+v", left)
	}
	if _, err := r.Client(ctx, "a"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("deleted client: %v", err)
	}
	if err := r.Delete(ctx, "a"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("second time: %v", err)
	}
}

func TestListPages(t *testing.T) {
	ck, s := start()
	r := registry(s, ck)
	ctx := t.Context()
	for _, id := range []string{"c", "a", "e", "b", "d"} {
		owner := ""
		if id > "b" {
			owner = "own"
		}
		r.Create(ctx, &oauth.Client{ID: id, Name: "n" + id, Owner: owner}, "")
	}
	walk := func(limit int, name, owner string) (ids string) {
		for after := ""; ; {
			cs, next, err := r.List(ctx, after, limit, name, owner)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range cs {
				ids += c.ID
			}
			ids += "|"
			if next == "" {
				return ids
			}
			after = next
		}
	}
	for _, c := range []struct {
		limit             int
		name, owner, want string
	}{
		{2, "", "", "ab|cd|e|"}, {0, "", "", "abcde|"}, {5, "", "", "abcde|"}, {2, "", "own", "cd|e|"}, {9, "nb", "", "b|"}, {9, "zz", "", "|"},
	} {
		if got := walk(c.limit, c.name, c.owner); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

func TestCacheIsAtMostASecondBehind(t *testing.T) {
	ck, s := start()
	store := &counting{Store: s}
	a, b := registry(store, ck), registry(s, ck)
	ctx := t.Context()
	b.Create(ctx, &oauth.Client{ID: "a", Name: "old"}, "")
	for range 10 {
		a.Client(ctx, "a")
	}
	if n := store.gets.Load(); n != 1 {
		t.Errorf("10 lookups read the store %d times", n)
	}
	b.Replace(ctx, "a", &oauth.Client{Name: "new"}, "")
	ck.add(maxAge)
	if c, _ := a.Client(ctx, "a"); c.Name != "new" {
		t.Error("stale after a second")
	}
	if _, err := a.Client(ctx, "zz"); fault.KindOf(err) != fault.NotFound {
		t.Error(err)
	}
	if _, err := a.Client(ctx, "zz"); fault.KindOf(err) != fault.NotFound || store.gets.Load() != 3 {
		t.Errorf("a missing client is read again: %d reads", store.gets.Load())
	}
}

func TestParallelChangesAreNotLost(t *testing.T) {
	ck, s := start()
	r := registry(s, ck)
	ctx := t.Context()
	r.Create(ctx, &oauth.Client{ID: "a"}, "")
	var wg sync.WaitGroup
	var done atomic.Int64
	for range 4 {
		wg.Go(func() {
			if _, err := r.SetLifespans(ctx, "a", oauth.Lifespans{CodeAccess: time.Hour}); err == nil {
				done.Add(1)
			}
			r.Client(ctx, "a")
		})
	}
	wg.Wait()
	if c, _ := r.Client(ctx, "a"); c.Generation != 1+done.Load() {
		t.Errorf("%d changes, generation %d", done.Load(), c.Generation)
	}
}

func TestPatch(t *testing.T) {
	ck, s := start()
	r := registry(s, ck)
	ctx := t.Context()
	c, _, _ := r.Create(ctx, &oauth.Client{ID: "a", RedirectURIs: []string{"http://127.0.0.1:9999/callback"}, Metadata: json.RawMessage(`{"a/b":{"~c":1}}`)}, "")
	n, secret, err := r.Patch(ctx, "a", []byte(`[
		{"op":"replace","path":"/client_name","value":"patched"},
		{"op":"add","path":"/redirect_uris/-","value":"http://127.0.0.1/x"},
		{"op":"test","path":"/metadata/a~1b/~0c","value":1},
		{"op":"copy","from":"/metadata/a~1b","path":"/metadata/copy"},
		{"op":"move","from":"/metadata/copy","path":"/metadata/moved"},
		{"op":"remove","path":"/metadata/a~1b"},
		{"op":"add","path":"/audience/0","value":"https://api"}]`))
	if err != nil {
		t.Fatal(err)
	}
	if n.Name != "patched" || len(n.RedirectURIs) != 2 || string(n.Metadata) != `{"moved":{"~c":1}}` || n.Audience[0] != "https://api" || secret != "" || n.SecretHash != c.SecretHash {
		t.Errorf("patched is %+v", n)
	}
	for _, p := range []struct {
		doc  string
		kind fault.Kind
	}{
		{`[{"op":"replace","path":"/client_id","value":"zz"}]`, fault.NotFound},
		{`[{"op":"move","from":"/client_id","path":"/owner"}]`, fault.NotFound},
		{`{`, fault.Invalid}, {`{}`, fault.Invalid}, {`[{}]`, fault.Invalid},
		{`[{"op":"zz","path":"/owner"}]`, fault.Invalid},
		{`[{"op":"add","path":"/owner"}]`, fault.Invalid},
		{`[{"op":"add","path":"","value":{}}]`, fault.Invalid},
		{`[{"op":"add","path":"owner","value":1}]`, fault.Invalid},
		{`[{"op":"replace","path":"/owner","value":1}]`, fault.Invalid},
		{`[{"op":"remove","path":"/zz"}]`, fault.Invalid},
		{`[{"op":"remove","path":"/redirect_uris/7"}]`, fault.Invalid},
		{`[{"op":"add","path":"/redirect_uris/00","value":"x"}]`, fault.Invalid},
		{`[{"op":"test","path":"/owner","value":"x"}]`, fault.Invalid},
		{`[{"op":"move","from":"/metadata","path":"/metadata/in"}]`, fault.Invalid},
		{`[` + strings.Repeat(`{"op":"remove","path":"/zz"},`, maxOps) + `{"op":"remove","path":"/zz"}]`, fault.Invalid},
		{`[{"op":"add","path":"/metadata/x","value":"` + strings.Repeat("x", 1000) + `"}` +
			doublings(20) + `]`, fault.Invalid},
	} {
		if _, _, err := r.Patch(ctx, "a", []byte(p.doc)); fault.KindOf(err) != p.kind {
			t.Errorf("%.80s: %v, want kind %d", p.doc, err, p.kind)
		}
	}
	if again, _ := r.Client(ctx, "a"); again.Generation != n.Generation {
		t.Error("a refused patch changed the client")
	}
}

// doublings are operations that each double the metadata.
func doublings(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,{"op":"copy","from":"/metadata","path":"/metadata/y%d"}`, i)
	}
	return b.String()
}

func FuzzPatch(f *testing.F) {
	f.Add([]byte(`[{"op":"add","path":"/a/-","value":1},{"op":"copy","from":"/a","path":"/b"}]`))
	f.Add([]byte(`[{"op":"move","from":"/a/0","path":"/c"},{"op":"test","path":"/c","value":null}]`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		p, err := parsePatch(doc)
		if err != nil {
			return
		}
		out, err := p.apply([]byte(`{"a":[1,2,{"x":null}],"b":{"c":"d"}}`))
		if err == nil && !json.Valid(out) {
			t.Fatalf("%s", out)
		}
	})
}

// flaky is a store whose watches the test begins and ends.
type flaky struct {
	oauth.Store
	watches chan func(key string) // one for every call of Watch
	fail    chan error            // ends it
}

func (f *flaky) Watch(ctx context.Context, _ oauth.RecordKind, changed func(key string)) error {
	select {
	case f.watches <- changed:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-f.fail:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestWatchIsUpOnceItBegan: a watch counts from its first call on, and a
// failed one is told to the log, counts no longer and is tried again.
func TestWatchIsUpOnceItBegan(t *testing.T) {
	ck, s := start()
	f := &flaky{Store: s, watches: make(chan func(string)), fail: make(chan error)}
	var log bytes.Buffer // read after Run
	r := New(Config{Store: f, Hasher: plainHasher{}, Now: ck.now, Log: slog.New(slog.NewTextHandler(&log, nil))})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); r.Run(ctx) }()
	for range 2 {
		changed := <-f.watches
		if r.watched.Load() {
			t.Error("the watch counts before it began")
		}
		changed("")
		if !r.watched.Load() {
			t.Error("the watch does not count though it began")
		}
		f.fail <- errors.New("LISTEN failed")
	}
	<-f.watches // the third try
	cancel()
	<-ended
	if n := strings.Count(log.String(), "LISTEN failed"); n != 2 {
		t.Errorf("%d warnings, want 2: %s", n, &log)
	}
}
