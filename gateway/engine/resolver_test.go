package engine

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// dnsServer answers on loopback from a table.
type dnsServer struct {
	addr string

	mu      sync.Mutex
	names   map[string][]netip.Addr // guarded by mu; "svc.test." -> addresses, missing: NXDOMAIN
	broken  bool                    // guarded by mu; answer SERVFAIL
	queries int                     // guarded by mu; for A
}

func newDNS(t *testing.T) *dnsServer {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &dnsServer{addr: pc.LocalAddr().String(), names: map[string][]netip.Addr{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			if answer := d.answer(b[:n]); answer != nil {
				_, _ = pc.WriteTo(answer, from)
			}
		}
	})
	t.Cleanup(func() { pc.Close(); wg.Wait() })
	return d
}

func (d *dnsServer) set(name string, addrs ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.names[name] = nil
	for _, a := range addrs {
		d.names[name] = append(d.names[name], netip.MustParseAddr(a))
	}
	if len(addrs) == 0 {
		delete(d.names, name)
	}
}

func (d *dnsServer) breaks(v bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.broken = v
}

func (d *dnsServer) asked() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.queries
}

func (d *dnsServer) answer(q []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(q) != nil || len(m.Questions) != 1 {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	ask := m.Questions[0]
	m.Header.Response, m.Header.RecursionAvailable, m.Additionals = true, true, nil
	addrs, ok := d.names[strings.ToLower(ask.Name.String())]
	if ask.Type == dnsmessage.TypeA {
		d.queries++
	}
	switch {
	case d.broken:
		m.Header.RCode = dnsmessage.RCodeServerFailure
	case !ok:
		m.Header.RCode = dnsmessage.RCodeNameError
	}
	for _, a := range addrs {
		h := dnsmessage.ResourceHeader{Name: ask.Name, Class: ask.Class, TTL: 60}
		switch {
		case d.broken:
		case a.Is4() && ask.Type == dnsmessage.TypeA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}})
		case a.Is6() && ask.Type == dnsmessage.TypeAAAA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}

// handClock is a clock that stands until it is moved.
type handClock struct{ passed atomic.Int64 }

func (c *handClock) now() time.Time {
	return time.Unix(1_000_000, 0).Add(time.Duration(c.passed.Load()))
}
func (c *handClock) forward(d time.Duration) { c.passed.Add(int64(d)) }
func text(list []netip.Addr) string          { s, _ := joinAddrs(list); return s }
func joinAddrs(l []netip.Addr) (s string, n int) {
	for i, a := range l {
		if i > 0 {
			s += " "
		}
		s += a.String()
	}
	return s, len(l)
}

func newTestResolver(t *testing.T, d *dnsServer, more ...string) (*Resolver, *handClock) {
	c := &handClock{}
	r := NewResolver(ResolverConfig{Servers: append(more, d.addr), Valid: 10 * time.Second, Stale: time.Minute, Timeout: 5 * time.Second, Now: c.now})
	t.Cleanup(r.Close)
	return r, c
}

func TestNamesAreResolvedAgain(t *testing.T) {
	d := newDNS(t)
	r, clock := newTestResolver(t, d)
	d.set("svc.test.", "10.0.0.1", "10.0.0.2", "fd00::1")
	for i, want := range []string{"10.0.0.1 10.0.0.2 fd00::1", "10.0.0.2 fd00::1 10.0.0.1", "fd00::1 10.0.0.1 10.0.0.2", "10.0.0.1 10.0.0.2 fd00::1"} {
		if got, err := r.Addresses(t.Context(), "SVC.test."); err != nil || text(got) != want {
			t.Errorf("turn %d: %v %v, want %s", i, got, err, want)
		}
	}
	if n := d.asked(); n != 1 {
		t.Errorf("%d queries for four calls", n)
	}
	r.Failed("svc.test.", netip.MustParseAddr("10.0.0.2"))
	if got, _ := r.Addresses(t.Context(), "svc.test."); text(got) != "fd00::1 10.0.0.1 10.0.0.2" {
		t.Errorf("an address that failed is tried as %v", got)
	}
	d.set("svc.test.", "10.0.0.3")
	if got, _ := r.Known("svc.test."); len(got) != 3 {
		t.Errorf("looked up before its time: %v", got)
	}
	clock.forward(10 * time.Second)
	if got, err := r.Addresses(t.Context(), "svc.test."); err != nil || text(got) != "10.0.0.3" {
		t.Errorf("after its time: %v %v", got, err)
	}
	// No server answers: what was known serves on, for a time.
	d.breaks(true)
	clock.forward(10 * time.Second)
	if got, err := r.Addresses(t.Context(), "svc.test."); err != nil || text(got) != "10.0.0.3" {
		t.Errorf("while no server answers: %v %v", got, err)
	}
	clock.forward(time.Minute)
	if got, err := r.Addresses(t.Context(), "svc.test."); err == nil {
		t.Errorf("long after its time: %v", got)
	}
	// A name that is gone is gone at once.
	d.breaks(false)
	clock.forward(2 * time.Second)
	if got, err := r.Addresses(t.Context(), "svc.test."); err != nil || text(got) != "10.0.0.3" {
		t.Errorf("the server is back: %v %v", got, err)
	}
	d.set("svc.test.")
	clock.forward(10 * time.Second)
	var gone *net.DNSError
	if got, err := r.Addresses(t.Context(), "svc.test."); !errors.As(err, &gone) || !gone.IsNotFound {
		t.Errorf("a name that is gone: %v %v", got, err)
	}
	if got, known := r.Known("svc.test."); !known || len(got) != 0 {
		t.Errorf("a name that is gone is known as %v %v", got, known)
	}
}

func TestSecondServerIsAsked(t *testing.T) {
	d, sick := newDNS(t), newDNS(t)
	sick.breaks(true)
	r, _ := newTestResolver(t, d, sick.addr)
	d.set("svc.test.", "10.0.0.1")
	if got, err := r.Addresses(t.Context(), "svc.test."); err != nil || text(got) != "10.0.0.1" {
		t.Errorf("%v %v", got, err)
	}
	if sick.asked() == 0 {
		t.Error("the first server was not asked")
	}
}

// TestOneLookupForAll: many callers, one question, also when it fails.
func TestOneLookupForAll(t *testing.T) {
	var looks atomic.Int32
	gate := make(chan struct{})
	r := NewResolver(ResolverConfig{Look: func(ctx context.Context, _ string) ([]netip.Addr, error) {
		looks.Add(1)
		<-gate
		return nil, errors.New("no server")
	}})
	defer r.Close()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := r.Addresses(context.Background(), "a.test"); err == nil {
				t.Error("no error")
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Addresses(ctx, "a.test"); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that leaves: %v", err)
	}
	close(gate)
	wg.Wait()
	if n := looks.Load(); n > 2 { // whoever came after the end asks anew, at most once a second
		t.Errorf("%d lookups", n)
	}
}

func TestNamesAreBounded(t *testing.T) {
	r := NewResolver(ResolverConfig{Look: func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("10.0.0.1")}, nil
	}})
	defer r.Close()
	for i := range maxNames + 100 {
		if _, err := r.Addresses(t.Context(), "n"+string(rune('a'+i%26))+time.Duration(i).String()); err != nil {
			t.Fatal(err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.names) > maxNames {
		t.Errorf("%d names", len(r.names))
	}
}
