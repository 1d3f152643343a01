package engine

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// tunnel is the client's side of an upgraded connection. What is written to it
// comes from the node, what is read from it goes there.
//
// It passes bytes on and only notes where WebSocket frames begin, so that a
// server that stops can end the conversation as RFC 6455, section 5.5.1, has
// it: a Close frame to both sides between two frames of theirs, and nothing
// after it.
type tunnel struct {
	c       *client
	early   []byte // came before the upgrade was answered
	last    atomic.Int64
	expired atomic.Bool  // tick has ended it
	code    atomic.Int32 // of the Close frames; 0: not draining

	mu       sync.Mutex    // held while writing
	down     frames        // guarded by mu; to the client
	saidDown bool          // guarded by mu; our Close frame has gone to the client
	ended    bool          // guarded by mu; nothing more comes from the node
	answered chan struct{} // closed when the node has closed

	// Of the reader.
	up     frames // to the node
	saidUp bool   // our Close frame goes to the node
	say    []byte // of it, what is still to go
}

// Status codes of Close frames (RFC 6455, section 7.4.1, and its registry).
const (
	closeGoingAway = 1001
	closeRestart   = 1012
)

func newTunnel(c *client, protocol string, early []byte) *tunnel {
	t := &tunnel{c: c, early: early, answered: make(chan struct{})}
	other := !strings.EqualFold(protocol, "websocket")
	t.up.lost, t.down.lost = other, other
	t.last.Store(c.srv.seconds.Load())
	return t
}

// drain ends the conversation at the next bounds of frames. Stop's context
// ends it if the peers do not.
func (t *tunnel) drain() {
	code := int32(closeGoingAway)
	if t.c.srv.restart.Load() {
		code = closeRestart
	}
	if t.code.Swap(code) != 0 {
		return
	}
	_ = t.c.nc.SetReadDeadline(time.Unix(1, 0)) // wakes Read
	go func() {                                 // a write under way may take its time
		t.mu.Lock()
		defer t.mu.Unlock()
		_ = t.sayDown()
	}()
}

// sayDown sends the client our Close frame, once, if no frame of the node's is
// under way. The caller holds mu.
func (t *tunnel) sayDown() error {
	if t.saidDown || t.ended || t.down.closed || !t.down.between() {
		return nil
	}
	t.saidDown = true
	_, err := t.c.nc.Write(binary.BigEndian.AppendUint16([]byte{0x88, 2}, uint16(t.code.Load())))
	return err
}

// Write sends to the client. After our Close frame nothing else may follow:
// it is thrown away.
func (t *tunnel) Write(p []byte) (n int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer func() {
		t.last.Store(t.c.srv.seconds.Load())
		if t.down.closed && !t.ended {
			t.ended = true
			close(t.answered)
		}
	}()
	if t.code.Load() == 0 {
		t.down.pass(p)
		return t.c.nc.Write(p)
	}
	if err := t.sayDown(); err != nil {
		return 0, err
	}
	for n < len(p) {
		said, own := t.saidDown, t.down.closed
		k := t.down.frame(p[n:])
		if !said && !own {
			if k, err = t.c.nc.Write(p[n : n+k]); err != nil {
				return n + k, err
			}
			if err = t.sayDown(); err != nil {
				return n + k, err
			}
		}
		n += k
	}
	return n, nil
}

// Read returns what the client says, and our own Close frame for the node when
// it is time.
func (t *tunnel) Read(p []byte) (int, error) {
	for {
		draining := t.code.Load() != 0
		if draining && !t.saidUp && !t.up.closed && t.up.between() {
			t.saidUp = true
			t.say = maskedClose()
		}
		if n := copy(p, t.say); n > 0 {
			t.say = t.say[n:]
			return n, nil
		}
		n, err := t.receive(p)
		if n == 0 {
			if errors.Is(err, os.ErrDeadlineExceeded) && t.goOn() {
				continue
			}
			return 0, err
		}
		t.last.Store(t.c.srv.seconds.Load())
		switch {
		case t.saidUp: // all that counts is the answer to our Close frame
			if t.up.pass(p[:n]); t.up.closed {
				return 0, t.part()
			}
		case draining && !t.up.closed:
			k := t.up.frame(p[:n])
			t.early = append(append([]byte(nil), p[k:n]...), t.early...)
			return k, nil
		default:
			t.up.pass(p[:n])
			return n, nil
		}
	}
}

