package engine

import (
	"io"
	"strconv"
	"sync"
	"syscall"
	"time"

	"gatehouse/gateway"
	"gatehouse/lib/h1"
	"gatehouse/lib/sock"
)

var _ front = (*client)(nil)
var _ splicer = (*client)(nil)

// special says what the engine makes of a field of an answer: kept back
// because framing and connection are the engine's, or remembered.
type special uint8

const (
	ordinary special = iota
	kept
	date
	altSvc
)

func specialField(name string) special {
	switch len(name) {
	case 2, 4, 6, 7, 10, 14, 16, 17:
	default:
		return ordinary
	}
	switch name[0] | 0x20 {
	case 'a':
		if h1.EqualFold(name, "Alt-Svc") {
			return altSvc
		}
	case 'd':
		if h1.EqualFold(name, "Date") {
			return date
		}
	case 'c':
		if h1.EqualFold(name, "Connection") || h1.EqualFold(name, "Content-Length") {
			return kept
		}
	case 'k':
		if h1.EqualFold(name, "Keep-Alive") {
			return kept
		}
	case 't':
		if h1.EqualFold(name, "Transfer-Encoding") || h1.EqualFold(name, "Trailer") || h1.EqualFold(name, "TE") {
			return kept
		}
	case 'u':
		if h1.EqualFold(name, "Upgrade") {
			return kept
		}
	case 'p':
		if h1.EqualFold(name, "Proxy-Connection") {
			return kept
		}
	}
	return ordinary
}

// appendFields writes the fields of an answer, and a Date and the listener's
// Alt-Svc when it has none.
func (c *client) appendFields(out []byte, h *gateway.Header) []byte {
	dated, advertised := false, c.altSvc == ""
	for _, f := range h.Fields() {
		switch specialField(f.Name) {
		case kept:
			continue
		case date:
			dated = true
		case altSvc:
			advertised = true
		}
		out = append(append(append(append(out, f.Name...), ": "...), f.Value...), "\r\n"...)
	}
	if !dated {
		out = append(append(append(out, "Date: "...), *c.srv.date.Load()...), "\r\n"...)
	}
	if !advertised {
		out = append(append(append(out, "Alt-Svc: "...), c.altSvc...), "\r\n"...)
	}
	return out
}

// appendStatus writes a status line.
func appendStatus(out []byte, status int) []byte {
	if status == 200 {
		return append(out, "HTTP/1.1 200 OK\r\n"...)
	}
	out = append(out, "HTTP/1.1 "...)
	out = strconv.AppendInt(out, int64(status), 10)
	return append(append(append(out, ' '), StatusText(status)...), "\r\n"...)
}

// head puts the head into the buffer: it leaves with the first of the body.
func (c *client) head(w *Writer) {
	a, r := c.a, &w.x.Resp
	if a.out == nil {
		a.out = make([]byte, 0, outSize)
	}
	out := c.appendFields(appendStatus(a.out, r.Status), &r.Header)
	old := w.x.Req.Proto == "HTTP/1.0"
	a.chunked, a.left = false, 0
	switch {
	case r.Status == 204:
	case r.Length >= 0:
		if r.Status != 304 || r.Length > 0 {
			out = append(out, "Content-Length: "...)
			out = append(strconv.AppendInt(out, r.Length, 10), "\r\n"...)
		}
		a.left = r.Length
	case w.none:
	case old: // the end of the connection is the end of the body
		a.closing, a.left = true, -1
	default:
		a.chunked = true
		out = append(out, "Transfer-Encoding: chunked\r\n"...)
	}
	a.closing = a.closing || c.closing.Load()
	if w.refused || w.x.Req.Length != 0 && a.body.answer() {
		a.closing = true // what the client sends now may be body or not
	}
	if r.Status == 426 { // it must say what to upgrade to (RFC 9110, section 15.5.22)
		if to := r.Header.Get("Upgrade"); to != "" {
			out = append(append(append(out, "Connection: Upgrade\r\nUpgrade: "...), to...), "\r\n"...)
		}
	}
	switch {
	case a.closing:
		out = append(out, "Connection: close\r\n"...)
	case old:
		out = append(out, "Connection: keep-alive\r\n"...)
	}
	out = append(out, "\r\n"...)
	w.x.BytesOut += int64(len(out) - len(a.out))
	a.out = out
}

