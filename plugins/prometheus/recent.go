package prometheus

import (
	"sync"

	"gatehouse/gateway"
)

// maxRecent bounds recent. What it holds keeps routes of an earlier snapshot
// alive, so it is small and emptied when full.
const maxRecent = 1024

// recent finds the series of an exchange by what it was for, without looking
// at a label.
type recent struct {
	mu sync.RWMutex
	m  map[recentKey]series // guarded by mu
}

// recentKey decides the labels: what the pointers point at never changes.
type recentKey struct {
	route        *gateway.Route
	node         *gateway.Node
	consumer     *gateway.Consumer
	matchedURI   string
	code         int
	fromUpstream bool
	proxied      bool
}

func (r *recent) get(k recentKey) (series, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	s, ok := r.m[k]
	return s, ok
}

func (r *recent) put(k recentKey, s series) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.m == nil || len(r.m) >= maxRecent {
		r.m = make(map[recentKey]series)
	}
	r.m[k] = s
}
