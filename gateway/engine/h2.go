package engine

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2conn is an HTTP/2 connection of a client (RFC 9113). One goroutine reads
// frames; each stream is an exchange on a goroutine of its own, which writes
// its answer into a buffer all streams share. Frames and HPACK are
// golang.org/x/net/http2's, the rest is here: h2.go reads, h2_stream.go is the
// front of an exchange, h2_write.go the shared buffer, h2_head.go the head.
type h2conn struct {
	wire
	srv    *Server
	ctx    context.Context
	cancel context.CancelFunc
	in     *bufio.Reader
	frames *http2.Framer // reads from in, writes to out; writing is guarded by mu

	// Of the reader.
	dec   *hpack.Decoder
	block headBlock // of the header block that is being received
	last  uint32    // highest stream the client has opened

	heading atomic.Int64 // second since which a header block has not ended; 0: none is open
	count   int          // requests

	mu      sync.Mutex
	changed sync.Cond            // on mu: windows grew, the buffer was written, the connection ended
	streams map[uint32]*h2stream // guarded by mu; open, or half closed
	running int                  // guarded by mu; handlers, those of streams that were reset too
	out     h2buffer             // guarded by mu
	enc     *hpack.Encoder       // guarded by mu, writes to block of its own
	encoded bytes.Buffer         // guarded by mu
	window  int64                // guarded by mu; what we may send on the connection
	initial int64                // guarded by mu; window of a new stream
	maxSize int                  // guarded by mu; payload of a frame the client takes
	granted int64                // guarded by mu; what the client may still send on the connection
	unread  int64                // guarded by mu; taken from the connection's window, not yet given back
	resets  []uint32             // guarded by mu; streams we have reset lately: late frames on them mean nothing
	nresets int                  // guarded by mu; that were replaced
	calm    int                  // guarded by mu; frames in this second that cost us more than the client
	updates int                  // guarded by mu; WINDOW_UPDATE and other frames that cost little in this second
	idle    int64                // guarded by mu; second since which no stream is open
	sent    uint64               // guarded by mu; bytes of bodies
	writes  pace                 // guarded by mu; of what the socket takes
	grants  pace                 // guarded by mu; of the connection's window
	broken  error                // guarded by mu; why nothing is written any more
	ticked  bool                 // guarded by mu; a tick has passed since leaving
	leaving bool                 // guarded by mu; the client was told that the end is near
	off     bool                 // guarded by mu; no new streams
	told    uint32               // guarded by mu, when off; the last stream that is served
}

// Sizes and budgets of a connection.
const (
	h2StreamWindow = 256 << 10 // what a client may send on a stream before it is read
	h2ConnWindow   = 1 << 20
	h2MaxFrame     = 16 << 10
	h2MaxParts     = 64   // CONTINUATION frames of one header block
	h2MaxCalm      = 1000 // RST_STREAM, PING, SETTINGS, PRIORITY, empty DATA and errors in a second
	h2MaxUpdates   = 50_000
	h2MaxResets    = 2000 // streams that are remembered as reset
)

// serveHTTP2 serves a connection until it ends. prefix was read from it.
func (s *Server) serveHTTP2(w wire, prefix []byte) {
	c := &h2conn{
		wire: w, srv: s, streams: map[uint32]*h2stream{}, window: 65535, initial: 65535, maxSize: h2MaxFrame, granted: h2ConnWindow,
		in: bufio.NewReaderSize(io.MultiReader(bytes.NewReader(prefix), w.nc), 16<<10), idle: s.seconds.Load(),
	}
	if len(prefix) == 0 {
		c.in = bufio.NewReaderSize(w.nc, 16<<10)
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.changed.L = &c.mu
	c.enc = hpack.NewEncoder(&c.encoded)
	c.dec = hpack.NewDecoder(4096, c.block.emit)
	c.dec.SetMaxStringLength(s.cfg.Limits.Head)
	c.frames = http2.NewFramer(&c.out, c.in)
	c.frames.SetMaxReadFrameSize(h2MaxFrame)
	c.frames.SetReuseFrames()
	draining := !s.track(c)
	c.serve(draining)
	c.end()
	s.forget(c)
}

func (c *h2conn) serve(draining bool) {
	_ = c.nc.SetReadDeadline(time.Now().Add(c.srv.cfg.Limits.HeadTime))
	got := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c.in, got); err != nil || string(got) != http2.ClientPreface {
		return
	}
	c.mu.Lock()
	_ = c.frames.WriteSettings(
		http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: uint32(c.srv.cfg.Limits.Streams)},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: h2StreamWindow},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: uint32(c.srv.cfg.Limits.Head)},
	)
	_ = c.frames.WriteWindowUpdate(0, h2ConnWindow-65535)
	c.flushSoon()
	c.mu.Unlock()
	if draining {
		c.drain()
	}
	first := true
	for {
		f, err := c.frames.ReadFrame()
		if err == nil {
			if first {
				if s, ok := f.(*http2.SettingsFrame); !ok || s.IsAck() {
					c.goAway(http2.ErrCodeProtocol)
					return
				}
				first = false
				_ = c.nc.SetReadDeadline(time.Time{})
			}
			err = c.take(f)
		}
		if err != nil && !c.survives(err) {
			c.farewell()
			return
		}
		c.answered(c.in.Buffered() == 0)
	}
}

