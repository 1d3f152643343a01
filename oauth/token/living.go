package token

import (
	"context"
	"sync"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
)

// maxOwners bounds what Living remembers, about 200 bytes each.
const maxOwners = 16384

// Living finds out whether what a token names still stands: one read of the
// authorization together with the revocation epochs of its subject and client.
//
// To ask for the epochs one must know subject and client, which a short token
// does not tell. They never change, so they are remembered; an authorization
// that this process sees for the first time costs a second read.
type Living struct {
	store    oauth.Store
	settings *oauth.Settings

	mu     sync.Mutex // guards what follows
	owners map[string]owner
	before map[string]owner // the generation of entries before this one
}

type owner struct{ client, subject string }

// NewLiving returns a Living.
func NewLiving(s oauth.Store, settings *oauth.Settings) *Living {
	return &Living{store: s, settings: settings, owners: map[string]owner{}}
}

// errEnded says that an authorization does not stand any more.
var errEnded = fault.New(fault.NotFound, "the authorization was revoked or has expired")

// Authorization returns an authorization that still stands for what was issued
// from it at the given time. It fails with fault.NotFound.
func (l *Living) Authorization(ctx context.Context, id string, issued time.Time) (*oauth.Authorization, error) {
	return l.find(ctx, id, func(*oauth.Authorization) time.Time { return issued })
}

// Refreshable is Authorization for its newest refresh token.
func (l *Living) Refreshable(ctx context.Context, id string) (*oauth.Authorization, error) {
	return l.find(ctx, id, func(a *oauth.Authorization) time.Time { return a.IssuedAt })
}

func (l *Living) find(ctx context.Context, id string, issued func(*oauth.Authorization) time.Time) (*oauth.Authorization, error) {
	o, known := l.owner(id)
	refs := make([]oauth.Ref, 1, 4)
	refs[0] = oauth.Ref{Kind: oauth.Authorizations, Key: id}
	if known {
		refs = append(refs, o.epochs()...)
	}
	recs, err := l.store.Get(ctx, refs...)
	if err != nil {
		return nil, err
	}
	var a *oauth.Authorization
	var epoch time.Time
	for _, rec := range recs {
		switch rec.Kind {
		case oauth.Authorizations:
			if a, err = oauth.OpenAuthorization(rec); err != nil {
				return nil, err
			}
		case oauth.Epochs:
			epoch = later(epoch, oauth.EpochTime(rec))
		}
	}
	if a == nil {
		return nil, errEnded
	}
	if !known {
		o = owner{a.ClientID, a.Subject}
		if recs, err = l.store.Get(ctx, o.epochs()...); err != nil {
			return nil, err
		}
		for _, rec := range recs {
			epoch = later(epoch, oauth.EpochTime(rec))
		}
		l.remember(id, o)
	}
	if issued(a).Before(epoch) {
		return nil, errEnded
	}
	return a, nil
}

// Token says whether a token that a client got for itself still stands:
// fault.NotFound if not.
func (l *Living) Token(ctx context.Context, id, client string, issued time.Time) error {
	recs, err := l.store.Get(ctx, oauth.Ref{Kind: oauth.Revoked, Key: id}, oauth.Ref{Kind: oauth.Epochs, Key: oauth.EpochKey("", client)})
	if err != nil {
		return err
	}
	for _, rec := range recs {
		if rec.Kind == oauth.Revoked || issued.Before(oauth.EpochTime(rec)) {
			return errEnded
		}
	}
	return nil
}

// Revoke ends an authorization and all that came of it, requests under way
// included.
func (l *Living) Revoke(ctx context.Context, id string) error {
	s := l.settings
	// Whatever could store it again is expired by then: a question that is
	// still open, a code, a request under way.
	return l.store.Revoke(ctx, id, s.Now().Add(max(s.TTLInteraction, s.TTLCode)+time.Hour))
}

// RevokeToken ends one token that a client got for itself.
func (l *Living) RevokeToken(ctx context.Context, id, client string, expires time.Time) error {
	return l.store.Put(ctx, oauth.Record{
		Kind: oauth.Revoked, Key: id, Client: client, Generation: oauth.Overwrite, Expires: expires.Add(time.Minute),
	})
}

func (o owner) epochs() []oauth.Ref {
	return []oauth.Ref{
		{Kind: oauth.Epochs, Key: oauth.EpochKey("", o.client)},
		{Kind: oauth.Epochs, Key: oauth.EpochKey(o.subject, "")},
		{Kind: oauth.Epochs, Key: oauth.EpochKey(o.subject, o.client)},
	}
}

func (l *Living) owner(id string) (owner, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if o, ok := l.owners[id]; ok {
		return o, true
	}
	o, ok := l.before[id]
	if ok {
		l.keep(id, o) // in use: it survives
	}
	return o, ok
}

func (l *Living) remember(id string, o owner) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keep(id, o)
}

// keep adds an entry; when half the room is used the other half is given up.
// mu is held.
func (l *Living) keep(id string, o owner) {
	if len(l.owners) >= maxOwners/2 {
		l.before, l.owners = l.owners, make(map[string]owner, maxOwners/2)
	}
	l.owners[id] = o
}
