package jwks

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"gatehouse/lib/fault"
)

func ec(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func set(t *testing.T, keys ...jose.JSONWebKey) []byte {
	t.Helper()
	b, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func sign(t *testing.T, alg, kid string, key any) string {
	t.Helper()
	s, err := Sign(alg, kid, key, []byte(`{"sub":"ada"}`))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// source is a key set published somewhere.
type source struct {
	body  []byte
	err   error
	calls atomic.Int32
}

func (s *source) fetch(context.Context) ([]byte, error) { s.calls.Add(1); return s.body, s.err }

func TestVerifyEveryKeyType(t *testing.T) {
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p256, p384, p521 := ec(t, elliptic.P256()), ec(t, elliptic.P384()), ec(t, elliptic.P521())
	edPub, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	src := &source{body: set(t, jose.JSONWebKey{Key: &r.PublicKey, KeyID: "r"}, jose.JSONWebKey{Key: &p256.PublicKey, KeyID: "256"},
		jose.JSONWebKey{Key: &p384.PublicKey, KeyID: "384"}, jose.JSONWebKey{Key: &p521.PublicKey, KeyID: "521"}, jose.JSONWebKey{Key: edPub, KeyID: "ed"})}
	c := &Cache{Now: time.Now}
	for _, k := range []struct {
		alg, kid string
		key      any
	}{{"RS256", "r", r}, {"PS512", "r", r}, {"ES256", "256", p256}, {"ES384", "384", p384}, {"ES512", "521", p521}, {"EdDSA", "ed", ed}, {"ES256", "", p256}, {"RS384", "", r}} {
		payload, err := c.Verify(context.Background(), src.fetch, sign(t, k.alg, k.kid, k.key), Asymmetric)
		if err != nil || string(payload) != `{"sub":"ada"}` {
			t.Errorf("%s: %v", k.alg, err)
		}
		if _, err := c.Verify(context.Background(), src.fetch, sign(t, k.alg, k.kid, k.key), []string{"PS256"}); fault.KindOf(err) != fault.Denied {
			t.Errorf("%s where only PS256 is accepted: %v", k.alg, err)
		}
	}
	// A key id does not lend a key to an algorithm of another kind.
	if _, err := c.Verify(context.Background(), src.fetch, sign(t, "ES256", "r", p256), Asymmetric); fault.KindOf(err) != fault.Denied {
		t.Errorf("kid switched: %v", err)
	}
}

func TestUnusableKeysAreLeftOut(t *testing.T) {
	good := ec(t, elliptic.P256())
	b := set(t, jose.JSONWebKey{Key: &good.PublicKey, KeyID: "good"}, jose.JSONWebKey{Key: good, KeyID: "private"},
		jose.JSONWebKey{Key: []byte("0123456789012345678901234567890123456789"), KeyID: "secret"}, jose.JSONWebKey{Key: &good.PublicKey, KeyID: "enc", Use: "enc"})
	b = []byte(strings.Replace(string(b), `{"keys":[`, `{"keys":[{"kty":"new"},{"kty":"EC","crv":"P-256","kid":"off","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE","y":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE"},`+
		`{"kty":"RSA","kid":"weak","n":"`+base64.RawURLEncoding.EncodeToString(append([]byte{0x80}, make([]byte, 127)...))+`","e":"AQAB"},`+
		`{"kty":"RSA","kid":"huge","n":"`+base64.RawURLEncoding.EncodeToString(append([]byte{0x80}, make([]byte, 4096)...))+`","e":"AQAB"},`, 1))
	keys, err := ParseSet(b)
	if err != nil || len(keys) != 1 || keys[0].KeyID != "good" {
		t.Errorf("%v %v", keys, err)
	}
	for _, bad := range []string{"", "[]", `{"keys":[]}`, `{"keys":[{"kty":"oct","k":"AAAA"}]}`, `{"keys":[` + strings.Repeat(`{},`, 70) + `{}]}`, strings.Repeat(" ", MaxSet+1)} {
		if _, err := ParseSet([]byte(bad)); err == nil {
			t.Errorf("accepted %.40q", bad)
		}
	}
}

func TestUnknownKeyFetchesAtAPace(t *testing.T) {
	k1, k2 := ec(t, elliptic.P256()), ec(t, elliptic.P256())
	now := time.Unix(1_700_000_000, 0)
	c := &Cache{Now: func() time.Time { return now }}
	src := &source{body: set(t, jose.JSONWebKey{Key: &k1.PublicKey, KeyID: "1"})}
	verify := func(tok string) error {
		_, err := c.Verify(context.Background(), src.fetch, tok, Asymmetric)
		return err
	}
	if err := verify(sign(t, "ES256", "1", k1)); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Minute)
	for i := range 100 {
		if err := verify(sign(t, "ES256", fmt.Sprint("made-up-", i), k2)); fault.KindOf(err) != fault.Denied {
			t.Fatal(err)
		}
	}
	if got := src.calls.Load(); got != 2 {
		t.Errorf("%d fetches", got)
	}
	src.body = set(t, jose.JSONWebKey{Key: &k2.PublicKey, KeyID: "2"})
	now = now.Add(10 * time.Second)
	if err := verify(sign(t, "ES256", "2", k2)); err != nil {
		t.Errorf("rotated key: %v", err)
	}
	if err := verify(sign(t, "ES256", "1", k1)); fault.KindOf(err) != fault.Denied {
		t.Errorf("retired key: %v", err)
	}
	// Fetching fails: what is known serves, for a time; what is not is 503.
	src.err = errors.New("down")
	now = now.Add(2 * time.Hour)
	if err := verify(sign(t, "ES256", "2", k2)); err != nil {
		t.Errorf("stale key: %v", err)
	}
	if err := verify(sign(t, "ES256", "3", k1)); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("unknown key while down: %v", err)
	}
	now = now.Add(24 * time.Hour)
	if err := verify(sign(t, "ES256", "2", k2)); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("key stale for a day: %v", err)
	}
}