// survives handles an error of a stream or the connection.
func (c *h2conn) survives(err error) bool {
	var se http2.StreamError
	if errors.As(err, &se) {
		c.mu.Lock()
		c.calm++
		c.reset(se.StreamID, se.Code)
		tooMany := c.calm > h2MaxCalm
		c.mu.Unlock()
		if tooMany {
			c.goAway(http2.ErrCodeEnhanceYourCalm)
		}
		return !tooMany
	}
	var ce http2.ConnectionError
	switch {
	case errors.As(err, &ce):
		c.goAway(http2.ErrCode(ce))
	case errors.Is(err, http2.ErrFrameTooLarge):
		c.goAway(http2.ErrCodeFrameSize)
	}
	return false
}

// goAway says why the connection ends, and gives the client a moment to read
// it.
func (c *h2conn) goAway(code http2.ErrCode) {
	c.mu.Lock()
	c.turnOff(code)
	c.mu.Unlock()
	c.flushAll()
	c.srv.broken.Add(1)
	c.wire.farewell(lingerIdle, make([]byte, 4096))
}

// turnOff says which stream is the last. The caller holds mu.
func (c *h2conn) turnOff(code http2.ErrCode) {
	if !c.off { // it never grows (RFC 9113, section 6.8)
		c.off, c.told = true, c.last
	}
	_ = c.frames.WriteGoAway(c.told, code, nil)
}

// farewell closes in peace, when that was agreed and nothing is under way.
func (c *h2conn) farewell() {
	c.mu.Lock()
	peace := c.off && c.running == 0 && c.broken == nil
	c.mu.Unlock()
	if peace {
		c.flushAll()
		c.wire.farewell(lingerIdle, make([]byte, 4096))
	}
}

// end cancels what is under way and waits for it, and for who writes.
func (c *h2conn) end() {
	c.cancel()
	c.nc.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken == nil {
		c.broken = net.ErrClosed
	}
	for _, st := range c.streams {
		st.fail(ErrClient)
	}
	for c.running > 0 || c.out.writing {
		c.changed.Broadcast()
		c.changed.Wait()
	}
}

func connError(code http2.ErrCode) error { return http2.ConnectionError(code) }

func streamError(id uint32, code http2.ErrCode) error {
	return http2.StreamError{StreamID: id, Code: code}
}

// take handles one frame.
func (c *h2conn) take(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.HeadersFrame:
		return c.takeHeaders(f)
	case *http2.ContinuationFrame:
		return c.takeBlock(f.HeaderBlockFragment(), f.HeadersEnded())
	case *http2.DataFrame:
		return c.takeData(f)
	case *http2.RSTStreamFrame:
		return c.takeReset(f)
	case *http2.SettingsFrame:
		return c.takeSettings(f)
	case *http2.WindowUpdateFrame:
		return c.takeWindow(f)
	case *http2.PingFrame:
		return c.costs(func() {
			switch {
			case !f.IsAck():
				_ = c.frames.WritePing(true, f.Data)
			case f.Data == h2Leaving && c.leaving && !c.off:
				c.turnOff(http2.ErrCodeNo) // everything the client sent before it knew is here
			}
		})
	case *http2.PriorityFrame:
		if f.StreamDep == f.StreamID {
			return streamError(f.StreamID, http2.ErrCodeProtocol)
		}
		return c.costs(func() {})
	case *http2.PushPromiseFrame:
		return connError(http2.ErrCodeProtocol)
	}
	// GOAWAY of the client, and frames nobody knows: a browser sends one of
	// those with each request.
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cheap()
}

// cheap counts a frame that costs next to nothing. The caller holds mu.
func (c *h2conn) cheap() error {
	if c.updates++; c.updates > h2MaxUpdates {
		return connError(http2.ErrCodeEnhanceYourCalm)
	}
	return nil
}

// costs does what a frame asks for, within the budget of the second.
func (c *h2conn) costs(do func()) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calm++; c.calm > h2MaxCalm {
		return connError(http2.ErrCodeEnhanceYourCalm)
	}
	do()
	return nil
}

