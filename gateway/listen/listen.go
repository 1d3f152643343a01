// Package listen opens the sockets of the data plane: TCP, TLS by server name,
// the PROXY protocol in front of either. It speaks no HTTP; gateway/engine
// serves what it accepts.
package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"syscall"
	"time"
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
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetConfigForClient: certs.TLSConfig}
	return newGate(l, log, "tls handshake failed", func(ctx context.Context, c net.Conn) (net.Conn, error) {
		tc := tls.Server(c, cfg)
		return tc, tc.HandshakeContext(ctx)
	}).open()
}
