package engine

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/qpack"
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

	// What tick judges by: seconds since which something is waited for; 0: it
	// is not.
	inHead  atomic.Int64
	inBody  atomic.Int64
	inSend  atomic.Int64
	slow    atomic.Bool // tick has ended a wait for the client's bytes
	stopped atomic.Bool // the body is not read any more

	// Of the reader: the exchange's goroutine, or the one that sends the body
	// on.
	in      h3reader
	total   int64 // of the body
	empty   int   // DATA frames without data
	ended   bool  // trailers have come
	failed  error
	invited bool // the client need not be told to go on

	mu   sync.Mutex
	out  *h3out // guarded by mu; what waits to be sent; nil: nothing
	said bool   // guarded by mu; an answer has begun

	// Of the exchange's goroutine.
	left int64 // of an answer with a length; -1: unknown
}

var _ front = (*h3stream)(nil)

// h3out is a buffer for an answer.
type h3out struct {
	b     []byte
	block bytes.Buffer
	enc   *qpack.Encoder
}

var h3outs = sync.Pool{New: func() any {
	o := &h3out{b: make([]byte, 0, 4<<10)}
	o.enc = qpack.NewEncoder(&o.block)
	return o
}}

const (
	h3MaxOut   = 16 << 10 // of an answer is kept back to leave in one piece
	h3Piece    = 32 << 10 // is sent in one call, which SendTime bounds
	h3MaxEmpty = 100      // DATA frames without data in a body
)

// endWait is how long a request of a method that has no body usually may leave
// open whether it has one: the end of its stream may come in a packet of its
// own.
const endWait = time.Second

func newH3Stream(c *h3conn, qs *quic.Stream) *h3stream {
	st := &h3stream{c: c, qs: qs, left: -1}
	st.in = h3reader{src: qs, buf: make([]byte, 2<<10)}
	st.inHead.Store(c.srv.seconds.Load())
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
	st.c.srv.handle(&st.x, &st.w, fail)
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.out != nil {
		h3outs.Put(st.out)
		st.out = nil
	}
}

// tick is the connection's look at the stream.
func (st *h3stream) tick(now int64) {
	lim := &st.c.srv.cfg.Limits
	late := func(since int64, limit time.Duration) bool { return since > 0 && now-since >= seconds(limit) }
	if late(st.inHead.Load(), lim.HeadTime) || late(st.inBody.Load(), lim.BodyTime) {
		st.slow.Store(true)
		_ = st.qs.SetReadDeadline(time.Unix(1, 0))
	}
	if late(st.inSend.Load(), lim.SendTime) {
		st.qs.CancelWrite(h3RequestCancelled)
	}
}