func TestOneFetchForAll(t *testing.T) {
	k := ec(t, elliptic.P256())
	body, tok := set(t, jose.JSONWebKey{Key: &k.PublicKey, KeyID: "1"}), sign(t, "ES256", "1", k)
	var calls atomic.Int32
	gate := make(chan struct{})
	fetch := func(ctx context.Context) ([]byte, error) { calls.Add(1); <-gate; return body, ctx.Err() }
	c := &Cache{Now: time.Now}
	gone, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			ctx := context.Background()
			if i == 0 {
				ctx = gone
			}
			if _, err := c.Verify(ctx, fetch, tok, Asymmetric); err != nil && i > 0 {
				t.Error(err)
			}
		})
	}
	cancel() // a client that goes away does not take the others with it
	close(gate)
	wg.Wait()
	if got := calls.Load(); got != 1 {
		t.Errorf("%d fetches", got)
	}
}

func TestParseHeaderRefuses(t *testing.T) {
	b64 := base64.RawURLEncoding.EncodeToString
	for _, h := range []string{
		``, `{}`, `null`, `[]`, `{"alg":1}`, `{"alg":"ES256","alg":"none"}`, `{"alg":"ES256","crit":["b64"],"b64":false}`, `{"alg":"ES256","b64":false}`,
		`{"alg":"ES256","jwk":{}}`, `{"alg":"ES256","zip":"DEF"}`, `{"alg":"dir","enc":"A128GCM"}`, `{"ALG":"ES256"}`, `{"alg":"ES256","kid":"` + strings.Repeat("k", 300) + `"}`,
	} {
		if _, err := ParseHeader(b64([]byte(h)) + ".e30.AA"); fault.KindOf(err) != fault.Denied {
			t.Errorf("%s: %v", h, err)
		}
	}
	for _, tok := range []string{"", "a", "a.b", "a.b.c.d.e", "%.e30.AA", strings.Repeat("a", MaxToken+1)} {
		if _, err := ParseHeader(tok); fault.KindOf(err) != fault.Denied {
			t.Errorf("%.20q: %v", tok, err)
		}
	}
	got, err := ParseHeader(b64([]byte(`{"alg":"ES256","kid":"1","typ":"application/AT+JWT","jku":"x"}`)) + ".e30.AA")
	if want := (Header{"ES256", "1", "at+jwt"}); err != nil || got != want {
		t.Errorf("got %v, want %v (%v)", got, want, err)
	}
}

