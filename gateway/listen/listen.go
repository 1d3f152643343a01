// Package listen opens the sockets of the data plane: TCP, and TLS by server
// name. It speaks no HTTP; gateway/engine serves what it accepts.
package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Bounds of handshakes under way, per listener.
const (
	handshakeTime = 10 * time.Second
	maxHandshakes = 1024
)

// BusyError says that an address is taken by another process.
type BusyError struct {
	Addr string
	Err  error
}

func (e *BusyError) Error() string { return "address " + e.Addr + " is in use by another process" }
func (e *BusyError) Unwrap() error { return e.Err }

// TCP listens on "host:port". An address that is taken is a *BusyError.
func TCP(ctx context.Context, addr string) (net.Listener, error) {
	l, err := (&net.ListenConfig{KeepAlive: 30 * time.Second}).Listen(ctx, "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, &BusyError{addr, err}
	}
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", addr, err)
	}
	return l, nil
}

// Certificates chooses the TLS configuration of a connection; an error ends
// the handshake.
type Certificates interface {
	TLSConfig(*tls.ClientHelloInfo) (*tls.Config, error)
}

// TLS turns a listener into one whose connections have finished the handshake:
// *tls.Conn with HTTP/2 or HTTP/1.1 agreed. A slow or broken handshake delays
// no other connection.
func TLS(l net.Listener, certs Certificates, log *slog.Logger) net.Listener {
	t := &tlsListener{Listener: l, log: log, ready: make(chan net.Conn), ended: make(chan struct{}),
		cfg: &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetConfigForClient: certs.TLSConfig}}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	go t.accept()
	return t
}

type tlsListener struct {
	net.Listener
	cfg    *tls.Config
	log    *slog.Logger
	ready  chan net.Conn
	ended  chan struct{} // closed when accepting and every handshake ended, after err is set
	err    error
	wg     sync.WaitGroup  // of the handshakes
	ctx    context.Context // of the handshakes; ends with Cut
	cancel context.CancelFunc
	closed atomic.Bool
}

func (t *tlsListener) accept() {
	defer close(t.ended)
	defer t.wg.Wait()
	defer t.Listener.Close() // nobody may queue for what is not accepted
	slots := make(chan struct{}, maxHandshakes)
	for {
		c, err := t.Listener.Accept()
		if err != nil {
			var ne net.Error
			if !t.closed.Load() && (errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ECONNABORTED) || errors.As(err, &ne) && ne.Timeout()) {
				t.log.Warn("accepting connections", "addr", t.Addr().String(), "err", err)
				select {
				case <-time.After(50 * time.Millisecond):
					continue
				case <-t.ctx.Done():
				}
			}
			t.err = err
			return
		}
		select {
		case slots <- struct{}{}:
		case <-t.ctx.Done():
			c.Close()
			continue
		}
		t.wg.Go(func() {
			defer func() { <-slots }()
			t.handshake(c)
		})
	}
}

func (t *tlsListener) handshake(c net.Conn) {
	ctx, cancel := context.WithTimeout(t.ctx, handshakeTime)
	defer cancel()
	tc := tls.Server(c, t.cfg)
	if err := tc.HandshakeContext(ctx); err != nil {
		t.log.Debug("tls handshake failed", "peer", c.RemoteAddr().String(), "err", err)
		c.Close()
		return
	}
	select {
	case t.ready <- tc:
	case <-ctx.Done(): // nobody accepts any more
		tc.Close()
	}
}

func (t *tlsListener) Accept() (net.Conn, error) {
	select {
	case c := <-t.ready:
		return c, nil
	case <-t.ended:
		return nil, t.err
	}
}

// Close ends accepting. Handshakes under way go on: Accept returns what comes
// of them, and an error after the last.
func (t *tlsListener) Close() error {
	t.closed.Store(true)
	return t.Listener.Close()
}

// SetDeadline ends accepting at a time, as Close does at once; nil when the
// listener below can.
func (t *tlsListener) SetDeadline(at time.Time) error {
	l, ok := t.Listener.(interface{ SetDeadline(time.Time) error })
	if !ok {
		return errors.ErrUnsupported
	}
	t.closed.Store(true)
	return l.SetDeadline(at)
}

// Cut ends the handshakes under way.
func (t *tlsListener) Cut() { t.cancel() }
