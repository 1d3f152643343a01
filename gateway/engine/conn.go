package engine

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"gatehouse/gateway"
	"gatehouse/lib/h1"
	"gatehouse/lib/sock"
)

// conn is an HTTP/1.1 connection to a node, and the Answer of the call under
// way. One goroutine makes the call; a second one sends the request's body
// when it did not leave with the head.
//
// On plain TCP the request is sent and the first of the answer received inside
// one callback of RawConn.Read: send, wait for the edge, recv.
type conn struct {
	t     *Transport
	nc    net.Conn
	tcp   *net.TCPConn // nil: none below
	raw   sock.Raw     // nil: nc alone
	fn    func(fd uintptr) bool
	pool  *pool
	uses  int
	born  int64 // tick
	until int64 // tick: idle no longer than this

	remote  netip.Addr // of a node that is a name
	retired bool       // guarded by t.mu; the name has this address no more

	// The call.
	call   *Call
	resp   *gateway.Response
	out    []byte // what step sends
	err    error  // of step
	asked  bool   // step has sent everything
	s      *Scratch
	left   int64 // of a body with a length
	kind   bodyKind
	done   bool // the answer was read to its end
	broken bool // the connection cannot be used again
	up     bool // 101
	closed bool

	sending chan struct{} // closed when the request is sent or cannot be; nil: no sender
	sendErr error         // after sending is closed
	sent    bool          // after sending is closed

	mu    sync.Mutex
	ctx   context.Context // guarded by mu; of the call, nil: none
	due   int64           // guarded by mu; tick at which the wait ends, 0: not
	timer bool            // guarded by mu; a read deadline is set
	begun bool            // guarded by mu; the head of the answer has come
	ended bool            // guarded by mu; look has cut the call short
}

type bodyKind uint8

const (
	bodyNone bodyKind = iota
	bodyLength
	bodyChunked
	bodyToEnd
)

var _ Answer = (*conn)(nil)

// errStale says that an idle connection had ended, or had sent what nobody
// asked for, before a byte of the request was sent on it.
var errStale = errors.New("the idle connection has ended")

// begin begins a call, whose answer is waited for at most so long; 0: not yet.
func (k *conn) begin(ctx context.Context, c *Call, resp *gateway.Response, wait time.Duration) {
	k.call, k.resp, k.s = c, resp, c.Scratch
	k.kind, k.done, k.broken, k.up, k.closed = bodyNone, false, false, false, false
	k.sending, k.sendErr, k.sent, k.err = nil, nil, false, nil
	k.mu.Lock()
	k.ctx, k.ended, k.begun = ctx, false, false
	k.bound(wait)
	k.mu.Unlock()
}

// longWait is from where on the sweep ends a wait; a shorter one gets a timer
// of its own.
const longWait = 10 * time.Second

// wait bounds what is read from now on; 0: no bound.
func (k *conn) wait(d time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.bound(d)
}

// bound is wait with mu held.
func (k *conn) bound(d time.Duration) {
	if k.ended {
		return
	}
	k.due = 0
	switch {
	case d > 0 && d < longWait:
		k.timer = true
		_ = k.nc.SetReadDeadline(time.Now().Add(d))
		return
	case d > 0:
		k.due = k.t.ticks.Load() + seconds(d)
	}
	if k.timer {
		k.timer = false
		_ = k.nc.SetReadDeadline(time.Time{})
	}
}

// waitHead bounds the wait for the answer, once the request was sent, unless it
// has begun already.
func (k *conn) waitHead(d time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.begun {
		k.bound(d)
	}
}

// rest says that nothing is waited for: how long the client takes for what has
// come is not the node's. A deadline that is set does no harm, the next wait
// sets another.
func (k *conn) rest() {
	k.mu.Lock()
	k.due, k.begun = 0, true
	k.mu.Unlock()
}

// look is the transport's sweep.
func (k *conn) look(now int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ctx == nil || k.ended {
		return
	}
	if k.ctx.Err() != nil || k.due > 0 && now >= k.due {
		k.ended = true
		_ = k.nc.SetDeadline(time.Unix(1, 0))
	}
}

