package engine

import (
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"gatehouse/gateway"
)

// h2stream is an exchange on HTTP/2.
type h2stream struct {
	c  *h2conn
	id uint32
	x  gateway.Exchange
	w  Writer
	cx *lazyContext

	// Guarded by c.mu.
	window   int64  // what we may send
	waiting  bool   // for the window
	since    int64  // second in which waiting began
	body     []byte // received and not read
	read     int    // of body
	free     int64  // read, and not given back to the stream's window
	granted  int64  // what the client may still send
	total    int64  // bytes of the body so far
	ended    bool   // the client has ended the stream
	reading  int64  // second since which the handler waits for the body; 0: it does not
	dead     error  // the stream is of no use any more
	arrived  sync.Cond
	trailers []gateway.Field
	expect   bool // the client waits for 100 Continue
	began    int64
	begun    bool // the head of the answer was written
	calls    bool // gRPC: whoever sends the body may be talking to somebody
	grants   pace // of the window
	arrivals pace // of the body

	// Of the exchange's goroutine.
	left     int64 // of an answer with a length; -1: unknown
	finished bool  // END_STREAM was sent
}

var h2streams = sync.Pool{New: func() any { return new(h2stream) }}

var _ front = (*h2stream)(nil)

var noFields gateway.Header

// begin fills the exchange; false: the head is malformed.
func (st *h2stream) begin(c *h2conn, b *headBlock) bool {
	st.c, st.id, st.cx = c, b.id, &lazyContext{Context: c.ctx}
	st.arrived.L = &c.mu
	st.granted, st.ended, st.left = h2StreamWindow, b.ended, -1
	x := &st.x
	x.Ctx, x.Start, x.BytesIn = st.cx, c.srv.cfg.Now(), int64(b.bytes)
	q := &x.Req
	q.Peer, q.Local, q.ClientIP, q.TLS = c.peer, c.local, c.ip, c.tls
	q.Proto, q.Scheme, q.Trailers = "HTTP/2.0", "http", true
	if c.tls != nil {
		q.Scheme = "https"
	}
	if !b.request(q) {
		return false
	}
	st.expect = b.expect
	if q.Length != 0 {
		q.Body = (*h2body)(st)
		st.calls = strings.HasPrefix(q.Header.Get("Content-Type"), "application/grpc")
	}
	st.began = c.srv.seconds.Load()
	st.w.reset(st, x)
	return true
}

// serve is the stream's goroutine.
func (st *h2stream) serve(fail int) {
	c := st.c
	ok := c.srv.handle(&st.x, &st.w, fail)
	st.cx.end()
	c.mu.Lock()
	c.running--
	if c.streams[st.id] == st {
		delete(c.streams, st.id)
	}
	c.giveBack(int64(len(st.body) - st.read))
	if c.running == 0 {
		c.idle = c.srv.seconds.Load()
		if c.broken != nil || c.off {
			c.changed.Broadcast()
		}
	}
	c.mu.Unlock()
	if ok {
		st.release()
	}
}

func (st *h2stream) release() {
	clearExchange(&st.x)
	body := st.body[:0]
	if cap(body) > 64<<10 {
		body = nil
	}
	x := st.x
	*st = h2stream{x: x, body: body}
	h2streams.Put(st)
}

// fail ends the stream for its handler. The caller holds c.mu.
func (st *h2stream) fail(err error) {
	if st.dead == nil {
		st.dead = err
	}
	st.cx.end()
	st.arrived.Broadcast()
}

// takeData adds to the body. size is the frame's, padding included. The caller
// holds c.mu.
func (st *h2stream) takeData(p []byte, size int64, ended bool) error {
	c := st.c
	if st.ended {
		c.giveBack(size)
		return streamError(st.id, http2.ErrCodeStreamClosed)
	}
	if st.granted -= size; st.granted < 0 {
		return streamError(st.id, http2.ErrCodeFlowControl)
	}
	padding := size - int64(len(p))
	c.giveBack(padding)
	st.free += padding
	st.total += int64(len(p))
	st.ended = ended
	if want := st.x.Req.Length; want >= 0 && (st.total > want || ended && st.total != want) {
		c.giveBack(int64(len(p)))
		return streamError(st.id, http2.ErrCodeProtocol)
	}
	if st.read > 0 && st.read == len(st.body) {
		st.body, st.read = st.body[:0], 0
	}
	st.body = append(st.body, p...)
	st.arrived.Broadcast()
	return nil
}

