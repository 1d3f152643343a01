package engine

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/net/http2/hpack"

	"gatehouse/gateway"
)

// h3stream is an exchange on HTTP/3.
type h3stream struct {
	c  *h3conn
	qs *quic.Stream
	x  gateway.Exchange
	w  Writer

	cx *lazyContext
	// unwatch lets cx outlive the stream: it ends with the exchange.
	unwatch func() bool

	// What tick judges by: seconds since which something is waited for, 0: it
	// is not; and what has moved.
	inHead   atomic.Int64
	inBody   atomic.Int64
	inSend   atomic.Int64
	came     atomic.Int64 // bytes of the body
	went     atomic.Int64 // bytes of the answer
	arrivals pace         // of tick
	grants   pace         // of tick
	began    int64
	calls    atomic.Bool // gRPC: whoever sends the body may be talking to somebody
	begun    atomic.Bool // the answer has begun
	slow     atomic.Bool // tick has ended a wait for the client's bytes
	stopped  atomic.Bool // the body is not read any more

	// Of the reader: the exchange's goroutine, or the one that sends the body
	// on.
	in      h3reader
	empty   int  // DATA frames without data
	ended   bool // trailers have come
	failed  error
	invited bool // the client need not be told to go on

	mu  sync.Mutex
	out *h3out // guarded by mu; what waits to be sent; nil: nothing

	// Of the exchange's goroutine.
	left int64 // of an answer with a length; -1: unknown
}

var _ front = (*h3stream)(nil)

// h3MaxEmpty bounds the DATA frames without data in a body.
const h3MaxEmpty = 100

// endWait is how long a request of a method that has no body usually may leave
// open whether it has one: the end of its stream may come in a packet of its
// own.
const endWait = time.Second

func newH3Stream(c *h3conn, qs *quic.Stream) *h3stream {
	st := &h3stream{c: c, qs: qs, left: -1, began: c.srv.seconds.Load(), cx: &lazyContext{Context: qs.Context()}}
	st.in = h3reader{src: qs, buf: make([]byte, 2<<10)}
	st.inHead.Store(st.began)
	return st
}

// serve is the stream's goroutine.
func (st *h3stream) serve() {
	defer st.c.ended(st)
	fail, err := st.request()
	st.inHead.Store(0)
	if err != nil {
		st.c.fails(st.qs, err)
		return
	}
	st.w.reset(st, &st.x)
	st.unwatch = context.AfterFunc(st.qs.Context(), st.cx.end)
	defer st.cx.end()
	st.c.srv.handle(&st.x, &st.w, fail)
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.out != nil {
		h3outs.Put(st.out)
		st.out = nil
	}
}

// tick is the connection's look at the stream, once a second: what is judged
// is the same as of HTTP/2.
func (st *h3stream) tick(now int64) {
	lim := &st.c.srv.cfg.Limits
	if took := now - st.began; lim.Total > 0 && took >= seconds(lim.Total) {
		if st.begun.Load() || took >= seconds(lim.Total)+lateAnswer {
			st.giveUp()
			return
		}
		st.cx.expire() // the handler says so
		if st.inBody.Load() > 0 {
			st.endRead()
		}
	}
	if since := st.inHead.Load(); since > 0 && now-since >= seconds(lim.HeadTime) {
		st.endRead()
	}
	if since := st.inBody.Load(); since > 0 {
		if now-since >= seconds(lim.BodyTime) ||
			st.arrivals.late(now, uint64(st.came.Load()), never, lim, !st.begun.Load() && !st.calls.Load()) {
			st.endRead()
		}
	} else {
		st.arrivals.pause()
	}
	if st.inSend.Load() == 0 {
		st.grants.pause()
	} else if st.grants.late(now, uint64(st.went.Load()), lim.SendTime, lim, true) {
		st.giveUp()
	}
}

// endRead makes the read under way fail for being slow.
func (st *h3stream) endRead() {
	st.slow.Store(true)
	_ = st.qs.SetReadDeadline(time.Unix(1, 0))
}

// giveUp ends the answer, and with it the context of the exchange.
func (st *h3stream) giveUp() {
	st.qs.CancelRead(h3RequestCancelled)
	st.qs.CancelWrite(h3RequestCancelled)
}

