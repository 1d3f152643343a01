package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"syscall"
)

// UDP listens on "host:port" for QUIC. An address that is taken is a
// *BusyError.
func UDP(ctx context.Context, addr string) (net.PacketConn, error) {
	pc, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, &BusyError{addr, err}
	}
	if err != nil {
		return nil, fmt.Errorf("listening on %s (udp): %w", addr, err)
	}
	return pc, nil
}

// QUIC is the TLS configuration of HTTP/3: the same certificates and the same
// demands on the client's as over TCP. QUIC has no TLS before 1.3 (RFC 9001,
// section 4.2): a name that is served over older ones alone ends the handshake.
func QUIC(certs Certificates) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h3"},
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			of, err := certs.TLSConfig(h)
			if err != nil {
				return nil, err
			}
			c := of.Clone()
			c.MinVersion, c.NextProtos = tls.VersionTLS13, []string{"h3"}
			return c, nil
		},
	}
}
