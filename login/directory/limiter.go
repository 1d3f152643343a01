package directory

import (
	"crypto/sha256"
	"net/netip"
	"sync"
	"time"
)

// Limits says how many failures are let through. Each is a bucket that holds
// Burst failures and gets one back every Refill. Zero fields take the default.
//
// Others who guess from elsewhere lock nobody out of a known address: where
// somebody has signed in before, Account does not count. Pair and Address count
// there too, so failures from that same address (or its /64) make it wait. At
// most Entries such addresses are known, and only until a restart.
type Limits struct {
	Pair    Rate // one address at one account: 5, one per 30 s
	Address Rate // one address at all accounts: 50, one per 5 s
	Account Rate // one account from all addresses unknown to it: 100, one per 10 s
	Entries int  // how many buckets of each sort are remembered: 50,000
}

// Rate is a burst and the time after which one more is allowed.
type Rate struct {
	Burst  int
	Refill time.Duration
}

func (r Rate) or(burst int, refill time.Duration) Rate {
	if r.Burst <= 0 {
		r.Burst = burst
	}
	if r.Refill <= 0 {
		r.Refill = refill
	}
	return r
}

// key is the hash of an address, an account or both: names of any length take
// the same room.
type key [16]byte

type bucket struct {
	left float64
	seen time.Time
}

// limiter counts failures. An attempt is paid for when it begins, so that many
// at a time cannot slip through, and paid back unless it was denied.
type limiter struct {
	now     func() time.Time
	entries int

	mu      sync.Mutex // guards what follows
	pair    table
	address table
	account table
	friends map[key]time.Time // pairs that signed in, and when
}

type table struct {
	rate    Rate
	buckets map[key]bucket
}

// ticket is a paid attempt.
type ticket struct {
	pair, address, account key
	friend                 bool
}

func newLimiter(l Limits, now func() time.Time) *limiter {
	if l.Entries <= 0 {
		l.Entries = 50_000
	}
	return &limiter{
		now: now, entries: l.Entries,
		pair:    table{l.Pair.or(5, 30*time.Second), map[key]bucket{}},
		address: table{l.Address.or(50, 5*time.Second), map[key]bucket{}},
		account: table{l.Account.or(100, 10*time.Second), map[key]bucket{}},
		friends: map[key]time.Time{},
	}
}

// enter takes one from every bucket that counts, or says how long to wait and
// takes none.
func (l *limiter) enter(from netip.Addr, account string) (ticket, time.Duration) {
	net := network(from)
	t := ticket{pair: hash("pair", net, account), address: hash("address", net), account: hash("account", account)}
	now := l.now()

	l.mu.Lock()
	defer l.mu.Unlock()
	_, t.friend = l.friends[t.pair]
	wait := max(l.pair.wait(t.pair, now), l.address.wait(t.address, now))
	if !t.friend {
		wait = max(wait, l.account.wait(t.account, now))
	}
	if wait > 0 {
		return t, wait
	}
	l.pair.take(t.pair, now, l.entries)
	l.address.take(t.address, now, l.entries)
	if !t.friend {
		l.account.take(t.account, now, l.entries)
	}
	return t, 0
}

// succeeded pays the attempt back, forgets the pair's failures and remembers
// that this address belongs to the account.
func (l *limiter) succeeded(t ticket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.giveBack(t)
	delete(l.pair.buckets, t.pair)
	if _, ok := l.friends[t.pair]; !ok && len(l.friends) >= l.entries {
		evict(l.friends, func(a, b time.Time) bool { return a.Before(b) })
	}
	l.friends[t.pair] = l.now()
}

// undecided pays the attempt back: it neither failed nor succeeded.
func (l *limiter) undecided(t ticket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.giveBack(t)
}

func (l *limiter) giveBack(t ticket) {
	l.pair.give(t.pair)
	l.address.give(t.address)
	if !t.friend {
		l.account.give(t.account)
	}
}

// at is the bucket as it is now.
func (t *table) at(k key, now time.Time) bucket {
	b, ok := t.buckets[k]
	if !ok {
		return bucket{float64(t.rate.Burst), now}
	}
	if gone := now.Sub(b.seen); gone > 0 {
		b.left = min(float64(t.rate.Burst), b.left+float64(gone)/float64(t.rate.Refill))
		b.seen = now
	}
	return b
}

// slack forgives what rounding takes, so that whoever waits as long as they
// were told is let in.
const slack = 1e-6

func (t *table) wait(k key, now time.Time) time.Duration {
	missing := 1 - t.at(k, now).left
	if missing <= slack {
		return 0
	}
	return time.Duration(missing * float64(t.rate.Refill))
}

func (t *table) take(k key, now time.Time, entries int) {
	b := t.at(k, now)
	b.left--
	if _, ok := t.buckets[k]; !ok && len(t.buckets) >= entries {
		// The fullest of a few goes: it has the least to tell.
		evict(t.buckets, func(x, y bucket) bool { return t.full(x, now) > t.full(y, now) })
	}
	t.buckets[k] = b
}

func (t *table) full(b bucket, now time.Time) float64 {
	return b.left + float64(now.Sub(b.seen))/float64(t.rate.Refill)
}

func (t *table) give(k key) {
	if b, ok := t.buckets[k]; ok {
		b.left = min(float64(t.rate.Burst), b.left+1)
		t.buckets[k] = b
	}
}

// evict removes the first by order of eight entries picked at random.
func evict[V any](m map[key]V, before func(a, b V) bool) {
	var worst key
	n := 0
	for k, v := range m {
		if n == 0 || before(v, m[worst]) {
			worst = k
		}
		if n++; n == 8 {
			break
		}
	}
	delete(m, worst)
}

// network is what counts as one address: an IPv4 address, or the /64 that one
// IPv6 customer gets.
func network(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}

func hash(parts ...string) (k key) {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	copy(k[:], h.Sum(nil))
	return k
}