func (c *client) info(status int, h *gateway.Header) {
	out := appendStatus(make([]byte, 0, 512), status)
	for _, f := range h.Fields() {
		if specialField(f.Name) == ordinary {
			out = append(append(append(append(out, f.Name...), ": "...), f.Value...), "\r\n"...)
		}
	}
	b := &c.a.body
	b.mu.Lock() // one at a time: 100 is sent by who reads the body
	defer b.mu.Unlock()
	_ = c.send(append(out, "\r\n"...))
}

func (c *client) write(w *Writer, p []byte) (int, error) {
	a := c.a
	n := len(p)
	if a.chunked {
		w.x.BytesOut += int64(n)
		a.out = h1.AppendChunkSize(a.out, n)
		if err := c.put(p); err != nil {
			return 0, err
		}
		return n, c.put(crlf)
	}
	if a.left >= 0 {
		if int64(n) > a.left { // never more than was announced: it would be read as the next answer
			p = p[:a.left]
			w.aborted = true
		}
		a.left -= int64(len(p))
	}
	w.x.BytesOut += int64(len(p))
	return n, c.put(p)
}

var crlf = []byte("\r\n")

// put keeps p back when it fits, else sends.
func (c *client) put(p []byte) error {
	a := c.a
	if len(a.out)+len(p) <= outSize {
		a.out = append(a.out, p...)
		return nil
	}
	if len(a.out) > 0 {
		if err := c.flush(); err != nil {
			return err
		}
	}
	if len(p) < outSize/2 {
		a.out = append(a.out, p...)
		return nil
	}
	return c.send(p)
}

func (c *client) flush() error {
	a := c.a
	if len(a.out) == 0 {
		return nil
	}
	err := c.send(a.out)
	a.out = a.out[:0]
	return err
}

// send writes to the socket. In the callback it tries without waiting first,
// which is nearly always enough.
func (c *client) send(p []byte) error {
	if c.inFd {
		n, e := sock.Send(c.fd, p)
		if e != 0 && e != syscall.EAGAIN {
			c.end, c.eof = true, true
			return e
		}
		if p = p[n:]; len(p) == 0 {
			return nil
		}
	}
	err := c.push(p)
	if err != nil {
		c.end, c.eof = true, true
	}
	return err
}

// push writes and waits. tick ends a wait that is too long.
func (c *client) push(p []byte) error {
	c.sends.begin(c.srv)
	_, err := c.nc.Write(p)
	c.sends.end(c.srv)
	return err
}

// finish ends the answer.
func (c *client) finish(w *Writer) {
	a := c.a
	switch {
	case !w.sent: // the handler said nothing
		w.Refuse(500)
	case w.none:
	case a.chunked && !w.aborted:
		a.out = append(a.out, "0\r\n"...)
		if w.x.Req.Trailers {
			for _, f := range w.x.Resp.Trailer.Fields() {
				if specialField(f.Name) == ordinary {
					a.out = append(append(append(append(a.out, f.Name...), ": "...), f.Value...), "\r\n"...)
				}
			}
		}
		a.out = append(a.out, "\r\n"...)
	case a.left > 0:
		w.aborted = true // shorter than announced
	}
	if w.aborted {
		a.closing = true
		if a.chunked || a.left != 0 {
			c.eof = true // cut off, and no lingering: the client must not wait for more
		}
	}
	if err := c.flush(); err != nil {
		c.end = true
	}
	if w.aborted && a.left < 0 && c.tcp != nil {
		_ = c.tcp.SetLinger(0) // a body that ends with the connection: only a reset says that it was cut off
	}
	if cap(a.out) > 2*outSize {
		a.out = nil
	}
}

