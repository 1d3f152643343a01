package keys

import (
	"context"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
)

// Run follows changes of the store and rotates keys on schedule until ctx
// ends. Without it a Ring works, reads the store at most once a second, and
// never rotates.
func (r *Ring) Run(ctx context.Context) {
	done := make(chan struct{})
	if w, ok := r.cfg.Store.(oauth.Watcher); ok {
		go func() { defer close(done); r.follow(ctx, w) }()
	} else {
		close(done)
	}
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		if err := r.Maintain(ctx); err != nil && ctx.Err() == nil {
			r.log.Warn("rotating signing keys", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			<-done
			return
		}
	}
}

// follow marks the picture stale whenever the store tells of a change. While a
// watch cannot be had the store is read every second, as without Run.
func (r *Ring) follow(ctx context.Context, w oauth.Watcher) {
	for ctx.Err() == nil {
		err := w.Watch(ctx, oauth.Keys, func(name string) {
			r.stale()
			if name == "" { // from here on nothing is missed
				r.watched.Store(true)
			}
		})
		r.watched.Store(false)
		if ctx.Err() == nil {
			r.log.Warn("watching signing keys", "err", err)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

// stale makes the next use read the store. A load under way may have read
// what was there before; the compare-and-swap loop marks whatever it stored.
func (r *Ring) stale() {
	r.changes.Add(1)
	r.outdate()
}

// outdate makes the next look at the picture read the store.
func (r *Ring) outdate() {
	for {
		st := r.state.Load()
		if st == nil {
			return
		}
		old := *st
		old.read = time.Time{}
		if r.state.CompareAndSwap(st, &old) {
			return
		}
	}
}

// Maintain makes followers of keys that are old and removes keys that have
// signed nothing for long. An operator's keys are never removed.
func (r *Ring) Maintain(ctx context.Context) error {
	if r.cfg.RotateAfter <= 0 {
		return nil
	}
	ahead, keep := r.cfg.PublishAhead, r.cfg.KeepAfter
	if ahead <= 0 {
		ahead = time.Hour
	}
	if keep <= 0 {
		keep = 30 * 24 * time.Hour
	}
	st, err := r.current(ctx)
	if err != nil {
		return err
	}
	now := r.now()
	for _, set := range []string{IDToken, AccessToken} {
		for _, alg := range signingAlgs {
			young := func(st *state) *key { return st.young(set, alg, now.Add(ahead-r.cfg.RotateAfter)) }
			if st.newest(set, alg, now) == nil || young(st) != nil {
				continue
			}
			if _, err := r.make(ctx, set, alg, now.Add(ahead), young); err != nil {
				return err
			}
		}
		for _, k := range st.sets[set] {
			follower := st.newest(set, k.jwk.Algorithm, now.Add(-keep))
			if !k.auto || follower == nil || follower == k || !follower.active.After(k.active) {
				continue
			}
			err := r.cfg.Store.Remove(ctx, oauth.Ref{Kind: oauth.Keys, Key: recordKey(set, k.jwk.KeyID)})
			if err != nil && fault.KindOf(err) != fault.NotFound {
				return err
			}
			r.log.Info("signing key removed", "set", set, "kid", k.jwk.KeyID)
			r.stale()
		}
	}
	return nil
}

// young returns a key of the algorithm that is active since or from a time
// after the given one.
func (s *state) young(set, alg string, after time.Time) *key {
	for _, k := range s.sets[set] {
		if k.jwk.Algorithm == alg && k.jwk.Use == "sig" && !k.jwk.IsPublic() && k.active.After(after) {
			return k
		}
	}
	return nil
}
