package engine

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"gatehouse/gateway"
)

// peer is a client that writes frames as it likes.
type peer struct {
	*http2.Framer
	t   *testing.T
	c   net.Conn
	buf bytes.Buffer
	enc *hpack.Encoder
}

func newPeer(t *testing.T, addr string) *peer {
	t.Helper()
	p := &peer{t: t, c: dial(t, addr)}
	p.enc = hpack.NewEncoder(&p.buf)
	p.Framer = http2.NewFramer(p.c, p.c)
	p.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_, _ = io.WriteString(p.c, http2.ClientPreface)
	_ = p.WriteSettings()
	return p
}

// block encodes fields: name, value, name, value.
func (p *peer) block(fields ...string) []byte {
	p.buf.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = p.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return p.buf.Bytes()
}

var getRoot = []string{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/"}

func (p *peer) open(id uint32, end bool, fields ...string) {
	_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.block(fields...), EndHeaders: true, EndStream: end})
}

// until reads frames until one pleases.
func (p *peer) until(what string, pleases func(http2.Frame) bool) http2.Frame {
	p.t.Helper()
	for {
		f, err := p.ReadFrame()
		if err != nil {
			p.t.Fatalf("waiting for %s: %v", what, err)
		}
		if pleases(f) {
			return f
		}
	}
}

// goneAway waits for the code the connection ends with; a connection that is
// reset while we still write counts as ended too.
func (p *peer) goneAway(want http2.ErrCode) {
	p.t.Helper()
	for {
		f, err := p.ReadFrame()
		if err != nil {
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				p.t.Fatalf("the connection is still there, want GOAWAY %v", want)
			}
			return
		}
		if g, ok := f.(*http2.GoAwayFrame); ok {
			if g.ErrCode != want {
				p.t.Fatalf("GOAWAY %v, want %v", g.ErrCode, want)
			}
			return
		}
	}
}

// flood sends until the connection ends with want.
func (p *peer) flood(want http2.ErrCode, send func(p *peer, i int) error) {
	p.t.Helper()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for i := range 100_000 {
			if send(p, i) != nil {
				return
			}
		}
	}()
	p.goneAway(want)
	p.c.Close()
	<-sent
}

func headersOf(id uint32) func(http2.Frame) bool {
	return func(f http2.Frame) bool {
		h, ok := f.(*http2.MetaHeadersFrame)
		return ok && h.StreamID == id
	}
}

func TestHTTP2Exchange(t *testing.T) {
	addr, _ := start(t, func(x *gateway.Exchange, w *Writer) {
		body := ""
		if x.Req.Body != nil {
			b, err := io.ReadAll(x.Req.Body)
			if err != nil {
				w.Refuse(400)
				return
			}
			body = string(b)
		}
		x.Resp.Status, x.Resp.Length = 200, -1
		x.Resp.Header.Set("X-Saw", fmt.Sprintf("%s %s %s %s %s [%s] %s", x.Req.Method, x.Req.Proto, x.Req.Host, x.Req.Target, x.Req.Header.Get("Cookie"), body, x.Req.Trailer.Get("X-Sum")))
		w.Head()
		_, _ = io.WriteString(w, "ok")
		x.Resp.Trailer.Add("X-End", "1")
	})
	p := newPeer(t, addr)
	p.open(1, false, ":method", "POST", ":scheme", "http", ":authority", "A.b:80", ":path", "/x?y", "cookie", "a=1", "cookie", "b=2")
	_ = p.WriteDataPadded(1, false, []byte("hello"), make([]byte, 9))
	p.open(1, true, "x-sum", "7")
	h := p.until("the answer", headersOf(1)).(*http2.MetaHeadersFrame)
	if got := h.PseudoValue("status"); got != "200" {
		t.Errorf("status %s", got)
	}
	saw := ""
	for _, f := range h.RegularFields() {
		if f.Name == "x-saw" {
			saw = f.Value
		}
	}
	if want := "POST HTTP/2.0 a.b /x?y a=1; b=2 [hello] 7"; saw != want {
		t.Errorf("%q, want %q", saw, want)
	}
	if d := p.until("the body", func(f http2.Frame) bool { _, ok := f.(*http2.DataFrame); return ok }).(*http2.DataFrame); string(d.Data()) != "ok" {
		t.Errorf("body %q", d.Data())
	}
	end := p.until("the trailers", headersOf(1)).(*http2.MetaHeadersFrame)
	if !end.StreamEnded() || len(end.Fields) != 1 || end.Fields[0].Name != "x-end" {
		t.Errorf("%+v", end.Fields)
	}
}

