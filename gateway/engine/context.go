package engine

import (
	"context"
	"sync"
)

// lazyContext ends with its parent or by end. The channel of Done is made only
// for those who wait for it: nearly everybody asks Err. A parent that ends
// does not close the channel, whoever ends it must call end.
type lazyContext struct {
	context.Context // the parent
	mu              sync.Mutex
	done            chan struct{} // guarded by mu
	err             error         // guarded by mu
}

func (x *lazyContext) Err() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.err != nil {
		return x.err
	}
	return x.Context.Err()
}

func (x *lazyContext) Done() <-chan struct{} {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.done == nil {
		x.done = make(chan struct{})
		if x.err != nil {
			close(x.done)
		}
	}
	return x.done
}

func (x *lazyContext) end() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.err == nil {
		x.err = context.Canceled
		if x.done != nil {
			close(x.done)
		}
	}
}
