package engine

import (
	"net"
	"sync/atomic"
	"time"

	"gatehouse/lib/sock"
)

// pace watches a transfer for which a client is waited for, once a second: a
// client that stands still, or moves a byte now and then to hold on to what it
// has, is given up. It belongs to the sweep.
type pace struct {
	on     bool
	bytes  uint64 // when they grew last
	since  int64  // and the second of it
	window int64  // seconds that were watched
	base   uint64 // bytes at the start of the window
}

// late is told how many bytes have moved so far. limit bounds how long none
// may; rate, in bytes a second, what must move in each window.
func (p *pace) late(now int64, bytes uint64, limit time.Duration, l *Limits, rated bool) bool {
	if !p.on || bytes != p.bytes {
		p.on, p.bytes, p.since = true, bytes, now
	}
	if time.Duration(now-p.since)*time.Second >= limit {
		return true
	}
	if !rated || l.Rate <= 0 {
		p.window = 0
		return false
	}
	if p.window == 0 {
		p.base = bytes
	}
	if p.window++; time.Duration(p.window-1)*time.Second < l.RateTime {
		return false
	}
	slow := int64(bytes-p.base) < int64(l.Rate)*(p.window-1)
	p.window = 0
	return slow
}

// pause says that the client is not waited for now.
func (p *pace) pause() { p.on = false }

// traffic is how many bytes the peer of a connection has acknowledged and sent;
// false: the system does not say.
func traffic(c *net.TCPConn, raw sock.Raw) (acked, received uint64, ok bool) {
	if raw == nil {
		if raw, ok = sock.RawConn(c); !ok {
			return 0, 0, false
		}
	}
	err := raw.Control(func(fd uintptr) { acked, received, ok = sock.Traffic(fd) })
	return acked, received, ok && err == nil
}

// clientWait is a wait for the client: the second in which it began or ended,
// and in the lowest bit whether it is on. An answer is sent while a body is
// read, by two goroutines: each has a wait of its own.
type clientWait struct{ word atomic.Uint64 }

func (w *clientWait) begin(s *Server) { w.word.Store(uint64(s.seconds.Load())<<1 | 1) }

func (w *clientWait) end(s *Server) { w.word.Store(uint64(s.seconds.Load()) << 1) }

func (w *clientWait) load() (on bool, since int64) {
	v := w.word.Load()
	return v&1 != 0, int64(v >> 1)
}

// tickBusy looks at a connection whose request is being answered.
func (c *client) tickBusy(now int64) {
	sends, sent := c.sends.load()
	reads, read := c.reads.load()
	c.tickTotal(now, sends, reads)
	switch {
	case now-sent < 1:
	case sends:
		c.tickSend(now, time.Duration(now-sent)*time.Second)
	default:
		c.sending.pause()
	}
	switch {
	case now-read < 1:
	case reads:
		c.tickBody(now, time.Duration(now-read)*time.Second)
	default:
		c.receiving.pause()
	}
	if !sends && !reads && c.tcp != nil && c.gone() {
		c.ctx.end()
	}
}

// tickSend judges a client that an answer is sent to. waited is how long the
// write under way has lasted: on a system that does not count what arrives it
// is all there is.
func (c *client) tickSend(now int64, waited time.Duration) {
	lim := &c.srv.cfg.Limits
	acked, _, ok := traffic(c.tcp, c.raw)
	if ok && c.sending.late(now, acked, lim.SendTime, lim, true) || !ok && waited >= lim.SendTime {
		giveUp(c.tcp)
		_ = c.nc.SetWriteDeadline(time.Unix(1, 0))
	}
}

// giveUp lets the kernel keep nothing for a client that does not take it.
func giveUp(c *net.TCPConn) {
	if c != nil {
		_ = c.SetLinger(0)
	}
}

// tickBody judges a client that sends a body. Once the answer has begun the
// client may be talking to somebody: only its silence counts then.
func (c *client) tickBody(now int64, waited time.Duration) {
	lim := &c.srv.cfg.Limits
	_, received, ok := traffic(c.tcp, c.raw)
	if ok && c.receiving.late(now, received, lim.BodyTime, lim, !c.begun.Load()) || waited >= lim.BodyTime {
		c.stop()
	}
}

// tickTotal ends an exchange that has taken too long, tunnels excepted.
func (c *client) tickTotal(now int64, sends, reads bool) {
	total := c.srv.cfg.Limits.Total
	began := c.began.Load()
	if total <= 0 || began == 0 || time.Duration(now-began)*time.Second < total || c.tunnel() != nil {
		return
	}
	c.ctx.expire()
	if reads {
		c.stop()
	}
	if sends {
		_ = c.nc.SetWriteDeadline(time.Unix(1, 0))
	}
}
