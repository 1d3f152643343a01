package engine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"gatehouse/gateway"
)

// TestSlowBodiesAreGivenUp: a body that comes byte by byte holds a connection
// no longer than it must; one that is merely slow is taken.
func TestSlowBodiesAreGivenUp(t *testing.T) {
	t.Parallel()
	addr, s := start(t, echo, func(c *ServerConfig) {
		c.Limits = Limits{BodyTime: 10 * time.Second, Rate: 100, RateTime: 2 * time.Second}
	})
	send := func(every time.Duration, part string, n int) (string, time.Duration) {
		c := dial(t, addr)
		began := time.Now()
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", len(part)*n)
		go func() {
			for range n {
				if _, err := io.WriteString(c, part); err != nil {
					return
				}
				time.Sleep(every)
			}
		}()
		b, _ := io.ReadAll(c)
		return string(b), time.Since(began)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if got, took := send(300*time.Millisecond, "x", 100); status(got) != "408" || took > 8*time.Second {
			t.Errorf("byte by byte: %q after %v", got, took)
		}
	})
	wg.Go(func() {
		if got, _ := send(250*time.Millisecond, strings.Repeat("x", 60), 20); status(got) != "200" {
			t.Errorf("slow: %q", got)
		}
	})
	wg.Wait()
	eventually(t, "connections stay", func() bool { return s.Connections() == 0 })
}

// TestConversationsMayBeSilent: once the answer has begun, the rate of the body
// says nothing.
func TestConversationsMayBeSilent(t *testing.T) {
	t.Parallel()
	addr, _ := start(t, func(x *gateway.Exchange, w *Writer) {
		x.Resp.Status, x.Resp.Length = 200, -1
		w.Head()
		_ = w.Flush()
		n, err := io.Copy(io.Discard, x.Req.Body)
		fmt.Fprintf(w, "%d %v", n, err)
	}, func(c *ServerConfig) { c.Limits = Limits{BodyTime: 3 * time.Second, Rate: 100, RateTime: time.Second} })
	c := dial(t, addr)
	_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 10\r\n\r\n")
	for range 10 {
		time.Sleep(500 * time.Millisecond)
		_, _ = io.WriteString(c, "x")
	}
	if got, _ := io.ReadAll(c); !strings.Contains(string(got), "10 <nil>") {
		t.Errorf("%q", got)
	}
}

// TestSlowReadersAreGivenUp: a client that takes a few bytes now and then is
// cut off; one that is merely slow gets the whole answer, however long it
// takes. With and without the kernel moving the body.
func TestSlowReadersAreGivenUp(t *testing.T) {
	const size = 24 << 20
	big := strings.Repeat("x", size)
	o := newOrigin(t, "127.0.0.1:0", answers(big))
	tr := newTransport(t)
	addr, s := start(t, func(x *gateway.Exchange, w *Writer) {
		if x.Req.Path == "/written" {
			say(x, w, big)
			return
		}
		c := call(o.addr)
		c.Timeout.Read = 2 * time.Second
		a, err := tr.Send(x.Ctx, c, &x.Resp)
		if err != nil {
			t.Error(err)
			w.Refuse(502)
			return
		}
		defer a.Close()
		w.Head()
		buf := make([]byte, 1<<10)
		n := 0
		for {
			if ok, err := w.Splice(a); ok {
				if err != nil {
					w.Abort()
				}
				return
			}
			if n, err = a.Read(buf); err != nil {
				w.Abort()
				return
			}
			_, _ = w.Write(buf[:n])
		}
	}, func(c *ServerConfig) {
		c.Limits = Limits{SendTime: 2 * time.Second, Rate: 4000, RateTime: 3 * time.Second}
	})
	cut := make(chan struct{}) // the server has given up who must be given up
	read := func(path string, part int, every time.Duration) (int, time.Duration, error) {
		d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 64<<10) })
		}}
		c, err := d.Dial("tcp", addr)
		if err != nil {
			return 0, 0, err
		}
		defer c.Close()
		began := time.Now()
		_, _ = io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		total, b := 0, make([]byte, part)
		for {
			n, err := c.Read(b)
			if total += n; err != nil {
				if err == io.EOF {
					err = nil
				}
				return total, time.Since(began), err
			}
			select {
			case <-time.After(every):
			case <-cut:
				every = 0
			}
		}
	}
	var wg sync.WaitGroup
	for _, path := range []string{"/written", "/spliced"} {
		wg.Go(func() {
			if n, took, err := read(path, 256<<10, 15*time.Millisecond); n < size || err != nil || took < 3*time.Second {
				t.Errorf("%s: a slow client got %d bytes in %v: %v", path, n, took, err)
			}
		})
		wg.Go(func() {
			// Takes some hundred bytes a second: its window opens a little now
			// and then, when at all.
			if n, took, err := read(path, 100, 200*time.Millisecond); n >= size || !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s: a client that takes next to nothing got %d bytes in %v: %v", path, n, took, err)
			}
		})
	}
	eventually(t, "nobody came", func() bool { return s.Connections() == 4 })
	for end := time.Now().Add(15 * time.Second); s.Connections() > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d clients that hardly read are still served", s.Connections())
		}
	}
	close(cut)
	wg.Wait()
}

