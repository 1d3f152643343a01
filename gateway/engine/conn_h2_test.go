package engine

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"gatehouse/gateway"
)

// h2origin is an HTTP/2 upstream, on a plain port, that writes frames as it
// likes: serve gets each connection after the settings.
type h2origin struct {
	*http2.Framer
	buf bytes.Buffer
	enc *hpack.Encoder
}

func newH2Origin(t testing.TB, serve func(n int32, o *h2origin)) *origin {
	t.Helper()
	return newOrigin(t, "127.0.0.1:0", func(_ *origin, n int32, br *bufio.Reader, c *net.TCPConn) {
		got := make([]byte, len(http2.ClientPreface))
		if _, err := io.ReadFull(br, got); err != nil {
			return
		}
		o := &h2origin{Framer: http2.NewFramer(c, br)}
		o.enc = hpack.NewEncoder(&o.buf)
		o.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		serve(n, o)
	})
}

func (o *h2origin) headers(id uint32, end bool, fields ...string) {
	o.buf.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = o.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	_ = o.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: o.buf.Bytes(), EndHeaders: true, EndStream: end})
}

// streams calls began for each stream once its request has ended, until the
// connection does.
func (o *h2origin) streams(began func(id uint32, body string)) {
	bodies := map[uint32]string{}
	for {
		f, err := o.ReadFrame()
		if err != nil {
			return
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = o.WriteSettingsAck()
			}
		case *http2.PingFrame:
			_ = o.WritePing(true, f.Data)
		case *http2.MetaHeadersFrame:
			if f.StreamEnded() {
				began(f.StreamID, "")
			}
		case *http2.DataFrame:
			bodies[f.StreamID] += string(f.Data())
			if n := uint32(len(f.Data())); n > 0 {
				_ = o.WriteWindowUpdate(0, n)
			}
			if f.StreamEnded() {
				began(f.StreamID, bodies[f.StreamID])
			}
		}
	}
}

func grpcCall(addr, body string) *Call {
	c := call(addr)
	c.Scheme, c.Method, c.Trailers = "grpc", "POST", true
	c.Header.Add("Content-Type", "application/grpc")
	c.Body, c.Length = strings.NewReader(body), -1
	return c
}

// TestUnstartedStreamsAreCalledAgain: a server that restarts, or is full, says
// which streams it did not look at. Those cost nothing.
func TestUnstartedStreamsAreCalledAgain(t *testing.T) {
	for _, row := range []struct {
		name   string
		refuse func(o *h2origin, id uint32)
	}{
		{"GOAWAY", func(o *h2origin, id uint32) { _ = o.WriteGoAway(id-2, http2.ErrCodeNo, nil) }},
		{"REFUSED_STREAM", func(o *h2origin, id uint32) { _ = o.WriteRSTStream(id, http2.ErrCodeRefusedStream) }},
	} {
		for _, size := range []int{0, 5, 60_000} {
			t.Run(fmt.Sprintf("%s with %d bytes", row.name, size), func(t *testing.T) {
				var refused, served atomic.Int32
				body := strings.Repeat("b", size)
				o := newH2Origin(t, func(n int32, o *h2origin) {
					_ = o.WriteSettings()
					o.streams(func(id uint32, got string) {
						if id == 3 && refused.Add(1) == 1 {
							row.refuse(o, id)
							return
						}
						if got != body {
							t.Errorf("%d bytes of %d arrived", len(got), size)
						}
						served.Add(1)
						o.headers(id, false, ":status", "200", "content-type", "application/grpc")
						_ = o.WriteData(id, false, []byte("ok"))
						o.headers(id, true, "grpc-status", "0")
					})
				})
				tr := newTransport(t)
				for i := range 4 {
					got, err := do(t.Context(), tr, grpcCall(o.addr, body))
					if err != nil || got != "ok" {
						t.Fatalf("call %d: %q %v", i, got, err)
					}
				}
				if refused.Load() == 0 || served.Load() != 4 {
					t.Errorf("%d refused, %d served, want 1 and 4", refused.Load(), served.Load())
				}
			})
		}
	}
}

// TestStartedStreamsAreNotRepeated: what may have been looked at is not.
func TestStartedStreamsAreNotRepeated(t *testing.T) {
	var calls atomic.Int32
	o := newH2Origin(t, func(n int32, o *h2origin) {
		_ = o.WriteSettings()
		o.streams(func(id uint32, _ string) {
			calls.Add(1)
			_ = o.WriteRSTStream(id, http2.ErrCodeInternal)
		})
	})
	tr := newTransport(t)
	var ce *CallError
	if _, err := do(t.Context(), tr, grpcCall(o.addr, "hello")); !errors.As(err, &ce) || ce.Stage != StageWait || calls.Load() != 1 {
		t.Errorf("%v after %d calls", err, calls.Load())
	}
}

