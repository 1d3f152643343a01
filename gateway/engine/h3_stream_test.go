package engine

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"gatehouse/gateway"
)

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