// request reads the head and fills the exchange. It returns the status that
// refuses it, or an error that ends the stream or the connection without an
// answer.
func (st *h3stream) request() (fail int, err error) {
	c, lim, x := st.c, &st.c.srv.cfg.Limits, &st.x
	x.Ctx, x.Start = st.qs.Context(), c.srv.cfg.Now()
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
		if err == io.EOF && want >= 0 && st.total != want {
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
	if want >= 0 && uint64(want-st.total) < st.in.left {
		return 0, h3StreamError(h3MessageError)
	}
	st.wait()
	n, err := st.in.payload(p)
	st.inBody.Store(0)
	st.total += int64(n)
	st.x.BytesIn += int64(n)
	if limit := st.c.srv.cfg.Limits.Body; limit > 0 && st.total > limit {
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
	if !st.said {
		st.fields(100, &noFields, -1)
		_ = st.flushLocked()
	}
}

func (st *h3stream) stop() {
	st.stopped.Store(true)
	_ = st.qs.SetReadDeadline(time.Unix(1, 0))
}

// buffer returns what waits to be sent. The caller holds mu.
func (st *h3stream) buffer() *h3out {
	if st.out == nil {
		st.out = h3outs.Get().(*h3out)
		st.out.b = st.out.b[:0]
	}
	return st.out
}

// fields writes a HEADERS frame of status (0: trailers) and fields. The caller
// holds mu.
func (st *h3stream) fields(status int, h *gateway.Header, length int64) {
	o := st.buffer()
	o.block.Reset()
	_ = o.enc.Close() // begins a field section
	if status > 0 {
		_ = o.enc.WriteField(qpack.HeaderField{Name: ":status", Value: statusText(status)})
	}
	dated := status < 200
	for _, f := range h.Fields() {
		switch specialField(f.Name) {
		case kept:
			continue
		case date:
			dated = true
		}
		name := f.Name
		if hasUpper(name) {
			name = lowerName(name)
		}
		_ = o.enc.WriteField(qpack.HeaderField{Name: name, Value: f.Value})
	}
	if !dated {
		_ = o.enc.WriteField(qpack.HeaderField{Name: "date", Value: *st.c.srv.date.Load()})
	}
	if length >= 0 {
		_ = o.enc.WriteField(qpack.HeaderField{Name: "content-length", Value: strconv.FormatInt(length, 10)})
	}
	o.b = append(appendFrame(o.b, h3Headers, o.block.Len()), o.block.Bytes()...)
}

func (st *h3stream) head(w *Writer) {
	r := &w.x.Resp
	length := r.Length
	if r.Status == 204 || r.Status == 304 && length == 0 {
		length = -1
	}
	st.left = r.Length
	if w.none {
		st.left = 0
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.said = true
	before := len(st.buffer().b)
	st.fields(r.Status, &r.Header, length)
	w.x.BytesOut += int64(len(st.out.b) - before)
}

func (st *h3stream) info(status int, h *gateway.Header) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.fields(status, h, -1)
	_ = st.flushLocked()
}

func (st *h3stream) write(w *Writer, p []byte) (int, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.left >= 0 {
		if int64(len(p)) > st.left {
			p = p[:st.left]
			w.aborted = true
		}
		st.left -= int64(len(p))
	}
	if len(p) == 0 {
		return 0, nil
	}
	o := st.buffer()
	before := len(o.b)
	o.b = appendFrame(o.b, h3Data, len(p))
	w.x.BytesOut += int64(len(o.b) - before + len(p))
	if len(o.b)+len(p) <= h3MaxOut {
		o.b = append(o.b, p...)
		return len(p), nil
	}
	if err := st.flushLocked(); err != nil {
		return 0, errGone
	}
	return len(p), st.push(p)
}

func (st *h3stream) flush() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.flushLocked()
}

// flushLocked sends what waits. The caller holds mu.
func (st *h3stream) flushLocked() error {
	if st.out == nil || len(st.out.b) == 0 {
		return nil
	}
	err := st.push(st.out.b)
	st.out.b = st.out.b[:0]
	return err
}

// push sends bytes, as fast as the client takes them.
func (st *h3stream) push(p []byte) error {
	defer st.inSend.Store(0)
	for len(p) > 0 {
		st.inSend.Store(st.c.srv.seconds.Load())
		n, err := st.qs.Write(p[:min(len(p), h3Piece)])
		if err != nil {
			return errGone
		}
		p = p[n:]
	}
	return nil
}

func (st *h3stream) finish(w *Writer) {
	if !w.sent {
		w.Refuse(500)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if w.aborted || st.left > 0 {
		st.qs.CancelWrite(h3InternalError)
		st.qs.CancelRead(h3InternalError)
		return
	}
	if len(w.x.Resp.Trailer.Fields()) > 0 && !w.none && st.left < 0 {
		st.fields(0, &w.x.Resp.Trailer, -1)
	}
	if st.flushLocked() != nil || st.qs.Close() != nil {
		st.qs.CancelWrite(h3RequestCancelled) // it is gone, this only ends the context
	}
	st.qs.CancelRead(h3NoError) // the rest of the body is not wanted (RFC 9114, section 4.1)
}

func (st *h3stream) upgrade(*Writer, string) (io.ReadWriteCloser, error) { return nil, ErrNoUpgrade }
