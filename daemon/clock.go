package daemon

import (
	"sync/atomic"
	"time"
)

// clock tells the time of day by the monotonic clock alone, which is half the
// price of time.Now, and follows corrections of the time of day once a second.
// Times it gives compare as those of time.Now do.
type clock struct{ base atomic.Pointer[time.Time] }

func (c *clock) Now() time.Time {
	base := c.base.Load()
	if base == nil {
		return c.set()
	}
	passed := time.Since(*base)
	if passed >= time.Second {
		return c.set()
	}
	return base.Add(passed)
}

func (c *clock) set() time.Time {
	now := time.Now()
	c.base.Store(&now)
	return now
}
