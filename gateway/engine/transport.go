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
	"sync"
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