// TestHTTP2Malformed: a head that means two things, or nothing, resets its
// stream and reaches no handler.
func TestHTTP2Malformed(t *testing.T) {
	var handled atomic.Int32
	addr, _ := start(t, func(x *gateway.Exchange, w *Writer) { handled.Add(1); say(x, w, "ok") })
	for _, row := range [][]string{
		{":method", "GET", ":scheme", "http", ":path", "/", ":path", "/b"},
		{":method", "GET", ":scheme", "http", ":path", ""},
		{":method", "GET", ":scheme", "http"},
		{":method", "GET", ":path", "/"},
		{":scheme", "http", ":path", "/"},
		{":method", "GET", ":scheme", "http", ":path", "/", "x", "y", ":authority", "a"},
		{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a", "host", "b"},
		{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a", "host", "a", "host", "a"},
		{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a", ":status", "200"},
		{":method", "GET", ":scheme", "ftp", ":path", "/", ":authority", "a"},
		append(append([]string{}, getRoot...), "Upper", "x"),
		append(append([]string{}, getRoot...), "x y", "x"),
		append(append([]string{}, getRoot...), "", "x"),
		append(append([]string{}, getRoot...), "x", "a\r\nb: c"),
		append(append([]string{}, getRoot...), "x", "a\x00"),
		append(append([]string{}, getRoot...), "x", " a"),
		append(append([]string{}, getRoot...), "connection", "close"),
		append(append([]string{}, getRoot...), "transfer-encoding", "chunked"),
		append(append([]string{}, getRoot...), "upgrade", "h2c"),
		append(append([]string{}, getRoot...), "te", "chunked"),
		append(append([]string{}, getRoot...), "content-length", "5"),
		append(append([]string{}, getRoot...), "content-length", "0", "content-length", "0"),
		append(append([]string{}, getRoot...), "content-length", "+0"),
	} {
		p := newPeer(t, addr)
		p.open(1, true, row...)
		f := p.until("a reset", func(f http2.Frame) bool { return f.Header().StreamID == 1 })
		if r, ok := f.(*http2.RSTStreamFrame); !ok || r.ErrCode != http2.ErrCodeProtocol {
			t.Errorf("%q: %v", row, f)
		}
		p.c.Close()
	}
	if n := handled.Load(); n != 0 {
		t.Errorf("%d of them were handled", n)
	}
}

var getWait = []string{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/wait"}

// floods are what costs us more than the client, sent again and again. No
// handler of /wait needs to return.
var floods = []struct {
	name string
	want http2.ErrCode
	send func(p *peer, i int) error
}{
	{"rapid reset", http2.ErrCodeEnhanceYourCalm, func(p *peer, i int) error {
		id := uint32(2*i + 1)
		p.open(id, true, getWait...)
		return p.WriteRSTStream(id, http2.ErrCodeCancel)
	}},
	{"resets by us", http2.ErrCodeEnhanceYourCalm, func(p *peer, i int) error {
		id := uint32(2*i + 1)
		p.open(id, false, getRoot...)
		return p.WriteRawFrame(http2.FrameWindowUpdate, 0, id, []byte{0, 0, 0, 0})
	}},
	{"ping", http2.ErrCodeEnhanceYourCalm, func(p *peer, _ int) error { return p.WritePing(false, [8]byte{}) }},
	{"settings", http2.ErrCodeEnhanceYourCalm, func(p *peer, _ int) error { return p.WriteSettings() }},
	{"priority", http2.ErrCodeEnhanceYourCalm, func(p *peer, i int) error {
		return p.WritePriority(uint32(2*i+1), http2.PriorityParam{Weight: 1})
	}},
	{"empty data", http2.ErrCodeEnhanceYourCalm, func(p *peer, i int) error {
		if i == 0 {
			p.open(1, false, ":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/wait")
		}
		return p.WriteData(1, false, nil)
	}},
	{"continuation", http2.ErrCodeEnhanceYourCalm, func(p *peer, i int) error {
		if i == 0 {
			return p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(getRoot...), EndStream: true})
		}
		return p.WriteContinuation(1, false, p.block("x", "y"))
	}},
	{"empty continuation", http2.ErrCodeEnhanceYourCalm, func(p *peer, i int) error {
		if i == 0 {
			return p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(getRoot...), EndStream: true})
		}
		return p.WriteContinuation(1, false, nil)
	}},
	{"window overflow", http2.ErrCodeFlowControl, func(p *peer, _ int) error { return p.WriteWindowUpdate(0, 1<<31-1) }},
}

