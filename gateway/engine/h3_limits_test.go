package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
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

// TestHTTP3Pace shows that a client which moves a byte now and then is given up
// in both directions, and one that is merely slow is not.
func TestHTTP3Pace(t *testing.T) {
	t.Parallel()
	const size = 64 << 10
	ended := make(chan string, 4)
	url, _ := startQUIC(t, func(x *gateway.Exchange, w *Writer) {
		if x.Req.Method == "POST" {
			echo(x, w)
			return
		}
		x.Resp.Status, x.Resp.Length = 200, size
		w.Head()
		_, err := w.Write(make([]byte, size))
		ended <- fmt.Sprint(x.Req.Path, err)
	}, func(c *ServerConfig) {
		c.Limits = Limits{BodyTime: time.Minute, SendTime: time.Minute, Rate: 100, RateTime: 2 * time.Second}
	})
	// upload sends n bytes, and so many again every 100 ms, until it is answered.
	upload := func(n int) string {
		p := newH3Peer(t, url)
		s := p.request(head3("POST", "/"), false)
		go func() {
			for range 50 {
				if _, err := s.Write(h3frame(h3Data, make([]byte, n))); err != nil {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
			_ = s.Close()
		}()
		return p.answer(s).status()
	}
	// download takes n bytes every 100 ms.
	download := func(path string, n int) {
		p := newH3Peer(t, url, func(c *quic.Config) {
			c.InitialStreamReceiveWindow, c.MaxStreamReceiveWindow = 2<<10, 2<<10
		})
		s := p.request(head3("GET", path), true)
		for buf := make([]byte, n); ; time.Sleep(100 * time.Millisecond) {
			if _, err := io.ReadFull(s, buf); err != nil {
				return
			}
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if got := upload(2); got != "408" {
			t.Errorf("a body byte by byte: %q", got)
		}
	})
	wg.Go(func() {
		if got := upload(50); got != "200" {
			t.Errorf("a slow body: %q", got)
		}
	})
	wg.Go(func() { download("/bytes", 2) })
	wg.Go(func() { download("/slow", size/50) })
	wg.Wait()
	if a, b := <-ended, <-ended; a+b != "/slow<nil>/bytes"+errGone.Error() && b+a != "/slow<nil>/bytes"+errGone.Error() {
		t.Errorf("answers: %s, %s", a, b)
	}
}

// TestHTTP3Total shows that an exchange ends in time, with an answer when there
// is none yet.
func TestHTTP3Total(t *testing.T) {
	t.Parallel()
	url, _ := startQUIC(t, func(x *gateway.Exchange, w *Writer) {
		if x.Req.Path == "/begun" {
			x.Resp.Status, x.Resp.Length = 200, -1
			w.Head()
			_ = w.Flush()
		}
		<-x.Ctx.Done()
		if errors.Is(x.Ctx.Err(), context.DeadlineExceeded) {
			w.Refuse(504)
		}
	}, func(c *ServerConfig) { c.Limits.Total = time.Second })
	p := newH3Peer(t, url)
	late, begun := p.request(head3("GET", "/"), true), p.request(head3("GET", "/begun"), true)
	if a := p.answer(late); a.status() != "504" {
		t.Errorf("got %q %v", a.status(), a.err)
	}
	if a := p.answer(begun); streamCode(a.err) != h3RequestCancelled {
		t.Errorf("got %q %v", a.status(), a.err)
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
