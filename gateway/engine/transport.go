package engine

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse/gateway"
)

// Bounds of what an upstream may answer before its body.
const (
	maxAnswerHead   = 128 << 10
	maxAnswerFields = 500
	maxInterim      = 16
)

// Call is one request to one node. The caller has chosen every byte of the
// head but the framing.
type Call struct {
	Scheme, Addr string
	SNI          string      // server name of TLS, also verified
	TLS          *tls.Config // with Scheme https; must not change
	Keep         gateway.KeepAlive
	Fresh        bool // on a new connection, whatever is kept
	Timeout      gateway.Timeout

	Method, Target, Host string
	Header               *gateway.Header // without Host and framing
	Body                 io.Reader       // nil when Length is 0
	Length               int64           // -1: chunked
	// StopBody makes a blocked read of Body return, for when the answer is
	// complete before the request is; needed with a Body that can block.
	StopBody func()
	Upgrade  string // ask to switch to this protocol
	// Info is told of interim answers; may be nil.
	Info func(status int, h *gateway.Header)
}

// Stage is how far a Call came.
type Stage uint8

const (
	StageConnect Stage = iota // no connection, nothing sent
	StageSend                 // a part of the request may have been sent
	StageWait                 // the request was sent, no byte came back
	StageAnswer               // the answer was begun and is broken
)

// CallError says how a Call failed.
type CallError struct {
	Stage   Stage
	Timeout bool
	Reused  bool // on a connection that had served before
	Client  bool // the client's body could not be read
	Err     error
}

func (e *CallError) Error() string { return "calling upstream: " + e.Err.Error() }
func (e *CallError) Unwrap() error { return e.Err }

// Transport keeps connections to upstreams, by scheme, address, server name
// and TLS configuration.
type Transport struct {
	dial func(ctx context.Context, network, addr string) (net.Conn, error)

	mu     sync.Mutex
	idle   map[poolKey][]*conn // guarded by mu; last used at the end
	sweep  *time.Timer         // guarded by mu; nil: nothing idle
	closed bool                // guarded by mu
}

type poolKey struct {
	scheme, addr, sni string
	tls               *tls.Config
}

// NewTransport makes a Transport. dial may be nil.
func NewTransport(dial func(ctx context.Context, network, addr string) (net.Conn, error)) *Transport {
	if dial == nil {
		dial = (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext
	}
	return &Transport{dial: dial, idle: map[poolKey][]*conn{}}
}

// Close drops the idle connections and keeps none from now on.
func (t *Transport) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	if t.sweep != nil {
		t.sweep.Stop()
	}
	for k, list := range t.idle {
		for _, c := range list {
			c.Close()
		}
		delete(t.idle, k)
	}
}

// conn is a connection to a node.
type conn struct {
	net.Conn
	key   poolKey
	br    *bufio.Reader
	bw    *bufio.Writer
	uses  int
	until time.Time // idle no longer than this
}

// get takes an idle connection that is still open, or dials.
func (t *Transport) get(ctx context.Context, c *Call) (*conn, error) {
	key := poolKey{c.Scheme, c.Addr, "", nil}
	if c.Scheme == "https" {
		key.sni, key.tls = c.SNI, c.TLS
	}
	for !c.Fresh {
		t.mu.Lock()
		list := t.idle[key]
		if len(list) == 0 {
			t.mu.Unlock()
			break
		}
		k := list[len(list)-1]
		list[len(list)-1] = nil
		if t.idle[key] = list[:len(list)-1]; len(list) == 1 {
			delete(t.idle, key)
		}
		t.mu.Unlock()
		if time.Now().Before(k.until) && k.br.Buffered() == 0 && alive(k.Conn) {
			return k, nil
		}
		k.Close()
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout.Connect)
	defer cancel()
	nc, err := t.dial(ctx, "tcp", c.Addr)
	if err != nil {
		return nil, err
	}
	if c.Scheme == "https" {
		cfg := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
		if c.TLS != nil {
			cfg = c.TLS.Clone()
		}
		cfg.ServerName = c.SNI
		tc := tls.Client(nc, cfg)
		if err := tc.HandshakeContext(ctx); err != nil {
			nc.Close()
			return nil, err
		}
		nc = tc
	}
	return &conn{Conn: nc, key: key, br: bufio.NewReaderSize(nc, 8192), bw: bufio.NewWriterSize(nc, 4096)}, nil
}

