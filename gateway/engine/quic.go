package engine

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// Bounds of QUIC. A client that says nothing for quicIdle is gone, and is asked
// before: how long one that is there may do nothing is Limits.Idle. One that
// comes while many do must first show that its address is its own (RFC 9000,
// section 8.1.2).
const (
	quicIdle       = time.Minute
	quicAsk        = 20 * time.Second
	quicHandshake  = 5 * time.Second
	quicHandshakes = 1024 // under way
	quicUnproven   = 256  // connections in a second that need not prove their address
)

// quicListener is what a Server knows of a UDP socket.
type quicListener struct {
	*quic.Listener
	srv     *Server
	pending atomic.Int64 // handshakes under way
	second  atomic.Int64
	begun   atomic.Int64 // connections begun in this second
}

// ServeQUIC answers the HTTP/3 connections that come to a UDP socket, until
// Stop has ended the last of them. It closes the socket.
func (s *Server) ServeQUIC(pc net.PacketConn, cfg *tls.Config) error {
	q := &quicListener{srv: s}
	t := &quic.Transport{Conn: pc, VerifySourceAddress: q.doubts, ConnContext: q.handshake}
	defer func() {
		_ = t.Close()
		_ = pc.Close()
	}()
	lim := &s.cfg.Limits
	var err error
	q.Listener, err = t.Listen(cfg, &quic.Config{
		HandshakeIdleTimeout: quicHandshake, MaxIdleTimeout: quicIdle, KeepAlivePeriod: quicAsk,
		InitialStreamReceiveWindow: h2StreamWindow, MaxStreamReceiveWindow: h2StreamWindow,
		InitialConnectionReceiveWindow: h2ConnWindow, MaxConnectionReceiveWindow: h2ConnWindow,
		MaxIncomingStreams: int64(lim.Streams), MaxIncomingUniStreams: h3UniStreams, RequireStreamCreditRelease: true,
		Allow0RTT: false, // what is sent in 0-RTT can be sent again by anyone (RFC 8470)
	})
	if err != nil {
		return err
	}
	if !s.open(q) {
		return q.Close()
	}
	defer s.close(q)
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		qc, err := q.Accept(context.Background())
		if err != nil {
			if s.stopping() {
				return nil
			}
			return err
		}
		if h, ok := qc.Context().Value(handshakeKey{}).(*handshake); ok {
			h.over()
		}
		w := wire{peer: addrPort(qc.RemoteAddr()), local: addrPort(qc.LocalAddr()), listener: q}
		if !s.count(q, w.peer.Addr()) {
			conns.Go(func() { _ = qc.CloseWithError(h3ExcessiveLoad, "") })
			continue
		}
		cs := qc.ConnectionState().TLS
		w.tls, w.ip = &cs, w.peer.Addr().String()
		s.stats.secured(w.tls)
		conns.Go(func() {
			s.serveHTTP3(w, qc)
			s.uncount(w)
		})
	}
}

// doubts says that a new client must prove its address.
func (q *quicListener) doubts(net.Addr) bool {
	if now := q.srv.seconds.Load(); q.second.Swap(now) != now {
		q.begun.Store(0)
	}
	return q.begun.Add(1) > quicUnproven
}

type handshakeKey struct{}

// handshake counts as pending until it is over, well or not.
type handshake struct {
	q    *quicListener
	once sync.Once
}

func (h *handshake) over() { h.once.Do(func() { h.q.pending.Add(-1) }) }

// handshake bounds those under way.
func (q *quicListener) handshake(ctx context.Context, _ *quic.ClientInfo) (context.Context, error) {
	if q.pending.Add(1) > quicHandshakes {
		q.pending.Add(-1)
		return nil, errBusy
	}
	h := &handshake{q: q}
	context.AfterFunc(ctx, h.over)
	return context.WithValue(ctx, handshakeKey{}, h), nil
}

var errBusy = errors.New("too many handshakes are under way")
