package engine

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"gatehouse/gateway"
)

// maxH2Pools bounds the upstreams HTTP/2 connections are kept to.
const maxH2Pools = 1024

// dialError marks that no connection came about.
type dialError struct{ err error }

func (e dialError) Error() string { return e.err.Error() }
func (e dialError) Unwrap() error { return e.err }

// h2pool is net/http's HTTP/2 client for one address of a node; gRPC upstreams
// are called by it.
type h2pool struct {
	*http.Transport
	host       string     // the name of the node; "": it is an address
	ip         netip.Addr // with host
	born, used int64      // tick; used is guarded by Transport.mu
}

// h2key is what calls share a client by. Its times are the client's own, so
// calls with others have another.
type h2key struct {
	poolKey
	connect, idle time.Duration
}

// h2Unused is how long the client of an address stays without calls, in ticks.
const h2Unused = 600

// pool finds or makes the client for an address of a node.
func (t *Transport) pool(c *Call, host string, ip netip.Addr, addr string) *h2pool {
	key := h2key{c.key(), c.Timeout.Connect, c.Keep.Idle}
	key.addr = addr
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.ticks.Load()
	if h := t.h2[key]; h != nil {
		h.used = now
		return h
	}
	connect := c.Timeout.Connect
	dial := func(ctx context.Context) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, connect)
		defer cancel()
		nc, err := t.connectTo(ctx, addr)
		t.stats.dialled(err)
		if err != nil {
			return nil, dialError{err}
		}
		return nc, nil
	}
	h := &h2pool{host: host, ip: ip, born: now, used: now, Transport: &http.Transport{
		Protocols:              new(http.Protocols),
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableCompression:     true,
		IdleConnTimeout:        c.Keep.Idle,
		MaxResponseHeaderBytes: int64(answerLimits.Head),
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}}
	if c.Scheme == "grpcs" {
		cfg := clientTLS(c)
		cfg.NextProtos = []string{"h2"}
		h.Protocols.SetHTTP2(true)
		h.DialTLSContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			nc, err := dial(ctx)
			if err != nil {
				return nil, err
			}
			tc := tls.Client(nc, cfg)
			if err := tc.HandshakeContext(ctx); err != nil {
				nc.Close()
				return nil, dialError{err}
			}
			return tc, nil
		}
	} else {
		h.Protocols.SetUnencryptedHTTP2(true)
	}
	if len(t.h2) >= maxH2Pools {
		for k, old := range t.h2 {
			old.CloseIdleConnections()
			delete(t.h2, k)
			break
		}
	}
	t.h2[key] = h
	t.watch()
	return h
}

// sweepHTTP2 takes out the clients that are too old, unused, or for an address
// that its name has no more. Their streams end as they would; the caller closes
// what is idle. The caller holds mu.
func (t *Transport) sweepHTTP2(now int64) (old []*h2pool) {
	for key, h := range t.h2 {
		gone := now-h.used >= h2Unused || now-h.born >= t.life()
		if h.host != "" && !gone {
			addrs, known := t.Resolver.Known(h.host)
			gone = known && !slices.Contains(addrs, h.ip)
		}
		if gone {
			delete(t.h2, key)
			old = append(old, h)
		}
	}
	return old
}

// sendHTTP2 makes a call on HTTP/2: to the address of the node, or to those of
// its name in turn until a connection comes about.
func (t *Transport) sendHTTP2(ctx context.Context, c *Call, resp *gateway.Response) (Answer, error) {
	n := nodeOf(c.Addr)
	if n.host == "" {
		return t.stream(ctx, c, resp, t.pool(c, "", netip.Addr{}, c.Addr))
	}
	lookup, cancel := context.WithTimeout(ctx, c.Timeout.Connect)
	addrs, err := t.Resolver.Addresses(lookup, n.host)
	cancel()
	for _, a := range addrs {
		var body Answer
		if body, err = t.stream(ctx, c, resp, t.pool(c, n.host, a, netip.AddrPortFrom(a, n.port).String())); err == nil {
			return body, nil
		}
		if ce := (*CallError)(nil); !errors.As(err, &ce) || ce.Stage != StageConnect || ctx.Err() != nil {
			return nil, err
		}
		t.Resolver.Failed(n.host, a)
	}
	if ce := (*CallError)(nil); !errors.As(err, &ce) {
		err = callError(StageConnect, false, err)
	}
	return nil, err
}

