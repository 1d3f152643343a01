// Package daemon puts the rooms together. It is the only package that opens
// inner doors; cmd and test start a gatehouse through it.
//
// Run is the wiring of one process: each part is opened (databases, keys),
// then its ports, then everything is served, and at the end stopped in the
// opposite order.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"gatehouse/gateway/engine"
	"gatehouse/gateway/listen"
	"gatehouse/lib/fault"
	"gatehouse/lib/localca"
)

// Parts are what a process runs.
type Parts struct {
	Gateway             bool
	Provider            bool
	PublicAPI, AdminAPI bool // of the provider
	Login               bool
}

// Options are how a process is started.
type Options struct {
	// TakeOver follows the process that runs the same parts on the same data
	// directory, if there is one: its sockets and databases change hands, and
	// no client notices.
	TakeOver bool
	// Argv is the command line of this process, by which it starts its
	// successor; empty: it has none.
	Argv []string
	// Reload asks for a successor.
	Reload <-chan os.Signal
}

// Run runs the parts until ctx ends or another process takes over, then stops
// them and returns. What goes wrong while it runs ends it with an error.
func Run(ctx context.Context, c *Config, parts Parts, o Options, talk io.Writer) error {
	d, err := start(ctx, c, parts, o, true, talk)
	if err != nil {
		return err
	}
	return d.Wait(ctx)
}

// Daemon is a running process.
type Daemon struct {
	Config *Config
	parts  Parts
	opts   Options
	log    *slog.Logger

	provider *provider
	gateway  *gatewayPart
	ca       *localca.CA
	tickets  *listen.Tickets

	before   *predecessor // nil: none, or its time is over
	sockets  *sockets
	servers  *servers
	control  *control // nil: none
	started  bool     // what was opened is ours
	resting  bool     // the process before may take its databases back
	lenders  []lent
	tasks    sync.WaitGroup // what runs beside the servers
	cancel   context.CancelFunc
	failed   chan error
	halted   chan struct{}  // closed when the control socket says so
	halt     func()         // closes halted
	replaced chan struct{}  // closed when another process has taken over
	finished chan struct{}  // closed when everything has stopped
	closers  []func() error // last opened, first closed
}

// Start opens and serves the parts. When it fails, nothing is left running.
func Start(ctx context.Context, c *Config, parts Parts, talk io.Writer) (*Daemon, error) {
	return start(ctx, c, parts, Options{}, false, talk)
}

func start(ctx context.Context, c *Config, parts Parts, o Options, controlled bool, talk io.Writer) (*Daemon, error) {
	talk = &together{w: talk}
	log := newLog(c, talk)
	if err := ensureDir(c.Data); err != nil {
		return nil, err
	}
	ca, err := localca.Open(c.Data, time.Now())
	if err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	d := &Daemon{
		Config: c, parts: parts, opts: o, log: log, ca: ca, servers: &servers{log: log}, sockets: &sockets{}, cancel: cancel, failed: make(chan error, 1),
		halted: make(chan struct{}), replaced: make(chan struct{}), finished: make(chan struct{}),
	}
	d.halt = sync.OnceFunc(func() { close(d.halted) })
	if err := d.begin(run, controlled, talk); err != nil {
		return nil, errors.Join(err, d.stop())
	}
	return d, nil
}

// begin opens everything, beside the process this one follows, and serves when
// that one lets go.
func (d *Daemon) begin(run context.Context, controlled bool, talk io.Writer) (err error) {
	if d.opts.TakeOver {
		if d.before, d.sockets.given, err = follow(d.Config.Data, d.parts); err != nil {
			return err
		}
	}
	if err := d.open(run, talk); err != nil {
		if !d.opts.TakeOver && fault.KindOf(err) == fault.Conflict && socketAlive(d.Config.Data, controlSocket(d.parts.name())) {
			err = &runs{err}
		}
		return err
	}
	if controlled {
		if err := d.listenControl(); err != nil {
			return err
		}
	}
	if err := d.rest(); err != nil {
		return err
	}
	if err := d.before.ready(); err != nil {
		return err
	}
	d.sockets.closeGiven()
	if d.gateway != nil {
		d.gateway.start(d.log, d.before.alone(), d.fail)
	}
	if err := d.before.serving(); err != nil {
		return err
	}
	if err := d.wake(); err != nil {
		return err
	}
	d.started = true
	d.servers.start(d.fail)
	if d.control != nil {
		d.control.wg.Go(d.control.serve)
	}
	if d.before != nil {
		d.log.Info("started", "data", d.Config.Data, "pid", os.Getpid(), "after_pid", d.before.ch.peer)
	} else {
		d.log.Info("started", "data", d.Config.Data, "pid", os.Getpid())
	}
	tell(fmt.Sprintf("MAINPID=%d\nREADY=1", os.Getpid()))
	return nil
}

