package prometheus

import (
	"sync/atomic"
	"unsafe"

	"gatehouse/gateway"
)

// recent finds the kind of an exchange by what the exchange was for, without
// looking at a label and without a lock. What it does not have the maps of
// metrics have; what is in the way is written over. It is emptied with every
// scrape: its keys keep routes of earlier snapshots alive.
type recent [recentSize]atomic.Pointer[recentEntry]

const recentSize = 1 << 12

type recentEntry struct {
	key  recentKey
	kind *kind
}

// recentKey decides the labels: what the pointers point at never changes.
type recentKey struct {
	logger       *logger
	route        *gateway.Route
	node         *gateway.Node
	consumer     *gateway.Consumer
	matchedURI   string
	code         int
	fromUpstream bool
	proxied      bool
}

func (k *recentKey) slot() uintptr {
	h := address(k.logger)
	h = h*31 + address(k.route)
	h = h*31 + address(k.node)
	h = h*31 + address(k.consumer)
	h = h*31 + uintptr(k.code) + uintptr(len(k.matchedURI))<<10
	return mix(h) % recentSize
}

func (r *recent) get(k *recentKey) *kind {
	if e := r[k.slot()].Load(); e != nil && e.key == *k {
		return e.kind
	}
	return nil
}

func (r *recent) put(k *recentKey, to *kind) { r[k.slot()].Store(&recentEntry{*k, to}) }

func (r *recent) clear() {
	for i := range r {
		if r[i].Load() != nil {
			r[i].Store(nil)
		}
	}
}

// address is a number to choose a place by, nothing else: two pointers that
// differ may fall on one place, and do no harm there.
func address[T any](p *T) uintptr { return uintptr(unsafe.Pointer(p)) >> 4 }

// mix spreads the bits of h over its lower ones.
func mix(h uintptr) uintptr {
	h *= 0x9E3779B97F4A7C15 & (1<<(8*unsafe.Sizeof(h)) - 1)
	return h >> (4 * unsafe.Sizeof(h))
}
