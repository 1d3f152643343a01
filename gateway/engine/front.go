package engine

import (
	"errors"
	"io"

	"gatehouse/gateway"
)

// front is the wire below a Writer, one implementation per client protocol:
// what a protocol offers so that everything above it need not know which it
// is. All calls come from the goroutine of the exchange, stop excepted.
type front interface {
	// head encodes w.x.Resp. It may wait in a buffer for write, flush or
	// finish, so that a small answer leaves in one piece.
	head(w *Writer)
	// info sends an interim answer, 102 to 199, at once.
	info(status int, h *gateway.Header)
	// write sends or keeps a part of the body; an error means that the client
	// is gone. It is not called for answers that have none.
	write(w *Writer, p []byte) (int, error)
	flush() error
	// finish ends the answer after the handler returned, with the trailers of
	// w.x.Resp.Trailer where the client takes them; when w.aborted it makes
	// the client see that the answer is cut off.
	finish(w *Writer)
	// stop makes a blocked read of the request's body fail. Any goroutine may
	// call it.
	stop()
	// upgrade answers 101 with w.x.Resp.Header and gives the connection away.
	upgrade(w *Writer, protocol string) (io.ReadWriteCloser, error)
}

// splicer is a front that can move bytes from a socket to the client's without
// copying them. ok is false when it cannot, and nothing was moved.
type splicer interface {
	splice(w *Writer, from *conn) (ok bool, err error)
}

// Writer sends the answer of one Exchange to its client. It belongs to the
// goroutine of the Exchange.
type Writer struct {
	f       front
	x       *gateway.Exchange
	sent    bool
	taken   bool // upgraded: the connection is no longer ours
	aborted bool
	cause   error // of aborted; nil: unknown
	refused bool  // the framing or the protocol is in doubt: close after the answer
	none    bool  // the answer has no body: HEAD, 204, 304
}

func (w *Writer) reset(f front, x *gateway.Exchange) { *w = Writer{f: f, x: x} }

// Sent says whether a head has gone to the client.
func (w *Writer) Sent() bool { return w.sent }

// Head sends x.Resp: status, header, and a Content-Length unless Length is
// negative. Fields of the connection (Connection, Transfer-Encoding, ...) are
// the engine's and left out.
func (w *Writer) Head() {
	if w.sent {
		return
	}
	w.sent = true
	w.none = w.x.Req.Method == "HEAD" || w.x.Resp.Status == 204 || w.x.Resp.Status == 304
	before := w.x.BytesOut
	w.f.head(w)
	w.x.HeadOut = w.x.BytesOut - before
}

// Info sends an interim answer, 102 to 199.
func (w *Writer) Info(status int, h *gateway.Header) {
	if w.sent || status < 102 || status > 199 || w.x.Req.Proto == "HTTP/1.0" {
		return
	}
	w.f.info(status, h)
}

// Write sends a part of the body. An error means that the client is gone.
func (w *Writer) Write(p []byte) (int, error) {
	if w.none || len(p) == 0 {
		return len(p), nil
	}
	return w.f.write(w, p)
}

// spliceFrom is the size from which a body is moved inside the kernel: below
// it more system calls cost more than the copy.
const spliceFrom = 16 << 10

// Splice moves the rest of a long body without copying it, where both
// connections allow it; false: they do not, and nothing was moved. An error
// means that the client or the upstream is gone.
func (w *Writer) Splice(a Answer) (ok bool, err error) {
	s, can := w.f.(splicer)
	k, plain := a.(*conn)
	if !can || !plain || w.none || k.inSocket() < spliceFrom {
		return false, nil
	}
	return s.splice(w, k)
}

// Flush sends what is buffered.
func (w *Writer) Flush() error { return w.f.flush() }

// Abort marks the answer as cut off: the connection or the stream is reset
// after the handler returns.
func (w *Writer) Abort() { w.aborted = true }

// AbortFor is Abort when the upstream has broken off for a reason: on HTTP/2 a
// client is told what the upstream said.
func (w *Writer) AbortFor(err error) { w.aborted, w.cause = true, err }

// StopBody makes a blocked read of the client's body fail, for when the answer
// is complete before the request is. Any goroutine may call it.
func (w *Writer) StopBody() { w.f.stop() }

// Refuse answers a status with the gateway's page and ends an HTTP/1 connection.
func (w *Writer) Refuse(status int) {
	if w.sent {
		return
	}
	typ, body := Page(status, w.x.Req.Header.Get("Accept"))
	r := &w.x.Resp
	r.Status = status
	r.Header.Reset()
	r.Header.Set("Content-Type", typ)
	if status == 405 {
		r.Header.Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
	}
	r.Length = int64(len(body))
	w.refused = true
	w.Head()
	_, _ = w.Write(body)
}

// ErrNoUpgrade is returned by Upgrade where the connection cannot be taken
// over: HTTP/2, HTTP/3, or a server that is stopping.
var ErrNoUpgrade = errors.New("the connection cannot be upgraded")

// Upgrade answers 101 with x.Resp.Header and hands over the connection. The
// caller closes it.
func (w *Writer) Upgrade(protocol string) (io.ReadWriteCloser, error) {
	if w.sent {
		return nil, ErrNoUpgrade
	}
	c, err := w.f.upgrade(w, protocol)
	if err == nil {
		w.sent, w.taken = true, true
		w.x.HeadOut = w.x.BytesOut
	}
	return c, err
}
