package engine

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gatehouse/gateway"
	"gatehouse/lib/h1"
	"gatehouse/lib/sock"
)

// client is an HTTP/1.1 connection of a client and the front of its exchanges.
// One goroutine serves it, see serve.
//
// On a plain TCP connection of Linux it lives inside the callback of
// RawConn.Read ("latched edge"): the poller is armed once, an edge that
// arrives while a request is answered stays latched, and a connection that
// waits holds no buffer. A request costs recv and send, nothing else. In the
// callback nothing may wait for the client: a request whose body has not
// arrived whole, and one that asks to switch protocols, is answered outside.
type client struct {
	wire
	srv *Server
	raw sock.Raw // nil: net.Conn alone, as with TLS
	ctx lazyContext

	// Of the serving goroutine.
	a     *active // nil while the connection waits for a request
	fd    uintptr // valid while inFd
	inFd  bool    // inside the callback
	leave bool    // the request at hand is answered outside the callback
	end   bool    // no further request
	eof   bool    // the client has closed, or the connection is broken
	grown bool    // the goroutine has answered a request
	h2    bool    // the client speaks HTTP/2 by prior knowledge
	seen  int     // bytes of a head that were looked at
	count int     // requests

	state   atomic.Uint64 // what tick judges by: see setPhase
	sends   clientWait    // for the client to take a part of the answer
	reads   clientWait    // for a part of the body, whoever reads it
	closing atomic.Bool   // the server stops: the next answer is the last
	hush    atomic.Bool   // the server stops, and has waited long enough for a request
	stopped atomic.Bool   // the body of the request is not read any more
	begun   atomic.Bool   // the answer to a request with a body has begun
	began   atomic.Int64  // second in which the exchange began; 0: none, or nobody asks
	mu      sync.Mutex
	tun     *tunnel // guarded by mu; after an upgrade

	// Of tick.
	sending, receiving pace
}

const (
	phaseIdle uint32 = iota // waits for a request
	phaseHead               // a part of a head has come
	phaseBusy               // a request is being answered; sends and reads say what is waited for
	phaseGone               // tick has given the connection up
)

// active is what a connection needs while a request is there.
type active struct {
	x    gateway.Exchange
	w    Writer
	head h1.Head
	size int // of the head in bytes
	body clientBody
	in   block
	out  []byte

	// The answer.
	chunked bool
	left    int64 // of a body with a length
	closing bool  // "Connection: close" was said
}

// outSize is how much of an answer is kept back to leave in one piece.
const outSize = 18 << 10

func newClient(s *Server, w wire) *client {
	c := &client{wire: w, srv: s}
	if w.tls == nil {
		if raw, ok := sock.RawConn(w.tcp); ok {
			c.raw = raw
		}
	}
	c.ctx.Context = context.Background()
	return c
}

// serve is the life of the connection, from its first byte.
func (c *client) serve() {
	if !c.srv.track(c) {
		c.closing.Store(true)
	}
	c.setPhase(phaseIdle)
	c.live()
}

// live serves the connection until it ends. A connection that has been idle
// for a second goes on with a fresh goroutine: the old one's stack has grown
// with the requests it answered, and would stay so for as long as the client
// keeps the connection open.
func (c *client) live() {
	if c.raw == nil {
		c.servePlain()
	} else if c.serveRaw() {
		go c.live()
		return
	}
	c.linger()
	c.ctx.end()
	if c.h2 {
		prefix := append([]byte(nil), c.a.in.pending()...)
		c.release()
		_ = c.nc.SetDeadline(time.Time{})
		c.srv.forget(c)
		c.srv.serveHTTP2(c.wire, prefix)
	} else {
		c.release()
		c.nc.Close()
		c.srv.forget(c)
	}
	c.srv.uncount(c.wire)
}

// serveRaw serves a plain connection. It returns true when the connection is
// idle and should go on with less memory.
func (c *client) serveRaw() (idle bool) {
	step := c.step
	for !c.end {
		err := c.raw.Read(step)
		switch {
		case c.leave:
			c.leave = false
			c.exchange()
			c.drainInput()
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			c.woken()
			if !c.end && c.grown && c.phase() == phaseIdle {
				c.grown = false
				c.srv.shed.Add(1)
				return true
			}
		default:
			c.end, c.eof = true, true
		}
	}
	return false
}

// step reads what has come and answers it. It returns true to leave the
// callback, false to wait for the next edge. A short read has emptied the
// socket, what comes later makes an edge of its own; only an end that came
// together with the last bytes makes none. With a part of a request at hand it
// is looked for at once, else tick finds it.
func (c *client) step(fd uintptr) bool {
	for {
		if c.a == nil {
			c.a = c.srv.actives.Get().(*active)
		}
		space := c.a.in.space()
		n, e := sock.Recv(fd, space)
		if e == syscall.EAGAIN {
			c.wait()
			return false
		}
		if e != 0 || n == 0 {
			c.end, c.eof = true, true
			return true
		}
		c.a.in.got(n)
		c.fd, c.inFd = fd, true
		c.drainInput()
		c.inFd = false
		if c.leave || c.end {
			return true
		}
		if n < len(space) && len(c.a.in.pending()) == 0 {
			c.wait()
			return false
		}
	}
}

