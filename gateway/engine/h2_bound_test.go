package engine

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"gatehouse/gateway"
)

// deaf is a client that reads nothing, on a connection without any buffer: all
// that the server has to say it must keep.
type deaf struct {
	*peer
	s    *Server
	conn *h2conn
	done chan struct{} // the server is through with it
}

func newDeaf(t *testing.T, h HandlerFunc, change ...func(*ServerConfig)) *deaf {
	t.Helper()
	cfg := ServerConfig{Handler: h}
	for _, c := range change {
		c(&cfg)
	}
	ours, theirs := net.Pipe()
	d := &deaf{peer: &peer{t: t, c: ours}, s: NewServer(cfg), done: make(chan struct{})}
	d.enc = hpack.NewEncoder(&d.buf)
	d.Framer = http2.NewFramer(ours, ours)
	d.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	go func() {
		defer close(d.done)
		d.s.serveHTTP2(wire{nc: theirs}, nil)
	}()
	t.Cleanup(func() {
		ours.Close()
		<-d.done
	})
	_ = ours.SetDeadline(time.Now().Add(15 * time.Second))
	_, _ = io.WriteString(ours, http2.ClientPreface)
	_ = d.WriteSettings()
	d.until("settings", func(f http2.Frame) bool { _, ok := f.(*http2.SettingsFrame); return ok })
	d.conn = d.s.all()[0].(*h2conn)
	return d
}

// waiting is how much the server keeps for the client. Each look begins a new
// second, for budgets.
func (d *deaf) waiting() int {
	d.conn.mu.Lock()
	defer d.conn.mu.Unlock()
	d.conn.calm = 0
	return len(d.conn.out.b)
}

// TestHTTP2KeepsLittleForADeafClient: whatever a client that reads nothing asks
// for, what is kept for it is bounded: at some point its frames are not read
// any more. When it reads at last it gets all of it, and when it does not it is
// given up.
func TestHTTP2KeepsLittleForADeafClient(t *testing.T) {
	const most = h2FullOut + 1<<10 // one frame more than what stops the reader
	filler := strings.Repeat("f", 200)
	handler := func(x *gateway.Exchange, w *Writer) {
		x.Resp.Status, x.Resp.Length = 200, 0
		if x.Req.Path == "/204" {
			x.Resp.Status = 204
		}
		x.Resp.Header.Set("X-Filler", filler)
		w.Head()
	}
	request := func(method, path string) func(d *deaf, i int) error {
		return func(d *deaf, i int) error {
			return d.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), EndHeaders: true, EndStream: true,
				BlockFragment: d.block(":method", method, ":scheme", "http", ":authority", "a", ":path", path)})
		}
	}
	for _, row := range []struct {
		name  string
		send  func(d *deaf, i int) error
		count func(f http2.Frame) bool // what answers each
	}{
		{"head", request("HEAD", "/"), answersRequest},
		{"empty", request("GET", "/"), answersRequest},
		{"204", request("GET", "/204"), answersRequest},
		{"ping", func(d *deaf, _ int) error { return d.WritePing(false, [8]byte{}) },
			func(f http2.Frame) bool { p, ok := f.(*http2.PingFrame); return ok && p.IsAck() }},
		{"settings", func(d *deaf, _ int) error { return d.WriteSettings() },
			func(f http2.Frame) bool { s, ok := f.(*http2.SettingsFrame); return ok && s.IsAck() }},
		{"malformed", request("", "/"), isReset},
		{"zero window", func(d *deaf, i int) error {
			if i == 0 { // a stream that may be named
				return request("", "/")(d, i)
			}
			return d.WriteRawFrame(http2.FrameWindowUpdate, 0, 1, []byte{0, 0, 0, 0})
		}, isReset},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			for _, reads := range []bool{true, false} {
				d := newDeaf(t, handler)
				grown, sent, stopped := 0, 0, false
				for ; sent < 60_000; sent++ {
					_ = d.c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
					if err := row.send(d, sent); err != nil {
						if stopped = errors.Is(err, os.ErrDeadlineExceeded); !stopped {
							t.Fatal(err)
						}
						break
					}
					grown = max(grown, d.waiting())
				}
				if !stopped || grown > most {
					t.Fatalf("%d bytes are kept after %d frames, want at most %d", grown, sent, most)
				}
				if !reads {
					now := d.s.seconds.Load()
					d.conn.tick(now + seconds(d.s.cfg.Limits.SendTime) + 1)
					select {
					case <-d.done:
					case <-time.After(10 * time.Second):
						t.Fatal("a client that reads nothing is kept")
					}
					continue
				}
				// A pipe takes part of a frame: what is left of it is lost, the
				// frames before it are not.
				_ = d.c.SetReadDeadline(time.Now().Add(15 * time.Second))
				for got := 0; got < sent; {
					f, err := d.ReadFrame()
					if err != nil {
						t.Fatalf("%d answers of %d: %v", got, sent, err)
					}
					if row.count(f) {
						got++
					}
				}
			}
		})
	}
}

