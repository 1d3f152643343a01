package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"gatehouse/gateway/engine"
)

const (
	takeoverStep = 30 * time.Second       // longest wait for the other process's next message
	openTime     = time.Minute            // for a successor to open the databases
	pauseTime    = 5 * time.Second        // for the requests that use the databases
	stopIdle     = time.Second            // for all connections without a request, when nobody serves after us
	pauseIdle    = 300 * time.Millisecond // for their connections without a request
	restartIdle  = 5 * time.Second        // for the gateway's connections without a request, when another process serves
)

// lender is a database that can change hands.
type lender interface {
	Lend(context.Context) (*os.File, error)
	TakeBack() error
	Close() error
}

// lent is one of them by the name of its lock.
type lent struct {
	name  string
	store lender
}

// surrender closes the databases that another process has now.
func (d *Daemon) surrender() error {
	d.cancel()
	d.tasks.Wait()
	var errs []error
	for _, l := range d.lenders {
		errs = append(errs, l.store.Close())
	}
	return errors.Join(errs...)
}

// mayLend notes a database that is opened, if it can be lent.
func (d *Daemon) mayLend(name string, store any) {
	if l, ok := store.(lender); ok {
		d.lenders = append(d.lenders, lent{name, l})
	}
}

// control is the control socket of a process, and who talks to it.
type control struct {
	d  *Daemon
	l  net.Listener
	wg sync.WaitGroup // of the conversations

	turn chan struct{} // capacity 1: full while a takeover is under way, and in the end

	mu        sync.Mutex
	ended     bool                    // guarded by mu
	channels  map[*channel]struct{}   // guarded by mu; those that may be cut
	followers map[int]chan<- struct{} // guarded by mu; by process, who waits for its takeover
}

// listenControl opens the control socket, or takes it from the process before.
func (d *Daemon) listenControl() error {
	name := controlSocket(d.parts.name())
	if !d.sockets.has(name) && socketAlive(d.Config.Data, name) {
		d.log.Warn("another process of these parts runs on the data directory; this one cannot be reloaded", "data", d.Config.Data)
		return nil
	}
	k, err := d.sockets.unix(d.Config.Data, name)
	if err != nil {
		return err
	}
	d.control = &control{d: d, l: k.view(), turn: make(chan struct{}, 1), channels: map[*channel]struct{}{}, followers: map[int]chan<- struct{}{}}
	return nil
}

func (c *control) serve() {
	for {
		nc, err := c.l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			c.d.log.Warn("accepting on the control socket", "err", err)
			time.Sleep(time.Second)
			continue
		}
		ch, err := newChannel(nc.(*net.UnixConn))
		if err != nil {
			c.d.log.Warn("refused on the control socket", "err", err)
			nc.Close()
			continue
		}
		c.mu.Lock()
		if c.ended {
			c.mu.Unlock()
			nc.Close()
			continue
		}
		c.channels[ch] = struct{}{}
		c.wg.Go(func() {
			defer c.uncut(ch)
			defer nc.Close()
			c.talk(ch)
		})
		c.mu.Unlock()
	}
}

// uncut says that a conversation is not to be broken off any more.
func (c *control) uncut(ch *channel) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.channels, ch)
}

func (c *control) talk(ch *channel) {
	m, files, err := ch.receive(takeoverStep)
	closeFiles(files)
	if err != nil {
		return // somebody has only looked whether we live
	}
	answer := message{}
	select {
	case <-c.d.replaced: // it had come to us before we handed over
		_ = ch.send(message{Error: "another process serves now, try again"})
		return
	default:
	}
	switch m.Say {
	case sayTakeOver:
		err = c.handOver(ch, m)
		if err == nil {
			<-c.d.finished // the end of the conversation says that we are gone
			return
		}
		c.d.log.Warn("handing over failed, this process goes on", "pid", ch.peer, "err", err)
	case sayReload:
		c.uncut(ch)
		answer.Next, err = c.d.respawn()
	case sayStop:
		c.uncut(ch)
		c.d.halt()
		<-c.d.finished
	default:
		err = fmt.Errorf("this version does not know what %q is", m.Say)
	}
	if err != nil {
		answer.Error = err.Error()
	}
	_ = ch.send(answer) // whoever has gone need not know
}

