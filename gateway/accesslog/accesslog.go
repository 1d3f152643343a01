// Package accesslog writes one line per request.
//
// A format is compiled once (Compile) into functions that append a variable
// each. Log builds a line in memory of its own and copies it to the batch;
// one goroutine writes batches. A request never waits for a disk: when lines
// come faster than they can be written, they are dropped and counted.
//
// Everything in a line comes from outside. No value can end the line, close
// its quotes or carry control characters; see escape.go. Credentials and the
// parameters named as secret are written as [redacted]; see secret.go.
//
// It does not rotate files: move the file and call Reopen.
package accesslog

import (
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse/gateway"
)

// Config is what a Log needs.
type Config struct {
	Format *Format
	// Open opens what is written to; it is called again by Reopen.
	Open func() (io.WriteCloser, error)
	Log  *slog.Logger // told when writing fails, once in a while
	// FlushEvery is how long a line may wait; 0: one second.
	FlushEvery time.Duration
}

// Bounds of what waits to be written.
const (
	batchSize  = 64 << 10 // a batch of this size is written at once
	maxWaiting = 16 << 20 // bytes; lines beyond are dropped
	maxSpare   = 4        // batches kept for reuse
	closeTime  = 5 * time.Second
	complain   = time.Minute // between two messages about lost lines
)

// batch is whole lines.
type batch struct {
	b     []byte
	lines int64
}

// Log is a running access log.
type Log struct {
	cfg   Config
	lines sync.Pool // of *[]byte: a line while it is built

	mu      sync.Mutex
	now     batch    // guarded by mu; takes lines
	waiting []batch  // guarded by mu; full, the oldest first
	bytes   int      // guarded by mu; in waiting, or being written
	spare   [][]byte // guarded by mu
	closed  bool     // guarded by mu

	wake    chan struct{} // a batch was begun
	full    atomic.Bool   // and the one before is full
	reopen  chan chan error
	stop    chan struct{}
	done    chan struct{}
	dropped atomic.Int64

	// Of the writing goroutine.
	to    io.WriteCloser
	torn  bool      // the last write ended within a line
	since time.Time // when the last failure was told
}

var _ gateway.Logger = (*Log)(nil)

// New opens the log and starts its goroutine; Close ends it.
func New(cfg Config) (*Log, error) {
	if cfg.FlushEvery <= 0 {
		cfg.FlushEvery = time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	to, err := cfg.Open()
	if err != nil {
		return nil, err
	}
	l := &Log{cfg: cfg, to: to, wake: make(chan struct{}, 1), reopen: make(chan chan error), stop: make(chan struct{}), done: make(chan struct{})}
	l.lines.New = func() any { b := make([]byte, 0, 1<<10); return &b }
	go l.run()
	return l, nil
}

// Log adds the line of an exchange that has ended.
func (l *Log) Log(x *gateway.Exchange) {
	line := l.lines.Get().(*[]byte)
	*line = l.cfg.Format.Append((*line)[:0], x)
	l.put(*line)
	if cap(*line) <= 16<<10 {
		l.lines.Put(line)
	}
}

// put copies a line to the batch.
func (l *Log) put(line []byte) {
	l.mu.Lock()
	if full := len(l.now.b) > 0 && len(l.now.b)+len(line) > batchSize; l.closed || full && l.bytes+len(l.now.b) > maxWaiting {
		l.mu.Unlock()
		l.dropped.Add(1)
		return
	} else if full {
		l.queue()
		l.full.Store(true)
	}
	first := len(l.now.b) == 0
	l.now.b = append(l.now.b, line...)
	l.now.lines++
	l.mu.Unlock()
	if first {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// queue ends the batch that takes lines, and begins one. The caller holds mu.
func (l *Log) queue() {
	l.waiting = append(l.waiting, l.now)
	l.bytes += len(l.now.b)
	l.now = batch{b: l.fresh()}
}

// fresh is an empty batch. The caller holds mu.
func (l *Log) fresh() []byte {
	if n := len(l.spare); n > 0 {
		b := l.spare[n-1]
		l.spare = l.spare[:n-1]
		return b
	}
	return make([]byte, 0, batchSize)
}

// Dropped is the number of lines that were not written.
func (l *Log) Dropped() int64 { return l.dropped.Load() }

// Reopen writes what waits to where it was meant to go, and what comes later
// to what Open opens now. When that fails the old one is kept.
func (l *Log) Reopen() error {
	answer := make(chan error, 1)
	select {
	case l.reopen <- answer:
		return <-answer
	case <-l.done:
		return errClosed
	}
}

var errClosed = errors.New("the access log is closed")

// Close writes what waits and ends the log. What cannot be written within
// closeTime is given up.
func (l *Log) Close() error {
	l.mu.Lock()
	closed := l.closed
	l.closed = true
	l.mu.Unlock()
	if !closed {
		close(l.stop)
	}
	select {
	case <-l.done:
		return nil
	case <-time.After(closeTime):
		return errors.New("the access log could not be written to its end")
	}
}

// run writes until Close.
func (l *Log) run() {
	defer close(l.done)
	timer := time.NewTimer(l.cfg.FlushEvery)
	timer.Stop()
	armed := false
	for {
		select {
		case <-l.wake:
			if l.full.Swap(false) {
				l.write(l.take(false))
			}
			if !armed {
				armed = true
				timer.Reset(l.cfg.FlushEvery)
			}
		case <-timer.C:
			armed = false
			l.write(l.take(true))
		case answer := <-l.reopen:
			l.write(l.take(true))
			to, err := l.cfg.Open()
			if err == nil {
				l.to.Close()
				l.to, l.torn = to, false
			}
			answer <- err
		case <-l.stop:
			timer.Stop()
			l.write(l.take(true))
			l.to.Close()
			return
		}
	}
}

// take takes the full batches, and with all the one that takes lines.
func (l *Log) take(all bool) []batch {
	l.mu.Lock()
	defer l.mu.Unlock()
	if all && len(l.now.b) > 0 {
		l.queue()
	}
	list := l.waiting
	l.waiting = nil
	return list
}

// write writes batches, each in one call.
func (l *Log) write(list []batch) {
	for _, b := range list {
		if l.torn { // the next line begins a line
			_, err := l.to.Write([]byte{'\n'})
			l.torn = err != nil
		}
		if n, err := l.to.Write(b.b); err != nil {
			l.failed(b.b[:n], b.lines, err)
		}
		l.mu.Lock()
		l.bytes -= len(b.b)
		if len(l.spare) < maxSpare && cap(b.b) <= 2*batchSize {
			l.spare = append(l.spare, b.b[:0])
		}
		l.mu.Unlock()
	}
}

// failed counts what a write left out.
func (l *Log) failed(written []byte, lines int64, err error) {
	for _, c := range written {
		if c == '\n' {
			lines--
		}
	}
	if n := len(written); n > 0 {
		l.torn = written[n-1] != '\n'
	}
	l.dropped.Add(max(0, lines))
	if now := time.Now(); now.Sub(l.since) >= complain {
		l.since = now
		l.cfg.Log.Error("access log lines are lost", "dropped", l.dropped.Load(), "err", err)
	}
}
