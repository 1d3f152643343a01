package embedded

import (
	"context"
	"errors"
	"os"
	"sync"

	"gatehouse/lib/fault"
)

// A file can change its process without a moment in which nobody, or somebody
// third, has its lock: the owner lends it, which stops whatever uses it here,
// and hands the open lock file over. Both have the lock then, as it belongs to
// the open file and not to a process. The borrower opens the database by
// WithLock. In the end one of both lets go: the owner by Close, or the
// borrower, by Close or its death, and the owner takes back.

// Option changes how a file is opened.
type Option func(*options)

type options struct{ lock *os.File }

// WithLock opens a file whose lock was handed over; nil takes the lock as
// usual. The file becomes the store's.
func WithLock(f *os.File) Option { return func(o *options) { o.lock = f } }

// Lend waits for what uses the file and holds back what comes later, until
// TakeBack or Close, which refuses it. It returns the lock file, open as long
// as the store is. When ctx ends first, nothing has changed.
func (d *database) Lend(ctx context.Context) (*os.File, error) {
	if err := d.gate.hold(ctx); err != nil {
		return nil, err
	}
	return d.lock, nil
}

// TakeBack lets go on what Lend holds back, on what the file has become.
func (d *database) TakeBack() error {
	err := sign(d.lock)
	d.gate.open()
	return err
}

// TakeBack lets go on what Lend holds back, and tells the watchers that
// something may have changed.
func (s *Resources) TakeBack() error {
	err := s.database.TakeBack()
	s.bell.Ring()
	select {
	case s.retime <- struct{}{}:
	default:
	}
	return err
}

// TakeBack lets go on what Lend holds back, and tells the watchers that
// anything may have changed.
func (s *Records) TakeBack() error {
	err := s.database.TakeBack()
	s.board.All()
	return err
}

// gate counts what uses the file, and holds it back while the file is lent.
// The zero value is open.
type gate struct {
	mu    sync.Mutex
	users int           // guarded by mu
	held  chan struct{} // guarded by mu; closed when it may go on; nil: it may
	quiet chan struct{} // guarded by mu; closed when the last user leaves; nil: nobody waits for that
	shut  bool          // guarded by mu; for good
}

var errShut = fault.New(fault.Unavailable, "the store is closed")

func (g *gate) enter(ctx context.Context) error {
	for {
		g.mu.Lock()
		held := g.held
		switch {
		case g.shut:
			g.mu.Unlock()
			return errShut
		case held == nil:
			g.users++
			g.mu.Unlock()
			return nil
		}
		g.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
			return fault.Wrap(fault.Unavailable, "the store is changing hands, try again", ctx.Err())
		}
	}
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.users--; g.users == 0 && g.quiet != nil {
		close(g.quiet)
		g.quiet = nil
	}
}

// hold keeps everybody out and waits for those inside.
func (g *gate) hold(ctx context.Context) error {
	g.mu.Lock()
	if g.held != nil || g.shut {
		g.mu.Unlock()
		return errors.New("the store is lent already, or closed")
	}
	g.held = make(chan struct{})
	quiet := make(chan struct{})
	if g.users == 0 {
		close(quiet)
	} else {
		g.quiet = quiet
	}
	g.mu.Unlock()
	select {
	case <-quiet:
		return nil
	case <-ctx.Done():
		g.open()
		return ctx.Err()
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held != nil {
		close(g.held)
		g.held, g.quiet = nil, nil
	}
}

// end refuses whoever waits and comes.
func (g *gate) end() {
	g.mu.Lock()
	g.shut = true
	g.mu.Unlock()
	g.open()
}
