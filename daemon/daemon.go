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
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"gatehouse/gateway/listen"
	"gatehouse/lib/localca"
)

// Parts are what a process runs.
type Parts struct {
	Gateway             bool
	Provider            bool
	PublicAPI, AdminAPI bool // of the provider
	Login               bool
}

// Run runs the parts until ctx ends, then stops them and returns. What goes
// wrong while it runs ends it with an error.
func Run(ctx context.Context, c *Config, parts Parts, talk io.Writer) error {
	d, err := Start(ctx, c, parts, talk)
	if err != nil {
		return err
	}
	return d.Wait(ctx)
}

// Daemon is a running process.
type Daemon struct {
	Config *Config
	log    *slog.Logger

	provider *provider
	gateway  *gatewayPart
	ca       *localca.CA
	tickets  *listen.Tickets

	servers *servers
	tasks   sync.WaitGroup // what runs beside the servers
	cancel  context.CancelFunc
	failed  chan error
	closers []func() error // last opened, first closed
}

// Start opens and serves the parts. When it fails, nothing is left running.
func Start(ctx context.Context, c *Config, parts Parts, talk io.Writer) (*Daemon, error) {
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
	d := &Daemon{Config: c, log: log, ca: ca, servers: &servers{log: log}, cancel: cancel, failed: make(chan error, 1)}
	if err := d.open(run, parts, talk); err != nil {
		return nil, errors.Join(err, d.stop())
	}
	d.servers.start(d.fail)
	log.Info("started", "data", c.Data)
	return d, nil
}

// open opens the databases and ports of the parts.
func (d *Daemon) open(run context.Context, parts Parts, talk io.Writer) error {
	if err := d.openTickets(run); err != nil {
		return err
	}
	if parts.Provider {
		if err := d.startProvider(run, parts); err != nil {
			return err
		}
	}
	if parts.Login {
		if err := d.startLogin(run); err != nil {
			return err
		}
	}
	if parts.Gateway {
		return d.startGateway(run, talk)
	}
	return nil
}

// Wait serves until ctx ends or a part fails, then stops everything.
func (d *Daemon) Wait(ctx context.Context) error {
	var err error
	select {
	case <-ctx.Done():
	case err = <-d.failed:
	}
	d.log.Info("stopping")
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

// stop lets requests under way finish, then closes what is kept.
func (d *Daemon) stop() error {
	drain, done := context.WithTimeout(context.Background(), drainTimeout)
	defer done()
	var wg sync.WaitGroup
	if d.gateway != nil {
		wg.Go(func() { d.gateway.stop(drain) })
	}
	wg.Go(func() { d.servers.stop(drain) })
	wg.Wait()
	d.cancel()
	d.tasks.Wait()
	var errs []error
	for i := len(d.closers) - 1; i >= 0; i-- {
		errs = append(errs, d.closers[i]())
	}
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
