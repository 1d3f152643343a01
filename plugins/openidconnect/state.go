package openidconnect

import (
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// state is what routes of one client at one provider share and what outlasts
// a change of their configuration. All of it may be lost: then sessions are
// opened again, and a copy of a cookie lives until it times out.
type state struct {
	sessions *bounded[*session] // by cookie value
	renewals *bounded[renewal]  // by hash of the refresh token that was spent
	spent    *bounded[struct{}] // attempts that were used, by state
	ended    *bounded[struct{}] // sessions that were logged out, by id
	flight   singleflight.Group // refreshes, by hash of the refresh token
}

// Bounds, in bytes of what is kept.
const (
	sessionMemory = 32 << 20
	renewalMemory = 8 << 20
	markMemory    = 4 << 20
	tokenMemory   = 16 << 20
)

func newState(now func() time.Time) *state {
	return &state{
		sessions: newBounded[*session](sessionMemory, now),
		renewals: newBounded[renewal](renewalMemory, now),
		spent:    newBounded[struct{}](markMemory, now),
		ended:    newBounded[struct{}](markMemory, now),
	}
}

// bounded is a map that forgets: what is past its time at once, what was not
// asked for longest when memory runs out. Two generations stand for an exact
// order of use. Keys are hashed with a random seed and compared in full.
type bounded[V any] struct {
	now   func() time.Time
	limit int // bytes, both generations together

	mu         sync.Mutex // guards what follows
	young, old map[string]held[V]
	size       int // of young
}

type held[V any] struct {
	value V
	size  int
	until time.Time
}

const entryOverhead = 128 // bytes of map and struct per entry, roughly

func newBounded[V any](limit int, now func() time.Time) *bounded[V] {
	return &bounded[V]{now: now, limit: limit, young: map[string]held[V]{}}
}

func (b *bounded[V]) get(key string) (v V, ok bool) {
	now := b.now()
	b.mu.Lock()
	defer b.mu.Unlock()
	h, young := b.young[key]
	if !young {
		if h, ok = b.old[key]; !ok {
			return v, false
		}
	}
	if !now.Before(h.until) {
		return v, false
	}
	if !young {
		b.add(strings.Clone(key), h)
	}
	return h.value, true
}

// put keeps v under key, which must not point into memory of an Exchange.
func (b *bounded[V]) put(key string, v V, size int, until time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.add(key, held[V]{v, size + len(key) + entryOverhead, until})
}

// first is true for one caller per key and time: that one marked it.
func (b *bounded[V]) first(key string, v V, until time.Time) bool {
	now := b.now()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range []map[string]held[V]{b.young, b.old} {
		if h, ok := m[key]; ok && now.Before(h.until) {
			return false
		}
	}
	b.add(key, held[V]{v, len(key) + entryOverhead, until})
	return true
}

func (b *bounded[V]) add(key string, h held[V]) {
	if h.size > b.limit/2 {
		return
	}
	if b.size+h.size > b.limit/2 {
		b.young, b.old, b.size = map[string]held[V]{}, b.young, 0
	}
	b.size += h.size - b.young[key].size
	b.young[key] = h
}