// open opens the databases and ports of the parts.
func (d *Daemon) open(run context.Context, talk io.Writer) error {
	if err := d.openTickets(run); err != nil {
		return err
	}
	if d.parts.Provider {
		if err := d.startProvider(run, d.parts); err != nil {
			return err
		}
	}
	if d.parts.Login {
		if err := d.startLogin(run); err != nil {
			return err
		}
	}
	if d.parts.Gateway {
		return d.startGateway(run, talk)
	}
	return nil
}

// Wait serves until ctx ends, a part fails or another process has taken over,
// then stops everything.
func (d *Daemon) Wait(ctx context.Context) error {
	var err error
	for serving := true; serving; {
		serving = false
		select {
		case <-ctx.Done():
		case <-d.halted:
		case <-d.replaced:
		case err = <-d.failed:
		case <-d.opts.Reload:
			serving = true
			d.task(func() {
				if _, err := d.respawn(); err != nil {
					d.log.Error("reloading failed, this process goes on", "err", err)
				}
			})
		}
	}
	return errors.Join(err, d.stop())
}

func (d *Daemon) fail(err error) {
	if err == nil {
		return
	}
	select {
	case d.failed <- err:
	default:
	}
}

// stop lets requests under way finish, then closes what is kept. When another
// process has taken over, or has taken back, that has the databases: they are
// closed first.
func (d *Daemon) stop() error {
	if d.control != nil {
		d.control.end()
	}
	handed := false
	select {
	case <-d.replaced:
		handed = true
	default:
	}
	if d.started {
		d.log.Info("stopping", "handed_over", handed)
		if !handed {
			tell("STOPPING=1")
		}
	}
	drain, done := context.WithTimeout(context.Background(), d.Config.Gateway.NginxConfig.WorkerShutdownTimeout)
	defer done()
	var err error
	how := engine.Farewell{Idle: stopIdle}
	if handed || d.resting {
		how = engine.Farewell{Idle: restartIdle, Restart: true}
		err = d.surrender()
	} else {
		d.sockets.lastViews()
	}
	if handed {
		d.sockets.handedOver()
	}
	var wg sync.WaitGroup
	if d.gateway != nil {
		wg.Go(func() { d.gateway.stop(drain, how) })
	}
	wg.Go(func() { d.servers.drain(drain, how) })
	wg.Wait()
	err = errors.Join(err, d.closeAll(), d.sockets.close(d.started && !handed))
	d.before.close() // now it may go on with what we had begun to use
	if d.started {
		d.log.Info("stopped", "pid", os.Getpid())
	}
	close(d.finished)
	if d.control != nil {
		d.control.wg.Wait()
	}
	return err
}

// closeAll ends what runs beside the servers and closes the databases.
func (d *Daemon) closeAll() error {
	d.cancel()
	d.tasks.Wait()
	var errs []error
	for i := len(d.closers) - 1; i >= 0; i-- {
		errs = append(errs, d.closers[i]())
	}
	d.closers = nil
	return errors.Join(errs...)
}

// task runs beside the servers until the process stops.
func (d *Daemon) task(f func()) { d.tasks.Go(f) }

func newLog(c *Config, w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Log.Level)); err != nil {
		level = slog.LevelInfo
	}
	opts := &slog.HandlerOptions{Level: level}
	if c.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// every calls f now and then until ctx ends.
func every(ctx context.Context, d time.Duration, f func()) {
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			f()
		}
	}
}

func hostPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }
