// Package keys holds the provider's signing keys and the key sets of the
// admin API.
//
// Keys are made when first needed, kept sealed in oauth.Store, and held
// parsed in memory. The newest key of an algorithm signs, all keys of the two
// signing sets are published. Ring (this file) signs, verifies and publishes;
// load.go reads the store and makes keys, rotate.go replaces them on schedule,
// sets.go is what the admin API does. What a token says is no concern of this
// package, nor are the keys of clients.
package keys

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	"gatehouse/lib/fault"
	"gatehouse/lib/seal"
	"gatehouse/oauth"
)

// The sets the provider signs with; names as Hydra has them.
const (
	IDToken     = "hydra.openid.id-token"
	AccessToken = "hydra.jwt.access-token"
)

// signingAlgs are the algorithms the provider signs with. A key is made when
// the first client asks for its algorithm.
var signingAlgs = []string{"RS256", "PS256", "ES256", "EdDSA"}

// Algs are the algorithms tokens can be signed with.
func Algs() []string { return slices.Clone(signingAlgs) }

// MaxToken is the longest token looked at, in bytes.
const MaxToken = 16 << 10

// Staleness: how old the picture of the store may be while the store does not
// tell of changes, and while it does (a notification may get lost).
const (
	maxAge        = time.Second
	maxAgeWatched = 30 * time.Second
)

// Config is what a Ring needs. Store, Secrets and Alg must be set.
type Config struct {
	Store   oauth.Store
	Secrets [][]byte // seal the private keys
	Alg     string   // of tokens, where a client does not ask for another
	Log     *slog.Logger
	Now     func() time.Time // nil: time.Now

	// Rotation on schedule. Zero RotateAfter: never.
	RotateAfter  time.Duration // age at which a key is followed by another
	PublishAhead time.Duration // how long before it signs a follower is published; 0: 1 h
	KeepAfter    time.Duration // how long after it last signed a key is published; 0: 30 days
}

// Ring holds all keys. It is safe for concurrent use.
type Ring struct {
	cfg     Config
	seal    *seal.Ring
	now     func() time.Time
	log     *slog.Logger
	watched atomic.Bool  // the store tells of changes
	changes atomic.Int64 // told by the store so far

	state   atomic.Pointer[state]
	loading sync.Mutex // one load or generation at a time
}

// state is an immutable picture of the stored keys.
type state struct {
	sets  map[string][]*key // newest first
	heads map[string]int64  // generation of each set's head record
	jwks  []byte            // the published set
	read  time.Time
}

// key is one stored key, parsed. Immutable.
type key struct {
	set     string
	jwk     jose.JSONWebKey
	created time.Time
	active  time.Time // signs from then on
	auto    bool      // made by us, not by an operator
}

func (k *key) signs(alg string, now time.Time) bool {
	return k.jwk.Algorithm == alg && k.jwk.Use == "sig" && !k.jwk.IsPublic() && !k.active.After(now)
}

// Open reads the keys and makes those that are missing for both sets. It
// fails when stored keys were sealed with a secret that is not given.
func Open(ctx context.Context, cfg Config) (*Ring, error) {
	if !slices.Contains(signingAlgs, cfg.Alg) {
		return nil, fmt.Errorf("signing algorithm %q is not one of %v", cfg.Alg, signingAlgs)
	}
	s, err := seal.New(cfg.Secrets, "jwk")
	if err != nil {
		return nil, err
	}
	r := &Ring{cfg: cfg, seal: s, now: cfg.Now, log: cfg.Log}
	if r.now == nil {
		r.now = time.Now
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if err := r.load(ctx); err != nil {
		return nil, fmt.Errorf("reading signing keys: %w", err)
	}
	for _, set := range []string{IDToken, AccessToken} {
		if _, err := r.signer(ctx, set, cfg.Alg); err != nil {
			return nil, fmt.Errorf("making a signing key: %w", err)
		}
	}
	return r, nil
}

// Sign makes a compact JWS of the claims, a JSON object, with the newest key
// of the set for the algorithm ("": the default). The typ header is typ.
func (r *Ring) Sign(ctx context.Context, set, alg, typ string, claims []byte) (string, error) {
	if alg == "" {
		alg = r.cfg.Alg
	}
	k, err := r.signer(ctx, set, alg)
	if err != nil {
		return "", err
	}
	opts := (&jose.SignerOptions{}).WithType(jose.ContentType(typ))
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(alg), Key: k.jwk}, opts)
	if err != nil {
		return "", fmt.Errorf("signing with key %s: %w", k.jwk.KeyID, err)
	}
	jws, err := signer.Sign(claims)
	if err != nil {
		return "", fmt.Errorf("signing with key %s: %w", k.jwk.KeyID, err)
	}
	return jws.CompactSerialize()
}

