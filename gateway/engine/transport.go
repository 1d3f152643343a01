package engine

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse/gateway"
	"gatehouse/lib/h1"
	"gatehouse/lib/sock"
)

// Bounds of what an upstream may answer before its body.
var answerLimits = h1.Limits{Head: 128 << 10, Fields: 500}

const maxInterim = 16

// Call is one request to one node. The caller has chosen every byte of the
// head but the framing.
type Call struct {
	Scheme, Addr string        // "http", "https", "grpc" (HTTP/2), "grpcs" (HTTP/2 over TLS)
	SNI          string        // server name of TLS, also verified
	TLS          *tls.Config   // with TLS; must not change
	Node         *gateway.Node // whose Addr it is; may be nil
	Keep         gateway.KeepAlive
	Fresh        bool // on a new connection, whatever is kept
	Proxied      Proxied
	Timeout      gateway.Timeout

	Method, Target, Host string
	Header               *gateway.Header // without Host and framing
	// Body is nil when Length is 0. An error of StageConnect leaves a Body that
	// stands at its start, perhaps another one: what was read of it for this
	// node is there for the next.
	Body     io.Reader
	Length   int64           // -1: chunked
	Trailer  *gateway.Header // of the request, once Body is read; may be nil
	Trailers bool            // ask for trailers
	// Stop makes a blocked read of Body return, for when the answer is
	// complete before the request is; needed with a Body that can block.
	Stop    interface{ StopBody() }
	Upgrade string // ask to switch to this protocol
	// Info is told of interim answers; may be nil.
	Info    func(status int, h *gateway.Header)
	Scratch *Scratch // nil: its own
}

func (c *Call) secure() bool { return c.Scheme == "https" || c.Scheme == "grpcs" }
func (c *Call) http2() bool  { return c.Scheme == "grpc" || c.Scheme == "grpcs" }

// Scratch is the memory of a call. It belongs to the caller, who may use it for
// one call after another, never for two at once.
type Scratch struct {
	out    []byte // the request's head, and a small body
	in     block  // the answer, as received
	head   h1.Head
	chunks h1.Chunks
}

// Answer is what follows the head of an upstream's answer. It belongs to the
// goroutine of the exchange and must be closed.
type Answer interface {
	// Read reads the body, each time for at most the read timeout. After
	// io.EOF resp.Trailer of the call is complete.
	Read(p []byte) (int, error)
	// Whole returns the body when all of it is there, and counts as reading
	// it. It is good until Close.
	Whole() (body []byte, ok bool)
	// Buffered says whether more of the body is there without waiting.
	Buffered() bool
	// Close gives the connection back, or cuts it when the answer was not read
	// to its end or the request not sent to its end.
	Close()
	// Upgraded says that the answer was 101; Tunnel is the connection then,
	// closed by the caller.
	Upgraded() bool
	Tunnel() io.ReadWriteCloser
}

// Stage is how far a Call came.
type Stage uint8

const (
	StageConnect Stage = iota // no connection, nothing sent that a node looked at
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

func (e *CallError) Error() string {
	if e.Client {
		return e.Err.Error()
	}
	return "calling upstream: " + e.Err.Error()
}

func (e *CallError) Unwrap() error { return e.Err }

func callError(stage Stage, reused bool, err error) *CallError {
	var ne net.Error
	timeout := errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &ne) && ne.Timeout()
	return &CallError{Stage: stage, Timeout: timeout, Reused: reused, Client: errors.Is(err, ErrClient) || errors.Is(err, ErrTooLarge), Err: err}
}

// UpstreamLimits bounds what is kept open to nodes. Zero fields take the
// default, which stands behind the semicolon.
type UpstreamLimits struct {
	Conns int           // open connections to one node, idle or not; 0: no limit, beyond: a call waits for its connect timeout
	Life  time.Duration // of a connection, however busy; 1 h
}

