// Package interaction keeps the open questions to a human: who are you, may
// this client, do you want to sign out. It implements oauth.Desk for whoever
// asks them, and the steps of the authorization endpoint between them.
//
// State travels sealed. A challenge goes to the application that asks, a
// verifier comes back with the answer; both are AEAD-sealed, about 400
// characters long and never over 1,000. What does not fit goes into a
// short-lived record (oauth.Flows) that the blob names. A cookie binds each
// question to the browser it was put to. A question is used when its verifier
// is redeemed, a rejection included; from then on challenge and verifier are
// refused (oauth.SpentError).
//
// What a whole flow writes: one Put when the login is redeemed (marker and
// session), one when the consent is (the authorization, which is its own
// marker, and the remembered consent). Nothing is written before somebody has
// answered, apart from requests too large to seal, which are limited in rate.
//
// It does not check requests (oauth/authorize does), shows no pages (the
// login room does) and mints nothing (oauth/mint does).
package interaction

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/lib/seal"
	"gatehouse/oauth"
	"gatehouse/oauth/session"
)

const (
	maxSealed  = 1000     // characters of a challenge or verifier
	maxPayload = 16 << 10 // bytes of a flow, stored or not
	maxInline  = maxSealed*3/4 - 24 - 16 - 1 - 3
	// What a spilled request may cost: requests per second, and at once.
	spillRate, spillBurst = 50, 200
)

// purposes of the seals; none opens another's.
type purpose int

const (
	loginChallenge purpose = iota
	loginVerifier
	consentChallenge
	consentVerifier
	logoutChallenge
	logoutVerifier
)

var purposeNames = []string{"login challenge", "login verifier", "consent challenge", "consent verifier", "logout challenge", "logout verifier"}

// Desk implements oauth.Desk. Safe for concurrent use.
type Desk struct {
	set      *oauth.Settings
	store    oauth.Store
	clients  oauth.ClientFinder
	sessions *session.Keeper
	rings    []*seal.Ring

	spill struct {
		sync.Mutex // guards the rest
		tokens     float64
		at         time.Time
	}
}

var _ oauth.Desk = (*Desk)(nil)

// New returns a desk. It fails when the settings hold no usable secret.
func New(set *oauth.Settings, store oauth.Store, clients oauth.ClientFinder, sessions *session.Keeper) (*Desk, error) {
	d := &Desk{set: set, store: store, clients: clients, sessions: sessions}
	for _, name := range purposeNames {
		r, err := seal.New(set.Secrets, name)
		if err != nil {
			return nil, fmt.Errorf("deriving the key of a %s: %w", name, err)
		}
		d.rings = append(d.rings, r)
	}
	d.spill.tokens = spillBurst
	return d, nil
}

// Forms of a sealed value.
const (
	inline  = 0 // followed by the payload
	spilled = 1 // followed by flow id, random part of the key, digest of the payload
)

const suffixSize, digestSize = 8, 16

// sealed seals a payload that begins with a version and the flow's id.
func (d *Desk) sealed(ctx context.Context, p purpose, id [16]byte, payload []byte, expires time.Time) (string, error) {
	if len(payload) > maxPayload {
		return "", fault.New(fault.Invalid, "The request or the answer to it is too large: context, claims and parameters may take 16 KiB together.")
	}
	w := &writer{b: make([]byte, 0, maxInline+64)}
	if len(payload) <= maxInline {
		w.byte(inline)
		w.raw(payload)
	} else {
		if p == loginChallenge && !d.maySpill() {
			return "", fault.New(fault.Unavailable, "Too many large requests at once. Try again later.")
		}
		var suffix [suffixSize]byte
		rand.Read(suffix[:])
		sum := sha256.Sum256(payload)
		err := d.store.Put(ctx, oauth.Record{
			Kind: oauth.Flows, Key: spillKey(id[:], suffix[:]), Expires: expires.Add(time.Minute), Data: payload,
		})
		if err != nil {
			return "", fmt.Errorf("storing a large %s: %w", purposeNames[p], err)
		}
		w.byte(spilled)
		w.raw(id[:])
		w.raw(suffix[:])
		w.raw(sum[:digestSize])
	}
	return base64.RawURLEncoding.EncodeToString(d.rings[p].Seal(nil, w.b, nil)), nil
}

func spillKey(id, suffix []byte) string {
	return hex.EncodeToString(id) + "/" + hex.EncodeToString(suffix)
}

// errUnknown answers for everything that was not sealed by us for this
// purpose, has expired, or is of a client that is gone: a caller learns nothing more.
var errUnknown = fault.New(fault.NotFound, "Unable to locate the requested resource")

