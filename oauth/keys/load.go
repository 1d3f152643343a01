package keys

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
)

// maxKeys bounds all stored keys together.
const maxKeys = 2000

// stored is the sealed content of a key's record.
type stored struct {
	JWK     jose.JSONWebKey `json:"jwk"`
	Created time.Time       `json:"created"`
	Active  time.Time       `json:"active"`
	Auto    bool            `json:"auto,omitempty"`
}

// headKey is the key of a set's head record. It holds nothing; its generation
// counts the keys the provider made for the set, so that two processes that
// find a key missing make one, not two. No set or kid contains "#".
func headKey(set string) string { return "#" + set }

func recordKey(set, kid string) string { return set + "/" + kid }

// current is the picture of the store, read anew when it may be stale. An
// older picture is used when the store cannot be read: signing goes on.
func (r *Ring) current(ctx context.Context) (*state, error) {
	st := r.state.Load()
	if r.fresh(st) {
		return st, nil
	}
	r.loading.Lock()
	defer r.loading.Unlock()
	if st = r.state.Load(); r.fresh(st) {
		return st, nil
	}
	if err := r.load(ctx); err != nil {
		if st == nil {
			return nil, err
		}
		r.log.Warn("signing keys could not be read again", "err", err)
		kept := *st
		kept.read = r.now()
		r.state.Store(&kept)
	}
	return r.state.Load(), nil
}

func (r *Ring) fresh(st *state) bool {
	if st == nil {
		return false
	}
	limit := maxAge
	if r.watched.Load() {
		limit = maxAgeWatched
	}
	return r.now().Sub(st.read) < limit
}

// load reads all keys and swaps the picture.
func (r *Ring) load(ctx context.Context) error {
	seen := r.changes.Load()
	st := &state{sets: map[string][]*key{}, heads: map[string]int64{}, read: r.now()}
	var after string
	for n := 0; ; {
		recs, err := r.cfg.Store.List(ctx, oauth.Query{Kind: oauth.Keys, After: after, Limit: 500})
		if err != nil {
			return err
		}
		for _, rec := range recs {
			after = rec.Key
			if set, ok := strings.CutPrefix(rec.Key, "#"); ok {
				st.heads[set] = rec.Generation
				continue
			}
			k, err := r.open(rec)
			if err != nil {
				return err
			}
			st.sets[k.set] = append(st.sets[k.set], k)
		}
		if n += len(recs); n > maxKeys {
			return errFull
		}
		if len(recs) < 500 {
			break
		}
	}
	for _, ks := range st.sets {
		slices.SortFunc(ks, func(a, b *key) int {
			return cmp.Or(b.active.Compare(a.active), b.created.Compare(a.created), cmp.Compare(a.jwk.KeyID, b.jwk.KeyID))
		})
	}
	var err error
	if st.jwks, err = published(st.sets); err != nil {
		return err
	}
	r.state.Store(st)
	if r.changes.Load() != seen {
		r.outdate() // something changed while we read
	}
	return nil
}

func (r *Ring) open(rec oauth.Record) (*key, error) {
	set, kid, ok := strings.Cut(rec.Key, "/")
	plain, err := r.seal.Open(rec.Data, []byte(rec.Key))
	if err != nil || !ok {
		return nil, fmt.Errorf("key %s was sealed with a secret that is not in secrets.system", rec.Key)
	}
	var s stored
	if err := json.Unmarshal(plain, &s); err != nil {
		return nil, fmt.Errorf("reading key %s: %w", rec.Key, err)
	}
	s.JWK.KeyID = kid
	return &key{set: set, jwk: s.JWK, created: s.Created, active: s.Active, auto: s.Auto}, nil
}

// record seals a key for the store.
func (r *Ring) record(k *key, generation int64) (oauth.Record, error) {
	plain, err := json.Marshal(stored{JWK: k.jwk, Created: k.created, Active: k.active, Auto: k.auto})
	if err != nil {
		return oauth.Record{}, err
	}
	name := recordKey(k.set, k.jwk.KeyID)
	return oauth.Record{Kind: oauth.Keys, Key: name, Generation: generation, Data: r.seal.Seal(nil, plain, []byte(name))}, nil
}

// make stores a new key of one of our sets, unless another process was
// faster: then there is one that found returns.
func (r *Ring) make(ctx context.Context, set, alg string, active time.Time, found func(*state) *key) (*key, error) {
	r.loading.Lock()
	defer r.loading.Unlock()
	var made *key
	for range 5 {
		if err := r.load(ctx); err != nil {
			return nil, err
		}
		st := r.state.Load()
		if k := found(st); k != nil {
			return k, nil
		}
		if made == nil {
			jwk, err := generate(alg, "sig", "")
			if err != nil {
				return nil, err
			}
			made = &key{set: set, jwk: jwk, created: r.now(), active: active, auto: true}
		}
		rec, err := r.record(made, 0)
		if err != nil {
			return nil, err
		}
		head := oauth.Record{Kind: oauth.Keys, Key: headKey(set), Generation: st.heads[set]}
		switch err := r.cfg.Store.Put(ctx, head, rec); {
		case err == nil:
			r.log.Info("signing key made", "set", set, "alg", alg, "kid", made.jwk.KeyID, "active", active)
		case fault.KindOf(err) != fault.Conflict:
			return nil, err
		}
	}
	return nil, fault.New(fault.Unavailable, "too many processes make signing keys at once")
}

// generate makes a private key for any asymmetric algorithm we know.
func generate(alg, use, kid string) (jose.JSONWebKey, error) {
	var private crypto.PrivateKey
	var err error
	switch alg {
	case "RS256", "PS256":
		private, err = rsa.GenerateKey(rand.Reader, 2048)
	case "RS384", "PS384":
		private, err = rsa.GenerateKey(rand.Reader, 3072)
	case "RS512", "PS512":
		private, err = rsa.GenerateKey(rand.Reader, 4096)
	case "ES256":
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ES384":
		private, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ES512":
		private, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "EdDSA":
		_, private, err = ed25519.GenerateKey(rand.Reader)
	default:
		return jose.JSONWebKey{}, fault.New(fault.Invalid, "Unsupported key algorithm")
	}
	if err != nil {
		return jose.JSONWebKey{}, err
	}
	if kid == "" {
		kid = uuid.NewString()
	}
	return jose.JSONWebKey{Key: private, KeyID: kid, Algorithm: alg, Use: use}, nil
}
