package engine

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"gatehouse/lib/h1"
)

// clientBody is the body of a request on HTTP/1.1. It reads from what has come
// with the head first.
type clientBody struct {
	c       *client
	left    int64 // of a body with a length
	total   int64
	chunked bool
	chunks  h1.Chunks
	expect  bool // the client waits for 100 Continue
	done    bool // read to its end
	failed  error

	// A sender may read the body while the answer begins: whether the client
	// was told to send it, and whether it failed, is known under this lock.
	mu       sync.Mutex
	answered bool
}

func (b *clientBody) begin(c *client, h *h1.Head) {
	b.c, b.left, b.total, b.chunked, b.failed, b.answered = c, max(h.Length, 0), 0, h.Chunked, nil, false
	if b.done = !b.chunked && b.left == 0; b.done {
		b.expect = false
		return
	}
	b.expect = h.Expect
	c.stopped.Store(false)
	c.begun.Store(false)
	if b.chunked {
		b.chunks.Reset()
	}
}

func (b *clientBody) none() { b.done, b.failed, b.expect, b.answered = true, nil, false, false }

// invite tells a client that waits for it to send the body, unless the answer
// has begun: that waits as long as the client is sent 100, which would
// otherwise come in its midst. tick ends it.
func (b *clientBody) invite() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.expect || b.answered {
		return nil
	}
	b.expect = false
	if len(b.c.a.in.pending()) > 0 {
		return nil
	}
	return b.c.push(continue100)
}

// answer says that the answer begins, and whether the rest of the connection
// is in doubt: the client may send the body or not.
func (b *clientBody) answer() (doubt bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answered = true
	b.c.begun.Store(true)
	return b.expect || b.failed != nil
}

// Whole returns the body when all of it is there, and counts as reading it.
func (b *clientBody) Whole() ([]byte, bool) {
	in := &b.c.a.in
	if b.chunked || b.done || b.total > 0 || int64(len(in.pending())) < b.left {
		return nil, false
	}
	p := in.pending()[:b.left]
	in.skip(len(p))
	b.took(len(p))
	b.done, b.left = true, 0
	return p, true
}

// Read reads from the body, decoded.
func (b *clientBody) Read(p []byte) (int, error) {
	if b.failed != nil {
		return 0, b.failed
	}
	if b.done || len(p) == 0 {
		return 0, io.EOF
	}
	if b.total == 0 {
		if err := b.invite(); err != nil {
			return 0, b.fail(err)
		}
	}
	if b.chunked {
		return b.readChunked(p)
	}
	p = p[:min(int64(len(p)), b.left)]
	n := copy(p, b.c.a.in.pending())
	b.c.a.in.skip(n)
	if n == 0 {
		var err error
		if n, err = b.receive(p); n == 0 && err != nil {
			return 0, b.fail(err)
		}
	}
	b.took(n)
	if b.left -= int64(n); b.left == 0 {
		b.done = true
		return n, io.EOF
	}
	return n, nil
}

var continue100 = []byte("HTTP/1.1 100 Continue\r\n\r\n")

func (b *clientBody) readChunked(p []byte) (int, error) {
	in := &b.c.a.in
	for {
		nd, ns, err := b.chunks.Decode(p, in.pending())
		in.skip(ns)
		b.took(nd)
		if err != nil {
			return nd, b.fail(err)
		}
		if limit := b.c.srv.cfg.Limits.Body; limit > 0 && b.total > limit {
			return 0, b.fail(ErrTooLarge)
		}
		if b.chunks.Done() {
			b.done = true
			for _, f := range b.chunks.Trailer() {
				b.c.a.x.Req.Trailer.Add(f.Name, f.Value)
			}
			return nd, io.EOF
		}
		if nd > 0 {
			return nd, nil
		}
		n, err := b.receive(in.space())
		if n == 0 && err != nil {
			return 0, b.fail(err)
		}
		in.got(n)
	}
}

func (b *clientBody) took(n int) {
	b.total += int64(n)
	b.c.a.x.BytesIn += int64(n)
}

// receive waits for the client. tick ends a wait that is too long.
func (b *clientBody) receive(p []byte) (int, error) {
	b.c.reads.begin(b.c.srv)
	defer b.c.reads.end(b.c.srv)
	for {
		if b.c.stopped.Load() {
			return 0, os.ErrDeadlineExceeded
		}
		n, err := b.c.nc.Read(p)
		if n > 0 || err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || b.c.stopped.Load() {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return n, err
		}
		_ = b.c.nc.SetReadDeadline(time.Time{}) // a look of tick that came late
		if b.c.stopped.Load() {
			_ = b.c.nc.SetReadDeadline(time.Unix(1, 0))
		}
	}
}

func (b *clientBody) fail(err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failed = err
	if !errors.Is(err, ErrTooLarge) {
		b.failed = clientError(err)
	}
	return b.failed
}

// skip reads what is left of a body that nobody wanted, when that is short and
// there already: longer ones cost more than a new connection.
func (b *clientBody) skip() bool {
	if b.failed != nil || b.expect {
		return false
	}
	in := &b.c.a.in
	for !b.done {
		if len(in.pending()) == 0 {
			return false
		}
		if !b.chunked {
			n := min(int64(len(in.pending())), b.left)
			in.skip(int(n))
			b.left -= n
			b.done = b.left == 0
			continue
		}
		var sink [512]byte
		_, ns, err := b.chunks.Decode(sink[:], in.pending())
		in.skip(ns)
		if err != nil || ns == 0 && !b.chunks.Done() {
			return false
		}
		b.done = b.chunks.Done()
	}
	return true
}

// stop makes a blocked read of the body fail.
func (c *client) stop() {
	c.stopped.Store(true)
	_ = c.nc.SetReadDeadline(time.Unix(1, 0))
}