// TestSilentNodeIsGivenUpWhileItsBodyIsMoved.
func TestSilentNodeIsGivenUpWhileItsBodyIsMoved(t *testing.T) {
	t.Parallel()
	o := newOrigin(t, "127.0.0.1:0", func(o *origin, _ int32, br *bufio.Reader, c *net.TCPConn) {
		o.head(br)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"+strings.Repeat("x", 100_000))
		_, _ = br.ReadByte()
	})
	tr := newTransport(t)
	addr, _ := start(t, func(x *gateway.Exchange, w *Writer) {
		c := call(o.addr)
		c.Timeout.Read = time.Second
		a, err := tr.Send(x.Ctx, c, &x.Resp)
		if err != nil {
			w.Refuse(502)
			return
		}
		defer a.Close()
		w.Head()
		buf := make([]byte, 32<<10)
		for {
			if ok, _ := w.Splice(a); ok {
				w.Abort()
				return
			}
			n, err := a.Read(buf)
			if err != nil {
				w.Abort()
				return
			}
			_, _ = w.Write(buf[:n])
		}
	})
	began := time.Now()
	got := raw(t, addr, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if took := time.Since(began); len(got) < 100_000 || took > 8*time.Second {
		t.Errorf("%d bytes after %v", len(got), took)
	}
}

// TestTotalTime bounds an exchange whatever it waits for.
func TestTotalTime(t *testing.T) {
	t.Parallel()
	addr, s := start(t, func(x *gateway.Exchange, w *Writer) {
		switch x.Req.Path {
		case "/body":
			echo(x, w)
		case "/wait":
			<-x.Ctx.Done()
			if errors.Is(x.Ctx.Err(), context.DeadlineExceeded) {
				w.Refuse(504)
			}
		case "/stream":
			x.Resp.Status, x.Resp.Length = 200, -1
			w.Head()
			for x.Ctx.Err() == nil {
				if _, err := w.Write([]byte("x")); err != nil || w.Flush() != nil {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			w.Abort()
		}
	}, func(c *ServerConfig) { c.Limits = Limits{Total: time.Second, Rate: -1} })
	t.Run("exchanges", func(t *testing.T) {
		for path, want := range map[string]string{"/wait": "504", "/body": "408", "/stream": "200"} {
			t.Run(path, func(t *testing.T) {
				t.Parallel()
				c := dial(t, addr)
				fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nx", path)
				if got, _ := io.ReadAll(c); status(string(got)) != want || strings.HasSuffix(string(got), "\r\n0\r\n\r\n") {
					t.Errorf("%s: %q, want %s", path, got, want)
				}
				p := newPeer(t, addr)
				p.open(1, false, ":method", "POST", ":scheme", "http", ":authority", "a", ":path", path)
				got := p.until("the answer", headersOf(1)).(*http2.MetaHeadersFrame)
				if got.PseudoValue("status") != want {
					t.Errorf("%s on HTTP/2: %s, want %s", path, got.PseudoValue("status"), want)
				}
				p.until("the end of the stream", func(f http2.Frame) bool {
					_, reset := f.(*http2.RSTStreamFrame)
					return reset || f.Header().Flags.Has(http2.FlagDataEndStream)
				})
			})
		}
	})
	eventually(t, "exchanges go on", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for l := range s.links {
			if h, ok := l.(*h2conn); ok {
				h.mu.Lock()
				n := h.running
				h.mu.Unlock()
				if n > 0 {
					return false
				}
			}
		}
		return true
	})
}

// TestDescriptorsOfTheListenerRunOut: no connection can be accepted; idle ones
// make room for those who ask, and nothing spins.
func TestDescriptorsOfTheListenerRunOut(t *testing.T) {
	if os.Getenv("GATEHOUSE_TEST_DESCRIPTORS") != "" {
		serveFewDescriptors()
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestDescriptorsOfTheListenerRunOut$")
	cmd.Env = append(os.Environ(), "GATEHOUSE_TEST_DESCRIPTORS=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		_ = cmd.Wait()
		if spent := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(); spent > 5*time.Second {
			t.Errorf("the server spent %v", spent)
		}
	}()
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	addr = strings.TrimSpace(addr)
	ask := func(c net.Conn) bool {
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		line, _ := bufio.NewReader(c).ReadString('\n')
		return strings.HasPrefix(line, "HTTP/1.1 200 ")
	}
	// Three times as many as there are descriptors, each kept open by its client.
	for i := range 300 {
		if c := dial(t, addr); !ask(c) {
			t.Fatalf("connection %d was not served", i)
		}
	}
}

func serveFewDescriptors() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 100, Max: 100}); err != nil {
		panic(err)
	}
	var exhausted atomic.Int32
	s := NewServer(ServerConfig{Handler: HandlerFunc(func(x *gateway.Exchange, w *Writer) { say(x, w, "ok") }), Exhausted: func() { exhausted.Add(1) }})
	go func() { _ = s.Serve(l) }()
	fmt.Println(l.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin)
	if exhausted.Load() == 0 {
		panic("descriptors never ran out")
	}
	os.Exit(0)
}