func (c *h2conn) takeHeaders(f *http2.HeadersFrame) error {
	id := f.StreamID
	if id%2 == 0 {
		return connError(http2.ErrCodeProtocol)
	}
	c.block.begin(id, f.StreamEnded(), &c.srv.cfg.Limits)
	c.block.selfish = f.HasPriority() && f.Priority.StreamDep == id
	c.dec.SetEmitEnabled(true)
	return c.takeBlock(f.HeaderBlockFragment(), f.HeadersEnded())
}

// takeBlock decodes a part of a header block. Every block is decoded, whatever
// becomes of its stream: the table must stay in step.
func (c *h2conn) takeBlock(part []byte, ended bool) error {
	b := &c.block
	b.parts++
	if b.bytes += len(part); b.bytes > c.srv.cfg.Limits.Head || b.parts > h2MaxParts {
		return connError(http2.ErrCodeEnhanceYourCalm)
	}
	if _, err := c.dec.Write(part); err != nil {
		return connError(http2.ErrCodeCompression)
	}
	if b.fail != 0 {
		c.dec.SetEmitEnabled(false) // what is over the limits is not even looked at
	}
	if !ended {
		c.heading.CompareAndSwap(0, c.srv.seconds.Load())
		return nil
	}
	if b.parts > 1 {
		c.heading.Store(0)
	}
	if err := c.dec.Close(); err != nil {
		return connError(http2.ErrCodeCompression)
	}
	return c.open()
}

// open begins a stream, or ends the body of one by trailers.
func (c *h2conn) open() error {
	b := &c.block
	c.mu.Lock()
	if st := c.streams[b.id]; st != nil {
		defer c.mu.Unlock()
		return st.takeTrailers(b)
	}
	if b.id <= c.last {
		late := c.late(b.id)
		c.mu.Unlock()
		if late {
			return nil
		}
		return connError(http2.ErrCodeStreamClosed)
	}
	c.last = b.id
	if c.off {
		c.mu.Unlock()
		return nil // the client knows from GOAWAY that nobody looks at it
	}
	c.counted()
	refused := c.running >= c.srv.cfg.Limits.Streams
	c.mu.Unlock()
	switch {
	case b.selfish:
		return streamError(b.id, http2.ErrCodeProtocol)
	case refused:
		return streamError(b.id, http2.ErrCodeRefusedStream)
	}
	st := h2streams.Get().(*h2stream)
	if !st.begin(c, b) {
		st.release()
		return streamError(b.id, http2.ErrCodeProtocol)
	}
	c.mu.Lock()
	st.window = c.initial
	c.streams[b.id] = st
	c.running++
	c.mu.Unlock()
	go st.serve(b.fail)
	return nil
}

// counted is told of each request. The last ones are those the client opens
// before it knows; a client that does not want to know gets no more than
// Limits.Streams of them. The caller holds mu.
func (c *h2conn) counted() {
	c.count++
	lim := &c.srv.cfg.Limits
	if lim.Requests <= 0 || c.count < lim.Requests {
		return
	}
	c.leave()
	if c.count-lim.Requests >= lim.Streams && !c.off {
		c.turnOff(http2.ErrCodeNo)
	}
}

// late says whether a frame on a closed stream may have been sent before the
// client knew that we have reset it. The caller holds mu.
func (c *h2conn) late(id uint32) bool {
	for _, r := range c.resets {
		if r == id {
			return true
		}
	}
	return false
}

func (c *h2conn) takeData(f *http2.DataFrame) error {
	id, size := f.StreamID, int64(f.Length)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.granted -= size; c.granted < 0 {
		return connError(http2.ErrCodeFlowControl)
	}
	st := c.streams[id]
	if st == nil {
		c.giveBack(size)
		switch {
		case id > c.last || id%2 == 0:
			return connError(http2.ErrCodeProtocol)
		case c.late(id), c.off && id > c.told:
			return nil
		}
		return streamError(id, http2.ErrCodeStreamClosed)
	}
	data := f.Data()
	if len(data) == 0 && !f.StreamEnded() {
		if c.calm++; c.calm > h2MaxCalm {
			return connError(http2.ErrCodeEnhanceYourCalm)
		}
	}
	return st.takeData(data, size, f.StreamEnded())
}

// giveBack returns n bytes of the connection's window to the client, in larger
// pieces. The caller holds mu.
func (c *h2conn) giveBack(n int64) {
	if c.unread += n; c.unread >= h2ConnWindow/4 {
		_ = c.frames.WriteWindowUpdate(0, uint32(c.unread))
		c.granted += c.unread
		c.unread = 0
	}
}

func (c *h2conn) takeReset(f *http2.RSTStreamFrame) error {
	if f.StreamID > c.last || f.StreamID%2 == 0 {
		return connError(http2.ErrCodeProtocol)
	}
	return c.costs(func() {
		if st := c.streams[f.StreamID]; st != nil {
			delete(c.streams, f.StreamID)
			st.fail(ErrClient)
			c.changed.Broadcast()
		}
	})
}

