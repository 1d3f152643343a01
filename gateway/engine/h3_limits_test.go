package engine

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"gatehouse/gateway"
)

func TestHTTP3Limits(t *testing.T) {
	url, _ := startQUIC(t, echo, func(c *ServerConfig) {
		c.Limits = Limits{Head: 4 << 10, Fields: 10, URI: 100, Body: 10, HeadTime: time.Second, BodyTime: time.Second}
	})
	many := func(n int, name, value string) (f []string) {
		for range n {
			f = append(f, name, value)
		}
		return f
	}
	body := func(n int) []byte { return h3frame(h3Data, make([]byte, n)) }
	post := func(more ...string) []byte { return head3("POST", "/", more...) }
	for _, c := range []struct {
		name string
		send []byte
		end  bool
		want string
	}{
		{"fields", head3("GET", "/", many(10, "a", "b")...), true, "200"},
		{"one more", head3("GET", "/", many(11, "a", "b")...), true, "431"},
		{"large value", head3("GET", "/", "a", strings.Repeat("b", 5<<10)), true, "431"},
		{"announced only", appendFrame(nil, h3Headers, 1<<30), false, "431"},
		{"small on the wire", head3("GET", "/", many(120, "accept", "*/*")...), true, "431"},
		{"long path", head3("GET", "/"+strings.Repeat("p", 100)), true, "414"},
		{"body", append(post(), body(10)...), true, "200"},
		{"large body", append(post(), body(11)...), true, "413"},
		{"announced body", post("content-length", "11"), false, "413"},
		{"slow head", post()[:5], false, "408"},
		{"slow section", post()[:1], false, "408"},
		{"nothing", []byte{h3Headers}, false, "408"},
		{"slow body", append(post(), body(3)...), false, "408"},
		{"slow body of a length", post("content-length", "5"), false, "408"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newH3Peer(t, url)
			if a := p.answer(p.request(c.send, c.end)); a.status() != c.want {
				t.Errorf("got %q %v, want %s", a.status(), a.err, c.want)
			}
			if a := p.answer(p.request(head3("GET", "/"), true)); a.status() != "200" {
				t.Errorf("the connection is of no use: %v", a.err)
			}
		})
	}
}

// TestHTTP3SlowReader shows that a client which takes nothing of an answer
// does not hold its handler for ever.
func TestHTTP3SlowReader(t *testing.T) {
	t.Parallel()
	gone := make(chan error, 1)
	url, _ := startQUIC(t, func(x *gateway.Exchange, w *Writer) {
		x.Resp.Status, x.Resp.Length = 200, -1
		w.Head()
		for {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				gone <- x.Ctx.Err()
				return
			}
		}
	}, func(c *ServerConfig) { c.Limits.SendTime = time.Second })
	p := newH3Peer(t, url)
	s := p.request(head3("GET", "/"), true)
	select {
	case err := <-gone:
		if err == nil {
			t.Error("the context of the exchange goes on")
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the handler still writes")
	}
	if a := p.answer(s); streamCode(a.err) != h3RequestCancelled {
		t.Errorf("the stream ended with %v", a.err)
	}
}

// TestHTTP3Handlers shows that resetting streams as fast as they are opened
// runs no more handlers than Limits.Streams (rapid reset).
func TestHTTP3Handlers(t *testing.T) {
	var running, most atomic.Int64
	release := make(chan struct{})
	url, _ := startQUIC(t, func(x *gateway.Exchange, w *Writer) {
		n := running.Add(1)
		defer running.Add(-1)
		for {
			m := most.Load()
			if n <= m || most.CompareAndSwap(m, n) {
				break
			}
		}
		<-x.Ctx.Done()
		say(x, w, "nobody reads this")
		if err := w.Flush(); err == nil {
			t.Error("writing to nobody is no error")
		}
		<-release // a slow phase of logging, say
	}, func(c *ServerConfig) { c.Limits.Streams = 5 })
	p := newH3Peer(t, url)
	open := func() (*quic.Stream, error) {
		s, err := p.qc.OpenStream()
		if err == nil {
			_, err = s.Write(head3("GET", "/"))
			_ = s.Close()
		}
		return s, err
	}
	for i := range 5 {
		s, err := open()
		if err != nil {
			t.Fatalf("stream %d: %v", i, err)
		}
		eventually(t, "the handler", func() bool { return running.Load() == int64(i+1) })
		s.CancelRead(h3RequestCancelled)
	}
	for range 100 {
		var limited *quic.StreamLimitReachedError
		if _, err := open(); !errors.As(err, &limited) {
			t.Fatalf("one stream more: got %v, want the limit", err)
		}
		time.Sleep(time.Millisecond)
	}
	close(release)
	eventually(t, "the handlers", func() bool { return running.Load() == 0 })
	if got := most.Load(); got > 5 {
		t.Errorf("%d handlers at once", got)
	}
}

