package engine

import (
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"gatehouse/gateway"
)

// toll is what the process holds.
type toll struct {
	heap, resident int64
	goroutines     int
}

func takeToll() (m toll) {
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	m.heap, m.goroutines = int64(s.HeapAlloc), runtime.NumGoroutine()
	b, _ := os.ReadFile("/proc/self/statm") // elsewhere the heap must do
	if f := strings.Fields(string(b)); len(f) > 1 {
		pages, _ := strconv.ParseInt(f[1], 10, 64)
		m.resident = pages * int64(os.Getpagesize())
	}
	return m
}

// bystander asks one thing after the other on a connection of its own.
type bystander struct {
	t    *testing.T
	stop chan struct{}
	took []time.Duration
	most toll // seen on the way
	wg   sync.WaitGroup
}

func newBystander(t *testing.T, addr string) *bystander {
	b := &bystander{t: t, stop: make(chan struct{})}
	p := newPeer(t, addr)
	_ = p.c.SetDeadline(time.Now().Add(2 * time.Minute))
	b.wg.Go(func() {
		for id := uint32(1); ; id += 2 {
			select {
			case <-b.stop:
				return
			default:
			}
			began := time.Now()
			p.open(id, true, getRoot...)
			for ended := false; !ended; {
				f, err := p.ReadFrame()
				if err != nil {
					t.Errorf("the bystander's request %d: %v", len(b.took), err)
					return
				}
				d, ok := f.(*http2.DataFrame)
				if ended = ok && d.StreamID == id && d.StreamEnded(); ended {
					_ = p.WriteWindowUpdate(0, 2)
				}
			}
			b.took = append(b.took, time.Since(began))
			if len(b.took)%100 == 0 {
				m := takeToll()
				b.most.heap, b.most.resident = max(b.most.heap, m.heap), max(b.most.resident, m.resident)
			}
		}
	})
	return b
}

func (b *bystander) end() {
	close(b.stop)
	b.wg.Wait()
}

// swallow reads frames until the connection ends, and says how it did.
func (p *peer) swallow() <-chan http2.ErrCode {
	code := make(chan http2.ErrCode, 1)
	go func() {
		last := http2.ErrCodeNo
		for {
			f, err := p.ReadFrame()
			if err != nil {
				code <- last
				return
			}
			if g, ok := f.(*http2.GoAwayFrame); ok {
				last = g.ErrCode
			}
		}
	}()
	return code
}

