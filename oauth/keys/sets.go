package keys

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
)

// Limits of the admin API.
const (
	MaxSetJSON   = 512 << 10 // bytes of a key set as others send it
	maxSetKeys   = 100
	maxName      = 128
	minRSABits   = 2048
	maxRSABits   = 8192
	maxUseLength = 32
)

// CreateKey makes a key in a set and returns it, in a set of one, with its
// private part: this is the one time a key of a signing set shows it. An empty
// kid gets a random one. Fails with fault.Invalid for an algorithm that is
// symmetric or unknown, fault.Conflict if the kid exists.
func (r *Ring) CreateKey(ctx context.Context, set, alg, use, kid string) (json.RawMessage, error) {
	if use == "" {
		use = "sig"
	}
	if err := nameable(set, kid, use); err != nil {
		return nil, err
	}
	if err := r.room(ctx, set); err != nil {
		return nil, err
	}
	jwk, err := generate(alg, use, kid)
	if err != nil {
		return nil, err
	}
	if err := r.put(ctx, set, 0, jwk); err != nil {
		if fault.KindOf(err) == fault.Conflict {
			return nil, fault.Wrap(fault.Conflict, "the set has a key with this kid", err)
		}
		return nil, err
	}
	r.log.Info("key created", "set", set, "alg", alg, "kid", jwk.KeyID)
	return json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{jwk}})
}

// KeySet returns a set, newest key first. Private parts are shown, except
// those of the two signing sets. Fails with fault.NotFound.
func (r *Ring) KeySet(ctx context.Context, set string) (json.RawMessage, error) {
	return r.show(ctx, set, func(*key) bool { return true })
}

// Key returns one key, in a set of one, as KeySet does.
func (r *Ring) Key(ctx context.Context, set, kid string) (json.RawMessage, error) {
	return r.show(ctx, set, func(k *key) bool { return k.jwk.KeyID == kid })
}

// PutSet replaces a set by the given one and returns it. Fails with
// fault.Invalid for a key that is malformed, weak or symmetric, and for
// public keys in a signing set.
func (r *Ring) PutSet(ctx context.Context, set string, doc []byte) (json.RawMessage, error) {
	if len(doc) > MaxSetJSON {
		return nil, fault.New(fault.Invalid, "the key set is too large")
	}
	var in jose.JSONWebKeySet
	if err := json.Unmarshal(doc, &in); err != nil {
		return nil, fault.Wrap(fault.Invalid, "Unable to decode the request body: "+err.Error(), err)
	}
	if len(in.Keys) == 0 || len(in.Keys) > maxSetKeys {
		return nil, fault.New(fault.Invalid, "a key set holds between 1 and 100 keys")
	}
	if err := r.put(ctx, set, oauth.Overwrite, in.Keys...); err != nil {
		return nil, err
	}
	st := r.state.Load()
	var gone []oauth.Ref
	for _, k := range st.sets[set] {
		if !slices.ContainsFunc(in.Keys, func(j jose.JSONWebKey) bool { return j.KeyID == k.jwk.KeyID }) {
			gone = append(gone, oauth.Ref{Kind: oauth.Keys, Key: recordKey(set, k.jwk.KeyID)})
		}
	}
	if err := r.remove(ctx, gone); err != nil {
		return nil, err
	}
	return r.KeySet(ctx, set)
}

// PutKey stores a key under the kid it names, or under kid if it names none,
// and returns it.
func (r *Ring) PutKey(ctx context.Context, set, kid string, doc []byte) (json.RawMessage, error) {
	if len(doc) > MaxSetJSON {
		return nil, fault.New(fault.Invalid, "the key is too large")
	}
	var in jose.JSONWebKey
	if err := json.Unmarshal(doc, &in); err != nil {
		return nil, fault.Wrap(fault.Invalid, "Unable to decode the request body: "+err.Error(), err)
	}
	if in.KeyID == "" {
		in.KeyID = kid
	}
	if err := r.room(ctx, set); err != nil {
		return nil, err
	}
	if err := r.put(ctx, set, oauth.Overwrite, in); err != nil {
		return nil, err
	}
	if ours(set) {
		in = publicOf(in)
	}
	return json.Marshal(in)
}

// DeleteSet removes a set; one that is not there is no error.
func (r *Ring) DeleteSet(ctx context.Context, set string) error {
	if err := r.reload(ctx); err != nil {
		return err
	}
	var refs []oauth.Ref
	for _, k := range r.state.Load().sets[set] {
		refs = append(refs, oauth.Ref{Kind: oauth.Keys, Key: recordKey(set, k.jwk.KeyID)})
	}
	return r.remove(ctx, refs)
}

// DeleteKey removes a key; fault.NotFound if it is not there. When the last
// key of a signing set goes, the next signature makes another.
func (r *Ring) DeleteKey(ctx context.Context, set, kid string) error {
	if err := nameable(set, kid, ""); err != nil || kid == "" {
		return errNoKey
	}
	err := r.cfg.Store.Remove(ctx, oauth.Ref{Kind: oauth.Keys, Key: recordKey(set, kid)})
	r.stale()
	return err
}

