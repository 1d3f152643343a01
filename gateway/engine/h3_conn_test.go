package engine

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"gatehouse/gateway"
)

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
	if got := p.notices()(); got != 8 {
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
	notice := p.notices()
	if first, second := notice(), notice(); first != h3Highest || second != 0 {
		t.Errorf("GOAWAY %d, then %d", first, second)
	}
	if got := p.ends(); got != h3NoError {
		t.Errorf("ended with %#x", got)
	}
	eventually(t, "the connection to be forgotten", func() bool { return s.Connections() == 0 })
}

// TestHTTP3Drain shows that Stop lets a request under way end, and one that the
// client sent before it knew, and takes no more.
func TestHTTP3Drain(t *testing.T) {
	t.Parallel()
	begun, release := make(chan struct{}), make(chan struct{})
	url, s := startQUIC(t, func(x *gateway.Exchange, w *Writer) {
		if x.Req.Path == "/slow" {
			close(begun)
			<-release
		}
		say(x, w, "done")
	})
	p := newH3Peer(t, url)
	under := p.request(head3("GET", "/slow"), true)
	<-begun
	stopped := make(chan error, 1)
	go func() { stopped <- s.Stop(context.Background()) }()
	notice := p.notices()
	if got := notice(); got != h3Highest {
		t.Errorf("the first GOAWAY %d", got)
	}
	if a := p.answer(p.request(head3("GET", "/"), true)); a.status() != "200" {
		t.Errorf("a request on its way: %q %v", a.status(), a.err)
	}
	if got := notice(); got != 8 {
		t.Errorf("the second GOAWAY %d, want 8", got)
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
