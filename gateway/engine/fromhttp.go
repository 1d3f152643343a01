package engine

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"gatehouse/gateway"
	"gatehouse/lib/h1"
)

// FromHTTP makes a Handler of an http.Handler that lives in this process. It
// gets the request as it came, with the client's header. log may be nil.
func FromHTTP(h http.Handler, log *slog.Logger) Handler {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return HandlerFunc(func(x *gateway.Exchange, w *Writer) {
		target := x.Req.Target
		if x.Out.Target != "" {
			target = x.Out.Target
		}
		u, err := url.ParseRequestURI(target)
		if err != nil {
			log.Debug("target refused", "err", err)
			w.Refuse(http.StatusBadRequest)
			return
		}
		r := &http.Request{
			Method: x.Req.Method, URL: u, RequestURI: target, Host: x.Req.Authority, TLS: x.Req.TLS, RemoteAddr: x.Req.Peer.String(),
			Header: make(http.Header, len(x.Req.Header.Fields())), ContentLength: x.Req.Length, Body: http.NoBody,
		}
		r.Proto, r.ProtoMajor, r.ProtoMinor = x.Req.Proto, 1, 1
		switch x.Req.Proto {
		case "HTTP/1.0":
			r.ProtoMinor = 0
		case "HTTP/2.0":
			r.ProtoMajor, r.ProtoMinor = 2, 0
		case "HTTP/3.0":
			r.ProtoMajor, r.ProtoMinor = 3, 0
		}
		for _, f := range x.Req.Header.Fields() {
			r.Header.Add(f.Name, f.Value)
		}
		if x.Req.Body != nil {
			r.Body = io.NopCloser(x.Req.Body)
		}
		ctx, cancel := context.WithCancel(x.Ctx)
		defer cancel()
		b := &bridge{w: w, x: x, header: http.Header{}}
		h.ServeHTTP(b, r.WithContext(ctx))
		b.end()
	})
}

// bridge is a Writer as an http.ResponseWriter. A small answer is kept back
// until its length is known.
type bridge struct {
	w      *Writer
	x      *gateway.Exchange
	header http.Header
	status int
	body   []byte
}

// bridgeKeep is how much of a body is kept back.
const bridgeKeep = 16 << 10

// Header is the header of the answer until it begins.
func (b *bridge) Header() http.Header { return b.header }

// WriteHeader sets the status; 1xx are sent at once.
func (b *bridge) WriteHeader(status int) {
	if status < 200 {
		var h gateway.Header
		copyHeader(&h, b.header)
		b.w.Info(status, &h)
		return
	}
	if b.status == 0 {
		b.status = status
	}
}

func (b *bridge) Write(p []byte) (int, error) {
	if b.status == 0 {
		b.status = http.StatusOK
	}
	if !b.w.Sent() {
		if len(b.body)+len(p) <= bridgeKeep {
			b.body = append(b.body, p...)
			return len(p), nil
		}
		if err := b.begin(-1); err != nil {
			return 0, err
		}
	}
	return b.w.Write(p)
}

// begin sends the head and what was kept back.
func (b *bridge) begin(length int64) error {
	if b.status == 0 {
		b.status = http.StatusOK
	}
	r := &b.x.Resp
	r.Status, r.Length = b.status, length
	r.Header.Reset()
	copyHeader(&r.Header, b.header)
	if n, ok := parseContentLength(b.header.Get("Content-Length")); ok {
		r.Length = n
	}
	b.w.Head()
	_, err := b.w.Write(b.body)
	b.body = nil
	return err
}

func (b *bridge) end() {
	if !b.w.Sent() {
		_ = b.begin(int64(len(b.body)))
	}
}

// Flush sends what is there.
func (b *bridge) Flush() { _ = b.FlushError() }

// FlushError is Flush for http.ResponseController.
func (b *bridge) FlushError() error {
	if !b.w.Sent() {
		if err := b.begin(-1); err != nil {
			return err
		}
	}
	return b.w.Flush()
}

// SetReadDeadline is accepted: the engine bounds every read itself.
func (b *bridge) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline is accepted: the engine bounds every write itself.
func (b *bridge) SetWriteDeadline(time.Time) error { return nil }

func copyHeader(to *gateway.Header, from http.Header) {
	for name, values := range from {
		for _, v := range values {
			to.Add(name, v)
		}
	}
}

func parseContentLength(v string) (int64, bool) {
	if v == "" {
		return 0, false
	}
	return h1.ParseLength(v)
}
