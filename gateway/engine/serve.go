package engine

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"slices"
	"sort"
	"strings"
	"sync/atomic"
	"time"

	"gatehouse/gateway"
)

// serve turns one request of net/http into an Exchange.
func (s *Server) serve(rw http.ResponseWriter, r *http.Request) {
	g := r.Context().Value(connKey{}).(*guard)
	x := s.pool.Get().(*gateway.Exchange)
	w := &Writer{srv: s, rw: rw, rc: http.NewResponseController(rw), req: r, x: x}
	x.Ctx, x.Now, x.Start = r.Context(), s.cfg.Now, s.cfg.Now()
	x.Req.Peer, x.Req.Local, x.Req.TLS = g.peer, g.local, g.tls
	x.Req.Scheme = "http"
	fail := 0
	if r.ProtoMajor == 2 {
		x.Req.TLS = r.TLS
		fail = fillHTTP2(x, r, s.cfg.Limits)
	} else if q := g.next(); q == nil {
		fail = 400
	} else {
		w.guard = g
		if fail = q.fail; fail == 0 {
			fillHTTP1(x, q)
		}
	}
	if x.Req.TLS != nil {
		x.Req.Scheme = "https"
	}
	if fail == 0 {
		fail = finish(x)
	}
	x.Req.Client = s.client(x)
	if x.Req.Length != 0 {
		w.body = &clientBody{src: r.Body, rc: w.rc, limit: s.cfg.Limits.BodyTime, length: x.Req.Length}
		x.Req.Body = w.body
		if w.guard != nil {
			_ = w.rc.EnableFullDuplex()
		}
	}
	defer s.end(x, w)
	if fail != 0 {
		s.cfg.Log.Debug("malformed request refused", "client", x.Req.Client.String(), "status", fail)
		w.Refuse(fail)
		return
	}
	s.cfg.Handler.Serve(x, w)
}

// end cleans up whatever way the handler left, and puts the Exchange back.
func (s *Server) end(x *gateway.Exchange, w *Writer) {
	err := recover()
	if err != nil {
		if err != http.ErrAbortHandler {
			s.cfg.Log.Error("request handler panicked", "path", x.Req.Path, "err", err, "stack", string(debug.Stack()))
		}
		if w.sent {
			w.aborted = true
		} else {
			w.Refuse(http.StatusInternalServerError)
		}
	}
	if w.guard != nil && !w.hijacked {
		if x.Req.Upgrade != "" {
			w.guard.hold.Store(false)
		}
		switch b := w.body; {
		case b == nil || b.eof.Load():
		case b.failed.Load():
			w.guard.cut.Store(true)
		case w.expects() && b.n == 0: // the client was never told to send it
			_ = w.rc.SetReadDeadline(time.Unix(1, 0))
		default: // net/http reads a short rest, to go on with the connection
			_ = w.rc.SetReadDeadline(time.Now().Add(lingerTime))
		}
	}
	aborted := w.aborted && !w.hijacked
	req, resp, ans := x.Req.Header, x.Resp.Header, x.Answer
	req.Reset()
	resp.Reset()
	ans.Reset()
	*x = gateway.Exchange{Answer: ans}
	x.Req.Header, x.Resp.Header = req, resp
	if err == nil {
		s.pool.Put(x) // after a panic somebody may still hold it
	}
	if aborted {
		panic(http.ErrAbortHandler) // the client must see that the answer is cut off
	}
}

func fillHTTP1(x *gateway.Exchange, q *requestHead) {
	x.Req.Method, x.Req.Proto = q.method, q.proto
	x.Req.Authority, x.Req.Target = q.authority, q.target
	x.Req.Header, x.Req.Length, x.Req.Upgrade = q.header, q.length, q.upgrade
	x.BytesIn = q.size
}

func fillHTTP2(x *gateway.Exchange, r *http.Request, l Limits) (fail int) {
	x.Req.Method, x.Req.Proto = r.Method, r.Proto
	x.Req.Authority, x.Req.Target = r.Host, r.RequestURI
	x.Req.Length = r.ContentLength
	if r.Body == http.NoBody {
		x.Req.Length = 0
	}
	if r.Method == http.MethodConnect || r.Method == http.MethodTrace {
		return 405
	}
	if len(r.RequestURI) > l.URI {
		return 414
	}
	if !isToken(r.Method) {
		return 400
	}
	if h, ok := r.Header["Host"]; ok && (len(h) > 1 || h[0] != r.Host) {
		return 400
	}
	names := make([]string, 0, len(r.Header))
	for name, values := range r.Header {
		if name != "Host" {
			names = append(names, name)
		}
		if len(names)+len(values) > l.Fields+1 {
			return 431
		}
	}
	sort.Strings(names)
	n := 0
	for _, name := range names {
		for _, v := range r.Header[name] {
			if n++; n > l.Fields {
				return 431
			}
			if !isToken(name) {
				return 400
			}
			x.Req.Header.Add(strings.ToLower(name), v)
			x.BytesIn += int64(len(name) + len(v) + 4)
		}
	}
	if v := x.Req.Header.Get("Expect"); v != "" && !strings.EqualFold(v, "100-continue") {
		return 417
	}
	return 0
}

