package engine

import (
	"errors"
	"html"
	"io"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"gatehouse/gateway"
)

// Writer sends the answer of one Exchange to its client. It belongs to the
// goroutine of the Exchange.
type Writer struct {
	srv      *Server
	rw       http.ResponseWriter
	rc       *http.ResponseController
	req      *http.Request
	x        *gateway.Exchange
	guard    *guard // nil: HTTP/2
	body     *clientBody
	sent     bool
	hijacked bool
	aborted  bool
}

// Sent says whether a head has gone to the client.
func (w *Writer) Sent() bool { return w.sent }

// Head sends x.Resp: status, header, and a Content-Length unless Length is
// negative. Fields of the connection (Connection, Transfer-Encoding, ...) are
// the engine's and left out.
func (w *Writer) Head() {
	if w.sent {
		return
	}
	w.sent = true
	x := w.x
	out := w.rw.Header()
	fields := x.Resp.Header.Fields()
	values := make([]string, len(fields)+1)
	size := 32
	for i, f := range fields {
		name := f.Name
		if c, ok := special(name); !ok {
			continue
		} else if c != "" {
			name = c
		}
		size += len(name) + len(f.Value) + 4
		values[i] = f.Value
		if have, ok := out[name]; ok {
			out[name] = append(have, f.Value)
		} else {
			out[name] = values[i : i+1 : i+1]
		}
	}
	if _, ok := out["Content-Type"]; !ok {
		out["Content-Type"] = nil // no guessing
	}
	if x.Resp.Length >= 0 && x.Resp.Status != 204 && x.Resp.Status >= 200 {
		values[len(fields)] = strconv.FormatInt(x.Resp.Length, 10)
		out["Content-Length"] = values[len(fields):]
	}
	if w.guard != nil && w.expects() && w.body != nil && !w.body.eof.Load() && w.body.n == 0 {
		out["Connection"] = []string{"close"} // the body was never asked for; it may come or not
	}
	x.BytesOut += int64(size)
	w.deadline()
	w.rw.WriteHeader(x.Resp.Status)
}

// expects says whether the client waits for 100 Continue.
func (w *Writer) expects() bool { return w.req.Header.Get("Expect") != "" }

// special returns the spelling net/http looks for, and false for fields that
// are the engine's to write.
func special(name string) (canonical string, ok bool) {
	switch len(name) {
	case 4, 6, 7, 10, 12, 14, 16, 17:
		switch c := textproto.CanonicalMIMEHeaderKey(name); c {
		case "Connection", "Keep-Alive", "Transfer-Encoding", "Content-Length", "Trailer", "Upgrade", "Proxy-Connection":
			return "", false
		case "Date", "Content-Type":
			return c, true
		}
	}
	return "", true
}

// Info sends an interim answer, 102 to 199.
func (w *Writer) Info(status int, h *gateway.Header) {
	if w.sent || status < 102 || status > 199 || w.x.Req.Proto == "HTTP/1.0" {
		return
	}
	out := w.rw.Header()
	for _, f := range h.Fields() {
		if _, ok := special(f.Name); ok {
			out[f.Name] = append(out[f.Name], f.Value)
		}
	}
	w.rw.WriteHeader(status)
	clear(out)
}

// Write sends a part of the body. An error means that the client is gone.
func (w *Writer) Write(p []byte) (int, error) {
	w.deadline()
	n, err := w.rw.Write(p)
	w.x.BytesOut += int64(n)
	if errors.Is(err, http.ErrBodyNotAllowed) {
		return len(p), nil
	}
	return n, err
}

// Flush sends what is buffered.
func (w *Writer) Flush() error {
	w.deadline()
	return w.rc.Flush()
}

// Abort marks the answer as cut off: the connection or the stream is reset
// after the handler returns.
func (w *Writer) Abort() { w.aborted = true }

// StopBody makes a blocked read of the client's body fail, for when the answer
// is complete before the request is.
func (w *Writer) StopBody() {
	if w.body != nil {
		w.body.stop()
	}
}

func (w *Writer) deadline() {
	_ = w.rc.SetWriteDeadline(time.Now().Add(w.srv.cfg.Limits.SendTime))
}