// Transport keeps connections to upstreams, by scheme, address, server name
// and TLS configuration.
type Transport struct {
	// Limits and Resolver must not change after the first call.
	Limits   UpstreamLimits
	Resolver *Resolver

	dial func(ctx context.Context, network, addr string) (net.Conn, error)

	stats transportStats
	ticks atomic.Int64 // seconds counted by the sweep: the clock of idle times and long waits

	mu     sync.Mutex
	idle   map[poolKey]*pool  // guarded by mu
	nodes  map[string]*node   // guarded by mu; by address
	open   map[*conn]struct{} // guarded by mu; idle ones too
	h2     map[h2key]*h2pool  // guarded by mu
	sweep  *time.Timer        // guarded by mu; nil: nothing is open
	closed bool               // guarded by mu
}

// pool is what is kept for one node under one name.
type pool struct {
	of   *Transport
	node *node
	gone bool    // guarded by Transport.mu; nothing was open, another takes its place
	list []*conn // guarded by Transport.mu; last used at the end
	open int     // guarded by Transport.mu; connections, idle or not, and dials under way
}

type poolKey struct {
	scheme, addr, sni string
	tls               *tls.Config
	proxied           uint8 // Call.Proxied.Version: what was kept for calls without a header is not theirs
}

// NewTransport makes a Transport. dial may be nil; it gets addresses, no names.
func NewTransport(dial func(ctx context.Context, network, addr string) (net.Conn, error)) *Transport {
	if dial == nil {
		dial = (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext
	}
	return &Transport{
		Resolver: NewResolver(ResolverConfig{}), dial: dial, idle: map[poolKey]*pool{}, nodes: map[string]*node{},
		open: map[*conn]struct{}{}, h2: map[h2key]*h2pool{},
	}
}

// Close cuts every connection and keeps none from now on.
func (t *Transport) Close() {
	t.mu.Lock()
	t.closed = true
	if t.sweep != nil {
		t.sweep.Stop()
	}
	for k := range t.open {
		k.nc.Close()
	}
	clear(t.idle)
	clear(t.open)
	for _, n := range t.nodes {
		for n.next(nil) {
		}
	}
	for key, h := range t.h2 {
		h.CloseIdleConnections()
		delete(t.h2, key)
	}
	t.mu.Unlock()
	t.Resolver.Close()
}

func (c *Call) key() poolKey {
	key := poolKey{scheme: c.Scheme, addr: c.Addr, proxied: c.Proxied.Version}
	if c.secure() {
		key.sni, key.tls = c.SNI, c.TLS
	}
	return key
}

// get takes the idle connection that was used last, or dials.
func (t *Transport) get(ctx context.Context, c *Call) (*conn, error) {
	t.mu.Lock()
	p := t.poolOf(c)
	if n := len(p.list); n > 0 && !c.Fresh {
		k := p.list[n-1]
		p.list[n-1] = nil
		p.list = p.list[:n-1]
		t.stats.reused++
		t.mu.Unlock()
		return k, nil
	}
	p.open++ // keeps the pool while the dial is under way
	n := p.node
	if n.open++; t.Limits.Conns > 0 && n.open > t.Limits.Conns {
		n.open--
		k, err := t.queue(ctx, c, p)
		if k != nil || err != nil {
			p.open--
			t.mu.Unlock()
			return k, err
		}
	}
	t.mu.Unlock()
	k, err := t.connect(ctx, c, n)
	t.stats.dialled(err)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil && t.closed {
		k.nc.Close()
		err = net.ErrClosed
	}
	if err != nil {
		t.leave(p)
		return nil, err
	}
	k.pool = p
	t.open[k] = struct{}{}
	t.watch()
	return k, nil
}

// poolOf finds or makes the pool for a call. A node remembers the last one:
// nearly every call to it wants the same. The caller holds mu.
func (t *Transport) poolOf(c *Call) *pool {
	plain := c.Node != nil && c.Scheme == "http" && c.Proxied.Version == 0
	if plain {
		if p, ok := c.Node.Pool.Load().(*pool); ok && p.of == t && !p.gone {
			return p
		}
	}
	key := c.key()
	p := t.idle[key]
	if p == nil {
		p = &pool{of: t, node: t.node(c.Addr)}
		t.idle[key] = p
	}
	if plain {
		c.Node.Pool.Store(p)
	}
	return p
}

// watch starts the sweep. The caller holds mu.
func (t *Transport) watch() {
	if t.sweep == nil && !t.closed {
		t.sweep = time.AfterFunc(time.Second, t.look)
	}
}

func (t *Transport) connect(ctx context.Context, c *Call, n *node) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout.Connect)
	defer cancel()
	nc, err := t.reach(ctx, n)
	if err != nil {
		return nil, err
	}
	if err := c.Proxied.greet(ctx, nc); err != nil {
		nc.Close()
		return nil, err
	}
	k := &conn{t: t, nc: nc, born: t.ticks.Load()}
	if n.host != "" {
		k.remote = addrPort(nc.RemoteAddr()).Addr()
	}
	k.tcp, _ = nc.(*net.TCPConn)
	if c.secure() {
		tc := tls.Client(nc, clientTLS(c))
		if err := tc.HandshakeContext(ctx); err != nil {
			nc.Close()
			return nil, err
		}
		k.nc = tc
	} else if raw, ok := sock.RawConn(k.tcp); ok {
		k.raw, k.fn = raw, k.step
	}
	return k, nil
}

