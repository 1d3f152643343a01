package engine

import (
	"io"
	"net/http"
	"sort"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"gatehouse/gateway"
	"gatehouse/lib/h1"
)

// netStream is an exchange over an http.ResponseWriter: the front for a
// protocol whose server is a library that offers net/http's interface.
type netStream struct {
	s    *Server
	x    gateway.Exchange
	w    Writer
	rw   http.ResponseWriter
	rc   *http.ResponseController
	r    *http.Request
	body netBody
}

var _ front = (*netStream)(nil)

// serveNet answers one request of such a server.
func (s *Server) serveNet(c wire, rw http.ResponseWriter, r *http.Request) {
	n := &netStream{s: s, rw: rw, rc: http.NewResponseController(rw), r: r}
	x := &n.x
	x.Ctx, x.Start = r.Context(), s.cfg.Now()
	q := &x.Req
	q.Peer, q.Local, q.ClientIP, q.TLS = c.peer, c.local, c.ip, r.TLS
	q.Scheme = "http"
	if r.TLS != nil {
		q.Scheme = "https"
	}
	q.Method, q.Proto, q.Authority, q.Target, q.Trailers = r.Method, r.Proto, r.Host, r.RequestURI, true
	q.Length = r.ContentLength
	if r.Body == nil || r.Body == http.NoBody {
		q.Length = 0
	}
	if q.Length != 0 {
		n.body = netBody{n: n, src: r.Body}
		q.Body = &n.body
	}
	n.w.reset(n, x)
	s.handle(x, &n.w, n.fill())
	if n.w.aborted {
		panic(http.ErrAbortHandler) // the library resets the stream
	}
}

// fill takes the fields over and returns the status that refuses them, or 0.
func (n *netStream) fill() (fail int) {
	r, q, l := n.r, &n.x.Req, &n.s.cfg.Limits
	switch {
	case r.Method == http.MethodConnect || r.Method == http.MethodTrace:
		return 405
	case len(r.RequestURI) > l.URI:
		return 414
	case !h1.IsToken(r.Method):
		return 400
	}
	if h, ok := r.Header["Host"]; ok && (len(h) > 1 || h[0] != r.Host) {
		return 400
	}
	names := make([]string, 0, len(r.Header))
	for name := range r.Header {
		names = append(names, name)
	}
	sort.Strings(names)
	count := 0
	for _, name := range names {
		if name == "Host" {
			continue
		}
		for _, v := range r.Header[name] {
			if count++; count > l.Fields {
				return 431
			}
			if !h1.IsToken(name) || !h1.ValidValue(v) {
				return 400
			}
			q.Header.Append(strings.ToLower(name), v)
			n.x.BytesIn += int64(len(name) + len(v) + 4)
		}
	}
	if v := q.Header.Get("Expect"); v != "" {
		if !strings.EqualFold(v, "100-continue") {
			return 417
		}
		q.Header.Del("Expect")
	}
	q.Header.Del("Te")
	q.Header.Del("Content-Length")
	return 0
}

// netBody bounds the time between two reads.
type netBody struct {
	n       *netStream
	src     io.Reader
	total   int64
	stopped atomic.Bool
}

func (b *netBody) Read(p []byte) (int, error) {
	_ = b.n.rc.SetReadDeadline(time.Now().Add(b.n.s.cfg.Limits.BodyTime))
	if b.stopped.Load() {
		return 0, ErrClient
	}
	m, err := b.src.Read(p)
	b.total += int64(m)
	b.n.x.BytesIn += int64(m)
	if limit := b.n.s.cfg.Limits.Body; limit > 0 && b.total > limit {
		return 0, ErrTooLarge
	}
	if err == io.EOF {
		for name, values := range b.n.r.Trailer {
			for _, v := range values {
				b.n.x.Req.Trailer.Add(strings.ToLower(name), v)
			}
		}
		return m, io.EOF
	}
	if err != nil {
		return m, clientError(err)
	}
	return m, nil
}

func (n *netStream) head(w *Writer) {
	out := n.rw.Header()
	copyOut(out, &w.x.Resp.Header)
	if _, ok := out["Content-Type"]; !ok {
		out["Content-Type"] = nil // no guessing
	}
	if w.x.Resp.Length >= 0 && w.x.Resp.Status != 204 {
		out["Content-Length"] = []string{strconv.FormatInt(w.x.Resp.Length, 10)}
	}
	n.rw.WriteHeader(w.x.Resp.Status)
}

func copyOut(out http.Header, h *gateway.Header) {
	for _, f := range h.Fields() {
		if specialField(f.Name) != kept {
			key := http.CanonicalHeaderKey(f.Name)
			out[key] = append(out[key], f.Value)
		}
	}
}

func (n *netStream) info(status int, h *gateway.Header) {
	copyOut(n.rw.Header(), h)
	n.rw.WriteHeader(status)
	clear(n.rw.Header())
}

func (n *netStream) write(w *Writer, p []byte) (int, error) {
	_ = n.rc.SetWriteDeadline(time.Now().Add(n.s.cfg.Limits.SendTime))
	m, err := n.rw.Write(p)
	w.x.BytesOut += int64(m)
	return m, err
}

func (n *netStream) flush() error { return n.rc.Flush() }

func (n *netStream) finish(w *Writer) {
	if !w.sent {
		w.Refuse(500)
	}
	for _, f := range w.x.Resp.Trailer.Fields() {
		n.rw.Header().Add(http.TrailerPrefix+f.Name, f.Value)
	}
}

func (n *netStream) stop() {
	n.body.stopped.Store(true)
	_ = n.rc.SetReadDeadline(time.Unix(1, 0))
}

func (n *netStream) upgrade(*Writer, string) (io.ReadWriteCloser, error) { return nil, ErrNoUpgrade }