// Refuse answers a status with the gateway's page and ends an HTTP/1 connection.
func (w *Writer) Refuse(status int) {
	if w.sent {
		return
	}
	typ, body := Page(status, w.x.Req.Header.Get("Accept"))
	w.x.Resp.Status = status
	w.x.Resp.Header.Reset()
	w.x.Resp.Header.Set("Content-Type", typ)
	w.x.Resp.Length = int64(len(body))
	if w.guard != nil {
		w.rw.Header()["Connection"] = []string{"close"}
	}
	w.Head()
	_, _ = w.Write(body)
}

// Page is the gateway's answer for a status without a body of its own: HTML,
// or JSON when the client's Accept asks for JSON and not for HTML.
func Page(status int, accept string) (contentType string, body []byte) {
	text := StatusText(status)
	if strings.Contains(accept, "json") && !strings.Contains(accept, "html") {
		return "application/json", []byte(`{"error_msg":"` + strconv.Itoa(status) + " " + text + "\"}\n")
	}
	t := strconv.Itoa(status) + " " + html.EscapeString(text)
	return "text/html; charset=utf-8", []byte("<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>" + t +
		"</title></head>\n<body>\n<h1>" + t + "</h1>\n<hr>\n<p>gatehouse</p>\n</body>\n</html>\n")
}

// StatusText is the reason phrase of a status.
func StatusText(status int) string {
	if t := http.StatusText(status); t != "" {
		return t
	}
	return "Error"
}

// ErrNoUpgrade is returned by Upgrade where the connection cannot be taken
// over: HTTP/2, or a server that is stopping.
var ErrNoUpgrade = errors.New("the connection cannot be upgraded")

// Upgrade answers 101 with x.Resp.Header and hands over the connection. The
// caller closes it.
func (w *Writer) Upgrade(protocol string) (io.ReadWriteCloser, error) {
	if w.guard == nil || w.sent {
		return nil, ErrNoUpgrade
	}
	s := w.srv
	conn, buf, err := w.rc.Hijack()
	if err != nil {
		return nil, err
	}
	w.sent, w.hijacked = true, true
	w.guard.raw.Store(true)
	t := &tunnel{srv: s, conn: conn, buffered: buf.Reader.Buffered(), buf: buf.Reader}
	s.mu.Lock()
	if s.done {
		s.mu.Unlock()
		conn.Close()
		return nil, ErrNoUpgrade
	}
	s.tunnels[t] = struct{}{}
	s.mu.Unlock()
	var b strings.Builder
	b.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + protocol + "\r\n")
	for _, f := range w.x.Resp.Header.Fields() {
		if _, ok := special(f.Name); ok {
			b.WriteString(f.Name + ": " + f.Value + "\r\n")
		}
	}
	b.WriteString("\r\n")
	w.x.BytesOut += int64(b.Len())
	if _, err := io.WriteString(t, b.String()); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// tunnel is the client's side of an upgraded connection.
type tunnel struct {
	srv      *Server
	conn     deadliner
	buf      io.Reader
	buffered int
}

type deadliner interface {
	io.ReadWriteCloser
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

func (t *tunnel) Read(p []byte) (int, error) {
	if t.buffered > 0 {
		n, err := t.buf.Read(p[:min(len(p), t.buffered)])
		t.buffered -= n
		return n, err
	}
	_ = t.conn.SetReadDeadline(time.Now().Add(t.srv.cfg.Limits.TunnelIdle))
	return t.conn.Read(p)
}

func (t *tunnel) Write(p []byte) (int, error) {
	_ = t.conn.SetWriteDeadline(time.Now().Add(t.srv.cfg.Limits.SendTime))
	return t.conn.Write(p)
}

func (t *tunnel) Close() error {
	err := t.conn.Close()
	t.srv.forget(t)
	return err
}

func (s *Server) forget(t *tunnel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tunnels, t)
	if s.empty != nil && len(s.tunnels) == 0 {
		select {
		case <-s.empty:
		default:
			close(s.empty)
		}
	}
}