func clientTLS(c *Call) *tls.Config {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if c.TLS != nil {
		cfg = c.TLS.Clone()
	}
	cfg.ServerName = c.SNI
	return cfg
}

// put keeps a connection whose answer was read to its end.
func (t *Transport) put(k *conn, keep gateway.KeepAlive) {
	k.uses++
	now := t.ticks.Load()
	if keep.Size <= 0 || keep.Idle <= 0 || keep.Requests > 0 && k.uses >= keep.Requests || now-k.born >= t.life() {
		k.cut()
		return
	}
	k.until = now + seconds(keep.Idle)
	t.mu.Lock()
	if t.closed || k.retired {
		t.mu.Unlock()
		k.cut()
		return
	}
	p := k.pool
	if len(p.node.queue) > 0 {
		handed := p.node.hand(k)
		t.mu.Unlock()
		if !handed { // somebody waits for a connection of another kind
			k.cut()
		}
		return
	}
	var old *conn
	if len(p.list) >= keep.Size {
		old = p.list[0]
		p.list = append(p.list[:0], p.list[1:]...)
	}
	p.list = append(p.list, k)
	t.mu.Unlock()
	if old != nil {
		old.cut()
	}
}

// life is how long a connection is kept, in ticks.
func (t *Transport) life() int64 {
	if t.Limits.Life > 0 {
		return seconds(t.Limits.Life) - 1
	}
	return int64(defaultLife / time.Second)
}

const defaultLife = time.Hour

// seconds is d in ticks of the sweep, one more than begun ones: a wait is
// never cut short.
func seconds(d time.Duration) int64 { return int64((d+time.Second-1)/time.Second) + 1 }

// forget is the last that happens to a connection.
func (t *Transport) forget(k *conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.open[k]; ok {
		delete(t.open, k)
		t.leave(k.pool)
	}
}

// leave gives a place among a node's connections back. The caller holds mu.
func (t *Transport) leave(p *pool) {
	p.open--
	p.node.open--
	p.node.next(nil)
}

// look is the sweep, once a second: it ends waits that took too long or whose
// client has gone, closes what has been idle for too long, and retires
// connections to addresses that their name has no more.
func (t *Transport) look() {
	now := t.ticks.Add(1)
	var stale []*conn
	t.mu.Lock()
	for _, n := range t.nodes {
		if n.host != "" {
			n.addrs, n.known = t.Resolver.Known(n.host)
		}
	}
	for k := range t.open {
		k.look(now)
		if n := k.pool.node; n.known && k.remote.IsValid() {
			k.retired = !slices.Contains(n.addrs, k.remote)
		}
	}
	for key, p := range t.idle {
		kept := p.list[:0]
		for _, k := range p.list {
			if now >= k.until || k.retired || now-k.born >= t.life() {
				stale = append(stale, k)
			} else {
				kept = append(kept, k)
			}
		}
		clear(p.list[len(kept):])
		p.list = kept
		if p.open == 0 {
			delete(t.idle, key)
			p.gone = true
			t.drop(p.node)
		}
	}
	old := t.sweepHTTP2(now)
	if t.sweep = nil; len(t.open)+len(t.h2) > 0 {
		t.watch()
	}
	t.mu.Unlock()
	for _, k := range stale {
		k.cut()
	}
	for _, h := range old {
		h.CloseIdleConnections()
	}
}