func (t *tunnel) receive(p []byte) (int, error) {
	if len(t.early) > 0 {
		n := copy(p, t.early)
		t.early = t.early[n:]
		return n, nil
	}
	return t.c.nc.Read(p)
}

// maskedClose is a Close frame as a client sends it.
func maskedClose() []byte {
	b := []byte{0x88, 0x82, 0, 0, 0, 0, closeGoingAway >> 8, closeGoingAway & 0xff}
	_, _ = rand.Read(b[2:6])
	b[6] ^= b[2]
	b[7] ^= b[3]
	return b
}

// part waits a moment for the node, when the client has answered.
func (t *tunnel) part() error {
	late := time.NewTimer(lingerIdle)
	defer late.Stop()
	select {
	case <-t.answered:
	case <-late.C:
	}
	return io.EOF
}

// goOn clears a deadline that has only woken the reader: drain sets one, and
// the server's look at the request that became the tunnel may come late.
func (t *tunnel) goOn() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.expired.Load() || t.ended && t.saidDown {
		return false
	}
	return t.c.nc.SetReadDeadline(time.Time{}) == nil
}

// Close ends the connection; the server forgets it when its goroutine ends. A
// client that was sent our Close frame gets a moment to answer it.
func (t *tunnel) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ended {
		t.ended = true
		close(t.answered)
	}
	if !t.saidDown {
		return t.c.nc.Close()
	}
	return errors.Join(t.CloseWrite(), t.c.nc.SetReadDeadline(time.Now().Add(lingerIdle)))
}

// CloseWrite tells the client that nothing more comes.
func (t *tunnel) CloseWrite() error {
	if w, ok := t.c.nc.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return t.c.nc.Close()
}

// tick closes a tunnel without traffic. A write that waits for its client for
// too long counts as none.
func (t *tunnel) tick(now int64) {
	if time.Duration(now-t.last.Load())*time.Second >= t.c.srv.cfg.Limits.TunnelIdle {
		t.expired.Store(true)
		_ = t.c.nc.SetDeadline(time.Unix(1, 0))
	}
}

// frames follows where the WebSocket frames of one direction begin, by their
// heads alone (RFC 6455, section 5.2).
type frames struct {
	head   [14]byte
	have   int    // of head
	left   uint64 // of the payload
	close  bool   // this frame is a Close frame
	closed bool   // a Close frame has passed
	lost   bool   // these are no frames
}

// between says whether the next byte begins a frame.
func (f *frames) between() bool { return f.have == 0 && f.left == 0 && !f.lost }

func (f *frames) pass(p []byte) {
	for len(p) > 0 {
		p = p[f.frame(p):]
	}
}

// frame returns how much of p belongs to the frame that has begun or begins.
func (f *frames) frame(p []byte) (n int) {
	if f.lost {
		return len(p)
	}
	for f.left == 0 {
		if n == len(p) {
			return n
		}
		f.head[f.have] = p[n]
		f.have++
		n++
		if f.have < 2 || f.have < f.size() {
			continue
		}
		f.close = f.head[0]&0x0f == 8
		f.have = 0
		switch l := f.head[1] & 0x7f; l {
		case 126:
			f.left = uint64(binary.BigEndian.Uint16(f.head[2:]))
		case 127:
			f.left = binary.BigEndian.Uint64(f.head[2:])
			f.lost = f.left>>63 != 0
		default:
			f.left = uint64(l)
		}
		if f.lost {
			return len(p)
		}
		if f.left == 0 {
			f.closed = f.closed || f.close
			return n
		}
	}
	k := int(min(f.left, uint64(len(p)-n)))
	if f.left -= uint64(k); f.left == 0 {
		f.closed = f.closed || f.close
	}
	return n + k
}

// size is that of the head, once two bytes are there.
func (f *frames) size() int {
	n := 2
	switch f.head[1] & 0x7f {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	if f.head[1]&0x80 != 0 {
		n += 4
	}
	return n
}