func TestInTime(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, c := range []struct {
		claims string
		ok     bool
	}{
		{`{"exp":1001}`, true}, {`{"exp":1000}`, true}, {`{"exp":990}`, false}, {`{}`, false}, {`{"exp":2000,"nbf":1010}`, true}, {`{"exp":2000,"nbf":1011}`, false},
		{`{"exp":2000,"iat":1011}`, false}, {`{"exp":2000.5,"iat":999.5}`, true},
	} {
		p, err := ParseClaims([]byte(c.claims))
		if err != nil {
			t.Fatal(err)
		}
		if got := p.InTime(now, 10*time.Second) == nil; got != c.ok {
			t.Errorf("%s: %v, want %v", c.claims, got, c.ok)
		}
	}
	for _, bad := range []string{``, `[]`, `{"exp":-1}`, `{"exp":1e300}`, `{"exp":"1"}`, `{"sub":"a","sub":"b"}`, `{"x":1,"x":2}`, `{"aud":7}`} {
		if _, err := ParseClaims([]byte(bad)); fault.KindOf(err) != fault.Denied {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestHashMatches(t *testing.T) {
	// The example of OpenID Connect Core, appendix A.3.
	const token, hash = "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y", "77QmUPtjPfzWtF2AnpK9RQ"
	if !HashMatches("RS256", hash, token) || HashMatches("RS256", hash, token+"x") || HashMatches("RS512", hash, token) || HashMatches("none", "", token) {
		t.Error("wrong hash")
	}
}

func FuzzToken(f *testing.F) {
	k := ec(f, elliptic.P256())
	good, err := Sign("ES256", "1", k, []byte(`{"sub":"ada"}`))
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{good, "a.b.c", "", "eyJhbGciOiJub25lIn0.e30."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, tok string) {
		payload, err := VerifyKey(tok, Asymmetric, &k.PublicKey)
		if err == nil && string(payload) != `{"sub":"ada"}` {
			t.Errorf("accepted %q", tok)
		}
		if c, err := ParseClaims([]byte(tok)); err == nil {
			c.InTime(time.Unix(0, 0), time.Second)
		}
	})
}

func FuzzParse(f *testing.F) {
	k := ec(f, elliptic.P256())
	good, err := Sign("ES256", "1", k, []byte(`{"sub":"ada","aud":["a"],"exp":1}`))
	if err != nil {
		f.Fatal(err)
	}
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: k.Public(), KeyID: "1", Use: "sig"}, {Key: k}, {Key: []byte("0123456789abcdef0123456789abcdef")}}})
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{good, string(keys), "eyJhbGciOiJub25lIn0.e30.", "..", `{"aud":"a","exp":1e300}`, `{"sub":"a","sub":"b"}`, `{"aud":null,"exp":null}`, `{"keys":[null,{}]}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		switch h, err := ParseHeader(in); {
		case err != nil && fault.KindOf(err) != fault.Denied:
			t.Errorf("header: %v", err)
		case err == nil && (h.Algorithm == "" || len(h.KeyID) > maxKeyID || strings.Count(in, ".") != 2):
			t.Errorf("header %+v of %q", h, in)
		}
		switch c, err := ParseClaims([]byte(in)); {
		case err != nil && fault.KindOf(err) != fault.Denied:
			t.Errorf("claims: %v", err)
		case err == nil && (string(c.Raw) != in || c.Expires < 0 || c.Expires > 1<<53):
			t.Errorf("claims %+v of %q", c, in)
		}
		set, err := ParseSet([]byte(in))
		if err == nil && (len(set) == 0 || len(set) > MaxKeys) {
			t.Errorf("%d keys of %q", len(set), in)
		}
		for _, k := range set {
			if !k.IsPublic() || !strong(k.Key) {
				t.Errorf("unusable key %T of %q", k.Key, in)
			}
		}
	})
}
