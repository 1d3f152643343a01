package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"gatehouse/gateway/engine"
	"gatehouse/gateway/listen"
	"gatehouse/gateway/live"
)

// plainLimits are those of the listeners that are no gateway: provider, login
// app, admin APIs, metrics. The gateway's are in its configuration.
var plainLimits = engine.Limits{
	HeadTime: 10 * time.Second, BodyTime: 30 * time.Second, SendTime: time.Minute, Idle: 75 * time.Second, Total: 5 * time.Minute, Body: 16 << 20,
}

const drainTimeout = 10 * time.Second

// busyPort is a port someone else has, with the setting that changes it.
type busyPort struct {
	addr, setting string
	err           error
}

func (e *busyPort) Error() string {
	if errors.Is(e.err, syscall.EADDRINUSE) {
		return fmt.Sprintf("%s is in use by another program", e.addr)
	}
	return fmt.Sprintf("listening on %s: %v", e.addr, e.err)
}

func (e *busyPort) Unwrap() error { return e.err }

// Hint returns what to do next about an error, or "".
func Hint(err error) string {
	var b *busyPort
	if errors.As(err, &b) {
		return "set " + b.setting + " to another port or address"
	}
	return ""
}

func listenTCP(addr, setting string) (net.Listener, error) {
	l, err := listen.TCP(context.Background(), addr)
	if err != nil {
		return nil, &busyPort{addr, setting, err}
	}
	return l, nil
}

// servers are the HTTP servers of a process: opened one by one, served
// together, stopped together. The gateway's engine reads what they get: every
// port is as strict.
type servers struct {
	log     *slog.Logger
	tickets *listen.Tickets
	all     []*engine.Server
	ls      []net.Listener
	wg      sync.WaitGroup
}

// oneCertificate is a TLS configuration for every server name.
type oneCertificate struct{ cfg *tls.Config }

func (c oneCertificate) TLSConfig(*tls.ClientHelloInfo) (*tls.Config, error) { return c.cfg, nil }

// add takes a listener over.
func (s *servers) add(l net.Listener, h http.Handler, cert *tls.Config) {
	if cert != nil {
		c := cert.Clone()
		c.NextProtos = []string{"h2", "http/1.1"}
		c.CipherSuites = live.CipherSuites(false)
		s.tickets.Bind(c, l.Addr().String())
		l = listen.TLS(l, oneCertificate{c}, s.log)
	}
	s.ls = append(s.ls, l)
	s.all = append(s.all, engine.NewServer(engine.ServerConfig{Handler: engine.FromHTTP(h, s.log), Log: s.log, Limits: plainLimits}))
}

// start serves; failed is told when a server ends on its own.
func (s *servers) start(failed func(error)) {
	for i, srv := range s.all {
		s.wg.Go(func() {
			if err := srv.Serve(s.ls[i]); err != nil {
				failed(err)
			}
		})
	}
}

// stop lets requests under way finish, for a time, and waits.
func (s *servers) stop(ctx context.Context) {
	for i, srv := range s.all {
		s.ls[i].Close()
		s.wg.Go(func() { _ = srv.Stop(ctx) })
	}
	s.wg.Wait()
}
