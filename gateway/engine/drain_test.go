package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
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

	"gatehouse/gateway"
)

// drain begins to stop s and returns when it does.
func drain(t *testing.T, s *Server, f Farewell) (ended <-chan error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	done := make(chan error, 1)
	go func() { defer cancel(); done <- s.Drain(ctx, f) }()
	for !s.stopping() {
		time.Sleep(time.Millisecond)
	}
	return done
}

func ended(t *testing.T, done <-chan error) {
	t.Helper()
	if err := <-done; err != nil {
		t.Errorf("draining: %v", err)
	}
}

// TestDrainLosesNoRequest: clients that send one request after the other on
// kept connections while the server stops get an answer to each, the last one
// with Connection: close.
func TestDrainLosesNoRequest(t *testing.T) {
	for round := range 10 {
		addr, s := start(t, func(x *gateway.Exchange, w *Writer) {
			if x.Req.Body != nil {
				_, _ = io.Copy(io.Discard, x.Req.Body)
			}
			say(x, w, "ok")
		})
		var wg sync.WaitGroup
		var told, answered atomic.Int64
		for i := range 16 {
			c := dial(t, addr)
			wg.Go(func() {
				r := bufio.NewReader(c)
				for {
					send := "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
					if i%4 == 0 {
						send = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
					}
					if _, err := io.WriteString(c, send); err != nil {
						t.Errorf("round %d: sending: %v", round, err)
						return
					}
					res, err := http.ReadResponse(r, nil)
					if err != nil {
						t.Errorf("round %d: %v", round, err)
						return
					}
					_, _ = io.Copy(io.Discard, res.Body)
					answered.Add(1)
					if res.Close {
						told.Add(1)
						c.Close()
						return
					}
				}
			})
		}
		for answered.Load() < 100 {
			time.Sleep(time.Millisecond)
		}
		ended(t, drain(t, s, Farewell{Idle: 10 * time.Second}))
		wg.Wait()
		if told.Load() != 16 {
			t.Errorf("round %d: %d of 16 were told", round, told.Load())
		}
	}
}

// TestDrainAwaitsTheNextRequest: a connection that is idle when the server
// stops may still send one.
func TestDrainAwaitsTheNextRequest(t *testing.T) {
	addr, s := start(t, func(x *gateway.Exchange, w *Writer) { say(x, w, "ok") })
	used, fresh := dial(t, addr), dial(t, addr)
	io.WriteString(used, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	r := bufio.NewReader(used)
	if res, err := http.ReadResponse(r, nil); err != nil || res.Close {
		t.Fatalf("%v, %v", res, err)
	}
	r.Discard(2)
	done := drain(t, s, Farewell{Idle: 5 * time.Second})
	for name, c := range map[string]net.Conn{"used": used, "fresh": fresh} {
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		got, err := io.ReadAll(c)
		if err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 200 ") || !strings.Contains(string(got), "Connection: close\r\n") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	ended(t, done)
}

// TestDrainClosesIdleConnections with an end, not a reset, and reads what comes
// too late.
func TestDrainClosesIdleConnections(t *testing.T) {
	addr, s := start(t, func(x *gateway.Exchange, w *Writer) { say(x, w, "ok") })
	c := dial(t, addr)
	for s.Connections() == 0 {
		time.Sleep(time.Millisecond)
	}
	done := drain(t, s, Farewell{Idle: 100 * time.Millisecond})
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("%d bytes, %v; want the end", n, err)
	}
	for range 3 {
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Errorf("a late request: %v", err)
		}
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("after a late request %d bytes, %v; want the end", n, err)
	}
	c.Close()
	ended(t, done)
}

// TestDrainServesWhatWasAccepted: connections on their way from the listener
// to the server when it stops.
func TestDrainServesWhatWasAccepted(t *testing.T) {
	s := NewServer(ServerConfig{Handler: HandlerFunc(func(x *gateway.Exchange, w *Writer) { say(x, w, "ok") })})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	slow := &slowListener{Listener: l, got: make(chan struct{}), release: make(chan struct{})}
	served := make(chan error, 1)
	go func() { served <- s.Serve(slow) }()
	answer := make(chan string, 1)
	go func() { answer <- raw(t, l.Addr().String(), "GET / HTTP/1.1\r\nHost: a\r\n\r\n") }()
	<-slow.got
	done := drain(t, s, Farewell{Idle: time.Second})
	close(slow.release)
	if got := <-answer; !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("%q", got)
	}
	ended(t, done)
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// slowListener has accepted a connection and not yet returned it.
type slowListener struct {
	net.Listener
	got, release chan struct{}
}

func (l *slowListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		close(l.got)
		<-l.release
	}
	return c, err
}