// stream makes a call on a stream of its own.
func (t *Transport) stream(ctx context.Context, c *Call, resp *gateway.Response, h *h2pool) (Answer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	r := (&http.Request{
		Method: c.Method, Host: c.Host, ContentLength: c.Length, Header: make(http.Header, 16),
		URL: &url.URL{Scheme: "http", Host: c.Addr, Opaque: c.Target},
	}).WithContext(ctx)
	if c.Scheme == "grpcs" {
		r.URL.Scheme = "https"
	}
	for _, f := range c.Header.Fields() {
		key := http.CanonicalHeaderKey(f.Name)
		r.Header[key] = append(r.Header[key], f.Value)
	}
	if _, ok := r.Header["User-Agent"]; !ok {
		r.Header["User-Agent"] = nil // none of net/http's own
	}
	if c.Trailers {
		r.Header["Te"] = []string{"trailers"}
	}
	a := &h2Answer{call: c, resp: resp, cancel: cancel}
	a.timer = time.AfterFunc(c.Timeout.Connect+c.Timeout.Read, func() { cancel(os.ErrDeadlineExceeded) })
	a.body.start(c, a.timer)
	if c.Length != 0 {
		r.Body, _ = a.body.reader()
		r.GetBody = a.body.reader
	}
	res, err := h.RoundTrip(r)
	if err != nil {
		a.timer.Stop()
		if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
			err = cause
		}
		cancel(nil)
		fault := a.body.failed() // before join, which makes it fail
		a.join()
		stage := StageWait
		switch {
		case fault != nil: // net/http only knows that the stream is gone
			err = fault
		case errors.As(err, new(dialError)):
			// A node may have taken a part of the body and said then that it
			// did not look at it; the connection that failed was the next.
			stage = StageSend
			if body, ok := a.body.again(); c.Length == 0 || ok {
				stage, c.Body = StageConnect, body
			}
		}
		return nil, callError(stage, false, err)
	}
	a.body.answer()
	a.answer, a.trailer = res.Body, &res.Trailer
	resp.Status, resp.Length = res.StatusCode, res.ContentLength
	if c.Trailers && c.Method != "HEAD" && (len(res.Trailer) > 0 || announcesLength(res.Header)) {
		resp.Length = -1 // the body is not the end
	}
	resp.Header.Reset()
	for name, values := range res.Header {
		for _, v := range values {
			resp.Header.Add(name, v)
		}
	}
	return a, nil
}

// announcesLength says whether a gRPC message is announced by its length, so
// that trailers follow. gRPC-Web has none, and what has a status is all
// trailers.
func announcesLength(h http.Header) bool {
	rest, ok := strings.CutPrefix(h.Get("Content-Type"), "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';') && h["Content-Length"] != nil && h["Grpc-Status"] == nil
}

// h2Answer is the answer of an HTTP/2 upstream.
type h2Answer struct {
	call    *Call
	resp    *gateway.Response
	body    replay // of the request
	answer  io.ReadCloser
	trailer *http.Header
	cancel  context.CancelCauseFunc
	timer   *time.Timer
	closed  bool
}

var _ Answer = (*h2Answer)(nil)

func (a *h2Answer) Read(p []byte) (int, error) {
	a.timer.Reset(a.call.Timeout.Read)
	n, err := a.answer.Read(p)
	a.timer.Stop() // what the client takes its time for is not the node's
	if err == io.EOF {
		for name, values := range *a.trailer {
			for _, v := range values {
				a.resp.Trailer.Add(name, v)
			}
		}
	}
	return n, err
}

// Whole is not known either.
func (a *h2Answer) Whole() ([]byte, bool) { return nil, false }

// Buffered is not known; every read may wait.
func (a *h2Answer) Buffered() bool { return false }

// Close ends the stream.
func (a *h2Answer) Close() {
	if a.closed {
		return
	}
	a.closed = true
	a.timer.Stop()
	a.cancel(nil)
	a.answer.Close()
	a.join()
}

// join waits until nobody reads the client's body any more.
func (a *h2Answer) join() {
	if a.call.Length != 0 {
		a.body.end(func() {
			if a.call.Stop != nil {
				a.call.Stop.StopBody()
			}
		})
	}
}

// Upgraded is for HTTP/1.1.
func (a *h2Answer) Upgraded() bool { return false }

// Tunnel is for HTTP/1.1.
func (a *h2Answer) Tunnel() io.ReadWriteCloser { return nil }
