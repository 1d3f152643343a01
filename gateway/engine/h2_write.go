package engine

import (
	"runtime"
	"time"
)

// h2buffer is what waits to be written to the client, by whoever finds nobody
// writing: many answers leave in one call. It is guarded by the connection's
// mu.
type h2buffer struct {
	b, spare []byte
	writing  bool
	began    int64 // second in which the write under way began; 0: none
}

// How much waits to be written before streams wait too, and before no more
// frames are read: what answers frames, and not requests, has room of its own,
// so that a client which sends and takes a lot at once does not stop itself.
const (
	h2MaxOut  = 256 << 10
	h2FullOut = h2MaxOut + 128<<10
)

// Write takes a frame from the Framer.
func (o *h2buffer) Write(p []byte) (int, error) {
	o.b = append(o.b, p...)
	return len(p), nil
}

// flushSoon writes what waits on a goroutine of its own, unless somebody is at
// it: for those who must not wait for the client. The caller holds mu.
func (c *h2conn) flushSoon() {
	if !c.writable() {
		return
	}
	c.out.writing = true // end waits for that
	go func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.writeOut()
	}()
}

// flushAll writes everything, to a client that is told the end: it has a moment
// to take it.
func (c *h2conn) flushAll() {
	_ = c.nc.SetWriteDeadline(time.Now().Add(lingerIdle))
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.broken == nil && (c.out.writing || len(c.out.b) > 0) {
		c.progress()
	}
}

// answered is the reader's, after each frame: what it made to be written is on
// its way, and there is room for what the next one will. That the client reads
// is up to tickWrite.
func (c *h2conn) answered(last bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if last {
		c.flushSoon()
	}
	for c.broken == nil && len(c.out.b) >= h2FullOut {
		c.progress()
	}
}

// progress returns when more has been written, or something else has changed.
// The caller holds mu, which is given up.
func (c *h2conn) progress() {
	if !c.flushLocked(false) {
		c.changed.Wait()
	}
}

// writable says whether something waits to be written and nobody is at it. The
// caller holds mu.
func (c *h2conn) writable() bool {
	return !c.out.writing && len(c.out.b) > 0 && c.broken == nil
}

// flushLocked is flush with mu held, which it gives up while it writes. With
// yield, streams that are ready to run may add their answers first. It says
// whether mu was given up: what the caller knew may have changed.
func (c *h2conn) flushLocked(yield bool) (gaveUp bool) {
	if !c.writable() {
		return false
	}
	c.out.writing = true
	if yield {
		c.mu.Unlock()
		runtime.Gosched()
		c.mu.Lock()
	}
	c.writeOut()
	return true
}

// writeOut is the writing itself, by who has set out.writing. The caller holds
// mu, which is given up meanwhile.
func (c *h2conn) writeOut() {
	o := &c.out
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
	if c.broken != nil {
		c.changed.Broadcast()
	}
}