// TestHTTP2Floods: what costs us more than the client ends the connection.
func TestHTTP2Floods(t *testing.T) {
	block := make(chan struct{})
	var running, most atomic.Int32
	addr, _ := start(t, func(x *gateway.Exchange, w *Writer) {
		if n := running.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer running.Add(-1)
		if x.Req.Path == "/wait" {
			<-block
		}
		say(x, w, "ok")
	}, func(c *ServerConfig) { c.Limits.Streams = 20 })
	for _, row := range floods {
		t.Run(row.name, func(t *testing.T) {
			newPeer(t, addr).flood(row.want, row.send)
		})
	}
	close(block)
	if n := most.Load(); n > 20*9 {
		t.Errorf("%d handlers ran at once", n)
	}
}

// TestHTTP2HeaderBomb: a block that unpacks to much more than it is, by one
// long entry of the table named again and again, is answered 431 and costs no
// memory.
func TestHTTP2HeaderBomb(t *testing.T) {
	addr, _ := start(t, echo)
	p := newPeer(t, addr)
	b := append([]byte{}, p.block(append(append([]string{}, getRoot...), "x-bomb", strings.Repeat("a", 4000))...)...)
	for range 8000 {
		b = append(b, 0x80|62) // the newest entry of the dynamic table
	}
	_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b, EndHeaders: true, EndStream: true})
	h := p.until("the answer", headersOf(1)).(*http2.MetaHeadersFrame)
	if got := h.PseudoValue("status"); got != "431" {
		t.Errorf("status %s", got)
	}
	p.open(3, true, getRoot...) // the table is in step still
	if got := p.until("the next answer", headersOf(3)).(*http2.MetaHeadersFrame).PseudoValue("status"); got != "200" {
		t.Errorf("status %s", got)
	}
}

// TestHTTP2Backpressure: a client that opens no window gets no more than it
// asked for, and is given up.
func TestHTTP2Backpressure(t *testing.T) {
	big := strings.Repeat("x", 1<<20)
	addr, _ := start(t, func(x *gateway.Exchange, w *Writer) { say(x, w, big) }, func(c *ServerConfig) { c.Limits.SendTime = time.Second })
	p := newPeer(t, addr)
	p.open(1, true, getRoot...)
	got := 0
	f := p.until("the end of the stream", func(f http2.Frame) bool {
		if d, ok := f.(*http2.DataFrame); ok {
			got += len(d.Data())
		}
		_, ok := f.(*http2.RSTStreamFrame)
		return ok
	})
	if got != 65535 || f.(*http2.RSTStreamFrame).ErrCode != http2.ErrCodeCancel {
		t.Errorf("%d bytes before %v", got, f)
	}
}

