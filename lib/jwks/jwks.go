// Package jwks verifies signed tokens against a key set published elsewhere.
//
// A Cache keeps one JSON Web Key Set and fetches it through a function, so
// the package knows no network. Signature, header and size of a token are
// checked here (jwt.go); what a token claims is read by ParseClaims and judged
// by the caller. Encrypted tokens are not supported.
package jwks

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/sync/singleflight"

	"gatehouse/lib/fault"
)

// Limits on a key set.
const (
	MaxSet     = 256 << 10 // bytes
	MaxKeys    = 64
	minRSABits = 2048
	maxRSABits = 8192
)

// Fetch gets the bytes of the key set.
type Fetch func(ctx context.Context) ([]byte, error)

// Cache holds one key set. It is safe for concurrent use; the fields are not
// changed after first use.
type Cache struct {
	Now func() time.Time
	// TTL is how long a set is used before it is fetched again; 0: 1 h.
	TTL time.Duration
	// Pause is the least time between two fetches, whatever tokens ask for
	// and whether or not the last one succeeded; 0: 10 s.
	Pause time.Duration
	// Stale is how long after its TTL a set is used while fetching fails;
	// 0: 24 h.
	Stale time.Duration

	flight singleflight.Group

	mu      sync.Mutex // guards what follows
	keys    []jose.JSONWebKey
	fetched time.Time // when keys was fetched
	tried   time.Time // when a fetch last ended
	failure error     // of that fetch
}

// Verify checks the signature of a compact JWS by the key its header names
// and returns the payload. The algorithm must be one of algs and must not be
// symmetric. An unknown key id fetches the set again, at most once per Pause.
//
// Errors are fault.Denied for a token that is not good and fault.Unavailable
// when the set cannot be had.
func (c *Cache) Verify(ctx context.Context, fetch Fetch, token string, algs []string) ([]byte, error) {
	h, err := ParseHeader(token)
	if err != nil {
		return nil, err
	}
	if !allowed(h.Algorithm, algs) || symmetric(h.Algorithm) {
		return nil, fault.New(fault.Denied, "token is signed with an algorithm that is not accepted")
	}
	now := c.Now()
	keys, fetched, tried, failure := c.state()
	fresh := !fetched.IsZero() && now.Sub(fetched) < or(c.TTL, time.Hour)
	if !fresh && due(now, tried, or(c.Pause, 10*time.Second)) {
		failure = c.refresh(ctx, fetch, tried)
		keys, fetched, tried, _ = c.state()
	}
	if fetched.IsZero() || now.Sub(fetched) > or(c.TTL, time.Hour)+or(c.Stale, 24*time.Hour) {
		return nil, unavailable(failure)
	}
	found := candidates(keys, h)
	if len(found) == 0 {
		if due(now, tried, or(c.Pause, 10*time.Second)) {
			failure = c.refresh(ctx, fetch, tried)
			keys, _, _, _ = c.state()
			found = candidates(keys, h)
		}
		if len(found) == 0 && failure != nil {
			return nil, unavailable(failure)
		}
	}
	for _, k := range found {
		if payload, err := verify(token, h.Algorithm, k.Key); err == nil {
			return payload, nil
		}
	}
	if len(found) == 0 {
		return nil, fault.New(fault.Denied, "token is signed by an unknown key")
	}
	return nil, fault.New(fault.Denied, "token signature is wrong")
}

func (c *Cache) state() (keys []jose.JSONWebKey, fetched, tried time.Time, failure error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.keys, c.fetched, c.tried, c.failure
}

// refresh fetches the set, once for all that ask at the same time. A caller
// that goes away does not end the fetch for the others: fetch has a deadline
// of its own. seen is when the caller saw the last fetch end: one that ended
// since is the one it wanted.
func (c *Cache) refresh(ctx context.Context, fetch Fetch, seen time.Time) error {
	shared := context.WithoutCancel(ctx)
	done := c.flight.DoChan("", func() (any, error) {
		if _, _, tried, failure := c.state(); tried != seen {
			return nil, failure
		}
		body, err := fetch(shared)
		var keys []jose.JSONWebKey
		if err == nil {
			keys, err = ParseSet(body)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.tried, c.failure = c.Now(), err
		if err == nil {
			c.keys, c.fetched = keys, c.tried
		}
		return nil, err
	})
	select {
	case r := <-done:
		return r.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func unavailable(cause error) error {
	if cause == nil {
		cause = errors.New("no key set was fetched yet")
	}
	return fault.Wrap(fault.Unavailable, "the provider's keys cannot be fetched", cause)
}

func due(now, tried time.Time, pause time.Duration) bool {
	return tried.IsZero() || now.Sub(tried) >= pause
}

func or(d, fallback time.Duration) time.Duration {
	if d == 0 {
		return fallback
	}
	return d
}

// ParseSet reads a key set. Keys that cannot verify a signature (private,
// symmetric, for encryption, weak or of an unknown type) are left out, as RFC
// 7517, section 5, asks.
func ParseSet(body []byte) ([]jose.JSONWebKey, error) {
	if len(body) > MaxSet {
		return nil, errors.New("key set is too large")
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, errors.New("key set is not JSON")
	}
	if len(set.Keys) > MaxKeys {
		return nil, errors.New("key set has too many keys")
	}
	var keys []jose.JSONWebKey
	for _, raw := range set.Keys {
		var k jose.JSONWebKey
		if k.UnmarshalJSON(raw) == nil && k.Use != "enc" && k.Valid() && k.IsPublic() && strong(k.Key) {
			keys = append(keys, jose.JSONWebKey{Key: k.Key, KeyID: k.KeyID, Algorithm: k.Algorithm})
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("key set has no usable key")
	}
	return keys, nil
}

// candidates are the keys that may have signed a token with header h: those
// with its key id, or, when it names none, all of the right type.
func candidates(keys []jose.JSONWebKey, h Header) []jose.JSONWebKey {
	var out []jose.JSONWebKey
	for _, k := range keys {
		if (h.KeyID == "" || k.KeyID == h.KeyID) && (k.Algorithm == "" || k.Algorithm == h.Algorithm) && fits(h.Algorithm, k.Key) {
			out = append(out, k)
		}
	}
	return out
}

func strong(key any) bool {
	k, ok := key.(*rsa.PublicKey)
	return !ok || k.N.BitLen() >= minRSABits && k.N.BitLen() <= maxRSABits
}

// fits says whether a key is of the type, and the curve, an algorithm needs
// (RFC 7518, section 3.4: each ES algorithm has one curve).
func fits(alg string, key any) bool {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return len(alg) == 5 && (alg[:2] == "RS" || alg[:2] == "PS")
	case *ecdsa.PublicKey:
		return alg == map[int]string{256: "ES256", 384: "ES384", 521: "ES512"}[k.Curve.Params().BitSize]
	case ed25519.PublicKey:
		return alg == "EdDSA"
	case []byte:
		return symmetric(alg)
	}
	return false
}