// request reads the head and fills the exchange. It returns the status that
// refuses it, or an error that ends the stream or the connection without an
// answer.
func (st *h3stream) request() (fail int, err error) {
	c, lim, x := st.c, &st.c.srv.cfg.Limits, &st.x
	x.Ctx, x.Start = st.cx, c.srv.cfg.Now()
	q := &x.Req
	q.Peer, q.Local, q.ClientIP, q.TLS = c.peer, c.local, c.ip, c.tls
	if now := addrPort(c.qc.RemoteAddr()); now != q.Peer { // it has moved (RFC 9000, section 9)
		q.Peer, q.ClientIP = now, now.Addr().String()
	}
	q.Proto, q.Scheme, q.Trailers, q.Method = "HTTP/3.0", "https", true, "GET"

	typ, err := st.in.next()
	switch {
	case err == io.EOF:
		return 0, h3StreamError(h3RequestIncomplete)
	case err != nil:
		return st.slowHead(err)
	case typ != h3Headers:
		return 0, h3ConnError(h3FrameUnexpected)
	case st.in.left > uint64(lim.Head):
		return 431, nil
	}
	x.BytesIn = int64(st.in.left)
	block, err := st.in.whole()
	if err != nil {
		return st.slowHead(err)
	}
	var b headBlock
	b.begin(0, false, lim)
	if err := c.decode(&b, block); err != nil {
		return 0, err
	}
	if st.in.r == st.in.w && b.length < 0 && usuallyEmpty(b.method) {
		_ = st.qs.SetReadDeadline(time.Now().Add(endWait))
		if err := st.in.fill(); errors.Is(err, os.ErrDeadlineExceeded) {
			st.in.err = nil
		} else if err != nil && err != io.EOF {
			return 0, err
		}
		_ = st.qs.SetReadDeadline(time.Time{})
	}
	b.ended = st.in.ended()
	if !b.request(q) {
		return 0, h3StreamError(h3MessageError)
	}
	st.invited = !b.expect
	if q.Length != 0 {
		q.Body = (*h3body)(st)
		st.calls.Store(strings.HasPrefix(q.Header.Get("Content-Type"), "application/grpc"))
	}
	return b.fail, nil
}

// slowHead answers 408 when the head did not come in time.
func (st *h3stream) slowHead(err error) (int, error) {
	if st.slow.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
		return 408, nil
	}
	return 0, err
}

func usuallyEmpty(method string) bool {
	return method != "POST" && method != "PUT" && method != "PATCH"
}

// decode reads a field section. What is over the limits is not even looked at:
// there is no table that must stay in step.
func (c *h3conn) decode(b *headBlock, block []byte) error {
	next := c.qpack.Decode(block)
	for b.fail == 0 && !b.bad {
		f, err := next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return h3ConnError(qpackDecompression)
		}
		b.emit(hpack.HeaderField{Name: f.Name, Value: f.Value})
	}
	return nil
}

// h3body is the request's body.
type h3body h3stream

func (b *h3body) Read(p []byte) (int, error) {
	st := (*h3stream)(b)
	if st.failed != nil {
		return 0, st.failed
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := st.read(p)
	switch {
	case st.stopped.Load():
		n, err = 0, ErrClient
	case err == io.EOF, err == ErrTooLarge:
	case err != nil:
		if !st.slow.Load() {
			st.c.fails(st.qs, err)
		}
		err = clientError(err)
	}
	st.failed = err
	return n, err
}

// read returns a part of the body, or its end.
func (st *h3stream) read(p []byte) (int, error) {
	want := st.x.Req.Length
	for st.in.left == 0 {
		if !st.in.ended() && st.in.r == st.in.w {
			st.invite()
		}
		st.wait()
		typ, err := st.in.next()
		st.inBody.Store(0)
		if err == io.EOF && want >= 0 && st.came.Load() != want {
			return 0, h3StreamError(h3MessageError)
		}
		if err != nil {
			return 0, err
		}
		switch {
		case typ == h3Data && !st.ended:
			if st.in.left == 0 {
				if st.empty++; st.empty > h3MaxEmpty {
					return 0, h3ConnError(h3ExcessiveLoad)
				}
			}
		case typ == h3Headers && !st.ended:
			if err := st.trailers(); err != nil {
				return 0, err
			}
		default:
			return 0, h3ConnError(h3FrameUnexpected)
		}
	}
	if want >= 0 && uint64(want-st.came.Load()) < st.in.left {
		return 0, h3StreamError(h3MessageError)
	}
	st.wait()
	n, err := st.in.payload(p)
	st.inBody.Store(0)
	total := st.came.Add(int64(n))
	st.x.BytesIn += int64(n)
	if limit := st.c.srv.cfg.Limits.Body; limit > 0 && total > limit {
		return 0, ErrTooLarge
	}
	return n, err
}

func (st *h3stream) wait() { st.inBody.Store(st.c.srv.seconds.Load()) }

// trailers reads the field section after the body.
func (st *h3stream) trailers() error {
	st.ended = true
	if st.in.left > uint64(st.c.srv.cfg.Limits.Head) {
		return h3StreamError(h3ExcessiveLoad)
	}
	st.wait()
	block, err := st.in.whole()
	st.inBody.Store(0)
	if err != nil {
		return err
	}
	var b headBlock
	b.begin(0, true, &st.c.srv.cfg.Limits)
	b.regular = true // no pseudo-header
	if err := st.c.decode(&b, block); err != nil {
		return err
	}
	switch {
	case b.fail != 0:
		return h3StreamError(h3ExcessiveLoad)
	case b.bad:
		return h3StreamError(h3MessageError)
	}
	for _, f := range b.fields {
		st.x.Req.Trailer.Append(f.Name, f.Value)
	}
	return nil
}

// invite tells a client that waits for it to send the body.
func (st *h3stream) invite() {
	if st.invited {
		return
	}
	st.invited = true
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.begun.Load() {
		st.fields(100, &noFields, -1)
		_ = st.flushLocked()
	}
}

func (st *h3stream) stop() {
	st.stopped.Store(true)
	_ = st.qs.SetReadDeadline(time.Unix(1, 0))
}
