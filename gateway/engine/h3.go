package engine

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
)

// h3conn is an HTTP/3 connection of a client (RFC 9114). QUIC is quic-go's, so
// are the streams' windows and the numbers on the wire; field sections are
// decoded by its qpack. What they mean is here: quic.go accepts, h3.go is the
// connection and its budgets, h3_control.go the streams that carry no
// request, h3_stream.go the front of an exchange, h3_frame.go takes frames
// apart. Heads are judged by headBlock, as those of HTTP/2 are.
type h3conn struct {
	wire
	srv   *Server
	qc    *quic.Conn
	qpack *qpack.Decoder
	out   *quic.SendStream // our control stream; writing is guarded by mu
	wg    sync.WaitGroup   // streams of the client, with a request and without
	has   [4]atomic.Bool   // kinds of streams the client may open once

	mu      sync.Mutex
	streams map[*h3stream]struct{} // guarded by mu; whose handler runs
	next    quic.StreamID          // guarded by mu; the next request will have at least this
	count   int                    // guarded by mu; requests
	calm    int                    // guarded by mu; what cost us more than the client, in this second
	idle    int64                  // guarded by mu; second since which no request runs
	free    time.Time              // guarded by mu; since when none runs, or since off
	leaving bool                   // guarded by mu; the client was told that the end is near
	off     bool                   // guarded by mu; no new requests
}

const (
	h3MaxCalm    = 1000 // resets, errors, frames and streams without a request in a second
	h3UniStreams = 16   // of the client at once; three are needed, the others are grease

	// h3Linger lies between the last GOAWAY, or the last answer after it, and
	// the end: what is not acknowledged then is lost.
	h3Linger = time.Second

	h3Highest quic.StreamID = 1<<62 - 4 // of a stream with a request
)

// serveHTTP3 serves a connection until it ends.
func (s *Server) serveHTTP3(w wire, qc *quic.Conn) {
	c := &h3conn{wire: w, srv: s, qc: qc, qpack: qpack.NewDecoder(), streams: map[*h3stream]struct{}{}, idle: s.seconds.Load(), free: time.Now()}
	draining := !s.track(c)
	if err := c.openControl(); err == nil {
		if draining {
			c.drain()
		}
		c.wg.Go(c.acceptUni)
		for {
			st, err := qc.AcceptStream(context.Background())
			if err != nil {
				break
			}
			c.begin(st)
		}
	}
	c.close(h3InternalError) // it has ended already, but for an error of ours
	c.wg.Wait()
	s.forget(c)
}

// begin starts the exchange of a stream. quic-go counts it until its credit is
// released, which is when the handler has returned: however fast a client
// resets, no more than Limits.Streams handlers run.
func (c *h3conn) begin(qs *quic.Stream) {
	c.mu.Lock()
	if c.off && qs.StreamID() >= c.next {
		c.mu.Unlock()
		qs.CancelRead(h3RequestRejected)
		qs.CancelWrite(h3RequestRejected)
		qs.ReleaseStreamCredit()
		if c.cost() != nil {
			c.close(h3ExcessiveLoad)
		}
		return
	}
	st := newH3Stream(c, qs)
	c.next = qs.StreamID() + 4
	c.streams[st] = struct{}{}
	c.count++
	if lim := c.srv.cfg.Limits.Requests; lim > 0 && c.count >= lim {
		c.turnOff()
	}
	c.mu.Unlock()
	c.wg.Go(st.serve)
}

// ended takes a stream off whose handler has returned.
func (c *h3conn) ended(st *h3stream) {
	c.mu.Lock()
	delete(c.streams, st)
	c.idle, c.free = c.srv.seconds.Load(), time.Now()
	c.mu.Unlock()
	st.qs.ReleaseStreamCredit()
}

// cost counts what costs us more than the client, within the budget of the
// second.
func (c *h3conn) cost() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calm++; c.calm > h3MaxCalm {
		return h3ConnError(h3ExcessiveLoad)
	}
	return nil
}

// close ends the connection and waits until the client has been told. It must
// not be called with mu held.
func (c *h3conn) close(code quic.ApplicationErrorCode) { _ = c.qc.CloseWithError(code, "") }

// fails ends the connection or the stream for an error of the client.
func (c *h3conn) fails(qs *quic.Stream, err error) {
	var ce h3ConnError
	var se h3StreamError
	if errors.As(err, &ce) {
		c.srv.broken.Add(1)
		c.close(quic.ApplicationErrorCode(ce))
		return
	}
	if !errors.As(err, &se) {
		se = h3RequestCancelled // the client has reset the stream, or the connection is gone
	}
	qs.CancelRead(quic.StreamErrorCode(se))
	qs.CancelWrite(quic.StreamErrorCode(se))
	if c.cost() != nil {
		c.close(h3ExcessiveLoad)
	}
}

// tick enforces times, once a second.
func (c *h3conn) tick(now int64) {
	c.mu.Lock()
	c.calm = 0
	for st := range c.streams {
		st.tick(now)
	}
	if len(c.streams) > 0 {
		c.idle = now
	}
	over := c.over()
	if len(c.streams) == 0 && time.Duration(now-c.idle)*time.Second >= c.srv.cfg.Limits.Idle {
		if c.leaving {
			c.turnOff()
		}
		c.leave()
	}
	c.mu.Unlock()
	if over {
		go c.close(h3NoError)
	}
}

// over says that the client has had its answers, and knows that it gets no
// more. The caller holds mu.
func (c *h3conn) over() bool {
	return c.off && len(c.streams) == 0 && time.Since(c.free) >= h3Linger
}

// drain tells the client that the end is near.
func (c *h3conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leave()
}

// leave asks the client to open no more streams. What it opens before it knows
// is served: turnOff comes a round trip later (RFC 9114, section 5.2). The
// caller holds mu.
func (c *h3conn) leave() {
	if !c.leaving && c.out != nil {
		c.leaving = true
		c.goAway(h3Highest)
	}
}

// turnOff says which requests are not looked at. The caller holds mu.
func (c *h3conn) turnOff() {
	if !c.off && c.out != nil {
		c.leaving, c.off, c.free = true, true, time.Now()
		c.goAway(c.next)
	}
}

// quiet ends a connection without requests, after it was drained.
func (c *h3conn) quiet() {
	c.mu.Lock()
	c.turnOff()
	over := c.over()
	c.mu.Unlock()
	if over {
		go c.close(h3NoError)
	}
}

func (c *h3conn) cut() { c.close(h3NoError) }