// TestHTTP2Requests: after so many requests the client is told to go on
// elsewhere. What it opens before it answers is served, within bounds, and the
// connection ends.
func TestHTTP2Requests(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		heeds  bool // the client answers the ping
		served int
	}{{"heeds", true, 3}, {"does not", false, 3 + 5}} {
		var handled atomic.Int32
		addr, s := start(t, func(x *gateway.Exchange, w *Writer) { handled.Add(1); say(x, w, "ok") }, func(c *ServerConfig) {
			c.Limits.Requests, c.Limits.Streams = 3, 5
		})
		p := newPeer(t, addr)
		var notices []uint32
		ask := func(id uint32) {
			p.open(id, true, getRoot...)
			p.until("an answer", func(f http2.Frame) bool {
				switch f := f.(type) {
				case *http2.GoAwayFrame:
					notices = append(notices, f.LastStreamID)
				case *http2.PingFrame:
					if row.heeds && !f.IsAck() {
						_ = p.WritePing(true, f.Data)
					}
				case *http2.DataFrame:
					return f.StreamEnded() && f.StreamID == id
				}
				return false
			})
		}
		last := uint32(1)
		for range row.served {
			ask(last)
			last += 2
		}
		p.open(last, true, getRoot...) // nobody looks at it
		for {
			f, err := p.ReadFrame()
			if err != nil {
				break
			}
			switch f := f.(type) {
			case *http2.GoAwayFrame:
				notices = append(notices, f.LastStreamID)
				if row.heeds {
					continue
				}
			case *http2.PingFrame:
				if row.heeds && !f.IsAck() {
					_ = p.WritePing(true, f.Data)
				}
			}
			if f.Header().StreamID == last && !row.heeds {
				t.Errorf("%s: %v", row.name, f)
			}
		}
		if len(notices) != 2 || notices[0] != 1<<31-1 {
			t.Errorf("%s: GOAWAY %v", row.name, notices)
		}
		if n := int(handled.Load()); n < row.served || n > row.served+1 || !row.heeds && n != row.served {
			t.Errorf("%s: %d requests were served, want %d", row.name, n, row.served)
		}
		eventually(t, "the connection stays", func() bool { return s.Connections() == 0 })
	}
}

// TestHTTP2LateTrailers: what a client has sent before it knew that its streams
// were reset costs it neither the connection nor its other streams, for as many
// as it may have open.
func TestHTTP2LateTrailers(t *testing.T) {
	addr, _ := start(t, func(x *gateway.Exchange, w *Writer) { say(x, w, "early") })
	p := newPeer(t, addr)
	const n = 100
	for i := range n {
		p.open(uint32(2*i+1), false, ":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/")
	}
	resets := 0
	p.until("the resets", func(f http2.Frame) bool {
		if isReset(f) {
			resets++
		}
		return resets == n
	})
	for i := range n {
		p.open(uint32(2*i+1), true, "x-sum", "7")
	}
	p.open(2*n+1, true, getRoot...)
	f := p.until("an answer", func(f http2.Frame) bool {
		_, away := f.(*http2.GoAwayFrame)
		return away || headersOf(2*n+1)(f)
	})
	if _, ok := f.(*http2.GoAwayFrame); ok {
		t.Error(f)
	}
}

// TestHTTP2CheapFrames: what costs next to nothing has a budget too.
func TestHTTP2CheapFrames(t *testing.T) {
	ack := &http2.SettingsFrame{FrameHeader: http2.FrameHeader{Type: http2.FrameSettings, Flags: http2.FlagSettingsAck}}
	for name, f := range map[string]http2.Frame{"unknown": &http2.UnknownFrame{}, "settings ack": ack, "goaway": &http2.GoAwayFrame{}} {
		c := &h2conn{}
		n := 0
		for n <= h2MaxUpdates && c.take(f) == nil {
			n++
		}
		if n != h2MaxUpdates {
			t.Errorf("%s: %d in a second, want %d", name, n, h2MaxUpdates)
		}
	}
}

// TestHTTP2HeadTime: a header block that does not end holds no connection,
// whatever else runs on it.
func TestHTTP2HeadTime(t *testing.T) {
	hold := make(chan struct{})
	defer close(hold)
	addr, _ := start(t, func(x *gateway.Exchange, w *Writer) { <-hold; say(x, w, "ok") },
		func(c *ServerConfig) { c.Limits.HeadTime = time.Second })
	p := newPeer(t, addr)
	p.open(1, true, getRoot...)
	_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: p.block(getRoot...)[:1]})
	for {
		_, err := p.ReadFrame()
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Fatal("the connection is still there")
		}
		if err != nil {
			return
		}
	}
}