// reset ends a stream from our side. The caller holds mu.
func (c *h2conn) reset(id uint32, code http2.ErrCode) {
	_ = c.frames.WriteRSTStream(id, code)
	c.remember(id)
	if st := c.streams[id]; st != nil {
		delete(c.streams, id)
		st.fail(ErrClient)
		c.changed.Broadcast()
	}
}

// remember keeps the streams we have reset for late. A client opens a stream in
// place of one that was reset when it knows that: it has frames under way on no
// more of them than it may have open, and those that were refused before it
// knew how many these are. The caller holds mu.
func (c *h2conn) remember(id uint32) {
	if len(c.resets) < min(2*max(c.srv.cfg.Limits.Streams, 100), h2MaxResets) {
		c.resets = append(c.resets, id)
	} else {
		c.resets[c.nresets%len(c.resets)] = id
		c.nresets++
	}
}

func (c *h2conn) takeSettings(f *http2.SettingsFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.IsAck() {
		return c.cheap()
	}
	if c.calm++; c.calm > h2MaxCalm {
		return connError(http2.ErrCodeEnhanceYourCalm)
	}
	if err := f.ForeachSetting(c.set); err != nil {
		return err
	}
	c.changed.Broadcast()
	return c.frames.WriteSettingsAck()
}

// set follows one setting. The caller holds mu.
func (c *h2conn) set(s http2.Setting) error {
	if err := s.Valid(); err != nil {
		return err
	}
	switch s.ID {
	case http2.SettingHeaderTableSize:
		c.enc.SetMaxDynamicTableSize(min(s.Val, 4096))
	case http2.SettingMaxFrameSize:
		c.maxSize = min(int(s.Val), h2MaxFrame)
	case http2.SettingInitialWindowSize:
		delta := int64(s.Val) - c.initial
		c.initial = int64(s.Val)
		for _, st := range c.streams {
			if st.window += delta; st.window > 1<<31-1 {
				return connError(http2.ErrCodeFlowControl)
			}
		}
	}
	return nil
}

func (c *h2conn) takeWindow(f *http2.WindowUpdateFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.cheap(); err != nil {
		return err
	}
	if f.StreamID == 0 {
		if c.window += int64(f.Increment); c.window > 1<<31-1 {
			return connError(http2.ErrCodeFlowControl)
		}
	} else if st := c.streams[f.StreamID]; st != nil {
		if st.window += int64(f.Increment); st.window > 1<<31-1 {
			return streamError(f.StreamID, http2.ErrCodeFlowControl)
		}
		if !st.waiting {
			return nil
		}
	} else if f.StreamID > c.last || f.StreamID%2 == 0 {
		return connError(http2.ErrCodeProtocol)
	}
	c.changed.Broadcast()
	return nil
}

// tick enforces times, once a second.
func (c *h2conn) tick(now int64) {
	lim := &c.srv.cfg.Limits
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calm, c.updates = 0, 0
	c.tickWrite(now)
	for id, st := range c.streams {
		if !st.tick(now) {
			c.reset(id, http2.ErrCodeCancel)
			c.flushSoon() // the stream's own goroutine writes no more
		}
	}
	if c.running > 0 {
		c.idle = now
	} else if c.off || time.Duration(now-c.idle)*time.Second >= lim.Idle {
		if !c.off {
			c.leave()
			if c.ticked { // the client has had a second to answer the ping
				c.turnOff(http2.ErrCodeNo)
				c.flushSoon()
			}
			c.ticked = true
			return // the next tick closes: the client has read it by then
		}
		_ = c.nc.SetReadDeadline(time.Unix(1, 0))
	}
}

// drain tells the client to open no more streams; those it has end first.
func (c *h2conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leave()
}

// h2Leaving is the ping whose answer says that the client knows.
var h2Leaving = [8]byte{'l', 'e', 'a', 'v', 'i', 'n', 'g', '.'}

// leave tells the client to open no more streams. What it opens before it
// knows is served: turnOff comes a round trip later. The caller holds mu.
func (c *h2conn) leave() {
	if c.leaving || c.off {
		return
	}
	c.leaving = true
	_ = c.frames.WriteGoAway(1<<31-1, http2.ErrCodeNo, nil)
	_ = c.frames.WritePing(false, h2Leaving)
	c.flushSoon()
}

func (c *h2conn) idleSince() (int64, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.idle, c.running == 0 && !c.off
}

// quiet ends a connection without streams, after it was drained.
func (c *h2conn) quiet() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.off {
		c.turnOff(http2.ErrCodeNo)
		c.flushSoon()
		return
	}
	if c.running == 0 {
		_ = c.nc.SetReadDeadline(time.Unix(1, 0))
	}
}

func (c *h2conn) cut() {
	c.cancel()
	c.nc.Close()
}
