package clientauth

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// How often a client may fail from one address: so many times at once, then
// once per interval. A right secret that is remembered or generated passes all
// the same, so nobody can lock a client out from another address.
const (
	maxFailures = 20
	failureTime = 3 * time.Second
	maxBuckets  = 16384
)

// failures counts failed attempts.
type failures struct {
	mu      sync.Mutex // guards what follows
	buckets map[string]bucket
}

// bucket is how many failures there were as of a time; they drain away.
type bucket struct {
	n  float64
	at time.Time
}

func (b bucket) drained(now time.Time) float64 {
	return max(0, b.n-now.Sub(b.at).Seconds()/failureTime.Seconds())
}

func (f *failures) allowed(who string, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, ok := f.buckets[who]
	return !ok || b.drained(now) < maxFailures
}

func (f *failures) add(who string, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, ok := f.buckets[who]
	if !ok && len(f.buckets) >= maxBuckets {
		for other, b := range f.buckets {
			if b.drained(now) == 0 {
				delete(f.buckets, other)
			}
		}
		for other := range f.buckets { // all busy: any goes
			if len(f.buckets) < maxBuckets {
				break
			}
			delete(f.buckets, other)
		}
	}
	f.buckets[who] = bucket{b.drained(now) + 1, now}
}

// peer is the address a request came from; of IPv6, the network of one site.
func peer(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	if ip = ip.Unmap(); ip.Is6() {
		if p, err := ip.Prefix(64); err == nil {
			return p.String()
		}
	}
	return ip.String()
}
