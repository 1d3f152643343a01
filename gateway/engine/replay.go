package engine

import (
	"errors"
	"io"
	"sync"
	"time"
)

// maxReplay is how much of a request's body is kept for when an HTTP/2
// upstream says that it has not looked at a stream (GOAWAY, REFUSED_STREAM;
// RFC 9113, section 8.7): such a call may be made again.
const maxReplay = 64 << 10

// replay is the client's body as net/http reads it: from its start again while
// no more than maxReplay was read. One reader at a time reads the client, and
// what it gets is everybody's.
type replay struct {
	call  *Call
	timer *time.Timer // of the wait for the answer; it begins when the body has ended

	mu       sync.Mutex
	free     sync.Cond // on mu: a read or a reader has ended
	kept     []byte    // guarded by mu
	over     bool      // guarded by mu; more was read than is kept
	err      error     // guarded by mu; how the body ended
	reading  bool      // guarded by mu; somebody reads the client
	open     int       // guarded by mu; readers that were not closed
	answered bool      // guarded by mu; the timer is the answer's
	ended    bool      // guarded by mu; nobody may read
	cut      bool      // guarded by mu; end broke a read off
}

func (r *replay) start(c *Call, timer *time.Timer) {
	r.call, r.timer = c, timer
	r.free.L = &r.mu
}

var (
	errSpent  = errors.New("the request body is too long to be sent again")
	errClosed = errors.New("the request body is not read any more")
)

// reader reads the body from its start.
func (r *replay) reader() (io.ReadCloser, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return nil, errSpent
	}
	r.open++
	return &replayReader{r: r}, nil
}

// answer says that the head of the answer has come.
func (r *replay) answer() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answered = true
	r.timer.Stop()
}

// failed is why the client's body could not be read; nil: it could.
func (r *replay) failed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == io.EOF {
		return nil
	}
	return r.err
}

// end lets nobody read the client any more and waits for who does; stop makes
// a read that waits for the client fail.
func (r *replay) end(stop func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	r.free.Broadcast()
	if r.reading {
		r.cut = true
		r.mu.Unlock()
		stop()
		r.mu.Lock()
	}
	for r.reading {
		r.free.Wait()
	}
}

// again is the client's body from its start, for another node; after end.
// false: there is no such thing, since too much was read, or since end had to
// break a read off.
func (r *replay) again() (io.Reader, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.kept) == 0 && !r.over && !r.cut {
		return r.call.Body, true
	}
	return &unsent{head: r.kept, rest: r.call.Body}, !r.over && !r.cut
}

// unsent is a body that was read for a call that did not come about.
type unsent struct {
	head []byte
	rest io.Reader // nil: nothing
}

// Whole returns the body when all of it was read, and counts as reading it.
func (u *unsent) Whole() ([]byte, bool) {
	if u.rest != nil || len(u.head) == 0 {
		return nil, false
	}
	p := u.head
	u.head = nil
	return p, true
}

func (u *unsent) Read(p []byte) (int, error) {
	if n := copy(p, u.head); n > 0 || len(p) == 0 {
		u.head = u.head[n:]
		return n, nil
	}
	if u.rest == nil {
		return 0, io.EOF
	}
	return u.rest.Read(p)
}

type replayReader struct {
	r      *replay
	at     int  // guarded by r.mu
	closed bool // guarded by r.mu
}

func (b *replayReader) Read(p []byte) (n int, err error) {
	r := b.r
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		switch {
		case b.closed || r.ended:
			return 0, errClosed
		case b.at < len(r.kept):
			n = copy(p, r.kept[b.at:])
			b.at += n
			return n, nil
		case r.err != nil:
			return 0, r.err
		case r.reading:
			r.free.Wait()
			continue
		}
		r.reading = true
		if !r.answered { // how long a client may take is bounded by the server
			r.timer.Stop()
		}
		r.mu.Unlock()
		n, err = r.call.Body.Read(p)
		r.mu.Lock()
		r.reading = false
		if !r.over {
			r.kept = append(r.kept, p[:n]...)
			b.at += n
			if len(r.kept) > maxReplay && r.open == 1 && !b.closed {
				r.over, r.kept, b.at = true, nil, 0
			}
		}
		if err != nil {
			r.err = err
		}
		if !r.answered {
			r.timer.Reset(r.call.Timeout.Read)
		}
		r.free.Broadcast()
		return n, err
	}
}

// Close may be called while Read waits for the client.
func (b *replayReader) Close() error {
	r := b.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if !b.closed {
		b.closed = true
		r.open--
		r.free.Broadcast()
	}
	return nil
}
