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

	"gatehouse/gateway/listen"
)

// Limits of the listeners that are no gateway: provider, login app, admin
// APIs, metrics. The gateway's are in gateway/engine.
const (
	headerTimeout = 10 * time.Second
	readTimeout   = 30 * time.Second
	writeTimeout  = 60 * time.Second
	idleTimeout   = 75 * time.Second
	maxHeader     = 64 << 10
	drainTimeout  = 10 * time.Second
)

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
// together, stopped together.
type servers struct {
	log *slog.Logger
	all []*http.Server
	ls  []net.Listener
	wg  sync.WaitGroup
}

// add takes a listener over. With TLS, the handshake has the header's time.
func (s *servers) add(l net.Listener, h http.Handler, cert *tls.Config) {
	if cert != nil {
		c := cert.Clone()
		c.NextProtos = []string{"h2", "http/1.1"}
		l = tls.NewListener(l, c)
	}
	s.ls = append(s.ls, l)
	s.all = append(s.all, &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	})
}

// start serves; failed is told when a server ends on its own.
func (s *servers) start(failed func(error)) {
	for i, srv := range s.all {
		s.wg.Go(func() {
			if err := srv.Serve(s.ls[i]); !errors.Is(err, http.ErrServerClosed) {
				failed(err)
			}
		})
	}
}

// stop lets requests under way finish, for a time, and waits.
func (s *servers) stop(ctx context.Context) {
	for i, srv := range s.all {
		s.ls[i].Close()
		s.wg.Go(func() {
			if srv.Shutdown(ctx) != nil {
				srv.Close()
			}
		})
	}
	s.wg.Wait()
}
