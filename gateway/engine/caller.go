package engine

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"gatehouse/gateway"
	"gatehouse/lib/fault"
)

// Caller makes outbound calls for plugins. It follows no redirect, uses no
// proxy of the environment, and verifies certificates against the roots it was
// given.
type Caller struct {
	roots *x509.CertPool

	mu    sync.Mutex
	kinds map[callKind]*http.Client // guarded by mu; at most maxCallKinds
}

type callKind struct {
	insecure bool
	proxy    string
	tls      *tls.Config
}

const (
	maxCallKinds = 64
	maxCallBody  = 1 << 20
)

var _ gateway.Caller = (*Caller)(nil)

// NewCaller makes a Caller. extra are PEM certificates trusted besides the
// system's roots.
func NewCaller(extra []byte) *Caller {
	return &Caller{roots: Roots(extra), kinds: map[callKind]*http.Client{}}
}

// Roots is the system's certificate pool and those of a PEM text.
func Roots(extra []byte) *x509.CertPool {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	pool.AppendCertsFromPEM(extra)
	return pool
}

// Call makes one request. A failure, and an answer larger than asked for, is
// fault.Unavailable; a Call that makes no sense is fault.Invalid.
func (c *Caller) Call(ctx context.Context, call gateway.Call) (*gateway.CallAnswer, error) {
	timeout, limit := call.Timeout, call.MaxBody
	if timeout <= 0 {
		timeout = 10 * time.Second
	}
	if limit <= 0 {
		limit = maxCallBody
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, call.Method, call.URL, bytes.NewReader(call.Body))
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, "invalid outbound request", err)
	}
	if s := r.URL.Scheme; s != "http" && s != "https" {
		return nil, fault.New(fault.Invalid, "an outbound request needs an http or https address")
	}
	for _, f := range call.Header {
		if http.CanonicalHeaderKey(f.Name) == "Host" {
			r.Host = f.Value
			continue
		}
		r.Header.Add(f.Name, f.Value)
	}
	client, err := c.client(call)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(r)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "no answer from "+r.URL.Host, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, int64(limit)+1))
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "no complete answer from "+r.URL.Host, err)
	}
	if len(body) > limit {
		return nil, fault.New(fault.Unavailable, "the answer from "+r.URL.Host+" is too large")
	}
	a := &gateway.CallAnswer{Status: resp.StatusCode, Body: body}
	for name, values := range resp.Header {
		for _, v := range values {
			a.Header.Add(name, v)
		}
	}
	return a, nil
}

func (c *Caller) client(call gateway.Call) (*http.Client, error) {
	kind := callKind{call.Insecure, call.ProxyURL, call.TLS}
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.kinds[kind]; h != nil {
		return h, nil
	}
	cfg := &tls.Config{RootCAs: c.roots, MinVersion: tls.VersionTLS12}
	if call.TLS != nil {
		if cfg = call.TLS.Clone(); cfg.RootCAs == nil {
			cfg.RootCAs = c.roots
		}
	}
	cfg.InsecureSkipVerify = cfg.InsecureSkipVerify || call.Insecure
	t := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSClientConfig:     cfg,
		TLSHandshakeTimeout: 5 * time.Second,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 32,
		IdleConnTimeout:     30 * time.Second,
		// The body limit is on what is read, so compressed answers are not asked for.
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
	}
	if call.ProxyURL != "" {
		u, err := url.Parse(call.ProxyURL)
		if err != nil || u.Host == "" {
			return nil, fault.New(fault.Invalid, "invalid proxy address")
		}
		t.Proxy = http.ProxyURL(u)
	}
	h := &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if len(c.kinds) >= maxCallKinds {
		for k, old := range c.kinds {
			old.CloseIdleConnections()
			delete(c.kinds, k)
			break
		}
	}
	c.kinds[kind] = h
	return h, nil
}

// Close drops idle connections.
func (c *Caller) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.kinds {
		h.CloseIdleConnections()
	}
}