// TestCodesOfResets: what an upstream says when it breaks a call off reaches an
// HTTP/2 client where it is about the call.
func TestCodesOfResets(t *testing.T) {
	var code atomic.Uint32
	o := newH2Origin(t, func(n int32, o *h2origin) {
		_ = o.WriteSettings()
		o.streams(func(id uint32, _ string) {
			o.headers(id, false, ":status", "200", "content-type", "application/grpc")
			_ = o.WriteData(id, false, []byte("part"))
			_ = o.WriteRSTStream(id, http2.ErrCode(code.Load()))
		})
	})
	tr := newTransport(t)
	addr, _ := start(t, func(x *gateway.Exchange, w *Writer) {
		a, err := tr.Send(x.Ctx, grpcCall(o.addr, "x"), &x.Resp)
		if err != nil {
			w.Refuse(502)
			return
		}
		defer a.Close()
		w.Head()
		if _, err := io.Copy(w, a); err != nil {
			w.AbortFor(err)
		}
	})
	for got, want := range map[http2.ErrCode]http2.ErrCode{
		http2.ErrCodeCancel: http2.ErrCodeCancel, http2.ErrCodeEnhanceYourCalm: http2.ErrCodeEnhanceYourCalm, http2.ErrCodeRefusedStream: http2.ErrCodeRefusedStream,
		http2.ErrCodeInternal: http2.ErrCodeInternal, http2.ErrCodeFlowControl: http2.ErrCodeInternal, 0x7777: http2.ErrCodeInternal,
	} {
		code.Store(uint32(got))
		p := newPeer(t, addr)
		p.open(1, true, getRoot...)
		f := p.until("a reset", func(f http2.Frame) bool { _, ok := f.(*http2.RSTStreamFrame); return ok })
		if f := f.(*http2.RSTStreamFrame); f.ErrCode != want {
			t.Errorf("%v of the upstream is %v for the client, want %v", got, f.ErrCode, want)
		}
	}
}

// TestTrailersOnly: an answer that is all trailers, as gRPC's errors are.
func TestTrailersOnly(t *testing.T) {
	o := newH2Origin(t, func(n int32, o *h2origin) {
		_ = o.WriteSettings()
		o.streams(func(id uint32, _ string) {
			o.headers(id, true, ":status", "200", "content-type", "application/grpc", "content-length", "0", "grpc-status", "12", "grpc-message", "no such method")
		})
	})
	tr := newTransport(t)
	var resp gateway.Response
	a, err := tr.Send(t.Context(), grpcCall(o.addr, "x"), &resp)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if resp.Length != 0 { // or the client waits for trailers
		t.Errorf("length %d", resp.Length)
	}
	if b, err := io.ReadAll(a); err != nil || len(b) > 0 || resp.Header.Get("Grpc-Status") != "12" || resp.Header.Get("Grpc-Message") != "no such method" {
		t.Errorf("%q %v %v", b, err, resp.Header.Fields())
	}
}

// TestTrailersAfterALength: some servers of gRPC say how long the one message
// is. The trailers matter more: a client that knows the length would be told
// of the end before them.
func TestTrailersAfterALength(t *testing.T) {
	kinds := map[string]int64{"application/grpc": -1, "application/grpc+proto": -1, "application/grpc-web": 8, "text/plain": 8}
	for kind, want := range kinds {
		o := newH2Origin(t, func(n int32, o *h2origin) {
			_ = o.WriteSettings()
			o.streams(func(id uint32, _ string) {
				o.headers(id, false, ":status", "200", "content-type", kind, "content-length", "8")
				_ = o.WriteData(id, false, []byte("\x00\x00\x00\x00\x03abc"))
				o.headers(id, true, "grpc-status", "0")
			})
		})
		up := newTransport(t)
		addr, _ := start(t, func(x *gateway.Exchange, w *Writer) {
			a, err := up.Send(t.Context(), grpcCall(o.addr, "x"), &x.Resp)
			if err != nil {
				t.Error(err)
				return
			}
			defer a.Close()
			if x.Resp.Length != want {
				t.Errorf("%s: length %d, want %d", kind, x.Resp.Length, want)
			}
			w.Head()
			b, _ := io.ReadAll(a)
			_, _ = w.Write(b)
		})
		tr := &http.Transport{Protocols: new(http.Protocols)}
		tr.Protocols.SetUnencryptedHTTP2(true)
		q, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+addr+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := tr.RoundTrip(q)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		if err != nil || len(b) != 8 || want != res.ContentLength || want < 0 && res.Trailer.Get("Grpc-Status") != "0" {
			t.Errorf("%s: %q, %v, %v %v", kind, b, err, res.Header, res.Trailer)
		}
		tr.CloseIdleConnections()
	}
}