// TestHTTP3Budget shows that a client which keeps us busy for nothing is sent
// away.
func TestHTTP3Budget(t *testing.T) {
	url, _ := startQUIC(t, echo)
	for name, annoy := range map[string]func(p *h3peer, control *quic.SendStream) error{
		"frames": func(_ *h3peer, control *quic.SendStream) error {
			_, err := control.Write(h3frame(h3MaxPushID, varints(7)))
			return err
		},
		"grease": func(_ *h3peer, control *quic.SendStream) error {
			_, err := control.Write(h3frame(0x21, nil))
			return err
		},
		"resets": func(p *h3peer, _ *quic.SendStream) error {
			s, err := p.qc.OpenStreamSync(t.Context())
			if err == nil {
				s.CancelRead(h3RequestCancelled)
				s.CancelWrite(h3RequestCancelled)
			}
			return err
		},
		"malformed requests": func(p *h3peer, _ *quic.SendStream) error {
			s, err := p.qc.OpenStreamSync(t.Context())
			if err == nil {
				_, _ = s.Write(heads("a", "b"))
				_ = s.Close()
			}
			return err
		},
		"streams of no use": func(p *h3peer, _ *quic.SendStream) error {
			s, err := p.qc.OpenUniStreamSync(t.Context())
			if err == nil {
				_, _ = s.Write(varints(0x21))
				_ = s.Close()
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newH3Peer(t, url)
			control := p.control()
			n := 0
			for begun := time.Now(); time.Since(begun) < 20*time.Second && annoy(p, control) == nil; n++ {
			}
			if got := p.ends(); got != h3ExcessiveLoad {
				t.Errorf("ended with %#x after %d", got, n)
			}
		})
	}
}

func TestHTTP3Connections(t *testing.T) {
	url, s := startQUIC(t, echo, func(c *ServerConfig) { c.Limits.ConnsPerAddr = 2 })
	first, second := newH3Peer(t, url), newH3Peer(t, url)
	for _, p := range []*h3peer{first, second} {
		if a := p.answer(p.request(head3("GET", "/"), true)); a.status() != "200" {
			t.Fatalf("got %q %v", a.status(), a.err)
		}
	}
	if got := newH3Peer(t, url).ends(); got != h3ExcessiveLoad {
		t.Errorf("a third connection ended with %#x", got)
	}
	_ = first.qc.CloseWithError(h3NoError, "")
	eventually(t, "the connection to be forgotten", func() bool { return s.Connections() == 1 })
	eventually(t, "room for another", func() bool {
		p := newH3Peer(t, url)
		return p.answer(p.request(head3("GET", "/"), true)).status() == "200"
	})
}

func TestHTTP3Requests(t *testing.T) {
	t.Parallel()
	url, _ := startQUIC(t, echo, func(c *ServerConfig) { c.Limits.Requests = 2 })
	p := newH3Peer(t, url)
	for range 2 {
		if a := p.answer(p.request(head3("GET", "/"), true)); a.status() != "200" {
			t.Fatalf("got %q %v", a.status(), a.err)
		}
	}
	if got := p.goneAway(); got != 8 {
		t.Errorf("GOAWAY %d, want 8", got)
	}
	if a := p.answer(p.request(head3("GET", "/"), true)); streamCode(a.err) != h3RequestRejected {
		t.Errorf("a third request: %q %v", a.status(), a.err)
	}
	if got := p.ends(); got != h3NoError {
		t.Errorf("ended with %#x", got)
	}
}

func TestHTTP3Idle(t *testing.T) {
	t.Parallel()
	url, s := startQUIC(t, echo, func(c *ServerConfig) { c.Limits.Idle = time.Second })
	p := newH3Peer(t, url, func(c *quic.Config) { c.KeepAlivePeriod = 100 * time.Millisecond })
	if got := p.goneAway(); got != 0 {
		t.Errorf("GOAWAY %d, want 0", got)
	}
	if got := p.ends(); got != h3NoError {
		t.Errorf("ended with %#x", got)
	}
	eventually(t, "the connection to be forgotten", func() bool { return s.Connections() == 0 })
}

