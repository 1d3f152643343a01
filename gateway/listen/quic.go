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

// errOldTLS ends the handshake of a server name that is not served over TLS
// 1.3, which is the only one QUIC has (RFC 9001, section 4.2).
var errOldTLS = errors.New("the server name is not served over TLS 1.3")

// QUIC is the TLS configuration of HTTP/3: the same certificates and the same
// demands on the client's as over TCP.
func QUIC(certs Certificates) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h3"},
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			of, err := certs.TLSConfig(h)
			if err != nil {
				return nil, err
			}
			if of.MaxVersion != 0 && of.MaxVersion < tls.VersionTLS13 {
				return nil, errOldTLS
			}
			// Asking for a ticket makes the keys of tickets before the copy: each
			// copy would make its own, and nobody could resume a session.
			_, _ = of.DecryptTicket(nil, tls.ConnectionState{})
			c := of.Clone()
			c.MinVersion, c.NextProtos = tls.VersionTLS13, []string{"h3"}
			return c, nil
		},
	}
}