// handOver gives everything to the process at the other end. After an error
// this process serves as before.
func (c *control) handOver(ch *channel, m message) error {
	d := c.d
	select {
	case c.turn <- struct{}{}:
	default:
		return errors.New("another process takes over already, or this one stops")
	}
	handed := false
	defer func() {
		if !handed {
			<-c.turn
		}
	}()
	if want := d.parts.name(); m.Parts != want {
		return fmt.Errorf("this process runs %s, and hands over to nothing else than %s", want, want)
	}
	keys, files := d.sockets.all()
	if err := ch.send(message{Files: keys}, files...); err != nil {
		return err
	}
	if err := c.next(ch, sayLend, openTime); err != nil {
		return err
	}
	locks, err := d.lend()
	if err == nil {
		err = c.follow(ch, locks)
	}
	if err != nil {
		return errors.Join(err, d.takeBack())
	}
	handed = true
	c.l.Close()
	if d.gateway != nil {
		d.gateway.deaf()
	}
	_ = ch.send(message{Say: sayGone})
	d.log.Info("another process serves", "pid", ch.peer)
	c.mu.Lock()
	if told := c.followers[ch.peer]; told != nil {
		close(told)
		delete(c.followers, ch.peer)
	}
	c.mu.Unlock()
	close(d.replaced)
	return nil
}

// next waits for one message.
func (c *control) next(ch *channel, say string, wait time.Duration) error {
	m, files, err := ch.receive(wait)
	closeFiles(files)
	if err == nil && m.Say != say {
		err = fmt.Errorf("it said %q", m.Say)
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("the other process broke off")
	}
	if err != nil {
		return fmt.Errorf("waiting for %s: %w", say, err)
	}
	return nil
}

// follow waits for the other process to serve. From "go" on stopping waits for
// it too: it must not find us half way.
func (c *control) follow(ch *channel, locks []lentLock) error {
	answer := message{}
	var files []syscall.Conn
	for _, l := range locks {
		answer.Files = append(answer.Files, l.name)
		files = append(files, l.file)
	}
	if err := ch.send(answer, files...); err != nil {
		return err
	}
	if err := c.next(ch, sayReady, openTime); err != nil {
		return err
	}
	c.uncut(ch)
	if err := ch.send(message{Say: sayGo}); err != nil {
		return err
	}
	return c.next(ch, sayServing, takeoverStep)
}

// expect starts a process; took is closed when it has taken over, or never, when
// forget is called before.
func (c *control) expect(took chan<- struct{}, start func() (pid int, err error)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	pid, err := start()
	if err == nil {
		c.followers[pid] = took
	}
	return err
}

// forget ends expect: it was in vain.
func (c *control) forget(pid int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.followers, pid)
}

// end breaks off what can be, and waits for a takeover that is too far.
func (c *control) end() {
	c.l.Close()
	c.mu.Lock()
	c.ended = true
	for ch := range c.channels {
		_ = ch.send(message{Error: "the process stops"})
		ch.c.Close()
	}
	c.mu.Unlock()
	select {
	case <-c.d.replaced:
	case c.turn <- struct{}{}:
	}
}

type lentLock struct {
	name string
	file *os.File
}

// lend ends the use of the databases: new connections of the servers that
// need them wait in the kernel, what is under way ends, and whatever else asks
// waits. The gateway's routes do not ask: they are in memory.
func (d *Daemon) lend() ([]lentLock, error) {
	ctx, cancel := context.WithTimeout(context.Background(), pauseTime)
	defer cancel()
	d.servers.drain(ctx, engine.Farewell{Idle: pauseIdle, Restart: true})
	ctx, cancel = context.WithTimeout(context.Background(), pauseTime)
	defer cancel()
	var locks []lentLock
	for _, l := range d.lenders {
		f, err := l.store.Lend(ctx)
		if err != nil {
			return nil, fmt.Errorf("lending %s: %w", l.name, err)
		}
		locks = append(locks, lentLock{l.name, f})
	}
	return locks, nil
}

// takeBack undoes lend, however far it came.
func (d *Daemon) takeBack() error {
	var errs []error
	for _, l := range d.lenders {
		errs = append(errs, l.store.TakeBack())
	}
	d.servers.start(d.fail)
	return errors.Join(errs...)
}