// Shed closes up to n idle connections, those idle longest of each pool first:
// the process has run out of descriptors.
func (t *Transport) Shed(n int) {
	var list []*conn
	t.mu.Lock()
	for again := true; again && len(list) < n; {
		again = false
		for _, p := range t.idle {
			if len(p.list) > 0 && len(list) < n {
				list = append(list, p.list[0])
				p.list = append(p.list[:0], p.list[1:]...)
				again = true
			}
		}
	}
	t.mu.Unlock()
	for _, k := range list {
		k.cut()
	}
}

// Send makes a call and fills resp with the head of the answer, whose strings
// stay good after the call. Errors are *CallError; one of StageConnect lets the
// caller make c again elsewhere. When ctx ends the connection is cut within a
// second or two.
func (t *Transport) Send(ctx context.Context, c *Call, resp *gateway.Response) (Answer, error) {
	if c.http2() {
		if c.Proxied.Version != 0 {
			return nil, callError(StageConnect, false, errShared)
		}
		return t.sendHTTP2(ctx, c, resp)
	}
	if c.Scratch == nil {
		c.Scratch = new(Scratch)
	}
	out := appendCall(c.Scratch.out[:0], c)
	rest := c.Length != 0 // a part of the body is still to be sent
	head := len(out)
	for {
		k, err := t.get(ctx, c)
		if err != nil {
			c.untake(out[head:]) // of the connection before, which had ended
			return nil, callError(StageConnect, false, err)
		}
		if rest && c.Length > 0 && c.Length <= maxWhole {
			if b, ok := c.Body.(interface{ Whole() ([]byte, bool) }); ok {
				if p, ok := b.Whole(); ok {
					out = append(out, p...)
					rest = false
				}
			}
		}
		c.Scratch.out = out
		wait := c.Timeout.Read
		if rest || k.raw == nil {
			wait = 0
		}
		k.begin(ctx, c, resp, wait)
		stage, err := k.send(out, rest)
		if err == errStale { // it had ended while it was idle, nothing was sent
			k.finish(false)
			continue
		}
		if err == nil {
			return k, nil
		}
		reused := k.uses > 0
		k.finish(false)
		if errors.Is(k.sendErr, ErrClient) || errors.Is(k.sendErr, ErrTooLarge) {
			stage, err = StageSend, k.sendErr
		} else if ctx.Err() != nil {
			err = ctx.Err()
		}
		if stage == StageConnect {
			c.untake(out[head:])
		}
		return nil, callError(stage, reused, err)
	}
}

// untake makes what Send took of the body, and has not sent, the body again.
func (c *Call) untake(p []byte) {
	if len(p) > 0 {
		c.Body = &unsent{head: bytes.Clone(p)}
	}
}

// maxWhole is the largest body that leaves in one piece with its head.
const maxWhole = 16 << 10

func appendCall(b []byte, c *Call) []byte {
	b = append(append(b, c.Method...), ' ')
	b = append(append(b, c.Target...), " HTTP/1.1\r\nHost: "...)
	b = append(append(b, c.Host...), "\r\n"...)
	if c.Upgrade != "" {
		b = append(append(append(b, "Connection: Upgrade\r\nUpgrade: "...), c.Upgrade...), "\r\n"...)
	} else if c.Trailers {
		b = append(b, "Connection: TE\r\nTE: trailers\r\n"...)
	}
	switch {
	case c.Length < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case c.Length > 0 || c.Method == "POST" || c.Method == "PUT" || c.Method == "PATCH":
		b = append(b, "Content-Length: "...)
		b = append(strconv.AppendInt(b, c.Length, 10), "\r\n"...)
	}
	b = appendHeader(b, c.Header)
	return append(b, "\r\n"...)
}

func appendHeader(b []byte, h *gateway.Header) []byte {
	for _, f := range h.Fields() {
		b = append(append(append(append(b, f.Name...), ": "...), f.Value...), "\r\n"...)
	}
	return b
}
