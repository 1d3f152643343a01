package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// lendTime is how long the process before may take to end its use of the
// databases.
const lendTime = 2*pauseTime + 5*time.Second

// predecessor is the process this one follows. Its methods work on nil: there
// is none.
type predecessor struct {
	ch    *channel
	gone  chan struct{}       // closed when it has ended, or is not to be followed any more
	asked bool                // for the locks
	locks map[string]*os.File // lent, and not used yet
	once  sync.Once           // of close
}

// follow begins a takeover and returns the sockets that are handed over; nil:
// no process runs these parts.
func follow(dir string, parts Parts) (*predecessor, map[string][]handle, error) {
	ch, err := call(dir, parts.name())
	if ch == nil || err != nil {
		return nil, nil, err
	}
	m, files, err := ch.ask(message{Say: sayTakeOver, Parts: parts.name()}, takeoverStep)
	if err != nil {
		ch.c.Close()
		return nil, nil, fmt.Errorf("taking over from pid %d: %w", ch.peer, err)
	}
	given := map[string][]handle{}
	for i, f := range files {
		h, err := adopt(m.Files[i], f)
		f.Close()
		if err != nil {
			closeFiles(files[i+1:])
			ch.c.Close()
			(&sockets{given: given}).closeGiven()
			return nil, nil, fmt.Errorf("taking over %s: %w", m.Files[i], err)
		}
		given[m.Files[i]] = append(given[m.Files[i]], h)
	}
	return &predecessor{ch: ch, gone: make(chan struct{})}, given, nil
}

// lock returns the lock of a database, open; nil: it is to be taken. The first
// call ends the use of all databases by the other process.
func (p *predecessor) lock(name string) (*os.File, error) {
	if p == nil {
		return nil, nil
	}
	if !p.asked {
		p.asked, p.locks = true, map[string]*os.File{}
		m, files, err := p.ch.ask(message{Say: sayLend}, lendTime)
		if err != nil && !p.died(err) {
			return nil, fmt.Errorf("taking over the databases from pid %d: %w", p.ch.peer, err)
		}
		for i, f := range files {
			p.locks[m.Files[i]] = f
		}
	}
	f := p.locks[name]
	delete(p.locks, name)
	return f, nil
}

// ready asks whether this process may serve.
func (p *predecessor) ready() error { return p.expect(sayReady, sayGo) }

// serving says that this process does, and waits until the other one accepts
// nothing any more: after nil it has given everything away. After an error it
// has taken back, or may have: then it has the databases.
func (p *predecessor) serving() error {
	if err := p.expect(sayServing, sayGone); p == nil || err != nil {
		return err
	}
	go func() {
		var b [1]byte
		_ = p.ch.c.SetReadDeadline(time.Time{})
		_, _ = p.ch.c.Read(b[:]) // nothing more comes but the end
		p.close()
	}()
	return nil
}

// expect says something and waits for the one answer with which this process
// goes on; it goes on alone too.
func (p *predecessor) expect(say, want string) error {
	if p == nil {
		return nil
	}
	m, files, err := p.ch.ask(message{Say: say}, takeoverStep)
	closeFiles(files)
	if err == nil && m.Say != want {
		err = fmt.Errorf("it said %q", m.Say)
	}
	if err != nil && !p.died(err) {
		return fmt.Errorf("taking over from pid %d: %w", p.ch.peer, err)
	}
	return nil
}

// rest keeps a successor from its databases until wake: the process before may
// still take them back.
func (d *Daemon) rest() error {
	if d.before == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), pauseTime)
	defer cancel()
	d.resting = true
	for _, l := range d.lenders {
		if _, err := l.store.Lend(ctx); err != nil {
			return fmt.Errorf("leaving %s alone: %w", l.name, err)
		}
	}
	return nil
}

// wake undoes rest.
func (d *Daemon) wake() error {
	if !d.resting {
		return nil
	}
	d.resting = false
	var errs []error
	for _, l := range d.lenders {
		errs = append(errs, l.store.TakeBack())
	}
	return errors.Join(errs...)
}

// alone is closed when only this process is left.
func (p *predecessor) alone() <-chan struct{} {
	if p == nil {
		nobody := make(chan struct{})
		close(nobody)
		return nobody
	}
	return p.gone
}

// died says whether the conversation broke because the other process is no
// more: then there is nobody to take back, and this one goes on alone. A living
// one says why before it breaks off, and what it has said is heard first (see
// ask). Silence is no proof.
func (p *predecessor) died(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
}

func (p *predecessor) close() {
	if p == nil {
		return
	}
	p.once.Do(func() {
		p.ch.c.Close()
		for _, f := range p.locks {
			f.Close()
		}
		close(p.gone)
	})
}