// answersRequest: by a head, or because too many wait by a reset.
func answersRequest(f http2.Frame) bool {
	_, ok := f.(*http2.MetaHeadersFrame)
	return ok || isReset(f)
}

func isReset(f http2.Frame) bool { _, ok := f.(*http2.RSTStreamFrame); return ok }

// TestHTTP2ReadsOnWhileAnswersWait: a full buffer of answers does not stop the
// reading: what a client sends while it takes nothing is looked at, else two
// that both send would wait for each other.
func TestHTTP2ReadsOnWhileAnswersWait(t *testing.T) {
	body := bytes.Repeat([]byte("x"), h2StreamWindow)
	arrived := make(chan int64, 1)
	d := newDeaf(t, func(x *gateway.Exchange, w *Writer) {
		if x.Req.Method == "POST" {
			n, _ := io.Copy(io.Discard, x.Req.Body)
			arrived <- n
			say(x, w, "ok")
			return
		}
		say(x, w, strings.Repeat("x", 4<<20))
	})
	_ = d.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
	_ = d.WriteWindowUpdate(0, 1<<30)
	for i := range 4 {
		d.open(uint32(2*i+1), true, getRoot...)
	}
	eventually(t, "answers do not wait", func() bool { return d.waiting() >= h2MaxOut })
	d.open(9, false, ":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/")
	for p := body; len(p) > 0; p = p[h2MaxFrame:] {
		if err := d.WriteData(9, len(p) == h2MaxFrame, p[:h2MaxFrame]); err != nil {
			t.Fatal(err)
		}
	}
	if n := <-arrived; n != int64(len(body)) {
		t.Errorf("%d bytes of %d", n, len(body))
	}
	if n := d.waiting(); n > h2FullOut {
		t.Errorf("%d bytes wait", n)
	}
}

// TestHTTP2HeadsAndTrailersWait: heads and trailers are written when there is
// room, as bodies are.
func TestHTTP2HeadsAndTrailersWait(t *testing.T) {
	large := strings.Repeat("x", 30<<10)
	for _, trailers := range []bool{false, true} {
		d := newDeaf(t, func(x *gateway.Exchange, w *Writer) {
			x.Resp.Status, x.Resp.Length = 200, 0
			h := &x.Resp.Header
			if trailers {
				x.Resp.Length, h = -1, &x.Resp.Trailer
			}
			h.Set("X-Large", large)
			w.Head()
		})
		const n = 60
		for i := range n {
			d.open(uint32(2*i+1), true, getRoot...)
		}
		waits := func() (streams int) {
			d.conn.mu.Lock()
			defer d.conn.mu.Unlock()
			for _, st := range d.conn.streams {
				if st.waiting {
					streams++
				}
			}
			return streams
		}
		eventually(t, "answers do not wait", func() bool { return waits() >= n/2 })
		if got := d.waiting(); got > h2MaxOut+len(large)+1<<10 {
			t.Errorf("trailers %v: %d bytes are kept", trailers, got)
		}
		for ended := 0; ended < n; {
			f, err := d.ReadFrame()
			if err != nil {
				t.Fatalf("trailers %v: %d answers of %d: %v", trailers, ended, n, err)
			}
			if h, ok := f.(*http2.MetaHeadersFrame); ok && h.StreamEnded() {
				ended++
			}
		}
	}
}