// wait is the state between what came and what will come.
func (c *client) wait() {
	if len(c.a.in.pending()) == 0 {
		c.release()
		if c.phase() != phaseIdle { // a look of tick begins nothing new
			c.setPhase(phaseIdle)
		}
	} else if c.phase() != phaseHead {
		c.setPhase(phaseHead)
	}
}

func (c *client) release() {
	if c.a != nil {
		c.a.in.drop()
		c.srv.actives.Put(c.a)
		c.a = nil
	}
	c.seen = 0
}

// servePlain is the same over net.Conn. While the connection waits it holds a
// small buffer only.
func (c *client) servePlain() {
	first := make([]byte, 1024)
	for !c.end {
		to := first
		if c.a != nil {
			to = c.a.in.space()
		}
		n, err := c.nc.Read(to)
		if n > 0 {
			if c.a == nil {
				c.a = c.srv.actives.Get().(*active)
				copy(c.a.in.space(), first[:n])
			}
			c.a.in.got(n)
			c.drainInput()
		}
		switch {
		case c.end:
		case errors.Is(err, os.ErrDeadlineExceeded):
			c.woken()
		case err != nil:
			c.end, c.eof = true, true
		default:
			if c.a != nil {
				c.wait()
			}
		}
	}
}

// woken decides why tick has ended the wait for bytes.
func (c *client) woken() {
	lim := &c.srv.cfg.Limits
	waited := time.Duration(c.srv.seconds.Load()-c.since()) * time.Second
	switch c.phase() {
	case phaseGone:
		c.end = true
	case phaseHead:
		if waited >= lim.HeadTime {
			c.refuse(408)
			return
		}
	case phaseIdle:
		if waited >= lim.Idle || c.hush.Load() && !c.readable() {
			c.end = true
			return
		}
	}
	_ = c.nc.SetReadDeadline(time.Time{})
}

// drainInput answers every request that has come whole, in order.
func (c *client) drainInput() {
	for !c.end {
		in := &c.a.in
		if c.seen == 0 {
			in.skip(h1.SkipBlank(in.pending()))
		}
		b := in.text()
		if len(b) == 0 {
			return
		}
		if c.count == 0 && c.speaksHTTP2(b) {
			return
		}
		n, err := c.a.head.ReadRequest(b, c.seen, &c.srv.heads)
		if err != nil {
			var bad *h1.Error
			status := 400
			if errors.As(err, &bad) {
				status = bad.Status
			}
			c.refuse(status)
			return
		}
		if n == 0 {
			c.seen = len(b)
			return
		}
		in.keep(n)
		c.seen, c.a.size = 0, n
		h := &c.a.head
		if c.inFd && (h.Chunked || h.Upgrade != "" || h.Length > int64(len(in.pending()))) {
			c.leave = true // it may wait for the client
			return
		}
		c.exchange()
	}
}

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// speaksHTTP2 says whether the connection begins as HTTP/2 does, as far as it
// has come.
func (c *client) speaksHTTP2(b string) bool {
	if c.tls != nil || c.srv.cfg.NoHTTP2 || len(b) < 16 || !strings.HasPrefix(preface, b[:min(len(b), len(preface))]) {
		return false
	}
	c.h2, c.end = true, true
	return true
}

// exchange answers the request whose head is at hand.
func (c *client) exchange() {
	a := c.a
	x, h := &a.x, &a.head
	c.setPhase(phaseBusy)
	c.count++
	c.grown = true
	if c.srv.cfg.Limits.Total > 0 {
		c.began.Store(c.srv.seconds.Load())
	}
	x.Ctx, x.Start = &c.ctx, c.srv.cfg.Now()
	r := &x.Req
	c.fill(r)
	r.Method, r.Target, r.Authority = h.Method, h.OriginTarget, h.Authority
	r.Proto = "HTTP/1.1"
	if h.Minor == 0 {
		r.Proto = "HTTP/1.0"
	}
	r.Trailers, r.Upgrade = h.Trailers, h.Upgrade
	r.Header.Take(&h.Fields)
	x.BytesIn = int64(a.size)
	r.Length = max(h.Length, 0)
	if h.Chunked {
		r.Length = -1
	}
	a.body.begin(c, h)
	if r.Length != 0 {
		r.Body = &a.body
	}
	a.w.reset(c, x)
	a.closing = h.Close || c.srv.cfg.Limits.Requests > 0 && c.count >= c.srv.cfg.Limits.Requests
	fail := 0
	if len(h.Target) != len(h.OriginTarget) && c.misdirected(h.Target) {
		fail = 421
	}
	c.conclude(c.srv.handle(x, &a.w, fail))
}

// misdirected says whether a target of absolute-form names an https resource
// on a connection that is not secured: only a proxy that is trusted may have
// ended TLS (RFC 9110, section 7.4).
func (c *client) misdirected(target string) bool {
	const https = "https:"
	return c.tls == nil && len(target) > len(https) && h1.EqualFold(target[:len(https)], https) && !c.srv.trusted(c.peer.Addr())
}