// h2server is net/http's HTTP/2 server on a plain port.
func h2server(t testing.TB, at string, streams int, h http.HandlerFunc) string {
	t.Helper()
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, Protocols: new(http.Protocols), HTTP2: &http.HTTP2Config{MaxConcurrentStreams: streams}}
	s.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close() })
	return l.Addr().String()
}

// TestStreamsOfAnUpstream: more calls at once than a connection takes all go
// through, and one that its client leaves is left at the upstream too.
func TestStreamsOfAnUpstream(t *testing.T) {
	var all sync.WaitGroup
	all.Add(10)
	left := make(chan struct{})
	addr := h2server(t, "127.0.0.1:0", 2, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/left" {
			<-r.Context().Done()
			close(left)
			return
		}
		all.Done()
		all.Wait() // all ten are here
		_, _ = io.WriteString(w, "ok")
	})
	tr := newTransport(t)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if got, err := do(context.Background(), tr, grpcCall(addr, "x")); err != nil || got != "ok" {
				t.Errorf("%q %v", got, err)
			}
		})
	}
	wg.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	c := grpcCall(addr, "x")
	c.Target = "/left"
	if _, err := do(ctx, tr, c); err == nil {
		t.Error("no error")
	}
	select {
	case <-left:
	case <-time.After(10 * time.Second):
		t.Error("the upstream works on for nobody")
	}
}

// TestHTTP2NamesAreFollowed: calls go to all addresses of a name, past dead
// ones, and leave an address that the name has no more.
func TestHTTP2NamesAreFollowed(t *testing.T) {
	t.Parallel()
	says := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			_, _ = io.WriteString(w, s+string(b))
		}
	}
	one := h2server(t, "127.0.0.1:0", 100, says("one"))
	_, port, _ := net.SplitHostPort(one)
	h2server(t, "127.0.0.2:"+port, 100, says("two"))
	d := newDNS(t)
	d.set("svc.test.", "127.0.0.1", "127.0.0.2", "127.0.0.3")
	tr := NewTransport(nil)
	tr.Resolver = NewResolver(ResolverConfig{Servers: []string{d.addr}, Valid: 500 * time.Millisecond})
	defer tr.Close()
	got := map[string]int{}
	for range 12 {
		body, err := do(t.Context(), tr, grpcCall("svc.test.:"+port, "x"))
		if err != nil {
			t.Fatal(err)
		}
		got[body]++
	}
	if got["onex"] < 3 || got["twox"] < 3 {
		t.Errorf("answers %v, want a share of each", got)
	}
	d.set("svc.test.", "127.0.0.2")
	eventually(t, "an old address stays", func() bool {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		return len(tr.h2) == 1
	})
	for range 6 {
		if body, err := do(t.Context(), tr, grpcCall("svc.test.:"+port, "x")); err != nil || body != "twox" {
			t.Errorf("%q %v after the name moved", body, err)
		}
	}
}

// TestSlowClientIsNotTheUpstreamsFault: while the client of a call takes its
// time with the body, and with the answer, the upstream's time does not run.
func TestSlowClientIsNotTheUpstreamsFault(t *testing.T) {
	t.Parallel()
	addr := h2server(t, "127.0.0.1:0", 100, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = w.Write(bytes.Repeat(b, 1000))
	})
	tr := newTransport(t)
	c := grpcCall(addr, "")
	c.Timeout.Connect, c.Timeout.Read = 300*time.Millisecond, 300*time.Millisecond
	pr, pw := io.Pipe()
	c.Body = pr
	go func() {
		for range 4 {
			time.Sleep(300 * time.Millisecond)
			_, _ = io.WriteString(pw, "slow")
		}
		pw.Close()
	}()
	var resp gateway.Response
	a, err := tr.Send(t.Context(), c, &resp)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	total := 0
	for b := make([]byte, 4000); err == nil; {
		var n int
		n, err = a.Read(b)
		if total += n; total < 12_000 {
			time.Sleep(400 * time.Millisecond)
		}
	}
	if err != io.EOF || total != 16_000 {
		t.Errorf("%d bytes, %v", total, err)
	}
}

// TestCallsHaveTheirOwnConnectTimeout: not that of the call that came first.
func TestCallsHaveTheirOwnConnectTimeout(t *testing.T) {
	left := make(chan time.Duration, 1)
	tr := NewTransport(func(ctx context.Context, _, _ string) (net.Conn, error) {
		end, _ := ctx.Deadline()
		left <- time.Until(end)
		return nil, io.ErrClosedPipe
	})
	defer tr.Close()
	for _, want := range []time.Duration{time.Hour, time.Minute, time.Hour} {
		c := grpcCall("127.0.0.1:1", "x")
		c.Timeout.Connect = want
		_, _ = do(t.Context(), tr, c)
		if got := <-left; got > want || got < want-20*time.Second {
			t.Errorf("a connection may take %v, want %v", got, want)
		}
	}
}