// TestHTTP2Endures: whatever is thrown at the server, within the budgets and
// beyond, it holds no more afterwards than before and not much more meanwhile,
// and a client that asks in peace is answered in time.
func TestHTTP2Endures(t *testing.T) {
	big := make([]byte, 1<<20)
	addr, s := start(t, func(x *gateway.Exchange, w *Writer) {
		switch x.Req.Path {
		case "/wait":
			<-x.Ctx.Done()
			w.Refuse(503)
		case "/big":
			x.Resp.Status, x.Resp.Length = 200, int64(len(big))
			w.Head()
			_, _ = w.Write(big)
		default:
			say(x, w, "ok")
		}
	})
	getBig := append(append([]string{}, getRoot[:7]...), "/big")
	type attack struct {
		name  string
		conns int
		ended int64 // connections that broke the protocol
		on    func(t *testing.T)
	}
	attacks := []attack{
		{"resets within the budget", 40, 0, func(t *testing.T) {
			// Each costs two: a stream beyond Limits.Streams is refused.
			p := newPeer(t, addr)
			ended := p.swallow()
			for i := range 300 {
				id := uint32(2*i + 1)
				p.open(id, true, getWait...)
				_ = p.WriteRSTStream(id, http2.ErrCodeCancel)
			}
			if err := p.WritePing(false, [8]byte{}); err != nil {
				t.Error(err)
			}
			_ = p.c.(*net.TCPConn).CloseWrite() // what was sent is looked at
			if code := <-ended; code != http2.ErrCodeNo {
				t.Errorf("GOAWAY %v", code)
			}
		}},
		{"header bombs", 4, 0, func(t *testing.T) {
			p := newPeer(t, addr)
			ended := p.swallow()
			bomb := append([]byte{}, p.block(append(append([]string{}, getRoot...), "x-bomb", strings.Repeat("a", 4000))...)...)
			for range 8000 {
				bomb = append(bomb, 0x80|62)
			}
			for i := range 50 {
				_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: bomb, EndHeaders: true, EndStream: true})
			}
			_ = p.c.(*net.TCPConn).CloseWrite()
			if code := <-ended; code != http2.ErrCodeNo {
				t.Errorf("GOAWAY %v", code)
			}
		}},
		{"windows opened a byte at a time", 4, 4, func(t *testing.T) {
			p := newPeer(t, addr)
			_ = p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
			for i := range 100 {
				p.open(uint32(2*i+1), true, getBig...)
			}
			ended := p.swallow()
			for i := range 10 * h2MaxUpdates {
				if p.WriteWindowUpdate(uint32(2*(i%100)+1), 1) != nil {
					break
				}
			}
			p.c.Close()
			<-ended
		}},
		{"windows that shrink and grow", 4, 4, func(t *testing.T) {
			p := newPeer(t, addr)
			for i := range 100 {
				p.open(uint32(2*i+1), true, getBig...)
			}
			p.flood(http2.ErrCodeEnhanceYourCalm, func(p *peer, i int) error {
				return p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(i % 2 * 1000)})
			})
		}},
		{"nothing is read", 8, 0, func(t *testing.T) {
			p := newPeer(t, addr)
			_ = p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
			_ = p.WriteWindowUpdate(0, 1<<30)
			for i := range 100 {
				p.open(uint32(2*i+1), true, getBig...)
			}
			held := func() (n int) {
				for _, k := range s.all() {
					if c, ok := k.(*h2conn); ok {
						c.mu.Lock()
						n = max(n, len(c.out.b))
						c.mu.Unlock()
					}
				}
				return n
			}
			eventually(t, "answers do not wait", func() bool { return held() >= h2MaxOut })
			if n := held(); n > h2FullOut+1<<10 {
				t.Errorf("%d bytes wait", n)
			}
		}},
	}
	for _, f := range floods {
		attacks = append(attacks, attack{f.name, 5, 5, func(t *testing.T) { newPeer(t, addr).flood(f.want, f.send) }})
	}
	b := newBystander(t, addr)
	calm := func() toll {
		eventually(t, "connections stay", func() bool { return s.Connections() <= 1 })
		runtime.GC()
		runtime.GC() // what pools kept
		return takeToll()
	}
	before := calm()
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			broken := s.broken.Load()
			var wg sync.WaitGroup
			for range a.conns {
				wg.Go(func() { a.on(t) })
			}
			wg.Wait()
			eventually(t, "GOAWAY was not said to each", func() bool { return s.broken.Load()-broken == a.ended })
		})
		after := calm()
		eventually(t, a.name+": goroutines stay", func() bool { return takeToll().goroutines <= before.goroutines+2 })
		if grown := after.heap - before.heap; grown > 8<<20 {
			t.Errorf("%s: %d bytes of heap stay", a.name, grown)
		}
	}
	b.end()
	if grown := b.most.heap - before.heap; grown > 48<<20 {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
	if grown := b.most.resident - before.resident; grown > 256<<20 {
		t.Errorf("the process has grown by %d bytes", grown)
	}
	slices.Sort(b.took)
	n := len(b.took)
	if n < 500 {
		t.Fatalf("the bystander was answered %d times", n)
	}
	p99, most := b.took[n*99/100], b.took[n-1]
	t.Logf("%d answers: half within %v, p99 %v, at most %v; heap +%d KiB, resident +%d KiB", n, b.took[n/2], p99, most, (b.most.heap-before.heap)>>10, (b.most.resident-before.resident)>>10)
	if p99 > time.Second || most > 5*time.Second {
		t.Errorf("the bystander waited: p99 %v, at most %v", p99, most)
	}
}
