package engine

import "runtime"

// h2buffer is what waits to be written to the client, by whoever finds nobody
// writing: many answers leave in one call. It is guarded by the connection's
// mu.
type h2buffer struct {
	b, spare []byte
	writing  bool
	began    int64 // second in which the write under way began; 0: none
}

// h2MaxOut is how much waits before streams wait too.
const h2MaxOut = 256 << 10

// Write takes a frame from the Framer.
func (o *h2buffer) Write(p []byte) (int, error) {
	o.b = append(o.b, p...)
	return len(p), nil
}

// flush writes what waits, unless somebody is at it.
func (c *h2conn) flush() {
	c.mu.Lock()
	c.flushLocked(false)
	c.mu.Unlock()
}

// flushLocked is flush with mu held, which it gives up while it writes. With
// yield, streams that are ready to run may add their answers first. It says
// whether mu was given up: what the caller knew may have changed.
func (c *h2conn) flushLocked(yield bool) (gaveUp bool) {
	o := &c.out
	if o.writing || len(o.b) == 0 || c.broken != nil {
		return false
	}
	o.writing = true
	if yield {
		c.mu.Unlock()
		runtime.Gosched()
		c.mu.Lock()
	}
	for len(o.b) > 0 && c.broken == nil {
		b := o.b
		o.b = o.spare[:0]
		o.spare = nil
		o.began = c.srv.seconds.Load()
		c.mu.Unlock()
		_, err := c.nc.Write(b)
		c.mu.Lock()
		o.began = 0
		if cap(b) <= 2*h2MaxOut {
			o.spare = b
		}
		if err != nil {
			c.broken = err
			c.nc.Close()
			for _, st := range c.streams {
				st.fail(ErrClient)
			}
		}
		c.changed.Broadcast()
	}
	o.writing = false
	return true
}