// TestHTTP2Drain: GOAWAY in two steps. Streams that the client opens before it
// knows are served, later ones are not looked at.
func TestHTTP2Drain(t *testing.T) {
	entered, release := make(chan struct{}, 4), make(chan struct{})
	addr, s := start(t, func(x *gateway.Exchange, w *Writer) {
		entered <- struct{}{}
		<-release
		say(x, w, "done")
	})
	p := newPeer(t, addr)
	p.open(1, true, getRoot...)
	<-entered
	done := drain(t, s, Farewell{Idle: 5 * time.Second})
	goAway := func(f http2.Frame) bool { _, ok := f.(*http2.GoAwayFrame); return ok }
	if g := p.until("GOAWAY", goAway).(*http2.GoAwayFrame); g.ErrCode != http2.ErrCodeNo || g.LastStreamID != 1<<31-1 {
		t.Errorf("first: %+v", g)
	}
	ping := *p.until("the ping", func(f http2.Frame) bool { _, ok := f.(*http2.PingFrame); return ok }).(*http2.PingFrame)
	p.open(3, true, getRoot...)
	<-entered
	_ = p.WritePing(true, ping.Data)
	if g := p.until("GOAWAY", goAway).(*http2.GoAwayFrame); g.ErrCode != http2.ErrCodeNo || g.LastStreamID != 3 {
		t.Errorf("second: %+v", g)
	}
	p.open(5, false, getRoot...)
	_ = p.WriteData(5, true, []byte("nobody reads this"))
	close(release)
	left := map[uint32]bool{1: true, 3: true}
	for {
		f, err := p.ReadFrame()
		if err != nil {
			if err != io.EOF {
				t.Errorf("the connection ended with %v", err)
			}
			break
		}
		switch f := f.(type) {
		case *http2.DataFrame:
			if f.StreamEnded() {
				delete(left, f.StreamID)
			}
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			t.Errorf("%+v", f)
		}
	}
	if len(left) > 0 {
		t.Errorf("no answer on %v", left)
	}
	p.c.Close()
	ended(t, done)
}

// TestHTTP2DrainWithoutPong: a client that answers no ping gets the second
// step when it was idle for long enough.
func TestHTTP2DrainWithoutPong(t *testing.T) {
	addr, s := start(t, func(x *gateway.Exchange, w *Writer) { say(x, w, "ok") })
	p := newPeer(t, addr)
	p.open(1, true, getRoot...)
	p.until("the answer", headersOf(1))
	done := drain(t, s, Farewell{Idle: 100 * time.Millisecond})
	var last uint32
	for {
		f, err := p.ReadFrame()
		if err != nil {
			break
		}
		if g, ok := f.(*http2.GoAwayFrame); ok {
			last = g.LastStreamID
		}
	}
	if last != 1 {
		t.Errorf("the last GOAWAY names %d", last)
	}
	p.c.Close()
	ended(t, done)
}

// frame is a WebSocket frame, masked when it is a client's.
func frame(op byte, masked bool, payload string) []byte {
	b := []byte{0x80 | op}
	m := byte(0)
	if masked {
		m = 0x80
	}
	switch n := len(payload); {
	case n < 126:
		b = append(b, m|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, m|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, m|127), uint64(n))
	}
	if !masked {
		return append(b, payload...)
	}
	key := [4]byte{1, 2, 3, 4}
	b = append(b, key[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^key[i%4])
	}
	return b
}

func TestFrames(t *testing.T) {
	var all []byte
	bounds := map[int]bool{0: true}
	for _, f := range [][]byte{
		frame(1, false, ""), frame(1, true, ""), frame(2, true, "x"), frame(2, false, strings.Repeat("y", 125)), frame(9, true, "ping"),
		frame(1, false, strings.Repeat("z", 126)), frame(1, true, strings.Repeat("z", 70_000)), frame(8, true, "\x03\xe8"),
	} {
		all = append(all, f...)
		bounds[len(all)] = true
	}
	for _, step := range []int{1, 2, 3, 7, 100, len(all)} {
		var f frames
		for i := 0; i < len(all); i += step {
			f.pass(all[i:min(i+step, len(all))])
			if at := min(i+step, len(all)); f.between() != bounds[at] || f.closed != (at == len(all)) {
				t.Fatalf("step %d, at %d: between %v, closed %v", step, at, f.between(), f.closed)
			}
		}
	}
	var f frames
	f.pass([]byte("\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff whatever"))
	if !f.lost || f.between() {
		t.Error("a length beyond 2^63 is a frame")
	}
}

// FuzzFrames: cut anywhere, the frames are the same.
func FuzzFrames(f *testing.F) {
	f.Add(append(frame(1, true, "hello"), frame(8, false, "")...), 3)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		if len(b) == 0 {
			return
		}
		cut = int(uint(cut) % uint(len(b)))
		var whole, parts frames
		whole.pass(b)
		parts.pass(b[:cut])
		parts.pass(b[cut:])
		if whole.lost && parts.lost {
			return
		}
		if whole != parts {
			t.Errorf("%+v, cut at %d %+v", whole, cut, parts)
		}
	})
}