// takeTrailers ends the body. The caller holds c.mu.
func (st *h2stream) takeTrailers(b *headBlock) error {
	switch {
	case st.ended:
		return streamError(st.id, http2.ErrCodeStreamClosed)
	case !b.ended || b.bad || b.selfish || b.method != "" || b.path != "" || b.scheme != "" || b.hasAuthority:
		return streamError(st.id, http2.ErrCodeProtocol)
	case b.fail != 0:
		return streamError(st.id, http2.ErrCodeEnhanceYourCalm)
	}
	if want := st.x.Req.Length; want >= 0 && st.total != want {
		return streamError(st.id, http2.ErrCodeProtocol)
	}
	st.trailers = append(st.trailers, b.fields...)
	st.ended = true
	st.arrived.Broadcast()
	return nil
}

// h2body is the request's body.
type h2body h2stream

// Whole returns the body when all of it is there, and counts as reading it.
func (b *h2body) Whole() ([]byte, bool) {
	st := (*h2stream)(b)
	st.c.mu.Lock()
	defer st.c.mu.Unlock()
	if !st.ended || st.dead != nil || st.read > 0 || len(st.trailers) > 0 {
		return nil, false
	}
	st.read = len(st.body)
	st.x.BytesIn += int64(len(st.body))
	st.c.giveBack(int64(len(st.body)))
	return st.body, true
}

func (b *h2body) Read(p []byte) (int, error) {
	st, c := (*h2stream)(b), b.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case st.dead != nil:
			return 0, clientError(st.dead)
		case c.srv.cfg.Limits.Body > 0 && st.total > c.srv.cfg.Limits.Body:
			return 0, ErrTooLarge
		}
		if n := copy(p, st.body[st.read:]); n > 0 {
			st.read += n
			st.x.BytesIn += int64(n)
			st.grant(int64(n))
			return n, nil
		}
		if st.ended {
			for _, f := range st.trailers {
				st.x.Req.Trailer.Append(f.Name, f.Value)
			}
			st.trailers = nil
			return 0, io.EOF
		}
		if st.expect && !st.w.sent {
			st.headers(st.encode(100, &noFields, -1), false)
		}
		st.expect = false
		if c.flushLocked(false) { // a window update may wait
			continue
		}
		st.reading = c.srv.seconds.Load()
		st.arrived.Wait()
		st.reading = 0
	}
}

// grant gives n bytes back to both windows. The caller holds c.mu.
func (st *h2stream) grant(n int64) {
	st.c.giveBack(n)
	if st.free += n; st.free >= h2StreamWindow/4 && !st.ended {
		_ = st.c.frames.WriteWindowUpdate(st.id, uint32(st.free))
		st.granted += st.free
		st.free = 0
		st.c.flushLocked(false)
	}
}

func (st *h2stream) stop() {
	st.c.mu.Lock()
	defer st.c.mu.Unlock()
	if !st.ended && st.dead == nil {
		st.dead = ErrClient
		st.arrived.Broadcast()
	}
}

// encode makes a header block of status (0: trailers) and fields. The caller
// holds c.mu until the block is written: the table is the connection's.
func (st *h2stream) encode(status int, h *gateway.Header, length int64) []byte {
	c := st.c
	c.encoded.Reset()
	if status > 0 {
		_ = c.enc.WriteField(hpack.HeaderField{Name: ":status", Value: statusText(status)})
	}
	dated := status < 200
	advertised := status < 200 || c.altSvc == ""
	for _, f := range h.Fields() {
		switch specialField(f.Name) {
		case kept:
			continue
		case date:
			dated = true
		case altSvc:
			advertised = true
		}
		name := f.Name
		if hasUpper(name) {
			name = lowerName(name)
		}
		_ = c.enc.WriteField(hpack.HeaderField{Name: name, Value: f.Value})
	}
	if !dated {
		_ = c.enc.WriteField(hpack.HeaderField{Name: "date", Value: *c.srv.date.Load()})
	}
	if !advertised {
		_ = c.enc.WriteField(hpack.HeaderField{Name: "alt-svc", Value: c.altSvc})
	}
	if length >= 0 {
		_ = c.enc.WriteField(hpack.HeaderField{Name: "content-length", Value: strconv.FormatInt(length, 10)})
	}
	return c.encoded.Bytes()
}

func hasUpper(s string) bool {
	for i := range len(s) {
		if s[i] >= 'A' && s[i] <= 'Z' {
			return true
		}
	}
	return false
}

// lowerName lowers a field name; the usual ones without allocating.
func lowerName(s string) string {
	switch s {
	case "Server":
		return "server"
	case "Date":
		return "date"
	case "Content-Type":
		return "content-type"
	case "Connection":
		return "connection"
	case "Last-Modified":
		return "last-modified"
	case "ETag":
		return "etag"
	case "Accept-Ranges":
		return "accept-ranges"
	case "Cache-Control":
		return "cache-control"
	case "Content-Encoding":
		return "content-encoding"
	case "Vary":
		return "vary"
	}
	return strings.ToLower(s)
}