// splice moves the rest of the body from an upstream's socket in the kernel.
func (c *client) splice(w *Writer, k *conn) (ok bool, err error) {
	a := c.a
	if c.raw == nil || a.chunked || a.left != k.left {
		return false, nil
	}
	p := c.srv.pipes.take()
	if p == nil {
		return false, nil
	}
	if err = c.flushMore(); err == nil {
		err = c.pump(w, k, p)
	}
	if err != nil {
		p.Close() // it may hold a part of this body
		return true, err
	}
	c.srv.pipes.give(p)
	return true, nil
}

func (c *client) pump(w *Writer, k *conn, p *sock.Pipe) error {
	for k.left > 0 {
		n, err := k.fill(p)
		if err != nil {
			return err
		}
		for n > 0 {
			m, err := c.drainPipe(p, n, k.left > 0)
			if err != nil {
				c.end, c.eof = true, true
				return err
			}
			n -= m
			c.a.left -= int64(m)
			w.x.BytesOut += int64(m)
		}
	}
	return nil
}

// drainPipe sends from the pipe, without waiting first when it can.
func (c *client) drainPipe(p *sock.Pipe, n int, more bool) (m int, err error) {
	var e syscall.Errno
	if c.inFd {
		if m, e = p.Drain(c.fd, int64(n), more); e == 0 {
			return m, nil
		}
		if e != syscall.EAGAIN {
			return 0, e
		}
	}
	c.sends.begin(c.srv)
	err = c.raw.Write(func(fd uintptr) bool {
		m, e = p.Drain(fd, int64(n), more)
		return e != syscall.EAGAIN
	})
	c.sends.end(c.srv)
	if err == nil && e != 0 {
		err = e
	}
	return m, err
}

// flushMore is flush when a body follows at once: they leave together.
func (c *client) flushMore() error {
	a := c.a
	if c.inFd && len(a.out) > 0 {
		n, e := sock.SendMore(c.fd, a.out)
		if e != 0 && e != syscall.EAGAIN {
			c.end, c.eof = true, true
			return e
		}
		a.out = append(a.out[:0], a.out[n:]...)
	}
	return c.flush()
}

// pipes keeps pipes from one body to the next.
type pipes struct {
	mu     sync.Mutex
	list   []*sock.Pipe // guarded by mu
	closed bool         // guarded by mu; the server has stopped
}

// maxPipes bounds what is kept.
const maxPipes = 64

// take returns an empty pipe; nil: the system has none.
func (s *pipes) take() *sock.Pipe {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.list); n > 0 {
		p := s.list[n-1]
		s.list = s.list[:n-1]
		return p
	}
	p, err := sock.NewPipe()
	if err != nil {
		return nil
	}
	return p
}

// give takes an empty pipe back.
func (s *pipes) give(p *sock.Pipe) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.list) >= maxPipes {
		p.Close()
		return
	}
	s.list = append(s.list, p)
}

// close ends the pipes that are kept.
func (s *pipes) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.list {
		p.Close()
	}
	s.list, s.closed = nil, true
}

// upgrade answers 101 and gives the connection away.
func (c *client) upgrade(w *Writer, protocol string) (io.ReadWriteCloser, error) {
	if c.inFd {
		return nil, ErrNoUpgrade
	}
	out := append(append(make([]byte, 0, 512), "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "...), protocol...)
	out = append(c.appendFields(append(out, "\r\n"...), &w.x.Resp.Header), "\r\n"...)
	w.x.BytesOut += int64(len(out))
	if err := c.send(out); err != nil {
		return nil, err
	}
	_ = c.nc.SetReadDeadline(time.Time{})
	t := newTunnel(c, protocol, append([]byte(nil), c.a.in.pending()...))
	c.a.in.drop()
	c.mu.Lock()
	c.tun = t
	c.mu.Unlock()
	if c.closing.Load() { // a client that asks now learns at once to ask elsewhere
		t.drain()
	}
	return t, nil
}