// unsealed opens a sealed value. Records named by the value and those asked
// for in refs, given the flow's id, are read in one statement.
func (d *Desk) unsealed(ctx context.Context, p purpose, s string, refs func(id string) []oauth.Ref) ([]byte, []oauth.Record, error) {
	if len(s) > maxSealed || s == "" {
		return nil, nil, errUnknown
	}
	box, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return nil, nil, errUnknown
	}
	plain, err := d.rings[p].Open(box, nil)
	if err != nil || len(plain) < 18 {
		return nil, nil, errUnknown
	}
	var want []oauth.Ref
	var id, payload, digest []byte
	var flowKey string
	switch plain[0] {
	case inline:
		payload, id = plain[1:], plain[2:18]
	case spilled:
		r := &reader{b: plain[1:]}
		id = r.raw(16)
		suffix := r.raw(suffixSize)
		digest = r.raw(digestSize)
		if r.end() != nil {
			return nil, nil, errUnknown
		}
		flowKey = spillKey(id, suffix)
		want = append(want, oauth.Ref{Kind: oauth.Flows, Key: flowKey})
	default:
		return nil, nil, errUnknown
	}
	if refs != nil {
		want = append(want, refs(hex.EncodeToString(id))...)
	}
	var rs []oauth.Record
	if len(want) > 0 {
		if rs, err = d.store.Get(ctx, want...); err != nil {
			return nil, nil, fmt.Errorf("reading a %s: %w", purposeNames[p], err)
		}
	}
	if flowKey != "" {
		if r, ok := find(rs, oauth.Flows, flowKey); ok {
			payload = r.Data
		}
		sum := sha256.Sum256(payload)
		if subtle.ConstantTimeCompare(sum[:digestSize], digest) != 1 {
			return nil, nil, errUnknown
		}
	}
	return payload, rs, nil
}

func find(rs []oauth.Record, k oauth.RecordKind, key string) (oauth.Record, bool) {
	for _, r := range rs {
		if r.Kind == k && r.Key == key {
			return r, true
		}
	}
	return oauth.Record{}, false
}

// seal seals a flow.
func (d *Desk) seal(ctx context.Context, p purpose, f *flow) (string, error) {
	b, err := f.encode()
	if err != nil {
		return "", fault.Wrap(fault.Invalid, "The answer cannot be encoded.", err)
	}
	return d.sealed(ctx, p, f.id, b, f.expires)
}

// open opens a flow and finds its client and redirect URI again.
func (d *Desk) open(ctx context.Context, p purpose, s string, refs func(id string) []oauth.Ref) (*flow, []oauth.Record, error) {
	b, rs, err := d.unsealed(ctx, p, s, refs)
	if err != nil {
		return nil, nil, err
	}
	f, err := decodeFlow(b)
	if err != nil || !d.set.Now().Before(f.expires) {
		return nil, nil, errUnknown
	}
	if f.client, err = d.clients.Client(ctx, f.request.ClientID); err != nil {
		if fault.KindOf(err) == fault.NotFound {
			return nil, nil, errUnknown
		}
		return nil, nil, fmt.Errorf("finding client %s: %w", f.request.ClientID, err)
	}
	var ok bool
	if f.request.RedirectURI, ok = f.ref.resolve(f.client); !ok {
		return nil, nil, errUnknown
	}
	return f, rs, nil
}

// maySpill takes one from the budget of large requests.
func (d *Desk) maySpill() bool {
	d.spill.Lock()
	defer d.spill.Unlock()
	now := d.set.Now()
	if !d.spill.at.IsZero() {
		d.spill.tokens = min(spillBurst, d.spill.tokens+now.Sub(d.spill.at).Seconds()*spillRate)
	}
	d.spill.at = now
	if d.spill.tokens < 1 {
		return false
	}
	d.spill.tokens--
	return true
}

// marker is the record that says that a step of a flow was redeemed.
func marker(flow, step string, expires time.Time) oauth.Record {
	return oauth.Record{Kind: oauth.Used, Key: markerKey(flow, step), Expires: expires.Add(time.Minute)}
}

func markerKey(flow, step string) string { return flow + "/" + step }

func used(id, step string) []oauth.Ref {
	refs := []oauth.Ref{{Kind: oauth.Used, Key: markerKey(id, step)}}
	if step == stepConsent {
		refs = append(refs, oauth.Ref{Kind: oauth.Authorizations, Key: id})
	}
	return refs
}

const (
	stepLogin   = "login"
	stepConsent = "consent"
	stepLogout  = "logout"
)

func isUsed(rs []oauth.Record, id, step string) bool {
	_, marked := find(rs, oauth.Used, markerKey(id, step))
	_, granted := find(rs, oauth.Authorizations, id)
	return marked || step == stepConsent && granted
}