var errNoKey = fault.New(fault.NotFound, "Unable to locate the resource")

func (r *Ring) show(ctx context.Context, set string, want func(*key) bool) (json.RawMessage, error) {
	st, err := r.current(ctx)
	if err != nil {
		return nil, err
	}
	out := jose.JSONWebKeySet{}
	for _, k := range st.sets[set] {
		switch {
		case !want(k):
		case ours(set):
			out.Keys = append(out.Keys, publicOf(k.jwk))
		default:
			out.Keys = append(out.Keys, k.jwk)
		}
	}
	if len(out.Keys) == 0 {
		return nil, errNoKey
	}
	return json.Marshal(out)
}

// room says whether a set may have one more key.
func (r *Ring) room(ctx context.Context, set string) error {
	st, err := r.current(ctx)
	if err != nil {
		return err
	}
	total := 0
	for _, ks := range st.sets {
		total += len(ks)
	}
	if len(st.sets[set]) >= maxSetKeys || total >= maxKeys/2 {
		return fault.New(fault.Invalid, "there are too many keys; delete some first")
	}
	return nil
}

// put checks and stores keys of an operator. The first listed is the newest.
func (r *Ring) put(ctx context.Context, set string, generation int64, jwks ...jose.JSONWebKey) error {
	recs := make([]oauth.Record, 0, len(jwks))
	now := r.now()
	for i, j := range jwks {
		if j.KeyID == "" {
			return fault.New(fault.Invalid, "a key has no kid")
		}
		if err := nameable(set, j.KeyID, j.Use); err != nil {
			return err
		}
		if err := usable(j, ours(set)); err != nil {
			return err
		}
		at := now.Add(-time.Duration(i) * time.Millisecond)
		rec, err := r.record(&key{set: set, jwk: j, created: at, active: at}, generation)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(recs, func(o oauth.Record) bool { return o.Key == rec.Key }) {
			return fault.New(fault.Invalid, "two keys have the same kid")
		}
		recs = append(recs, rec)
	}
	if err := r.cfg.Store.Put(ctx, recs...); err != nil {
		return err
	}
	return r.reload(ctx)
}

func (r *Ring) remove(ctx context.Context, refs []oauth.Ref) error {
	if len(refs) == 0 {
		return nil
	}
	err := r.cfg.Store.Remove(ctx, refs...)
	if fault.KindOf(err) == fault.NotFound {
		err = nil
	}
	if err != nil {
		return err
	}
	return r.reload(ctx)
}

func (r *Ring) reload(ctx context.Context) error {
	r.loading.Lock()
	defer r.loading.Unlock()
	return r.load(ctx)
}

func ours(set string) bool { return set == IDToken || set == AccessToken }

// nameable says whether names fit into a record's key and a URL.
func nameable(set, kid, use string) error {
	bad := func(s string) bool {
		return len(s) > maxName || strings.ContainsFunc(s, func(r rune) bool {
			return r <= ' ' || r > '~' || strings.ContainsRune(`/#?%\"`, r)
		})
	}
	if set == "" || bad(set) || bad(kid) || bad(use) || len(use) > maxUseLength {
		return fault.New(fault.Invalid, "a key set, kid or use has up to 128 characters, no spaces, slashes or other special characters")
	}
	return nil
}

// usable says whether a key is one to keep: asymmetric, strong, whole, and of
// the kind its algorithm names. Keys of the signing sets must be private.
func usable(j jose.JSONWebKey, signing bool) error {
	kind := ""
	switch k := j.Key.(type) {
	case *rsa.PrivateKey, *rsa.PublicKey:
		kind = "RSA"
		bits := 0
		if p, ok := k.(*rsa.PrivateKey); ok {
			bits = p.N.BitLen()
		} else {
			bits = k.(*rsa.PublicKey).N.BitLen()
		}
		if bits < minRSABits || bits > maxRSABits {
			return fault.New(fault.Invalid, "an RSA key must have between 2048 and 8192 bits")
		}
	case *ecdsa.PrivateKey:
		kind = k.Curve.Params().Name
	case *ecdsa.PublicKey:
		kind = k.Curve.Params().Name
	case ed25519.PrivateKey, ed25519.PublicKey:
		kind = "Ed25519"
	default:
		return fault.New(fault.Invalid, "Unsupported key algorithm")
	}
	if !j.Valid() {
		return fault.New(fault.Invalid, "a key is incomplete")
	}
	if want, ok := kinds[j.Algorithm]; (j.Algorithm != "" && !ok) || (ok && want != kind) {
		return fault.New(fault.Invalid, "a key's alg does not fit the key")
	}
	if signing && (j.IsPublic() || j.Use != "sig" || !slices.Contains(signingAlgs, j.Algorithm)) {
		return fault.New(fault.Invalid, "this set signs tokens: its keys must be private, have use sig, and alg RS256, PS256, ES256 or EdDSA")
	}
	return nil
}

// kinds says which key an algorithm needs.
var kinds = map[string]string{
	"RS256": "RSA", "RS384": "RSA", "RS512": "RSA", "PS256": "RSA", "PS384": "RSA", "PS512": "RSA",
	"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519",
}
