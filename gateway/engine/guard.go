package engine

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// guard stands between the socket and net/http on an HTTP/1 connection. It
// reads each head whole, checks it more strictly than net/http would, keeps it
// as it stood on the wire for the Exchange, and hands net/http a short head of
// its own: method, framing, connection. It follows the body so that it knows
// where the next head begins, and refuses malformed chunks.
type guard struct {
	net.Conn
	limits Limits
	tls    *tls.ConnectionState
	peer   netip.AddrPort
	local  netip.AddrPort

	// Read side, used by one goroutine at a time.
	in    []byte // received, not yet looked at
	out   []byte // checked, not yet read
	seen  int    // bytes of in already searched for the end of the head
	body  int64  // bytes of a body with a length still to come
	chunk *chunkScan
	dead  bool // a refused head or chunk: nothing more is read

	hold atomic.Bool // an upgrade is being decided: collect, do not parse
	raw  atomic.Bool // upgraded: bytes go through
	cut  atomic.Bool // the rest of the stream is of no use

	mu    sync.Mutex
	heads []*requestHead // guarded by mu; parsed, not yet taken by the handler
}

func (g *guard) Read(p []byte) (int, error) {
	for {
		switch {
		case len(p) == 0:
			return 0, nil
		case len(g.out) > 0:
			n := copy(p, g.out)
			g.out = g.out[n:]
			return n, nil
		case g.raw.Load():
			if len(g.in) > 0 {
				n := copy(p, g.in)
				g.in = g.in[n:]
				return n, nil
			}
			return g.Conn.Read(p)
		case g.cut.Load():
			g.linger()
			return 0, io.EOF
		case g.dead:
			return 0, io.EOF
		case g.body > 0:
			n, err := g.take(p[:min(int64(len(p)), g.body)])
			g.body -= int64(n)
			g.dead = g.dead || err != nil // what follows could not be told from the body
			return n, err
		case g.chunk != nil:
			return g.readChunked(p)
		}
		if err := g.readHead(); err != nil {
			return 0, err
		}
	}
}

// linger reads on for a moment and throws it away: a client that is still
// sending when the connection closes would lose the answer to a reset.
func (g *guard) linger() {
	if g.dead {
		return
	}
	g.dead, g.in = true, nil
	_ = g.Conn.SetReadDeadline(time.Now().Add(lingerTime))
	_, _ = io.CopyN(io.Discard, g.Conn, lingerBytes)
}

const (
	lingerTime  = 2 * time.Second
	lingerBytes = 16 << 20
)

// take reads what was received before from the socket.
func (g *guard) take(p []byte) (int, error) {
	if len(g.in) > 0 {
		n := copy(p, g.in)
		g.in = g.in[n:]
		return n, nil
	}
	return g.Conn.Read(p)
}

func (g *guard) readChunked(p []byte) (int, error) {
	n, err := g.take(p)
	if n == 0 {
		g.dead = err != nil
		return 0, err
	}
	used, bad := g.chunk.scan(p[:n])
	if bad != nil {
		g.dead = true
		return 0, bad
	}
	if g.chunk.state == chunkDone {
		g.chunk = nil
		if used < n {
			g.in = append(bytes.Clone(p[used:n]), g.in...)
		}
	}
	return used, nil
}

// readHead reads more of a head. A head that is complete is queued and
// net/http's version of it becomes readable. What came before an error of the
// socket is kept.
func (g *guard) readHead() error {
	if !g.hold.Load() {
		for g.seen == 0 && bytes.HasPrefix(g.in, []byte("\r\n")) {
			g.in = g.in[2:] // RFC 9112, section 2.2
		}
		if end, fail := g.headEnd(); fail != 0 {
			g.refuse(&requestHead{fail: fail, size: int64(len(g.in))})
			return nil
		} else if end > 0 {
			q := parseRequest(string(g.in[:end]), g.limits.URI, g.limits.Fields)
			g.in, g.seen = g.in[end:], 0
			if q.fail != 0 {
				g.refuse(q)
				return nil
			}
			g.accept(q)
			return nil
		}
	} else if len(g.in) > g.limits.Head {
		return errors.New("too much sent before the upgrade was answered")
	}
	if len(g.in) == 0 {
		g.in = make([]byte, 0, 4096)
	} else if len(g.in) == cap(g.in) {
		g.in = append(g.in, make([]byte, len(g.in))...)[:len(g.in)]
	}
	n, err := g.Conn.Read(g.in[len(g.in):cap(g.in)])
	g.in = g.in[:len(g.in)+n]
	if n > 0 {
		return nil
	}
	return err
}

// headEnd finds where the head ends: 0 when more must come, or the status that
// refuses what is there. A line feed without carriage return is no line end.
func (g *guard) headEnd() (end, fail int) {
	limit := min(len(g.in), g.limits.Head)
	for i := g.seen; i < limit; i++ {
		switch c := g.in[i]; {
		case c == '\n' && (i == 0 || g.in[i-1] != '\r'), c == 0:
			return 0, 400
		case c == '\n' && i >= 3 && g.in[i-2] == '\n':
			return i + 1, 0
		case c != '\n' && i > 0 && g.in[i-1] == '\r':
			return 0, 400
		}
	}
	g.seen = limit
	line := bytes.IndexByte(g.in[:limit], '\n')
	if line < 0 && limit > g.limits.URI+64 {
		return 0, 414
	}
	if len(g.in) >= g.limits.Head {
		return 0, 431
	}
	return 0, 0
}

// refuse lets net/http read a request that the handler answers with q.fail.
func (g *guard) refuse(q *requestHead) {
	g.dead, g.in = true, nil
	g.push(q)
	g.out = []byte("GET / HTTP/1.1\r\nHost: -\r\nConnection: close\r\n\r\n")
}

func (g *guard) accept(q *requestHead) {
	b := make([]byte, 0, 128)
	b = append(b, q.method...)
	b = append(b, " / "...)
	b = append(b, q.proto...)
	b = append(b, "\r\nHost: -\r\n"...)
	switch {
	case q.length < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		g.chunk = &chunkScan{}
	case q.length > 0:
		b = append(b, "Content-Length: "...)
		b = append(strconv.AppendInt(b, q.length, 10), "\r\n"...)
		g.body = q.length
	}
	if q.close {
		b = append(b, "Connection: close\r\n"...)
	} else if q.proto == "HTTP/1.0" {
		b = append(b, "Connection: keep-alive\r\n"...)
	}
	if q.expect && q.length != 0 {
		b = append(b, "Expect: 100-continue\r\n"...)
	}
	g.out = append(b, "\r\n"...)
	if q.upgrade != "" {
		g.hold.Store(true)
	}
	g.push(q)
}

func (g *guard) push(q *requestHead) {
	g.mu.Lock()
	g.heads = append(g.heads, q)
	g.mu.Unlock()
}

// next is the head of the request net/http has just begun.
func (g *guard) next() *requestHead {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.heads) == 0 {
		return nil
	}
	q := g.heads[0]
	g.heads = g.heads[:copy(g.heads, g.heads[1:])]
	return q
}