// TestHTTP3Drain shows that Stop lets a request under way end and takes no
// more.
func TestHTTP3Drain(t *testing.T) {
	t.Parallel()
	begun, release := make(chan struct{}), make(chan struct{})
	url, s := startQUIC(t, func(x *gateway.Exchange, w *Writer) {
		close(begun)
		<-release
		say(x, w, "done")
	})
	p := newH3Peer(t, url)
	under := p.request(head3("GET", "/"), true)
	<-begun
	stopped := make(chan error, 1)
	go func() { stopped <- s.Stop(context.Background()) }()
	if got := p.goneAway(); got != 4 {
		t.Errorf("GOAWAY %d, want 4", got)
	}
	if a := p.answer(p.request(head3("GET", "/"), true)); streamCode(a.err) != h3RequestRejected {
		t.Errorf("a new request: %q %v", a.status(), a.err)
	}
	close(release)
	if a := p.answer(under); a.status() != "200" || string(a.body) != "done" || a.err != nil {
		t.Errorf("the old request: %q %q %v", a.status(), a.body, a.err)
	}
	if got := p.ends(); got != h3NoError {
		t.Errorf("ended with %#x", got)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// TestHTTP3Cut shows that Stop does not wait longer than it is told.
func TestHTTP3Cut(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan struct{})
	url, s := startQUIC(t, func(x *gateway.Exchange, w *Writer) {
		close(begun)
		<-x.Ctx.Done()
		close(ended)
	})
	p := newH3Peer(t, url)
	p.request(head3("GET", "/"), true)
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := s.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	<-ended
	if got := p.ends(); got != h3NoError {
		t.Errorf("ended with %#x", got)
	}
}

// TestHTTP3ClientLeaves shows that the context of an exchange ends when its
// client gives it up, or leaves.
func TestHTTP3ClientLeaves(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(*h3peer, *quic.Stream){
		"stops reading": func(_ *h3peer, s *quic.Stream) { s.CancelRead(h3RequestCancelled) },
		"closes":        func(p *h3peer, _ *quic.Stream) { _ = p.qc.CloseWithError(h3NoError, "") },
	} {
		t.Run(name, func(t *testing.T) {
			begun, ended := make(chan struct{}), make(chan struct{})
			url, _ := startQUIC(t, func(x *gateway.Exchange, w *Writer) {
				close(begun)
				<-x.Ctx.Done()
				if _, err := w.Write([]byte("x")); err == nil && w.Flush() == nil {
					t.Error("writing to nobody is no error")
				}
				close(ended)
			})
			p := newH3Peer(t, url)
			s := p.request(head3("GET", "/"), true)
			<-begun
			leave(p, s)
			select {
			case <-ended:
			case <-time.After(20 * time.Second):
				t.Fatal("the handler was not told")
			}
		})
	}
	t.Run("in the body", func(t *testing.T) {
		begun, got := make(chan struct{}), make(chan error, 1)
		url, _ := startQUIC(t, func(x *gateway.Exchange, w *Writer) {
			close(begun)
			_, err := io.ReadAll(x.Req.Body)
			got <- err
			say(x, w, "")
		})
		p := newH3Peer(t, url)
		s := p.request(append(head3("POST", "/"), h3frame(h3Data, []byte("abc"))...), false)
		<-begun
		s.CancelWrite(h3RequestCancelled)
		if err := <-got; !errors.Is(err, ErrClient) {
			t.Errorf("got %v", err)
		}
	})
}

// TestHTTP3Aborts shows that an answer which is cut off is seen to be.
func TestHTTP3Aborts(t *testing.T) {
	url, _ := startQUIC(t, func(x *gateway.Exchange, w *Writer) {
		switch x.Req.Path {
		case "/silent":
			return
		case "/panic":
			panic("no answer yet")
		}
		x.Resp.Status, x.Resp.Length = 200, 10
		if x.Req.Path != "/short" {
			x.Resp.Length = -1
		}
		w.Head()
		_, _ = io.WriteString(w, "part")
		_ = w.Flush()
		switch x.Req.Path {
		case "/abort":
			w.Abort()
		case "/late-panic":
			panic("in the middle")
		}
	})
	p := newH3Peer(t, url)
	for _, c := range []struct{ path, want string }{
		{"/", "200"}, {"/silent", "500"}, {"/panic", "500"}, {"/short", "cut"}, {"/abort", "cut"}, {"/late-panic", "cut"}, {"/", "200"},
	} {
		a := p.answer(p.request(head3("GET", c.path), true))
		got := a.status()
		if streamCode(a.err) == h3InternalError {
			got = "cut"
		}
		if got != c.want {
			t.Errorf("%s: got %s %v, want %s", c.path, got, a.err, c.want)
		}
	}
}

// TestHTTP3Moves shows that a client which comes from another address keeps
// its connection, and that an exchange says where it comes from now.
func TestHTTP3Moves(t *testing.T) {
	url, _ := startQUIC(t, func(x *gateway.Exchange, w *Writer) { say(x, w, fmt.Sprint(x.Req.Peer.Port())) })
	p := newH3Peer(t, url)
	before := string(p.answer(p.request(head3("GET", "/"), true)).body)
	tr := &quic.Transport{Conn: udp(t)}
	t.Cleanup(func() { _ = tr.Close(); _ = tr.Conn.Close() })
	path, err := p.qc.AddPath(tr)
	if err != nil {
		t.Fatal(err)
	}
	if err := path.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := path.Switch(); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprint(addrPort(tr.Conn.LocalAddr()).Port())
	eventually(t, "the new address", func() bool {
		after := string(p.answer(p.request(head3("GET", "/"), true)).body)
		if after != want && after != before {
			t.Fatalf("peer %s, was %s, want %s", after, before, want)
		}
		return after == want
	})
}

// TestHTTP3Doubts shows that clients must prove their address while many come,
// and that they still get in.
func TestHTTP3Doubts(t *testing.T) {
	url, s := startQUIC(t, echo)
	newH3Peer(t, url)
	s.mu.Lock()
	var q *quicListener
	for l := range s.listeners {
		q = l.(*quicListener)
	}
	s.mu.Unlock()
	s.seconds.Store(1)
	q.second.Store(1)
	q.begun.Store(0)
	for i := range quicUnproven + 5 {
		if got, want := q.doubts(nil), i >= quicUnproven; got != want {
			t.Fatalf("connection %d of a second: doubted %v, want %v", i, got, want)
		}
	}
	s.seconds.Store(2)
	if q.doubts(nil) {
		t.Error("doubted in the next second")
	}
	q.begun.Store(1 << 40)
	q.second.Store(s.seconds.Load())
	p := newH3Peer(t, url)
	if a := p.answer(p.request(head3("GET", "/"), true)); a.status() != "200" {
		t.Errorf("got %q %v", a.status(), a.err)
	}
	eventually(t, "no handshake to be under way", func() bool { return q.pending.Load() == 0 })
}

// TestHTTP3BackPressure shows that nobody keeps what nobody takes, in both
// directions, and that all of it arrives.
func TestHTTP3BackPressure(t *testing.T) {
	const size = 8 << 20
	var read, wrote atomic.Int64
	gate := make(chan struct{})
	url, _ := startQUIC(t, func(x *gateway.Exchange, w *Writer) {
		if x.Req.Method == "POST" {
			<-gate
			sum := sha256.New()
			n, err := io.Copy(sum, x.Req.Body)
			read.Store(n)
			if err != nil {
				w.Refuse(400)
				return
			}
			say(x, w, fmt.Sprintf("%x", sum.Sum(nil)))
			return
		}
		x.Resp.Status, x.Resp.Length = 200, size
		w.Head()
		for range size / (64 << 10) {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
			wrote.Add(64 << 10)
		}
	})
	p := newH3Peer(t, url, func(c *quic.Config) {
		c.InitialStreamReceiveWindow, c.MaxStreamReceiveWindow = 256<<10, 256<<10
	})

	s := p.request(head3("GET", "/"), true)
	eventually(t, "the handler to be held", func() bool { return wrote.Load() > 0 && still(&wrote) })
	if got := wrote.Load(); got > 1<<20 {
		t.Errorf("%d bytes left for a client that reads nothing", got)
	}
	if a := p.answer(s); len(a.body) != size || a.err != nil {
		t.Errorf("%d bytes, %v", len(a.body), a.err)
	}

	sum := sha256.New()
	var sent atomic.Int64
	s = p.request(head3("POST", "/"), false)
	_ = s.SetWriteDeadline(time.Time{})
	var wg sync.WaitGroup
	wg.Go(func() {
		part := make([]byte, 32<<10)
		for i := range size / len(part) {
			part[0] = byte(i)
			_, _ = sum.Write(part)
			if _, err := s.Write(h3frame(h3Data, part)); err != nil {
				t.Error(err)
				return
			}
			sent.Add(int64(len(part)))
		}
		_ = s.Close()
	})
	eventually(t, "the client to be held", func() bool { return sent.Load() > 0 && still(&sent) })
	if got := sent.Load(); got > h2StreamWindow+64<<10 {
		t.Errorf("%d bytes taken that nobody reads", got)
	}
	close(gate)
	wg.Wait()
	if a := p.answer(s); string(a.body) != fmt.Sprintf("%x", sum.Sum(nil)) || read.Load() != size {
		t.Errorf("%q after %d bytes, %v", a.body, read.Load(), a.err)
	}
}

// still says that a counter does not move.
func still(n *atomic.Int64) bool {
	before := n.Load()
	time.Sleep(100 * time.Millisecond)
	return n.Load() == before
}

// TestHTTP3Streaming shows that both directions move at once, part by part.
func TestHTTP3Streaming(t *testing.T) {
	url, _ := startQUIC(t, func(x *gateway.Exchange, w *Writer) {
		x.Resp.Status, x.Resp.Length = 200, -1
		w.Head()
		if w.Flush() != nil {
			return
		}
		buf := make([]byte, 100)
		for {
			n, err := x.Req.Body.Read(buf)
			_, _ = w.Write(buf[:n])
			_ = w.Flush()
			if err != nil {
				return
			}
		}
	})
	pr, pw := io.Pipe()
	r, _ := http.NewRequestWithContext(t.Context(), "POST", url, pr)
	res, err := h3client(t).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	for i := range 10 {
		want := fmt.Sprintf("part %d", i)
		_, _ = io.WriteString(pw, want)
		n, err := io.ReadFull(res.Body, buf[:len(want)])
		if got := string(buf[:n]); got != want || err != nil {
			t.Fatalf("got %q %v, want %q", got, err, want)
		}
	}
	pw.Close()
	if n, err := res.Body.Read(buf); n != 0 || err != io.EOF {
		t.Errorf("after the end: %d %v", n, err)
	}
}

// TestHTTP3Answers shows answers without a body, the invitation to send one,
// and the end of a body that nobody wants.
func TestHTTP3Answers(t *testing.T) {
	url, _ := startQUIC(t, func(x *gateway.Exchange, w *Writer) {
		switch x.Req.Path {
		case "/204":
			x.Resp.Status, x.Resp.Length = 204, -1
			w.Head()
		case "/304":
			x.Resp.Status, x.Resp.Length = 304, 0
			w.Head()
		case "/unread":
			say(x, w, "no, thanks")
		default:
			echo(x, w)
		}
	})
	p := newH3Peer(t, url)
	for _, c := range []struct{ method, path, length string }{{"GET", "/204", ""}, {"GET", "/304", ""}, {"HEAD", "/", "0"}, {"HEAD", "/unread", "10"}} {
		a := p.answer(p.request(head3(c.method, c.path), true))
		if a.err != nil || len(a.sections) != 1 || len(a.body) != 0 || value(a.sections[0], "content-length") != c.length {
			t.Errorf("%s %s: got %v %q %v", c.method, c.path, a.sections, a.body, a.err)
		}
	}

	s := p.request(head3("POST", "/", "expect", "100-continue"), false)
	in := h3reader{src: s, buf: make([]byte, 4096)}
	if typ, err := in.next(); typ != h3Headers || err != nil {
		t.Fatalf("frame %d %v", typ, err)
	}
	if b, err := in.whole(); string(b) != string(section(":status", "100")) {
		t.Errorf("got %x %v", b, err)
	}
	_, _ = s.Write(h3frame(h3Data, []byte("invited")))
	_ = s.Close()
	if a := p.answer(s); a.status() != "200" || string(a.body) != "invited" {
		t.Errorf("got %q %q %v", a.status(), a.body, a.err)
	}

	s = p.request(head3("POST", "/unread"), false)
	if a := p.answer(s); a.status() != "200" || a.err != nil {
		t.Errorf("got %q %v", a.status(), a.err)
	}
	eventually(t, "the end of sending", func() bool {
		_, err := s.Write(h3frame(h3Data, []byte("more")))
		return err != nil && streamCode(err) == h3NoError
	})
}

// TestHTTP3LateEnd shows that a GET whose end comes in a packet of its own has
// no body.
func TestHTTP3LateEnd(t *testing.T) {
	t.Parallel()
	url, _ := startQUIC(t, func(x *gateway.Exchange, w *Writer) { say(x, w, fmt.Sprint(x.Req.Length)) })
	p := newH3Peer(t, url)
	s := p.request(head3("GET", "/"), false)
	time.AfterFunc(20*time.Millisecond, func() { _ = s.Close() })
	if a := p.answer(s); string(a.body) != "0" {
		t.Errorf("length %q %v", a.body, a.err)
	}
	s = p.request(head3("GET", "/"), false)
	if a := p.answer(s); string(a.body) != "-1" {
		t.Errorf("length %q of a request that does not end, %v", a.body, a.err)
	}
}