// send sends the request and reads the head of the answer. With rest the body
// follows out, by a goroutine of its own: the answer may come before it ends.
func (k *conn) send(out []byte, rest bool) (Stage, error) {
	if rest || k.raw == nil {
		if k.uses > 0 && !k.quiet() {
			return StageSend, errStale
		}
		_ = k.nc.SetWriteDeadline(time.Now().Add(k.call.Timeout.Send))
		if n, err := k.nc.Write(out); err != nil {
			switch {
			case n > 0 || k.raw == nil:
				return StageSend, err
			case k.uses > 0:
				err = errStale
			}
			return StageConnect, err
		}
		if rest {
			k.wait(0)
			k.sending = make(chan struct{})
			go k.sendBody()
		} else {
			k.wait(k.call.Timeout.Read)
		}
		if err := k.more(); err != nil {
			return StageWait, err
		}
	} else if stage, err := k.roundTrip(out); err != nil {
		return stage, err
	}
	if err := k.readHead(); err != nil {
		return StageAnswer, err
	}
	return 0, nil
}

// quiet says whether an idle connection is open and silent: a node that closed
// it, or sends without being asked, is not to be trusted with a request.
func (k *conn) quiet() bool {
	raw := k.raw
	if raw == nil {
		var ok bool
		if raw, ok = sock.RawConn(k.tcp); !ok {
			return true
		}
	}
	state := sock.Ended
	err := raw.Control(func(fd uintptr) { state = sock.Look(fd) })
	return err == nil && state == sock.Quiet
}

// roundTrip sends out and receives the first of the answer.
func (k *conn) roundTrip(out []byte) (Stage, error) {
	k.out, k.asked = out, false
	if err := k.raw.Read(k.fn); err != nil {
		return StageWait, err
	}
	if k.err == syscall.EAGAIN { // the socket did not take everything at once
		_ = k.nc.SetWriteDeadline(time.Now().Add(k.call.Timeout.Send))
		if _, err := k.nc.Write(k.out); err != nil {
			return StageSend, err
		}
		k.err = nil
		if err := k.more(); err != nil {
			return StageWait, err
		}
	}
	if k.err != nil && !k.asked { // the kernel took nothing
		return StageConnect, k.err
	}
	return StageWait, k.err
}

// step is roundTrip inside the callback.
func (k *conn) step(fd uintptr) bool {
	k.err = nil
	if !k.asked {
		if k.uses > 0 && sock.Look(fd) != sock.Quiet {
			k.err = errStale
			return true
		}
		n, e := sock.Send(fd, k.out)
		if e != 0 && e != syscall.EAGAIN {
			if k.err = e; k.uses > 0 { // it ended after the look; nothing was sent
				k.err = errStale
			}
			return true
		}
		k.out = k.out[n:]
		if len(k.out) > 0 {
			k.err = syscall.EAGAIN
			return true
		}
		k.asked = true
		return false // the answer cannot be here yet
	}
	space := k.space()
	n, e := sock.Recv(fd, space)
	switch {
	case e == syscall.EAGAIN:
		return false
	case e != 0:
		k.err = e
	case n == 0:
		k.err = io.ErrUnexpectedEOF
	}
	k.s.in.got(n)
	return true
}

func (k *conn) space() []byte { return k.s.in.space() }

