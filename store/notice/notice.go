// Package notice tells goroutines of this process that something was stored.
//
// It carries no data: who is told reads the store again. Writers never wait
// for a watcher, however slow it is.
package notice

import (
	"context"
	"sync"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
)

// Bell wakes everybody who waits. The zero value is ready.
type Bell struct {
	mu sync.Mutex
	ch chan struct{} // closed by the next Ring; nil: nobody asked yet
}

// Wait returns a channel that is closed by the next Ring. Take it before
// reading the store, or a ring in between is missed.
func (b *Bell) Wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

// Ring wakes all who wait.
func (b *Bell) Ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}

// maxPending is how many keys are remembered for a watcher that is busy;
// beyond, it is told that anything may have changed.
const maxPending = 1024

// Board implements oauth.Watcher for a store that one process owns. The zero
// value is ready.
type Board struct {
	mu     sync.Mutex
	subs   map[*sub]struct{}
	closed bool
}

type sub struct {
	kind    oauth.RecordKind
	pending map[string]struct{} // guarded by Board.mu
	wake    chan struct{}       // capacity 1
}

// Changed tells the watchers which records were written or removed. It is
// called after the change is durable.
func (b *Board) Changed(refs ...oauth.Ref) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.subs {
		for _, r := range refs {
			if r.Kind == s.kind {
				s.add(r.Key)
			}
		}
	}
}

func (s *sub) add(key string) {
	if len(s.pending) >= maxPending {
		clear(s.pending)
		key = ""
	}
	if _, all := s.pending[""]; !all {
		s.pending[key] = struct{}{}
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Watch implements oauth.Watcher. It returns ctx's error, or
// fault.Unavailable after Close.
func (b *Board) Watch(ctx context.Context, k oauth.RecordKind, changed func(key string)) error {
	s := &sub{kind: k, pending: map[string]struct{}{"": {}}, wake: make(chan struct{}, 1)}
	s.wake <- struct{}{}
	b.mu.Lock()
	if b.subs == nil {
		b.subs = map[*sub]struct{}{}
	}
	b.subs[s] = struct{}{}
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		delete(b.subs, s)
		b.mu.Unlock()
	}()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.wake:
		}
		b.mu.Lock()
		keys, closed := s.pending, b.closed
		s.pending = map[string]struct{}{}
		b.mu.Unlock()
		if closed {
			return fault.New(fault.Unavailable, "the store is closed")
		}
		for key := range keys {
			changed(key)
		}
	}
}

// All tells every watcher that anything may have changed.
func (b *Board) All() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.subs {
		s.add("")
	}
}

// Close ends all watches.
func (b *Board) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for s := range b.subs {
		s.add("")
	}
}

var _ oauth.Watcher = (*Board)(nil)
