package listen

import (
	"container/list"
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Bounds of connections that are being made ready, per listener. Beyond
// maxPending the one that has taken longest is closed: many silent clients
// delay nobody, and what is slow or hostile is what goes.
const (
	pendingTime = 10 * time.Second
	maxPending  = 2048
)

// gate is a listener whose connections have something to do before they are
// served. Each does it on a goroutine of its own.
type gate struct {
	net.Listener
	// prepare makes a connection ready or fails, before ctx ends. When it fails
	// the connection is closed.
	prepare func(ctx context.Context, c net.Conn) (net.Conn, error)
	log     *slog.Logger
	what    string // log message of a failure
	ready   chan net.Conn
	failed  chan failure
	ended   chan struct{} // closed when accepting and every preparation ended, after err is set
	err     error
	wg      sync.WaitGroup  // of the preparations
	ctx     context.Context // of the preparations; ends with Cut
	cancel  context.CancelFunc
	closing chan struct{} // closed when no more is to be accepted
	close   func()        // closes closing
	most    int           // pending connections

	mu      sync.Mutex
	pending list.List     // guarded by mu; of net.Conn, the oldest first
	again   chan struct{} // guarded by mu; of the failure that Accept has returned; nil: none
}

// failure is an error of accepting. What it means is up to the caller of
// Accept, who is the one that can make room: accepting goes on when he asks
// again.
type failure struct {
	err   error
	again chan struct{} // closed then
}

func newGate(l net.Listener, log *slog.Logger, what string, prepare func(context.Context, net.Conn) (net.Conn, error)) *gate {
	g := &gate{Listener: l, prepare: prepare, log: log, what: what, ready: make(chan net.Conn), failed: make(chan failure), ended: make(chan struct{}), closing: make(chan struct{}), most: maxPending}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.close = sync.OnceFunc(func() { close(g.closing) })
	return g
}

// open starts accepting.
func (g *gate) open() *gate {
	go g.accept()
	return g
}

func (g *gate) accept() {
	defer close(g.ended)
	defer g.wg.Wait()
	defer g.Listener.Close() // nobody may queue for what is not accepted
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || !g.report(err) {
				g.err = err
				return
			}
			continue
		}
		at := g.enter(c)
		g.wg.Go(func() { g.admit(c, at) })
	}
}

// report hands an error to Accept and waits for the next call of it; false: no
// more is to be accepted.
func (g *gate) report(err error) bool {
	f := failure{err, make(chan struct{})}
	select {
	case <-g.closing: // an error after that is the end, whoever else waits for it
		return false
	default:
	}
	select {
	case g.failed <- f:
	case <-g.closing:
		return false
	}
	select {
	case <-f.again:
		return true
	case <-g.closing:
		return false
	}
}

// enter counts a connection as pending, in the place of the oldest when there
// are too many.
func (g *gate) enter(c net.Conn) *list.Element {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pending.Len() >= g.most {
		oldest := g.pending.Front()
		g.pending.Remove(oldest)
		_ = oldest.Value.(net.Conn).Close()
	}
	return g.pending.PushBack(c)
}

func (g *gate) leave(at *list.Element) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pending.Remove(at) // nothing when enter has removed it
}

func (g *gate) admit(c net.Conn, at *list.Element) {
	ctx, cancel := context.WithTimeout(g.ctx, pendingTime)
	defer cancel()
	done, err := g.prepare(ctx, c)
	g.leave(at)
	if err != nil {
		g.log.Debug(g.what, "peer", c.RemoteAddr().String(), "err", err)
		c.Close()
		return
	}
	select {
	case g.ready <- done:
	case <-ctx.Done(): // nobody accepts any more
		done.Close()
	}
}

// Accept returns what is ready. An error of the listener below ends nothing:
// see failure. After Close, errors are final.
func (g *gate) Accept() (net.Conn, error) {
	g.mu.Lock()
	if g.again != nil {
		close(g.again)
		g.again = nil
	}
	g.mu.Unlock()
	select {
	case c := <-g.ready:
		return c, nil
	case f := <-g.failed:
		g.mu.Lock()
		g.again = f.again
		g.mu.Unlock()
		return nil, f.err
	case <-g.ended:
		return nil, g.err
	}
}

// Close ends accepting. Preparations under way go on: Accept returns what comes
// of them, and an error after the last.
func (g *gate) Close() error {
	g.close()
	return g.Listener.Close()
}

// SetDeadline ends accepting at a time, as Close does at once; nil when the
// listener below can.
func (g *gate) SetDeadline(at time.Time) error {
	l, ok := g.Listener.(interface{ SetDeadline(time.Time) error })
	if !ok {
		return errors.ErrUnsupported
	}
	g.close()
	return l.SetDeadline(at)
}

// Cut ends the preparations under way.
func (g *gate) Cut() {
	g.cancel()
	if l, ok := g.Listener.(interface{ Cut() }); ok {
		l.Cut()
	}
}
