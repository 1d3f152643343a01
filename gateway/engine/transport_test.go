package engine

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gatehouse/gateway"
)

// origin is an upstream on raw TCP. Each connection is given to serve.
type origin struct {
	addr  string
	conns atomic.Int32
	heads atomic.Int32
}

func newOrigin(t testing.TB, at string, serve func(o *origin, n int32, br *bufio.Reader, c *net.TCPConn)) *origin {
	t.Helper()
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	o := &origin{addr: l.Addr().String()}
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			n := o.conns.Add(1)
			wg.Go(func() {
				defer c.Close()
				serve(o, n, bufio.NewReader(c), c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return o
}

// head reads a request's head; false: the connection has ended.
func (o *origin) head(br *bufio.Reader) (string, bool) {
	var s strings.Builder
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return "", false
		}
		s.WriteString(line)
		if line == "\r\n" {
			o.heads.Add(1)
			return s.String(), true
		}
	}
}

// answers serves every request with body.
func answers(body string) func(*origin, int32, *bufio.Reader, *net.TCPConn) {
	return func(o *origin, _ int32, br *bufio.Reader, c *net.TCPConn) {
		for {
			if _, ok := o.head(br); !ok {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: "+itoa(len(body))+"\r\n\r\n"+body)
		}
	}
}

func itoa(n int) string { return strconv.Itoa(n) }

func call(addr string) *Call {
	return &Call{
		Scheme: "http", Addr: addr, Method: "GET", Target: "/", Host: "a", Header: &gateway.Header{},
		Keep:    gateway.KeepAlive{Size: 10, Idle: time.Minute, Requests: 1000},
		Timeout: gateway.Timeout{Connect: 5 * time.Second, Send: 5 * time.Second, Read: 5 * time.Second},
	}
}

func newTransport(t testing.TB) *Transport {
	tr := NewTransport(nil)
	t.Cleanup(tr.Close)
	return tr
}

// do makes a call and reads the whole answer.
func do(ctx context.Context, tr *Transport, c *Call) (body string, err error) {
	var resp gateway.Response
	a, err := tr.Send(ctx, c, &resp)
	if err != nil {
		return "", err
	}
	defer a.Close()
	b, err := io.ReadAll(a)
	return string(b), err
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

// TestConnectionsOfANodeAreBounded: beyond the limit calls wait for each
// other, and no longer than their connect timeout.
func TestConnectionsOfANodeAreBounded(t *testing.T) {
	var now, most atomic.Int32
	o := newOrigin(t, "127.0.0.1:0", func(o *origin, _ int32, br *bufio.Reader, c *net.TCPConn) {
		for {
			if _, ok := o.head(br); !ok {
				return
			}
			most.Store(max(most.Load(), now.Add(1)))
			time.Sleep(2 * time.Millisecond) // work
			now.Add(-1)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	tr := newTransport(t)
	tr.Limits.Conns = 3
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			c := call(o.addr)
			switch i % 3 { // pools of several kinds share the limit
			case 1:
				c.Keep.Size = 0
			case 2:
				c.Fresh = true
			}
			if body, err := do(context.Background(), tr, c); err != nil || body != "ok" {
				t.Errorf("%q %v", body, err)
			}
		})
	}
	wg.Wait()
	if most.Load() > 3 {
		t.Errorf("%d requests at once, want 3", most.Load())
	}
	tr.mu.Lock()
	if n := tr.nodes[o.addr]; n == nil || n.open > 3 || n.open != len(tr.open) || len(n.queue) != 0 {
		t.Errorf("node counts %+v, %d open", n, len(tr.open))
	}
	tr.mu.Unlock()
}

func TestFullNodeIsGivenUpInTime(t *testing.T) {
	release := make(chan struct{})
	o := newOrigin(t, "127.0.0.1:0", func(o *origin, _ int32, br *bufio.Reader, c *net.TCPConn) {
		if _, ok := o.head(br); ok {
			<-release
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	tr := newTransport(t)
	tr.Limits.Conns = 1
	first := make(chan error, 1)
	go func() {
		_, err := do(context.Background(), tr, call(o.addr))
		first <- err
	}()
	eventually(t, "no request arrived", func() bool { return o.heads.Load() == 1 })
	c := call(o.addr)
	c.Timeout.Connect = 50 * time.Millisecond
	var ce *CallError
	if _, err := do(t.Context(), tr, c); !errors.Is(err, ErrBusy) || !errors.As(err, &ce) || ce.Stage != StageConnect {
		t.Errorf("a full node: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for tr.mu.Lock(); len(tr.nodes[o.addr].queue) == 0; tr.mu.Lock() {
			tr.mu.Unlock()
		}
		tr.mu.Unlock()
		cancel()
	}()
	if _, err := do(ctx, tr, call(o.addr)); err == nil {
		t.Error("a caller that left was served")
	}
	close(release)
	if err := <-first; err != nil {
		t.Error(err)
	}
}

// TestConnectionsHaveALifetime.
func TestConnectionsHaveALifetime(t *testing.T) {
	t.Parallel()
	o := newOrigin(t, "127.0.0.1:0", answers("ok"))
	tr := newTransport(t)
	tr.Limits.Life = 2 * time.Second
	for end := time.Now().Add(15 * time.Second); o.conns.Load() < 3; time.Sleep(20 * time.Millisecond) {
		if _, err := do(t.Context(), tr, call(o.addr)); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(end) {
			t.Fatalf("%d connections", o.conns.Load())
		}
	}
	if n := o.heads.Load(); n < 30 {
		t.Errorf("%d requests on %d connections", n, o.conns.Load())
	}
}

// TestNamesAreFollowed: calls go to all addresses of a name, past those that
// are dead, and leave an address that the name has no more: idle connections
// are closed, a busy one when it falls idle.
func TestNamesAreFollowed(t *testing.T) {
	t.Parallel()
	one := newOrigin(t, "127.0.0.1:0", answers("one"))
	_, port, _ := net.SplitHostPort(one.addr)
	newOrigin(t, "127.0.0.2:"+port, answers("two"))
	d := newDNS(t)
	d.set("svc.test.", "127.0.0.1", "127.0.0.2", "127.0.0.3") // nobody listens on the last
	tr := NewTransport(nil)
	tr.Resolver = NewResolver(ResolverConfig{Servers: []string{d.addr}, Valid: 500 * time.Millisecond})
	defer tr.Close()
	name := "svc.test.:" + port
	got := map[string]int{}
	for range 12 {
		c := call(name)
		c.Fresh = true
		body, err := do(t.Context(), tr, c)
		if err != nil {
			t.Fatal(err)
		}
		got[body]++
	}
	if got["one"] < 3 || got["two"] < 3 {
		t.Errorf("answers %v, want a share of each", got)
	}
	// A busy connection to the address that goes away.
	var resp gateway.Response
	c := call(name)
	c.Fresh = true
	var busy Answer
	for {
		a, err := tr.Send(t.Context(), c, &resp)
		if err != nil {
			t.Fatal(err)
		}
		if a.(*conn).remote == netip.MustParseAddr("127.0.0.2") {
			busy = a
			break
		}
		_, _ = io.ReadAll(a)
		a.Close()
	}
	d.set("svc.test.", "127.0.0.1")
	eventually(t, "idle connections to an old address stay", func() bool {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		for k := range tr.open {
			if k.remote == netip.MustParseAddr("127.0.0.2") && k != busy || k == busy && !k.retired {
				return false
			}
		}
		return true
	})
	if b, err := io.ReadAll(busy); err != nil || string(b) != "two" {
		t.Errorf("the busy one: %q %v", b, err)
	}
	busy.Close()
	for range 10 {
		if body, err := do(t.Context(), tr, call(name)); err != nil || body != "one" {
			t.Fatalf("%q %v after the name moved", body, err)
		}
	}
	// No request is needed for the name to be followed, and none fails when it is gone.
	d.set("svc.test.")
	eventually(t, "connections to a name that is gone stay", func() bool {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		return len(tr.open) == 0
	})
	var gone *net.DNSError
	if _, err := do(t.Context(), tr, call(name)); !errors.As(err, &gone) {
		t.Errorf("a name that is gone: %v", err)
	}
}

// TestDyingConnections: a connection that the node closes at the worst moment
// costs no safe request, and repeats no other.
func TestDyingConnections(t *testing.T) {
	for _, row := range []struct {
		name string
		// die is what happens to a connection once it has served, maybe with
		// the next request on its way or read.
		die      func(o *origin, br *bufio.Reader, c *net.TCPConn)
		post     bool // a POST with a body survives too: it was not sent
		repeated bool // a GET reaches the node twice
	}{
		{"closed while idle", func(_ *origin, _ *bufio.Reader, c *net.TCPConn) { c.Close() }, true, false},
		{"reset while idle", func(_ *origin, _ *bufio.Reader, c *net.TCPConn) { _ = c.SetLinger(0); c.Close() }, true, false},
		{"half closed while idle", func(_ *origin, br *bufio.Reader, c *net.TCPConn) { _ = c.CloseWrite(); _, _ = io.Copy(io.Discard, br) }, true, false},
		{"talks while idle", func(_ *origin, br *bufio.Reader, c *net.TCPConn) {
			_, _ = io.WriteString(c, "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			_, _ = io.Copy(io.Discard, br)
		}, true, false},
		{"closed after reading", func(o *origin, br *bufio.Reader, c *net.TCPConn) { o.head(br); c.Close() }, false, true},
		{"reset after reading", func(o *origin, br *bufio.Reader, c *net.TCPConn) {
			o.head(br)
			_ = c.SetLinger(0)
			c.Close()
		}, false, true},
		{"closed with the request unread", func(_ *origin, br *bufio.Reader, c *net.TCPConn) { _, _ = br.Peek(1); c.Close() }, false, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			died := make(chan struct{}, 100)
			o := newOrigin(t, "127.0.0.1:0", func(o *origin, n int32, br *bufio.Reader, c *net.TCPConn) {
				for served := 0; ; served++ {
					if n == 1 && served == 1 {
						row.die(o, br, c)
						died <- struct{}{}
						return
					}
					head, ok := o.head(br)
					if !ok {
						return
					}
					if strings.HasPrefix(head, "POST") {
						_, _ = br.Discard(5)
					}
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				}
			})
			tr := newTransport(t)
			for _, method := range []string{"GET", "POST"} {
				o.conns.Store(0) // the next connection dies
				tr.Shed(100)
				o.heads.Store(0)
				if body, err := do(t.Context(), tr, call(o.addr)); err != nil || body != "ok" {
					t.Fatalf("%q %v", body, err)
				}
				if row.post { // the end must be here before the next request
					eventually(t, "the node did not close", func() bool {
						tr.mu.Lock()
						defer tr.mu.Unlock()
						for k := range tr.open {
							return !k.quiet()
						}
						return true
					})
				}
				c := call(o.addr)
				if method == "POST" {
					c.Method, c.Length, c.Body = "POST", 5, strings.NewReader("hello")
				}
				body, err := do(t.Context(), tr, c)
				var ce *CallError
				again := errors.As(err, &ce) && ce.Reused && (ce.Stage == StageWait || ce.Stage == StageSend)
				switch {
				case row.post && (err != nil || body != "ok"):
					t.Errorf("%s: %q %v, want no error", method, body, err)
				case !row.post && !again: // gateway/proxy repeats what is safe, on a fresh connection
					t.Errorf("%s: %q %v, want an error that says it was a kept connection", method, body, err)
				}
				if want := int32(2); !row.post && !row.repeated {
					want = 1
				} else if n := o.heads.Load(); n != want {
					t.Errorf("%s: the node read %d heads, want %d", method, n, want)
				}
			}
		})
	}
}

// TestDescriptorsRunOut: idle connections make room for one that is needed.
func TestDescriptorsRunOut(t *testing.T) {
	o, p := newOrigin(t, "127.0.0.1:0", answers("o")), newOrigin(t, "127.0.0.1:0", answers("p"))
	free := int32(3)
	tr := NewTransport(func(ctx context.Context, network, addr string) (net.Conn, error) {
		if atomic.AddInt32(&free, -1) < 0 {
			return nil, errTooManyFiles
		}
		nc, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &countedConn{TCPConn: nc.(*net.TCPConn), free: &free}, nil
	})
	defer tr.Close()
	var list []Answer
	for range 3 {
		var resp gateway.Response
		a, err := tr.Send(t.Context(), call(o.addr), &resp)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, a)
	}
	for _, a := range list {
		_, _ = io.ReadAll(a)
		a.Close()
	}
	if body, err := do(t.Context(), tr, call(p.addr)); err != nil || body != "p" {
		t.Errorf("%q %v", body, err)
	}
}

var errTooManyFiles = &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.EMFILE)}

type countedConn struct {
	*net.TCPConn
	free *int32
	once sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() { atomic.StoreInt32(c.free, max(atomic.LoadInt32(c.free), 0)+1) })
	return c.TCPConn.Close()
}