// put keeps a connection whose answer was read to its end.
func (t *Transport) put(k *conn, keep gateway.KeepAlive) {
	k.uses++
	if keep.Size <= 0 || keep.Idle <= 0 || keep.Requests > 0 && k.uses >= keep.Requests || k.br.Buffered() > 0 {
		k.Close()
		return
	}
	_ = k.SetDeadline(time.Time{})
	k.until = time.Now().Add(keep.Idle)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		k.Close()
		return
	}
	list := append(t.idle[k.key], k)
	if len(list) > keep.Size {
		list[0].Close()
		list = append(list[:0], list[1:]...)
	}
	t.idle[k.key] = list
	if t.sweep == nil {
		t.sweep = time.AfterFunc(sweepEvery, t.expire)
	}
}

const sweepEvery = 5 * time.Second

// expire closes what has been idle for too long.
func (t *Transport) expire() {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for key, list := range t.idle {
		kept := list[:0]
		for _, k := range list {
			if now.Before(k.until) {
				kept = append(kept, k)
			} else {
				k.Close()
			}
		}
		clear(list[len(kept):])
		if t.idle[key] = kept; len(kept) == 0 {
			delete(t.idle, key)
		}
	}
	if t.sweep = nil; len(t.idle) > 0 && !t.closed {
		t.sweep = time.AfterFunc(sweepEvery, t.expire)
	}
}

// Send makes a call and fills resp with the head of the answer. The body must
// be closed; it is an Upgraded after 101. Errors are *CallError. When ctx ends
// the connection is cut.
func (t *Transport) Send(ctx context.Context, c *Call, resp *gateway.Response) (*Body, error) {
	k, err := t.get(ctx, c)
	if err != nil {
		return nil, callError(StageConnect, false, err)
	}
	b := &Body{t: t, k: k, call: c, head: c.Method == "HEAD"}
	b.unwatch = context.AfterFunc(ctx, func() {
		b.gone.Store(true)
		_ = k.SetDeadline(time.Unix(1, 0))
	})
	fail := func(stage Stage, err error) (*Body, error) {
		b.broken = true
		b.Close()
		if e := b.sendErr; e != nil && errors.Is(e, ErrClient) {
			return nil, &CallError{Stage: StageSend, Client: true, Reused: k.uses > 0, Err: e}
		}
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, callError(stage, k.uses > 0, err)
	}
	b.writeBy(c.Timeout.Send)
	writeHead(k.bw, c)
	if c.Length == 0 {
		if err := k.bw.Flush(); err != nil {
			return fail(StageSend, err)
		}
		b.readBy(c.Timeout.Read)
	} else {
		b.sending = make(chan struct{})
		b.readBy(0)
		go b.send()
	}
	if _, err := k.br.Peek(1); err != nil {
		return fail(StageWait, err)
	}
	if err := b.readHead(resp); err != nil {
		return fail(StageAnswer, err)
	}
	return b, nil
}

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

func callError(stage Stage, reused bool, err error) *CallError {
	var ne net.Error
	timeout := errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &ne) && ne.Timeout()
	return &CallError{Stage: stage, Timeout: timeout, Reused: reused, Err: err}
}

func writeHead(w *bufio.Writer, c *Call) {
	w.WriteString(c.Method)
	w.WriteByte(' ')
	w.WriteString(c.Target)
	w.WriteString(" HTTP/1.1\r\nHost: ")
	w.WriteString(c.Host)
	w.WriteString("\r\n")
	if c.Upgrade != "" {
		w.WriteString("Connection: Upgrade\r\nUpgrade: ")
		w.WriteString(c.Upgrade)
		w.WriteString("\r\n")
	}
	switch {
	case c.Length < 0:
		w.WriteString("Transfer-Encoding: chunked\r\n")
	case c.Length > 0 || c.Method == "POST" || c.Method == "PUT" || c.Method == "PATCH":
		w.WriteString("Content-Length: ")
		w.WriteString(strconv.FormatInt(c.Length, 10))
		w.WriteString("\r\n")
	}
	for _, f := range c.Header.Fields() {
		w.WriteString(f.Name)
		w.WriteString(": ")
		w.WriteString(f.Value)
		w.WriteString("\r\n")
	}
	w.WriteString("\r\n")
}

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