// more waits for further bytes.
func (k *conn) more() error {
	n, err := k.nc.Read(k.space())
	if n > 0 {
		k.s.in.got(n)
		return nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// readHead reads the answer's head, over interim answers.
func (k *conn) readHead() error {
	seen := 0
	for interim := 0; interim <= maxInterim; {
		h := &k.s.head
		n, err := h.ReadResponse(k.s.in.text(), seen, &answerLimits)
		if err != nil {
			return err
		}
		if n == 0 {
			if seen = len(k.s.in.pending()); seen > 0 && !h1.MayBeResponse(k.s.in.text()) {
				return h1.ErrStatus // no need to wait for its end
			}
			if err := k.more(); err != nil {
				return err
			}
			continue
		}
		k.s.in.keep(n)
		seen = 0
		k.resp.Status = h.Status
		k.resp.Header.Take(&h.Fields)
		switch {
		case h.Status == 101 && k.call.Upgrade != "":
			k.up, k.broken = true, true
			if !h1.EqualFold(h.Upgrade, k.call.Upgrade) {
				return errors.New("the upstream switched to another protocol than was asked for")
			}
			k.resp.Length = 0
			return nil
		case h.Status == 101:
			return errors.New("the upstream switched protocols without being asked")
		case h.Status < 200:
			interim++
			if k.call.Info != nil {
				k.call.Info(h.Status, &k.resp.Header)
			}
			continue
		}
		if h.Status == 426 && h.Upgrade != "" {
			k.resp.Header.Set("Upgrade", h.Upgrade)
		}
		k.frame()
		return nil
	}
	return errors.New("too many interim answers")
}

// frame finds where the body ends (RFC 9112, section 6.3).
func (k *conn) frame() {
	h := &k.s.head
	k.broken = k.broken || h.Close
	k.resp.Length = h.Length
	switch {
	case k.call.Method == "HEAD" || h.Status == 204 || h.Status == 304:
		k.done = true
	case h.Chunked:
		k.kind, k.resp.Length = bodyChunked, -1
		k.s.chunks.Reset()
	case h.Length >= 0:
		k.kind, k.left = bodyLength, h.Length
		k.done = h.Length == 0
	default:
		k.kind, k.broken = bodyToEnd, true
	}
	if k.sending != nil || !k.done && (k.kind != bodyLength || k.left > int64(len(k.pending()))) {
		k.rest()
	}
}

func (k *conn) pending() []byte { return k.s.in.pending() }

// Whole returns the body when all of it is there.
func (k *conn) Whole() ([]byte, bool) {
	b := k.pending()
	if k.done || k.kind != bodyLength || int64(len(b)) < k.left {
		return nil, false
	}
	b = b[:k.left:k.left]
	k.s.in.skip(len(b))
	k.left, k.done = 0, true
	return b, true
}

// Read reads the body, each time for at most the read timeout.
func (k *conn) Read(p []byte) (n int, err error) {
	if k.done || len(p) == 0 {
		return 0, io.EOF
	}
	if k.kind == bodyChunked {
		return k.readChunked(p)
	}
	if k.kind == bodyLength {
		p = p[:min(int64(len(p)), k.left)]
	}
	if b := k.pending(); len(b) > 0 {
		n = copy(p, b)
		k.s.in.skip(n)
	} else {
		k.wait(k.call.Timeout.Read)
		if n, err = k.nc.Read(p); n == 0 && err != nil {
			if k.kind == bodyToEnd && err == io.EOF {
				k.done = true
				return 0, io.EOF
			}
			return 0, k.fail(err)
		}
		k.rest()
	}
	if k.kind == bodyLength {
		if k.left -= int64(n); k.left == 0 {
			k.done = true
			return n, io.EOF
		}
	}
	return n, nil
}

func (k *conn) readChunked(p []byte) (int, error) {
	for {
		nd, ns, err := k.s.chunks.Decode(p, k.pending())
		if ns > 0 {
			k.s.in.skip(ns)
		}
		if err != nil {
			return nd, k.fail(err)
		}
		if k.s.chunks.Done() {
			k.done = true
			for _, f := range k.s.chunks.Trailer() {
				k.resp.Trailer.Append(f.Name, f.Value)
			}
			return nd, io.EOF
		}
		if nd > 0 {
			return nd, nil
		}
		k.wait(k.call.Timeout.Read)
		if err := k.more(); err != nil {
			return 0, k.fail(err)
		}
		k.rest()
	}
}

func (k *conn) fail(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	k.broken = true
	return err
}

// Buffered says whether more of the body is there without waiting.
func (k *conn) Buffered() bool { return k.done || len(k.pending()) > 0 }

// inSocket is how much of a body of known length is still in the socket, with
// nothing before it.
func (k *conn) inSocket() int64 {
	if k.kind != bodyLength || k.done || k.raw == nil || len(k.pending()) > 0 {
		return 0
	}
	return k.left
}

// fill moves what has come of the body into a pipe, waiting for it for at most
// the read timeout.
func (k *conn) fill(p *sock.Pipe) (n int, err error) {
	k.wait(k.call.Timeout.Read)
	var e syscall.Errno
	if err := k.raw.Read(func(fd uintptr) bool {
		n, e = p.Fill(fd, k.left)
		return e != syscall.EAGAIN
	}); err != nil {
		return 0, k.fail(err)
	}
	switch {
	case e != 0:
		return 0, k.fail(e)
	case n == 0:
		return 0, k.fail(io.ErrUnexpectedEOF)
	}
	k.rest()
	k.left -= int64(n)
	k.done = k.left == 0
	return n, nil
}

// Upgraded says that the answer was 101.
func (k *conn) Upgraded() bool { return k.up }

// Close ends the call.
func (k *conn) Close() { k.finish(true) }

// finish gives the connection back, or cuts it. It waits for the sender.
func (k *conn) finish(whole bool) {
	if k.closed {
		return
	}
	k.closed = true
	if k.sending != nil {
		select {
		case <-k.sending:
		default:
			k.broken = true
			_ = k.nc.SetDeadline(time.Unix(1, 0))
			if k.call.Stop != nil {
				k.call.Stop.StopBody()
			}
			<-k.sending
		}
		k.broken = k.broken || !k.sent
	}
	keep, single := k.call.Keep, k.call.Proxied.Version != 0
	extra := len(k.pending()) > 0 // an answer nobody asked for
	k.s.in.drop()
	k.mu.Lock()
	k.ctx, k.due = nil, 0
	if k.timer {
		k.timer = false
		_ = k.nc.SetReadDeadline(time.Time{})
	}
	ended := k.ended
	k.mu.Unlock()
	k.call, k.resp, k.out, k.s = nil, nil, nil, nil
	if !whole || single || k.broken || !k.done || ended || extra {
		k.cut()
		return
	}
	k.t.put(k, keep)
}

// cut closes the connection.
func (k *conn) cut() {
	k.t.forget(k)
	k.nc.Close()
}

// Tunnel is the connection after 101. The caller closes it.
func (k *conn) Tunnel() io.ReadWriteCloser {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ctx, k.due = nil, 0
	_ = k.nc.SetDeadline(time.Time{})
	return nodeTunnel{k}
}

type nodeTunnel struct{ k *conn }

func (t nodeTunnel) Read(p []byte) (int, error) {
	if b := t.k.pending(); len(b) > 0 {
		n := copy(p, b)
		t.k.s.in.skip(n)
		return n, nil
	}
	return t.k.nc.Read(p)
}

func (t nodeTunnel) Write(p []byte) (int, error) {
	_ = t.k.nc.SetWriteDeadline(time.Now().Add(t.k.call.Timeout.Send))
	return t.k.nc.Write(p)
}

func (t nodeTunnel) Close() error { return t.k.nc.Close() }

// CloseWrite tells the node that nothing more comes.
func (t nodeTunnel) CloseWrite() error {
	if w, ok := t.k.nc.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return t.k.nc.Close()
}

// bodies are buffers for what is copied.
var bodies = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// sendBody copies the client's body to the node while the answer may already
// come.
func (k *conn) sendBody() {
	defer close(k.sending)
	c := k.call
	buf := bodies.Get().(*[]byte)
	defer bodies.Put(buf)
	const room = 32 // for the size of a chunk, and its end
	b := *buf
	var sent int64
	for {
		n, err := c.Body.Read(b[room : len(b)-room])
		last := err == io.EOF
		if sent += int64(n); c.Length >= 0 && sent > c.Length {
			k.sendErr = errors.New("body longer than announced")
			break
		}
		out := b[room : room+n]
		if c.Length < 0 && n > 0 {
			var size [room]byte
			s := h1.AppendChunkSize(size[:0], n)
			copy(b[room-len(s):], s)
			out = append(b[room-len(s):room+n], crlf...)
		}
		if c.Length < 0 && last {
			out = append(out, "0\r\n"...)
			if c.Trailer != nil {
				out = appendHeader(out, c.Trailer)
			}
			out = append(out, crlf...)
		}
		if len(out) > 0 {
			_ = k.nc.SetWriteDeadline(time.Now().Add(c.Timeout.Send))
			if k.cancelled() {
				k.sendErr = context.Canceled
				break
			}
			if _, werr := k.nc.Write(out); werr != nil {
				k.sendErr = werr
				k.waitHead(c.Timeout.Read) // the answer may say why
				return
			}
		}
		if last {
			if c.Length >= 0 && sent < c.Length {
				k.sendErr = ErrClient
				break
			}
			k.sent = true
			k.waitHead(c.Timeout.Read)
			return
		}
		if err != nil {
			k.sendErr = err
			break
		}
	}
	_ = k.nc.SetReadDeadline(time.Unix(1, 0)) // no answer to half a request
}

// cancelled says whether the call was cut short; a deadline that was set after
// that must be taken back.
func (k *conn) cancelled() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ended {
		_ = k.nc.SetDeadline(time.Unix(1, 0))
	}
	return k.ended
}
