package keys

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
	"gatehouse/store/memory"
)

type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time      { c.mu.Lock(); defer c.mu.Unlock(); return c.t }
func (c *clock) add(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.t = c.t.Add(d) }

func newClock() *clock { return &clock{t: time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)} }

var secret = [][]byte{[]byte("a-system-secret-of-32-bytes-long")}

func ring(t *testing.T, s oauth.Store, c *clock, alg string) *Ring {
	t.Helper()
	r, err := Open(t.Context(), Config{Store: s, Secrets: secret, Alg: alg, Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func sign(t *testing.T, r *Ring, set, alg string) string {
	t.Helper()
	raw, err := r.Sign(t.Context(), set, alg, "JWT", []byte(`{"sub":"a"}`))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestSignAndVerify(t *testing.T) {
	c := newClock()
	s := memory.NewRecords(c.now)
	r := ring(t, s, c, "ES256")
	for _, alg := range []string{"", "RS256", "PS256", "ES256", "EdDSA"} {
		raw := sign(t, r, IDToken, alg)
		if got, err := r.Verify(t.Context(), IDToken, raw, "JWT"); err != nil || string(got) != `{"sub":"a"}` {
			t.Errorf("%q: %q, %v", alg, got, err)
		}
		other := ring(t, s, c, "ES256") // another process
		if _, err := other.Verify(t.Context(), IDToken, raw, "JWT"); err != nil {
			t.Errorf("%q in another process: %v", alg, err)
		}
		if _, err := r.Verify(t.Context(), AccessToken, raw, "JWT"); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%q: accepted in another set: %v", alg, err)
		}
		if _, err := r.Verify(t.Context(), IDToken, raw, "at+jwt"); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%q: accepted as another type: %v", alg, err)
		}
		if _, err := r.Verify(t.Context(), IDToken, raw[:len(raw)-8]+"AAAAAAAA", "JWT"); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%q: changed signature accepted: %v", alg, err)
		}
	}
	for _, alg := range []string{"HS256", "none", "RS512"} {
		if _, err := r.Sign(t.Context(), IDToken, alg, "JWT", nil); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v, want Invalid", alg, err)
		}
	}
	forged, _ := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: []byte(strings.Repeat("k", 32))}, nil)
	jws, _ := forged.Sign([]byte("{}"))
	raw, _ := jws.CompactSerialize()
	for _, bad := range []string{"", "x", raw, "eyJhbGciOiJub25lIn0.e30.", strings.Repeat("a", MaxToken+1)} {
		if _, err := r.Verify(t.Context(), IDToken, bad, "JWT", ""); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%.30q: %v, want Invalid", bad, err)
		}
	}
}