// TestSlowStreamsAreGivenUp: on HTTP/2 windows that open byte by byte, and
// bodies that come byte by byte, end the same way, whatever else the
// connection does.
func TestSlowStreamsAreGivenUp(t *testing.T) {
	big := strings.Repeat("x", 1<<20)
	addr, s := start(t, func(x *gateway.Exchange, w *Writer) {
		if x.Req.Body != nil {
			echo(x, w)
			return
		}
		say(x, w, big)
	}, func(c *ServerConfig) { c.Limits = Limits{Rate: 1000, RateTime: 2 * time.Second} })
	for _, row := range []struct {
		name    string
		stream  bool // the stream's window, else the connection's
		body    bool
		settles func(f http2.Frame, err error) bool
	}{
		{"stream window", true, false, func(f http2.Frame, err error) bool { _, ok := f.(*http2.RSTStreamFrame); return ok }},
		{"connection window", false, false, func(f http2.Frame, err error) bool { return err != nil }},
		{"body", false, true, func(f http2.Frame, err error) bool {
			h, ok := f.(*http2.MetaHeadersFrame)
			return ok && h.PseudoValue("status") == "408"
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			p := newPeer(t, addr)
			if row.body {
				p.open(1, false, ":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/")
			} else {
				p.open(1, true, getRoot...)
			}
			var mu sync.Mutex
			stop := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				for {
					mu.Lock()
					switch {
					case row.body:
						_ = p.WriteData(1, false, []byte("x"))
					case row.stream:
						_ = p.WriteWindowUpdate(0, 1<<20)
						_ = p.WriteWindowUpdate(1, 1)
					default:
						_ = p.WriteWindowUpdate(1, 1<<20)
						_ = p.WriteWindowUpdate(0, 1)
					}
					mu.Unlock()
					select {
					case <-time.After(200 * time.Millisecond):
					case <-stop:
						return
					}
				}
			})
			defer wg.Wait()
			defer close(stop)
			for {
				f, err := p.ReadFrame()
				if row.settles(f, err) {
					return
				}
				if err != nil {
					t.Fatalf("%v", err)
				}
			}
		})
	}
	t.Cleanup(func() { eventually(t, "connections stay", func() bool { return s.Connections() == 0 }) })
}