func statusText(status int) string {
	switch status {
	case 200:
		return "200"
	case 204:
		return "204"
	case 304:
		return "304"
	case 404:
		return "404"
	}
	return strconv.Itoa(status)
}

// headers writes a block as HEADERS and CONTINUATION. The caller holds c.mu.
func (st *h2stream) headers(block []byte, end bool) {
	c := st.c
	for first := true; first || len(block) > 0; first = false {
		part := block[:min(len(block), c.maxSize)]
		block = block[len(part):]
		if first {
			_ = c.frames.WriteHeaders(http2.HeadersFrameParam{StreamID: st.id, BlockFragment: part, EndStream: end, EndHeaders: len(block) == 0})
		} else {
			_ = c.frames.WriteContinuation(st.id, len(block) == 0, part)
		}
	}
}

func (st *h2stream) head(w *Writer) {
	c, r := st.c, &w.x.Resp
	length := r.Length
	if r.Status == 204 || r.Status == 304 && length == 0 {
		length = -1
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !st.room() {
		return
	}
	before := len(c.out.b)
	st.begun = true
	st.finished = w.none || r.Length == 0
	st.left = r.Length
	st.headers(st.encode(r.Status, &r.Header, length), st.finished)
	w.x.BytesOut += int64(len(c.out.b) - before)
}

func (st *h2stream) info(status int, h *gateway.Header) {
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if !st.room() {
		return
	}
	st.headers(st.encode(status, h, -1), false)
	c.flushLocked(false)
}

// room waits until more may be written; false: to nobody. The caller holds c.mu.
func (st *h2stream) room() bool {
	c := st.c
	for c.streams[st.id] == st && c.broken == nil && len(c.out.b) >= h2MaxOut {
		st.progress()
	}
	st.waiting = false
	return c.streams[st.id] == st && c.broken == nil
}

// progress is the connection's, with the time it takes on the stream's account.
// The caller holds c.mu.
func (st *h2stream) progress() {
	c := st.c
	if c.flushLocked(false) {
		return
	}
	if !st.waiting {
		st.waiting, st.since = true, c.srv.seconds.Load()
	}
	c.changed.Wait()
}

var errGone = errors.New("the client has left")

func (st *h2stream) write(w *Writer, p []byte) (n int, err error) {
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if st.left >= 0 && int64(len(p)) > st.left {
		p = p[:st.left]
		w.aborted = true
	}
	for len(p) > 0 {
		if c.streams[st.id] != st || c.broken != nil {
			return n, errGone
		}
		size := min(int64(len(p)), st.window, c.window, int64(c.maxSize))
		if size <= 0 || len(c.out.b) >= h2MaxOut {
			st.progress()
			continue
		}
		st.waiting = false
		st.window -= size
		c.window -= size
		c.sent += uint64(size)
		if st.left >= 0 {
			st.left -= size
			st.finished = st.left == 0 && !w.aborted
		}
		_ = c.frames.WriteData(st.id, st.finished, p[:size])
		w.x.BytesOut += size + 9
		p = p[size:]
		n += int(size)
	}
	st.waiting = false
	if len(c.out.b) >= 64<<10 {
		c.flushLocked(false)
	}
	return n, nil
}

func (st *h2stream) flush() error {
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken != nil || c.streams[st.id] != st {
		return errGone
	}
	c.flushLocked(false)
	return c.broken
}

func (st *h2stream) finish(w *Writer) {
	if !w.sent {
		w.Refuse(500)
	}
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if !st.room() {
		return
	}
	switch {
	case st.finished:
	case w.aborted || st.left > 0:
		c.reset(st.id, resetCode(w.cause))
	case len(w.x.Resp.Trailer.Fields()) > 0:
		st.headers(st.encode(0, &w.x.Resp.Trailer, -1), true)
		st.finished = true
	default:
		_ = c.frames.WriteData(st.id, true, nil)
		st.finished = true
	}
	if st.finished && !st.ended {
		c.reset(st.id, http2.ErrCodeNo) // the rest of the body is not wanted
	}
	delete(c.streams, st.id)
	c.flushLocked(true)
}

// resetCode is what a client is told of an answer that was broken off: what an
// HTTP/2 upstream said, where that is about the call and not about the
// connection to the upstream.
func resetCode(err error) http2.ErrCode {
	var se http2.StreamError
	if errors.As(err, &se) {
		switch se.Code {
		case http2.ErrCodeCancel, http2.ErrCodeRefusedStream, http2.ErrCodeEnhanceYourCalm, http2.ErrCodeInadequateSecurity:
			return se.Code
		}
	}
	return http2.ErrCodeInternal
}

func (st *h2stream) upgrade(*Writer, string) (io.ReadWriteCloser, error) { return nil, ErrNoUpgrade }
