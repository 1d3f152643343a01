package engine

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"gatehouse/lib/proxyproto"
)

// Proxied makes a Call say whose request it carries, by a header of the PROXY
// protocol in front of the connection. A node takes everything on such a
// connection for that client's: it serves one call and is closed.
type Proxied struct {
	Version  uint8 // 1, 2; 0: no header
	From, To netip.AddrPort
}

var errShared = errors.New("the PROXY protocol needs a connection of its own, HTTP/2 upstreams share one")

// greet sends the header, before anything else and before TLS.
func (p *Proxied) greet(ctx context.Context, nc net.Conn) error {
	h := proxyproto.Header{Src: p.From, Dst: p.To}
	var b []byte
	switch p.Version {
	case 0:
		return nil
	case 1:
		b = h.AppendV1(b)
	default:
		b = h.AppendV2(b)
	}
	if end, ok := ctx.Deadline(); ok {
		_ = nc.SetWriteDeadline(end)
		defer nc.SetWriteDeadline(time.Time{})
	}
	_, err := nc.Write(b)
	return err
}
