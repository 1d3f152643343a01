package listen

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"gatehouse/lib/proxyproto"
)

var (
	errStranger = errors.New("the peer may not speak for others")
	errLoopback = errors.New("only a peer of this host may speak for it")
)

// Proxied turns a listener into one whose connections begin with a header of
// the PROXY protocol, which names the client. The header is required, and taken
// from peers in trusted only: whoever else connects is closed unread, for he
// could choose the address that limits, rules and logs go by. A header that
// speaks for nobody (LOCAL, UNKNOWN) leaves the connection its peer's address.
func Proxied(l net.Listener, trusted []netip.Prefix, log *slog.Logger) net.Listener {
	var warned atomic.Int64
	return newGate(l, log, "no PROXY protocol header", func(ctx context.Context, c net.Conn) (net.Conn, error) {
		t, ok := c.(*net.TCPConn)
		if !ok {
			return nil, errors.ErrUnsupported
		}
		peer := t.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		if !contains(trusted, peer) {
			if now, last := time.Now().Unix(), warned.Load(); now-last >= 60 && warned.CompareAndSwap(last, now) {
				log.Warn("connection to a PROXY protocol port from an address that is not trusted", "addr", l.Addr().String(), "peer", peer.String())
			}
			return nil, errStranger
		}
		end, _ := ctx.Deadline()
		_ = t.SetReadDeadline(end)
		stop := context.AfterFunc(ctx, func() { _ = t.SetReadDeadline(time.Unix(1, 0)) })
		h, err := proxyproto.Read(t)
		if err != nil {
			stop()
			return nil, err
		}
		if !stop() {
			return nil, context.Cause(ctx)
		}
		_ = t.SetReadDeadline(time.Time{})
		p := &proxied{TCPConn: t, remote: t.RemoteAddr()}
		if src := h.Src.Addr(); src.IsValid() {
			// The loopback interface is trusted by some for what it is.
			if src.IsLoopback() && !peer.IsLoopback() {
				return nil, errLoopback
			}
			p.remote = net.TCPAddrFromAddrPort(h.Src)
		}
		return p, nil
	}).open()
}

func contains(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// proxied is a connection of the client that a header named. What follows the
// header is still in the socket.
type proxied struct {
	*net.TCPConn
	remote net.Addr
}

// RemoteAddr is the client's.
func (p *proxied) RemoteAddr() net.Addr { return p.remote }

// TCP is the connection for those who read and write below.
func (p *proxied) TCP() *net.TCPConn { return p.TCPConn }