// finish derives what both protocols have in common.
func finish(x *gateway.Exchange) (fail int) {
	var ok bool
	if x.Req.Authority != "" || x.Req.Proto != "HTTP/1.0" {
		if x.Req.Host, ok = splitHost(x.Req.Authority); !ok {
			return 400
		}
	}
	path, query, plain, err := normalize(x.Req.Target)
	if err != nil {
		return 400
	}
	x.Req.Path, x.Req.Query = path, query
	if !plain {
		x.Out.Target = encode(path, query)
	}
	return 0
}

// client is the peer, or what a trusted peer says of it. A header that is no
// address is ignored.
func (s *Server) client(x *gateway.Exchange) netip.Addr {
	a := x.Req.Peer.Addr()
	if len(s.cfg.RealIPFrom) == 0 || !s.trusted(a) {
		return a
	}
	var list []string
	for v := range x.Req.Header.Values(s.cfg.RealIPHeader) {
		list = append(list, strings.Split(v, ",")...)
	}
	for _, v := range slices.Backward(list) {
		next, ok := parseAddr(strings.TrimSpace(v))
		if !ok {
			return a
		}
		if a = next; !s.cfg.RealIPRecursive || !s.trusted(a) {
			return a
		}
	}
	return a
}

func (s *Server) trusted(a netip.Addr) bool {
	for _, p := range s.cfg.RealIPFrom {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// parseAddr accepts an address with or without a port.
func parseAddr(v string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(v); err == nil {
		return a.Unmap().WithZone(""), true
	}
	if ap, err := netip.ParseAddrPort(v); err == nil {
		return ap.Addr().Unmap().WithZone(""), true
	}
	return netip.Addr{}, false
}

// ErrClient says that the client's body could not be read: it went away, was
// too slow, or sent what is no body.
var ErrClient = errors.New("reading the request body")

// clientBody bounds the time between two reads and remembers failure.
type clientBody struct {
	src    io.Reader
	rc     *http.ResponseController
	limit  time.Duration
	length int64
	n      int64
	failed atomic.Bool
	eof    atomic.Bool
}

func (b *clientBody) Read(p []byte) (int, error) {
	if b.failed.Load() {
		return 0, ErrClient
	}
	if _ = b.rc.SetReadDeadline(time.Now().Add(b.limit)); b.failed.Load() { // stopped in between
		return 0, ErrClient
	}
	n, err := b.src.Read(p)
	b.n += int64(n)
	switch {
	case err == io.EOF || err == nil && b.length >= 0 && b.n == b.length:
		b.eof.Store(true)
		_ = b.rc.SetReadDeadline(time.Time{}) // net/http goes on reading, to notice a client that leaves
		return n, err
	case err != nil:
		b.failed.Store(true)
		return n, errors.Join(ErrClient, err)
	}
	return n, nil
}

// stop makes a blocked Read return. The connection is of no use afterwards.
func (b *clientBody) stop() {
	if !b.eof.Load() {
		b.failed.Store(true)
		_ = b.rc.SetReadDeadline(time.Unix(1, 0))
	}
}

// FromHTTP makes a Handler of an http.Handler that lives in this process. It
// gets the request as it came, with the client's header. log may be nil.
func FromHTTP(h http.Handler, log *slog.Logger) Handler {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return HandlerFunc(func(x *gateway.Exchange, w *Writer) {
		r := w.req.Clone(x.Ctx)
		r.Header = make(http.Header, len(x.Req.Header.Fields()))
		for _, f := range x.Req.Header.Fields() {
			r.Header.Add(f.Name, f.Value)
		}
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
		r.URL, r.RequestURI, r.Host, r.TLS = u, target, x.Req.Authority, x.Req.TLS
		r.RemoteAddr = x.Req.Peer.String()
		if x.Req.Body != nil {
			r.Body = io.NopCloser(x.Req.Body)
		}
		b := &bridge{ResponseWriter: w.rw, w: w}
		h.ServeHTTP(b, r)
		if !w.sent {
			b.WriteHeader(http.StatusOK)
		}
	})
}

// bridge keeps account of what an http.Handler answers.
type bridge struct {
	http.ResponseWriter
	w *Writer
}

func (b *bridge) WriteHeader(status int) {
	if status >= 200 {
		b.w.sent = true
		b.w.x.Resp.Status = status
	}
	b.ResponseWriter.WriteHeader(status)
}

func (b *bridge) Write(p []byte) (int, error) {
	if !b.w.sent {
		b.WriteHeader(http.StatusOK)
	}
	n, err := b.ResponseWriter.Write(p)
	b.w.x.BytesOut += int64(n)
	return n, err
}

// Unwrap gives http.ResponseController its way.
func (b *bridge) Unwrap() http.ResponseWriter { return b.ResponseWriter }