func TestPublishedSetIsPublic(t *testing.T) {
	c := newClock()
	r := ring(t, memory.NewRecords(c.now), c, "RS256")
	doc, err := r.JWKS(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(doc, &set); err != nil || len(set.Keys) != 2 {
		t.Fatalf("%s: %v", doc, err)
	}
	for _, k := range set.Keys {
		if !k.IsPublic() || k.Use != "sig" || k.Algorithm != "RS256" {
			t.Errorf("published %+v", k)
		}
	}
	if strings.Contains(string(doc), `"d"`) {
		t.Error("a private key is published")
	}
}

func TestKeysAreSealed(t *testing.T) {
	c := newClock()
	s := memory.NewRecords(c.now)
	ring(t, s, c, "ES256")
	recs, _ := s.List(t.Context(), oauth.Query{Kind: oauth.Keys})
	for _, r := range recs {
		if strings.Contains(string(r.Data), "kty") {
			t.Errorf("%s is stored in the clear", r.Key)
		}
	}
	if _, err := Open(t.Context(), Config{Store: s, Secrets: [][]byte{[]byte("some other secret")}, Alg: "ES256"}); err == nil {
		t.Error("opened with another secret")
	}
	if _, err := Open(t.Context(), Config{Store: s, Secrets: [][]byte{[]byte("some other secret"), secret[0]}, Alg: "ES256", Now: c.now}); err != nil {
		t.Errorf("secrets.system rotated: %v", err)
	}
}

// unwatched hides that a store tells of changes.
type unwatched struct{ oauth.Store }

func TestOneKeyHoweverManyProcesses(t *testing.T) {
	c := newClock()
	s := unwatched{memory.NewRecords(c.now)}
	var wg sync.WaitGroup
	kids := make([]string, 16)
	for i := range kids {
		wg.Go(func() {
			r, err := Open(context.Background(), Config{Store: s, Secrets: secret, Alg: "ES256", Now: c.now})
			if err != nil {
				t.Error(err)
				return
			}
			k, err := r.signer(context.Background(), IDToken, "ES256")
			if err != nil {
				t.Error(err)
				return
			}
			kids[i] = k.jwk.KeyID
		})
	}
	wg.Wait()
	for _, k := range kids {
		if k != kids[0] {
			t.Fatalf("processes sign with different keys: %v", kids)
		}
	}
}

func TestNewestSigns(t *testing.T) {
	c := newClock()
	r := ring(t, memory.NewRecords(c.now), c, "ES256")
	before := sign(t, r, IDToken, "")
	c.add(time.Minute)
	if _, err := r.CreateKey(t.Context(), IDToken, "ES256", "sig", "mine"); err != nil {
		t.Fatal(err)
	}
	after := sign(t, r, IDToken, "")
	jws, _ := jose.ParseSignedCompact(after, []jose.SignatureAlgorithm{"ES256"})
	if kid := jws.Signatures[0].Protected.KeyID; kid != "mine" {
		t.Errorf("%s signs, want mine", kid)
	}
	if _, err := r.Verify(t.Context(), IDToken, before, "JWT"); err != nil {
		t.Errorf("token of before: %v", err)
	}
	if err := r.DeleteKey(t.Context(), IDToken, "mine"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Verify(t.Context(), IDToken, after, "JWT"); fault.KindOf(err) != fault.Invalid {
		t.Errorf("token of a deleted key: %v", err)
	}
}

func TestAnotherProcessSeesChangesWithinASecond(t *testing.T) {
	c := newClock()
	s := unwatched{memory.NewRecords(c.now)}
	a, b := ring(t, s, c, "ES256"), ring(t, s, c, "ES256")
	raw := sign(t, a, IDToken, "EdDSA") // makes a key
	c.add(maxAge)
	if _, err := b.Verify(t.Context(), IDToken, raw, "JWT"); err != nil {
		t.Error(err)
	}
}

func TestRotationOverlaps(t *testing.T) {
	c := newClock()
	s := memory.NewRecords(c.now)
	r, err := Open(t.Context(), Config{Store: s, Secrets: secret, Alg: "ES256", Now: c.now,
		RotateAfter: 24 * time.Hour, PublishAhead: time.Hour, KeepAfter: 10 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	count := func() int {
		r.stale()
		doc, _ := r.KeySet(t.Context(), IDToken)
		return strings.Count(string(doc), `"kid"`)
	}
	kid := func() string {
		k, err := r.signer(t.Context(), IDToken, "ES256")
		if err != nil {
			t.Fatal(err)
		}
		return k.jwk.KeyID
	}
	first := kid()
	for _, step := range []struct {
		after    time.Duration
		keys     int
		sameSigs bool
	}{
		{22 * time.Hour, 1, true},
		{2 * time.Hour, 2, true},            // 24 h: a follower is published
		{0, 2, true},                        // and no second one
		{time.Hour + 1, 2, false},           // it signs
		{9 * time.Hour, 2, false},           // the old one still verifies
		{time.Hour + time.Second, 1, false}, // and goes
	} {
		c.add(step.after)
		if err := r.Maintain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := count(); got != step.keys {
			t.Errorf("after %v more: %d keys, want %d", step.after, got, step.keys)
		}
		if got := kid() == first; got != step.sameSigs {
			t.Errorf("after %v more: first key signs %v, want %v", step.after, got, step.sameSigs)
		}
	}
}

func TestSetsOfTheAdminAPI(t *testing.T) {
	c := newClock()
	ctx := t.Context()
	r := ring(t, memory.NewRecords(c.now), c, "ES256")
	for _, alg := range []string{"RS256", "ES256", "ES384", "ES512", "EdDSA", "PS256"} {
		doc, err := r.CreateKey(ctx, "myset", alg, "sig", "k-"+alg)
		if err != nil || !strings.Contains(string(doc), `"d":`) || !strings.Contains(string(doc), `"kid":"k-`+alg) {
			t.Errorf("%s: %v, %v", alg, doc, err)
		}
	}
	for _, bad := range [][4]string{
		{"myset", "HS256", "sig", "x"}, {"myset", "HS512", "sig", "x"}, {"myset", "none", "", "x"},
		{"my/set", "ES256", "sig", "x"}, {"", "ES256", "sig", "x"}, {"myset", "ES256", "sig", "a#b"},
		{IDToken, "ES512", "sig", "x"}, {IDToken, "ES256", "enc", "x"},
	} {
		if _, err := r.CreateKey(ctx, bad[0], bad[1], bad[2], bad[3]); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%v: %v, want Invalid", bad, err)
		}
	}
	if _, err := r.CreateKey(ctx, "myset", "ES256", "sig", "k-ES256"); fault.KindOf(err) != fault.Conflict {
		t.Errorf("same kid: %v, want Conflict", err)
	}
	set, err := r.KeySet(ctx, "myset")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.PutSet(ctx, "copy", set); err != nil {
		t.Error(err)
	}
	again, _ := r.KeySet(ctx, "copy")
	if string(again) != string(set) {
		t.Errorf("a copied set differs:\n%s\n%s", set, again)
	}
	key, _ := r.Key(ctx, "myset", "k-EdDSA")
	if _, err := r.PutSet(ctx, "copy", key); err != nil {
		t.Error(err)
	}
	if again, _ = r.KeySet(ctx, "copy"); string(again) != string(key) {
		t.Errorf("a replaced set keeps old keys: %s", again)
	}
	if _, err := r.Key(ctx, "myset", "zz"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("missing key: %v", err)
	}
	if doc, _ := r.KeySet(ctx, IDToken); strings.Contains(string(doc), `"d"`) {
		t.Error("a signing set shows private keys")
	}
	for name, doc := range map[string]string{
		"symmetric": `{"keys":[{"kty":"oct","kid":"a","k":"c2VjcmV0c2VjcmV0"}]}`,
		"no kid":    strings.Replace(string(key), `"kid":"k-EdDSA",`, "", 1),
		"wrong alg": strings.Replace(string(key), `"alg":"EdDSA"`, `"alg":"RS256"`, 1),
		"empty":     `{"keys":[]}`,
		"junk":      `{`,
		"weak":      `{"keys":[{"kty":"RSA","kid":"a","alg":"RS256","e":"AQAB","n":"` + strings.Repeat("A", 10) + `"}]}`,
	} {
		if _, err := r.PutSet(ctx, "copy", []byte(doc)); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v, want Invalid", name, err)
		}
	}
	if err := r.DeleteKey(ctx, "myset", "k-RS256"); err != nil {
		t.Error(err)
	}
	if err := r.DeleteKey(ctx, "myset", "k-RS256"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("second time: %v", err)
	}
	if err := r.DeleteSet(ctx, "myset"); err != nil {
		t.Error(err)
	}
	if err := r.DeleteSet(ctx, "myset"); err != nil {
		t.Errorf("a missing set: %v", err)
	}
	if _, err := r.KeySet(ctx, "myset"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("deleted set: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	c := newClock()
	r, err := Open(context.Background(), Config{Store: memory.NewRecords(c.now), Secrets: secret, Alg: "EdDSA", Now: c.now})
	if err != nil {
		f.Fatal(err)
	}
	good, _ := r.Sign(context.Background(), IDToken, "", "JWT", []byte(`{}`))
	f.Add(good)
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := r.Verify(context.Background(), IDToken, raw, "JWT")
		if err == nil && string(got) != "{}" {
			t.Fatalf("forged: %q", got)
		}
	})
}

func BenchmarkSignEdDSA(b *testing.B) {
	r, err := Open(context.Background(), Config{Store: memory.NewRecords(time.Now), Secrets: secret, Alg: "EdDSA"})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		r.Sign(context.Background(), IDToken, "", "JWT", []byte(`{"sub":"a"}`))
	}
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
	c := newClock()
	s := memory.NewRecords(c.now)
	f := &flaky{Store: s, watches: make(chan func(string)), fail: make(chan error)}
	var log bytes.Buffer // read after Run
	r, err := Open(t.Context(), Config{Store: f, Secrets: secret, Alg: "ES256", Now: c.now, Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		t.Fatal(err)
	}
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
