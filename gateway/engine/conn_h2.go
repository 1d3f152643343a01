package engine

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"gatehouse/gateway"
)

// maxH2Pools bounds the upstreams HTTP/2 connections are kept to.
const maxH2Pools = 1024

// dialError marks that no connection came about.
type dialError struct{ err error }

func (e dialError) Error() string { return e.err.Error() }
func (e dialError) Unwrap() error { return e.err }

// pool is net/http's HTTP/2 client for one node; gRPC upstreams are called by
// it.
func (t *Transport) pool(c *Call) *http.Transport {
	key := c.key()
	t.mu.Lock()
	defer t.mu.Unlock()
	if h := t.h2[key]; h != nil {
		return h
	}
	dial := func(ctx context.Context) (net.Conn, error) {
		nc, err := t.dial(ctx, "tcp", key.addr)
		t.stats.dialled(err)
		if err != nil {
			return nil, dialError{err}
		}
		return nc, nil
	}
	h := &http.Transport{
		Protocols:              new(http.Protocols),
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableCompression:     true,
		IdleConnTimeout:        c.Keep.Idle,
		MaxResponseHeaderBytes: int64(answerLimits.Head),
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}
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
	return h
}

func (t *Transport) sendHTTP2(ctx context.Context, c *Call, resp *gateway.Response) (Answer, error) {
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
	if c.Length != 0 {
		a.sent = make(chan struct{})
		r.Body = &h2Body{Reader: c.Body, stop: c.Stop, done: a.sent}
	}
	a.timer = time.AfterFunc(c.Timeout.Connect+c.Timeout.Read, func() { cancel(os.ErrDeadlineExceeded) })
	res, err := t.pool(c).RoundTrip(r)
	if err != nil {
		a.timer.Stop()
		if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
			err = cause
		}
		cancel(nil)
		a.join()
		stage := StageWait
		if errors.As(err, new(dialError)) {
			stage = StageConnect
		}
		return nil, callError(stage, false, err)
	}
	a.body, a.trailer = res.Body, &res.Trailer
	resp.Status, resp.Length = res.StatusCode, res.ContentLength
	resp.Header.Reset()
	for name, values := range res.Header {
		for _, v := range values {
			resp.Header.Add(name, v)
		}
	}
	return a, nil
}

// h2Body is the client's body as net/http reads it.
type h2Body struct {
	io.Reader
	stop   interface{ StopBody() }
	done   chan struct{}
	closed bool
}

// Close is called once net/http reads no more.
func (b *h2Body) Close() error {
	if !b.closed {
		b.closed = true
		close(b.done)
	}
	return nil
}

// h2Answer is the answer of an HTTP/2 upstream.
type h2Answer struct {
	call    *Call
	resp    *gateway.Response
	body    io.ReadCloser
	trailer *http.Header
	cancel  context.CancelCauseFunc
	timer   *time.Timer
	sent    chan struct{} // closed when the client's body is read no more; nil: none
	closed  bool
}

var _ Answer = (*h2Answer)(nil)

func (a *h2Answer) Read(p []byte) (int, error) {
	a.timer.Reset(a.call.Timeout.Read)
	n, err := a.body.Read(p)
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
	a.body.Close()
	a.join()
}

// join waits until nobody reads the client's body any more.
func (a *h2Answer) join() {
	if a.sent == nil {
		return
	}
	select {
	case <-a.sent:
	default:
		if a.call.Stop != nil {
			a.call.Stop.StopBody()
		}
		<-a.sent
	}
}

// Upgraded is for HTTP/1.1.
func (a *h2Answer) Upgraded() bool { return false }

// Tunnel is for HTTP/1.1.
func (a *h2Answer) Tunnel() io.ReadWriteCloser { return nil }