// TestDrainWebSocket: both sides get a Close frame between two frames of the
// other's, nothing after it, and the conversation ends when they have answered.
func TestDrainWebSocket(t *testing.T) {
	for _, restart := range []bool{false, true} {
		code := uint16(closeGoingAway)
		if restart {
			code = closeRestart
		}
		for _, c := range []struct {
			name       string
			down, up   string // of a frame that is under way when the server stops
			down2, up2 string // its rest
		}{
			{name: "quiet"},
			{name: "down under way", down: string(frame(2, false, "downwards"))[:4], down2: string(frame(2, false, "downwards"))[4:]},
			{name: "up under way", up: string(frame(2, true, "upwards"))[:3], up2: string(frame(2, true, "upwards"))[3:]},
			{name: "both", down: "\x82", down2: "\x03abc", up: string(frame(2, true, "u"))[:1], up2: string(frame(2, true, "u"))[1:]},
		} {
			t.Run(fmt.Sprintf("%s %d", c.name, code), func(t *testing.T) {
				node, mine := net.Pipe()
				node.SetDeadline(time.Now().Add(10 * time.Second))
				addr, s := start(t, func(x *gateway.Exchange, w *Writer) { join(t, w, mine) })
				ws := dial(t, addr)
				ws.SetDeadline(time.Now().Add(10 * time.Second))
				io.WriteString(ws, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
				r := bufio.NewReader(ws)
				if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != 101 {
					t.Fatalf("%v, %v", res, err)
				}
				hello := string(frame(1, false, "hello"))
				io.WriteString(node, hello+c.down)
				want(t, r, hello+c.down)
				hi := string(frame(1, true, "hi"))
				io.WriteString(ws, hi+c.up)
				want(t, node, hi+c.up)

				done := drain(t, s, Farewell{Restart: restart})
				if c.down2 != "" {
					io.WriteString(node, c.down2+string(frame(1, false, "lost")))
				}
				want(t, r, c.down2+string(binary.BigEndian.AppendUint16([]byte{0x88, 2}, code)))
				if c.up2 != "" {
					io.WriteString(ws, c.up2+string(frame(1, true, "lost")))
				}
				want(t, node, c.up2)
				bye := make([]byte, 8)
				if _, err := io.ReadFull(node, bye); err != nil || !bytes.Equal(bye[:2], []byte{0x88, 0x82}) || bye[6]^bye[2] != 3 || bye[7]^bye[3] != 0xe9 {
					t.Errorf("the node got %x, %v", bye, err)
				}
				node.Write(frame(8, false, "\x03\xe9"))
				ws.Write(frame(8, true, "\x03\xf4"))
				if b, err := io.ReadAll(r); err != nil || len(b) > 0 {
					t.Errorf("after the Close frame %q, %v", b, err)
				}
				if b, err := io.ReadAll(node); len(b) > 0 || err != nil && !errors.Is(err, io.ErrClosedPipe) {
					t.Errorf("after the Close frame the node got %q, %v", b, err)
				}
				ws.Close()
				ended(t, done)
			})
		}
	}
}

// join is what gateway/proxy does with an upgraded connection.
func join(t *testing.T, w *Writer, node net.Conn) {
	w.x.Resp.Status = 101
	c, err := w.Upgrade("websocket")
	if err != nil {
		t.Error(err)
		return
	}
	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(node, c)
		node.Close()
		close(done)
	}()
	_, _ = io.Copy(c, node)
	c.Close()
	<-done
}

func want(t *testing.T, r io.Reader, text string) {
	t.Helper()
	got := make([]byte, len(text))
	if n, err := io.ReadFull(r, got); err != nil || string(got) != text {
		t.Fatalf("got %q, %v; want %q", got[:n], err, text)
	}
}

// TestUpgradeWhileDraining: the client is told to come again, in its own
// protocol.
func TestUpgradeWhileDraining(t *testing.T) {
	node, mine := net.Pipe()
	defer node.Close()
	addr, s := start(t, func(x *gateway.Exchange, w *Writer) { join(t, w, mine) })
	ws := dial(t, addr)
	for s.Connections() == 0 {
		time.Sleep(time.Millisecond)
	}
	go io.Copy(io.Discard, node)
	done := drain(t, s, Farewell{Idle: 5 * time.Second, Restart: true})
	io.WriteString(ws, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	r := bufio.NewReader(ws)
	if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != 101 {
		t.Fatalf("%v, %v", res, err)
	}
	want(t, r, "\x88\x02\x03\xf4")
	ws.Write(frame(8, true, "\x03\xf4"))
	ws.Close()
	ended(t, done)
}
