package limitcount

import (
	"crypto/sha256"
	"hash/maphash"
	"strings"
	"sync"
	"time"
)

// counters counts requests by key. It is safe for concurrent use, outlives the
// instances that use it, and holds a bounded number of keys: the expired go
// first, then the one of a few that ends soonest.
type counters struct {
	seed   maphash.Seed
	shards [shardCount]shard
}

const (
	shardCount  = 64
	maxPerShard = 2048 // keys; 131072 in all
	maxKey      = 128  // bytes; longer keys are hashed
	sample      = 8    // keys looked at when one must go
)

type shard struct {
	mu        sync.Mutex
	keys      map[string]*window // guarded by mu
	nextSweep time.Time          // guarded by mu
}

// window is what is known of one key.
type window struct {
	start time.Time
	ends  time.Time // when it can be forgotten
	used  int64
	prev  int64 // used in the window before this one, for sliding
}

// verdict is the answer to one request.
type verdict struct {
	ok        bool
	remaining int64
	reset     time.Duration // until the window ends
}

func newCounters() *counters {
	c := &counters{seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i].keys = map[string]*window{}
	}
	return c
}

// fixed counts a request in a window that begins with the first request.
func (c *counters) fixed(key string, limit int64, length time.Duration, now time.Time) verdict {
	return c.count(key, now, func(w *window) verdict {
		if w.start.IsZero() || !now.Before(w.ends) {
			*w = window{start: now, ends: now.Add(length)}
		}
		v := verdict{reset: w.ends.Sub(now)}
		if w.used < limit {
			w.used++
			v.ok = true
		}
		v.remaining = max(0, limit-w.used)
		return v
	})
}

// sliding counts a request in windows aligned to the clock. The window before
// counts by the part of it that the last length of time still covers.
func (c *counters) sliding(key string, limit int64, length time.Duration, now time.Time) verdict {
	return c.count(key, now, func(w *window) verdict {
		start := now.Truncate(length)
		switch {
		case w.start.Equal(start):
		case w.start.Equal(start.Add(-length)):
			*w = window{start: start, prev: w.used}
		default:
			*w = window{start: start}
		}
		w.ends = start.Add(2 * length)
		left := start.Add(length).Sub(now)
		before := float64(w.prev) * float64(left) / float64(length)
		v := verdict{reset: left}
		if before+float64(w.used)+1 <= float64(limit) {
			w.used++
			v.ok = true
		}
		v.remaining = max(0, int64(float64(limit)-before-float64(w.used)))
		return v
	})
}

func (c *counters) count(key string, now time.Time, f func(*window) verdict) verdict {
	if len(key) > maxKey {
		sum := sha256.Sum256([]byte(key))
		key = string(sum[:])
	}
	s := &c.shards[maphash.String(c.seed, key)%shardCount]
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.keys[key]
	if w == nil {
		s.makeRoom(now)
		w = &window{}
		s.keys[strings.Clone(key)] = w
	}
	return f(w)
}

// makeRoom forgets what has expired, at most once a second, and one more key
// when that did not help. The caller holds mu.
func (s *shard) makeRoom(now time.Time) {
	if !now.Before(s.nextSweep) {
		s.nextSweep = now.Add(time.Second)
		for k, w := range s.keys {
			if !now.Before(w.ends) {
				delete(s.keys, k)
			}
		}
	}
	if len(s.keys) < maxPerShard {
		return
	}
	var victim string
	var ends time.Time
	n := 0
	for k, w := range s.keys {
		if n == 0 || w.ends.Before(ends) {
			victim, ends = k, w.ends
		}
		if n++; n == sample {
			break
		}
	}
	delete(s.keys, victim)
}
