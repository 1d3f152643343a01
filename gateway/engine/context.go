package engine

import (
	"context"
	"sync"
	"sync/atomic"
)

// lazyContext ends with its parent or by end. The channel of Done is made only
// for those who wait for it: nearly everybody asks Err. A parent that ends
// does not close the channel, whoever ends it must call end.
type lazyContext struct {
	context.Context // the parent
	ended           atomic.Bool
	late            atomic.Bool // it took too long; set before ended
	mu              sync.Mutex
	done            chan struct{} // guarded by mu; closed when ended
}

func (x *lazyContext) Err() error {
	if x.ended.Load() {
		if x.late.Load() {
			return context.DeadlineExceeded
		}
		return context.Canceled
	}
	return x.Context.Err()
}

func (x *lazyContext) Done() <-chan struct{} {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.done == nil {
		x.done = make(chan struct{})
		if x.ended.Load() {
			close(x.done)
		}
	}
	return x.done
}

func (x *lazyContext) end() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.ended.Swap(true) && x.done != nil {
		close(x.done)
	}
}

// expire ends it with context.DeadlineExceeded.
func (x *lazyContext) expire() {
	if !x.ended.Load() {
		x.late.Store(true)
		x.end()
	}
}