// fill sets what the connection says about a request.
func (c *client) fill(r *gateway.Request) {
	r.Peer, r.Local, r.ClientIP, r.TLS = c.peer, c.local, c.ip, c.tls
	r.Client = netip.Addr{}
	r.Scheme = "http"
	if c.tls != nil {
		r.Scheme = "https"
	}
}

// refuse answers a request that could not be read, and ends the connection.
func (c *client) refuse(status int) {
	if c.a == nil {
		c.a = c.srv.actives.Get().(*active)
	}
	a := c.a
	c.setPhase(phaseBusy)
	a.x.Ctx, a.x.Start = &c.ctx, c.srv.cfg.Now()
	c.fill(&a.x.Req)
	a.x.Req.Proto = "HTTP/1.1"
	a.x.BytesIn = int64(len(a.in.pending()))
	a.in.drop()
	a.body.none()
	a.w.reset(c, &a.x)
	a.closing = true
	c.end = true
	c.conclude(c.srv.handle(&a.x, &a.w, status))
}

// conclude leaves the connection ready for the next request, or ends it.
func (c *client) conclude(ok bool) {
	a := c.a
	if c.srv.cfg.Limits.Total > 0 {
		c.began.Store(0)
	}
	c.end = c.end || a.closing || a.w.taken || c.ctx.Err() != nil
	if !c.end && !a.body.skip() {
		c.end = true
	}
	if c.stopped.Load() { // once: the next request may have no body
		c.stopped.Store(false)
		_ = c.nc.SetReadDeadline(time.Time{})
	}
	if !ok {
		left := &active{in: a.in} // a handler that panicked may still hold the exchange
		a.in = block{}
		c.a = left
		return
	}
	clearExchange(&a.x)
}

// setPhase begins a phase. One word holds all of it, because a request changes
// it twice: the phase in the lowest bits, polled, and the second it began in.
func (c *client) setPhase(p uint32) {
	c.state.Store(uint64(c.srv.seconds.Load())<<secondShift | uint64(p))
}

const (
	phaseMask   = 1<<3 - 1
	polled      = 1 << 3 // tick has woken the connection in this phase
	secondShift = 4
)

func (c *client) phase() uint32 { return uint32(c.state.Load() & phaseMask) }

func (c *client) since() int64 { return int64(c.state.Load() >> secondShift) }

// poll says whether tick is to wake the connection, once in each phase.
func (c *client) poll() bool {
	s := c.state.Load()
	return s&polled == 0 && c.state.CompareAndSwap(s, s|polled)
}

// tick is the server's look at the connection, once a second.
func (c *client) tick(now int64) {
	since := c.since()
	if now-since < 1 {
		return
	}
	waited := time.Duration(now-since) * time.Second
	lim := &c.srv.cfg.Limits
	phase := c.phase()
	switch phase {
	case phaseIdle, phaseHead:
		c.sending, c.receiving = pace{}, pace{}
		limit := lim.Idle
		if phase == phaseHead {
			limit = lim.HeadTime
		}
		// Once in each wait a plain connection is read again: an end that came
		// with the last bytes made no edge.
		if waited >= limit || c.raw != nil && c.poll() {
			_ = c.nc.SetReadDeadline(time.Unix(1, 0))
		}
	case phaseBusy:
		c.tickBusy(now)
	}
	if t := c.tunnel(); t != nil {
		t.tick(now)
	}
}

// gone says whether the client has closed while its request is answered.
func (c *client) gone() bool { return c.look() == sock.Ended }

// readable says whether something has come that was not read yet.
func (c *client) readable() bool { return c.look() == sock.Readable }

func (c *client) look() sock.State {
	raw := c.raw
	if raw == nil {
		var ok bool
		if raw, ok = sock.RawConn(c.tcp); !ok {
			return sock.Quiet
		}
	}
	state := sock.Quiet
	if err := raw.Control(func(fd uintptr) { state = sock.Look(fd) }); err != nil {
		return sock.Ended
	}
	return state
}

func (c *client) drain() {
	c.closing.Store(true)
	if t := c.tunnel(); t != nil {
		t.drain()
	}
}

// quiet ends the wait for a request; woken looks once more.
func (c *client) quiet() {
	c.hush.Store(true)
	if c.phase() == phaseIdle && c.tunnel() == nil {
		_ = c.nc.SetReadDeadline(time.Unix(1, 0))
	}
}

func (c *client) idleSince() (int64, bool) { return c.since(), c.phase() == phaseIdle }

func (c *client) cut() {
	c.ctx.end()
	c.nc.Close()
}

func (c *client) tunnel() *tunnel {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tun
}

const (
	lingerTime  = 2 * time.Second
	lingerIdle  = time.Second / 2 // after no answer
	lingerBytes = 16 << 20
)

// linger reads on for a moment and throws it away, when we are the ones who
// close.
func (c *client) linger() {
	if c.eof || c.h2 || c.a != nil && c.a.w.taken {
		return
	}
	c.setPhase(phaseGone)
	if c.a == nil {
		c.farewell(lingerIdle, make([]byte, 512))
		return
	}
	c.farewell(lingerTime, c.a.in.space())
}