// errToken says that a token was not signed by a key of the set.
var errToken = fault.New(fault.Invalid, "the token was not signed by this server")

// Verify checks the signature of a compact JWS by a key of the set and
// returns its claims. The typ header must be one of types. Times and
// everything else the token says are the caller's to check. A bad token fails
// with fault.Invalid.
func (r *Ring) Verify(ctx context.Context, set, raw string, types ...string) ([]byte, error) {
	if len(raw) > MaxToken {
		return nil, errToken
	}
	algs := make([]jose.SignatureAlgorithm, len(signingAlgs))
	for i, a := range signingAlgs {
		algs[i] = jose.SignatureAlgorithm(a)
	}
	jws, err := jose.ParseSignedCompact(raw, algs)
	if err != nil || len(jws.Signatures) != 1 {
		return nil, errToken
	}
	head := jws.Signatures[0].Protected
	typ, _ := head.ExtraHeaders[jose.HeaderType].(string)
	if !slices.Contains(types, typ) {
		return nil, errToken
	}
	st, err := r.current(ctx)
	if err != nil {
		return nil, err
	}
	for _, k := range st.sets[set] {
		if k.jwk.KeyID != head.KeyID || k.jwk.Algorithm != head.Algorithm || k.jwk.Use != "sig" {
			continue
		}
		public := k.jwk.Public()
		if payload, err := jws.Verify(public); err == nil {
			return payload, nil
		}
	}
	return nil, errToken
}

// JWKS is the published key set, as JSON: the public keys of both signing
// sets, those included that do not sign yet or no more. The caller must not
// change it.
func (r *Ring) JWKS(ctx context.Context) ([]byte, error) {
	st, err := r.current(ctx)
	if err != nil {
		return nil, err
	}
	return st.jwks, nil
}

// signer returns the key that signs, and makes it when there is none.
func (r *Ring) signer(ctx context.Context, set, alg string) (*key, error) {
	if (set != IDToken && set != AccessToken) || !slices.Contains(signingAlgs, alg) {
		return nil, fault.New(fault.Invalid, "the server does not sign with "+alg)
	}
	st, err := r.current(ctx)
	if err != nil {
		return nil, err
	}
	if k := st.newest(set, alg, r.now()); k != nil {
		return k, nil
	}
	return r.make(ctx, set, alg, r.now(), func(st *state) *key { return st.newest(set, alg, r.now()) })
}

func (s *state) newest(set, alg string, now time.Time) *key {
	for _, k := range s.sets[set] {
		if k.signs(alg, now) {
			return k
		}
	}
	return nil
}

// published is the key set as others may see it.
func published(sets map[string][]*key) ([]byte, error) {
	out := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, set := range []string{IDToken, AccessToken} {
		for _, k := range sets[set] {
			if k.jwk.Use == "sig" {
				out.Keys = append(out.Keys, publicOf(k.jwk))
			}
		}
	}
	return json.Marshal(out)
}

func publicOf(k jose.JSONWebKey) jose.JSONWebKey {
	if k.IsPublic() {
		return k
	}
	return k.Public()
}

var errFull = errors.New("too many keys are stored")
