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

// runs is what stands in the way when a process of the same parts has the
// databases.
type runs struct{ error }

func (e *runs) Unwrap() error { return e.error }

// Hint returns what to do next about an error, or "".
func Hint(err error) string {
	var b *busyPort
	if errors.As(err, &b) {
		return "set " + b.setting + " to another port or address"
	}
	if errors.As(err, new(*runs)) {
		return "to replace the process that runs, add " + takeOverFlag + ", or say gatehouse reload"
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

// servers are the HTTP servers of a process that need its databases: opened
// one by one, served together, stopped together. The gateway's engine reads
// what they get: every port is as strict.
type servers struct {
	log     *slog.Logger
	tickets *listen.Tickets
	ports   []port
	all     []*engine.Server // of ports, while they are served
	wg      sync.WaitGroup   // of their accepting
}

// port is a socket and what is served on it.
type port struct {
	socket  *socket
	handler engine.Handler
	tls     *tls.Config // nil: plain
}

// oneCertificate is a TLS configuration for every server name.
type oneCertificate struct{ cfg *tls.Config }

func (c oneCertificate) TLSConfig(*tls.ClientHelloInfo) (*tls.Config, error) { return c.cfg, nil }

// add takes a socket over.
func (s *servers) add(k *socket, h http.Handler, cert *tls.Config) {
	if cert != nil {
		cert = cert.Clone()
		cert.NextProtos = []string{"h2", "http/1.1"}
		cert.CipherSuites = live.CipherSuites(false)
		s.tickets.Bind(cert, k.Addr().String())
	}
	s.ports = append(s.ports, port{k, engine.FromHTTP(h, s.log), cert})
}

// start serves; failed is told when a server ends on its own.
func (s *servers) start(failed func(error)) {
	s.all = nil
	for _, p := range s.ports {
		srv := engine.NewServer(engine.ServerConfig{Handler: p.handler, Log: s.log, Limits: plainLimits})
		s.all = append(s.all, srv)
		l := p.socket.view()
		if p.tls != nil {
			l = listen.TLS(l, oneCertificate{p.tls}, s.log)
		}
		s.wg.Go(func() {
			if err := srv.Serve(l); err != nil {
				failed(err)
			}
		})
	}
}

// drain lets requests under way finish until ctx ends, and waits. New
// connections wait in the kernel, as long as the sockets are open.
func (s *servers) drain(ctx context.Context, f engine.Farewell) {
	for _, srv := range s.all {
		s.wg.Go(func() { _ = srv.Drain(ctx, f) })
	}
	s.wg.Wait()
	s.all = nil
}
