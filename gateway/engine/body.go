package engine

import (
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse/gateway"
)

// Body is the rest of an answer.
type Body struct {
	t       *Transport
	k       *conn
	call    *Call
	head    bool
	unwatch func() bool
	sending chan struct{} // closed when the request is sent or cannot be; nil: no body
	sendErr error         // after sending is closed
	sent    bool          // after sending is closed
	broken  bool          // the connection cannot be used again
	done    bool          // read to the end
	closed  bool
	left    int64     // of a body with a length
	chunks  io.Reader // of a chunked body
	toEnd   bool      // the body ends with the connection
	// Upgraded says that the answer was 101 and the connection is a tunnel.
	Upgraded bool
	gone     atomic.Bool // the client: deadlines in the future are no longer set
}

// readHead reads the answer's head, over interim answers.
func (b *Body) readHead(resp *gateway.Response) error {
	for range maxInterim {
		resp.Header.Reset()
		status, minor, err := readAnswerHead(b.k.br, &resp.Header)
		if err != nil {
			return err
		}
		switch {
		case status == 101 && b.call.Upgrade != "":
			b.Upgraded, b.broken = true, true
			resp.Status, resp.Length = status, 0
			return nil
		case status == 101:
			return errors.New("the upstream switched protocols without being asked")
		case status < 200:
			if status > 101 && b.call.Info != nil {
				b.call.Info(status, &resp.Header)
			}
			continue
		}
		resp.Status = status
		return b.frame(resp, minor)
	}
	return errors.New("too many interim answers")
}

// frame finds where the body ends (RFC 9112, section 6.3).
func (b *Body) frame(resp *gateway.Response, minor int) error {
	var codings, lengths int
	var length int64
	closing := minor == 0
	for _, f := range resp.Header.Fields() {
		switch len(f.Name) {
		case 10:
			if strings.EqualFold(f.Name, "Connection") {
				for t := range strings.SplitSeq(f.Value, ",") {
					switch t = strings.Trim(t, " \t"); {
					case strings.EqualFold(t, "close"):
						b.broken = true
					case strings.EqualFold(t, "keep-alive"):
						closing = false
					}
				}
			}
		case 14:
			if strings.EqualFold(f.Name, "Content-Length") {
				n, ok := parseLength(f.Value)
				if !ok || lengths > 0 && n != length {
					return errors.New("invalid Content-Length in the answer")
				}
				length = n
				lengths++
			}
		case 17:
			if strings.EqualFold(f.Name, "Transfer-Encoding") {
				if codings++; !strings.EqualFold(f.Value, "chunked") {
					return errors.New("unknown Transfer-Encoding in the answer")
				}
			}
		}
	}
	if codings > 1 || codings == 1 && lengths > 0 {
		return errors.New("ambiguous framing in the answer")
	}
	b.broken = b.broken || closing
	resp.Length = -1
	switch {
	case b.head || resp.Status == 204 || resp.Status == 304:
		if b.done = true; lengths > 0 {
			resp.Length = length
		}
	case codings == 1:
		b.chunks = newChunked(b.k.br)
	case lengths > 0:
		resp.Length, b.left = length, length
		b.done = length == 0
	default:
		b.toEnd, b.broken = true, true
	}
	return nil
}

// Read reads the body, each time for at most the read timeout.
func (b *Body) Read(p []byte) (n int, err error) {
	if b.done || len(p) == 0 {
		return 0, io.EOF
	}
	if b.k.br.Buffered() == 0 {
		b.readBy(b.call.Timeout.Read)
	}
	switch {
	case b.chunks != nil:
		if n, err = b.chunks.Read(p); err == io.EOF {
			b.done = true
		}
	case b.toEnd:
		if n, err = b.k.br.Read(p); err == io.EOF {
			b.done = true
		}
	default:
		n, err = b.k.br.Read(p[:min(int64(len(p)), b.left)])
		if b.left -= int64(n); b.left == 0 {
			b.done = true
			return n, io.EOF
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
	}
	if err != nil && err != io.EOF {
		b.broken = true
	}
	return n, err
}

// Buffered says whether more of the body is there without waiting.
func (b *Body) Buffered() bool { return b.k.br.Buffered() > 0 }

// Close gives the connection back, or cuts it when the answer was not read to
// its end or the request not sent to its end. It waits for the sender.
func (b *Body) Close() {
	if b.closed {
		return
	}
	b.closed = true
	live := b.unwatch()
	if b.sending != nil {
		select {
		case <-b.sending:
		default:
			b.broken = true
			_ = b.k.SetDeadline(time.Unix(1, 0))
			if b.call.StopBody != nil {
				b.call.StopBody()
			}
			<-b.sending
		}
		if !b.sent {
			b.broken = true
		}
	}
	if !live || b.broken || !b.done {
		b.k.Close()
		return
	}
	b.t.put(b.k, b.call.Keep)
}

// Tunnel is the connection after 101. The caller closes it.
func (b *Body) Tunnel() io.ReadWriteCloser { return upstreamTunnel{b} }

type upstreamTunnel struct{ b *Body }

func (t upstreamTunnel) Read(p []byte) (int, error) {
	_ = t.b.k.SetReadDeadline(time.Time{})
	return t.b.k.br.Read(p)
}

func (t upstreamTunnel) Write(p []byte) (int, error) {
	_ = t.b.k.SetWriteDeadline(time.Now().Add(t.b.call.Timeout.Send))
	return t.b.k.Write(p)
}

func (t upstreamTunnel) Close() error { return t.b.k.Close() }

// send copies the client's body to the node while the answer may already come.
func (b *Body) send() {
	defer close(b.sending)
	k, c := b.k, b.call
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	var sent int64
	for {
		n, err := c.Body.Read(*buf)
		if n > 0 {
			if sent += int64(n); c.Length >= 0 && sent > c.Length {
				b.sendErr = errors.New("body longer than announced")
				break
			}
			b.writeBy(c.Timeout.Send)
			if c.Length < 0 {
				k.bw.WriteString(strconv.FormatInt(int64(n), 16))
				k.bw.WriteString("\r\n")
			}
			k.bw.Write((*buf)[:n])
			if c.Length < 0 {
				k.bw.WriteString("\r\n")
			}
			if werr := k.bw.Flush(); werr != nil {
				b.sendErr = werr
				return // the node may still answer: 413, say
			}
		}
		if err == io.EOF || err == nil && sent == c.Length {
			if c.Length >= 0 && sent < c.Length {
				b.sendErr = errors.Join(ErrClient, io.ErrUnexpectedEOF)
				break
			}
			if c.Length < 0 {
				k.bw.WriteString("0\r\n\r\n")
				if werr := k.bw.Flush(); werr != nil {
					b.sendErr = werr
					return
				}
			}
			b.sent = true
			b.readBy(c.Timeout.Read)
			return
		}
		if err != nil {
			b.sendErr = errors.Join(ErrClient, err)
			break
		}
	}
	// The node must not take what came for the whole: cut the connection.
	_ = k.SetDeadline(time.Unix(1, 0))
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// readBy bounds the next reads; 0 is no bound. A client that left stays gone.
func (b *Body) readBy(d time.Duration) {
	var at time.Time
	if d > 0 {
		at = time.Now().Add(d)
	}
	if _ = b.k.SetReadDeadline(at); b.gone.Load() {
		_ = b.k.SetReadDeadline(time.Unix(1, 0))
	}
}

func (b *Body) writeBy(d time.Duration) {
	if _ = b.k.SetWriteDeadline(time.Now().Add(d)); b.gone.Load() {
		_ = b.k.SetWriteDeadline(time.Unix(1, 0))
	}
}
