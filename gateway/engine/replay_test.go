package engine

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// leaver is an HTTP/2 node that takes at least so many bytes of each body,
// then says that it did not look at the stream, and goes.
func leaver(t testing.TB, after int) *origin {
	return newH2Origin(t, func(_ int32, o *h2origin) {
		_ = o.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
		_ = o.WriteWindowUpdate(0, 1<<20)
		for got := 0; ; {
			f, err := o.ReadFrame()
			if err != nil {
				return
			}
			if d, ok := f.(*http2.DataFrame); ok {
				if got += len(d.Data()); got >= after {
					_ = o.WriteGoAway(0, http2.ErrCodeNo, nil)
				}
			}
		}
	})
}

// once lets one connection to addr come about.
func once(addr string) func(context.Context, string, string) (net.Conn, error) {
	var dials atomic.Int32
	return func(ctx context.Context, network, to string) (net.Conn, error) {
		if to == addr && dials.Add(1) > 1 {
			return nil, syscall.ECONNREFUSED
		}
		return new(net.Dialer).DialContext(ctx, network, to)
	}
}

func bodyBack(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	_, _ = w.Write(b)
}

// TestNextNodeGetsTheWholeBody: a node takes a part of the body, says that it
// did not look at it, and is gone when it is called again. The next node gets
// the body from its start, or no node gets it.
func TestNextNodeGetsTheWholeBody(t *testing.T) {
	next := h2server(t, "127.0.0.1:0", 100, bodyBack)
	for _, row := range []struct {
		name        string
		size, after int
		stage       Stage
	}{
		{"short", 14, 1, StageConnect},
		{"begun", 60_000, 1, StageConnect},
		{"as long as is kept", maxReplay, maxReplay, StageConnect},
		{"too long", 4 * maxReplay, 2 * maxReplay, StageWait},
	} {
		t.Run(row.name, func(t *testing.T) {
			first := leaver(t, row.after)
			tr := NewTransport(once(first.addr))
			defer tr.Close()
			body := strings.Repeat("0123456789abcdef", row.size/16+1)[:row.size]
			c := grpcCall(first.addr, body)
			_, err := do(t.Context(), tr, c)
			ce := (*CallError)(nil)
			if !errors.As(err, &ce) || ce.Stage != row.stage {
				t.Fatalf("%v, want an error at stage %d", err, row.stage)
			}
			if ce.Stage != StageConnect {
				return
			}
			c.Addr = next
			if got, err := do(t.Context(), tr, c); err != nil || got != body {
				t.Errorf("the next node got %d bytes, equal %v, of %d: %v", len(got), got == body, row.size, err)
			}
		})
	}
}

// TestNextNodeGetsWhatComesLate: the client is in the middle of its body when
// the node leaves.
func TestNextNodeGetsWhatComesLate(t *testing.T) {
	left := make(chan struct{}, 10)
	first := newH2Origin(t, func(_ int32, o *h2origin) {
		_ = o.WriteSettings()
		for {
			f, err := o.ReadFrame()
			if err != nil {
				return
			}
			if d, ok := f.(*http2.DataFrame); ok && len(d.Data()) > 0 {
				_ = o.WriteGoAway(0, http2.ErrCodeNo, nil)
				left <- struct{}{}
			}
		}
	})
	tr := NewTransport(once(first.addr))
	defer tr.Close()
	c := grpcCall(first.addr, "")
	pr, pw := io.Pipe()
	c.Body = pr
	go func() {
		_, _ = io.WriteString(pw, "the first, ")
		<-left
		_, _ = io.WriteString(pw, "the second")
		pw.Close()
	}()
	_, err := do(t.Context(), tr, c)
	if ce := (*CallError)(nil); !errors.As(err, &ce) || ce.Stage != StageConnect {
		t.Fatalf("%v, want no connection", err)
	}
	c.Addr = h2server(t, "127.0.0.1:0", 100, bodyBack)
	if got, err := do(t.Context(), tr, c); err != nil || got != "the first, the second" {
		t.Errorf("the next node got %q, %v", got, err)
	}
}

// TestBrokenOffReadIsNotRepeated: nobody can tell what a read that was broken
// off would have brought.
func TestBrokenOffReadIsNotRepeated(t *testing.T) {
	pr, pw := io.Pipe()
	defer pw.Close()
	var r replay
	r.start(&Call{Body: pr}, time.NewTimer(time.Minute))
	b, _ := r.reader()
	done := make(chan struct{})
	go func() { defer close(done); _, _ = b.Read(make([]byte, 10)) }()
	eventually(t, "nobody reads", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.reading })
	r.end(func() { pr.CloseWithError(ErrClient) })
	<-done
	if _, ok := r.again(); ok {
		t.Error("the body can be sent again")
	}
}

// TestNextAddressGetsTheWholeBody is the same over the addresses of a name.
func TestNextAddressGetsTheWholeBody(t *testing.T) {
	first := leaver(t, 1)
	_, port, _ := net.SplitHostPort(first.addr)
	h2server(t, "127.0.0.2:"+port, 100, bodyBack)
	d := newDNS(t)
	d.set("svc.test.", "127.0.0.1", "127.0.0.2")
	tr := NewTransport(once(first.addr))
	tr.Resolver = NewResolver(ResolverConfig{Servers: []string{d.addr}, Valid: time.Minute})
	defer tr.Close()
	for range 4 {
		if got, err := do(t.Context(), tr, grpcCall("svc.test.:"+port, "the whole body")); err != nil || got != "the whole body" {
			t.Errorf("the next address got %q, %v", got, err)
		}
	}
	if first.conns.Load() != 1 {
		t.Errorf("%d connections to the first address, want 1", first.conns.Load())
	}
}
