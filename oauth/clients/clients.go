// Package clients keeps the registered clients: finding them from a cache,
// and what the admin API does with them.
//
// Registry (this file) finds; register.go creates, changes and deletes;
// validate.go says what a client may look like; patch.go applies RFC 6902.
// How a client proves itself is in clientauth, its form on the wire in
// oauth.ParseClient and Client.Wire.
package clients

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
)

// How old a cached client may be: while the store tells of changes (a
// notification may get lost), while it does not, and for "there is none".
const (
	maxAgeWatched = 30 * time.Second
	maxAge        = time.Second
	maxAgeMissing = time.Second
)

// maxCached bounds the cache; a client takes about 2 KB.
const maxCached = 8192

// loadTimeout bounds one read of the store, which several requests may share.
const loadTimeout = 10 * time.Second

// Hasher makes hashes of chosen secrets.
type Hasher interface {
	Hash(ctx context.Context, secret string) (phc string, err error)
}

// Config is what a Registry needs. Store and Hasher must be set.
type Config struct {
	Store  oauth.Store
	Hasher Hasher
	// SigningAlgs are the algorithms a client may ask ID tokens in.
	SigningAlgs []string
	Log         *slog.Logger
	Now         func() time.Time // nil: time.Now
}

// Registry keeps the clients. It is safe for concurrent use.
type Registry struct {
	cfg Config
	now func() time.Time
	log *slog.Logger

	watched atomic.Bool  // the store tells of changes
	changes atomic.Int64 // counts them
	flight  singleflight.Group

	mu     sync.RWMutex // guards what follows
	cached map[string]entry
}

var _ oauth.ClientFinder = (*Registry)(nil)

type entry struct {
	client *oauth.Client // nil: there is none
	read   time.Time
}

// New returns a Registry. It works without Run, a second behind the store.
func New(cfg Config) *Registry {
	r := &Registry{cfg: cfg, now: cfg.Now, log: cfg.Log, cached: map[string]entry{}}
	if r.now == nil {
		r.now = time.Now
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	return r
}

// Run follows changes of the store until ctx ends, if the store tells of them.
// While a watch cannot be had the cache is as good as without Run.
func (r *Registry) Run(ctx context.Context) {
	w, ok := r.cfg.Store.(oauth.Watcher)
	if !ok {
		return
	}
	for ctx.Err() == nil {
		err := w.Watch(ctx, oauth.Clients, func(id string) {
			r.forget(id)
			if id == "" { // from here on nothing is missed
				r.watched.Store(true)
			}
		})
		r.watched.Store(false)
		if ctx.Err() == nil {
			r.log.Warn("watching clients", "err", err)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

// Client returns a client, shared and not to be changed, or fault.NotFound.
func (r *Registry) Client(ctx context.Context, id string) (*oauth.Client, error) {
	if id == "" || len(id) > maxID {
		return nil, errNotFound
	}
	r.mu.RLock()
	e, ok := r.cached[id]
	r.mu.RUnlock()
	if ok && r.fresh(e) {
		return e.found()
	}
	// Requests share a read, so it must not end with the first of them.
	ch := r.flight.DoChan(id, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTimeout)
		defer cancel()
		before := r.changes.Load()
		c, err := r.read(ctx, id)
		if err != nil && fault.KindOf(err) != fault.NotFound {
			return entry{}, err
		}
		e := entry{c, r.now()}
		r.keep(id, e, before)
		return e, nil
	})
	select {
	case got := <-ch:
		if got.Err != nil {
			return nil, got.Err
		}
		return got.Val.(entry).found()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (r *Registry) fresh(e entry) bool {
	limit := maxAge
	switch {
	case e.client == nil:
		limit = maxAgeMissing
	case r.watched.Load():
		limit = maxAgeWatched
	}
	return r.now().Sub(e.read) < limit
}

func (e entry) found() (*oauth.Client, error) {
	if e.client == nil {
		return nil, errNotFound
	}
	return e.client, nil
}

// read gets a client from the store.
func (r *Registry) read(ctx context.Context, id string) (*oauth.Client, error) {
	recs, err := r.cfg.Store.Get(ctx, oauth.Ref{Kind: oauth.Clients, Key: id})
	if err != nil {
		return nil, err
	}
	if len(recs) == 0 {
		return nil, errNotFound
	}
	return open(recs[0])
}

func open(rec oauth.Record) (*oauth.Client, error) {
	c := &oauth.Client{}
	if err := json.Unmarshal(rec.Data, c); err != nil {
		return nil, err
	}
	c.ID, c.Generation = rec.Key, rec.Generation
	return c, nil
}

// keep remembers what was read, unless something changed since.
func (r *Registry) keep(id string, e entry, before int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changes.Load() != before {
		return
	}
	if _, ok := r.cached[id]; !ok && len(r.cached) >= maxCached {
		for other := range r.cached { // any: order of a map is random enough
			delete(r.cached, other)
			break
		}
	}
	r.cached[id] = e
}

// forget drops a client from the cache, or all.
func (r *Registry) forget(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changes.Add(1)
	if id == "" {
		clear(r.cached)
		return
	}
	delete(r.cached, id)
	r.flight.Forget(id) // a read under way may be of before
}

var errNotFound = fault.New(fault.NotFound, "Unable to locate the resource")
