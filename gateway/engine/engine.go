// Package engine speaks HTTP on the wire, to clients (Server) and to upstreams
// (Transport), and translates between it and gateway.Exchange.
//
// It decides what is a well-formed request, where it ends and which path it
// names, in one place for everybody else. It does not route, run plugins or
// choose nodes. The client side rests on net/http behind a strict guard of its
// own; no other package sees net/http's types of a request.
package engine

import (
	"context"
	"crypto/tls"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"gatehouse/gateway"
)

// Handler answers one Exchange. It must write a head before it returns, and
// must not keep x or w.
type Handler interface {
	Serve(x *gateway.Exchange, w *Writer)
}

// HandlerFunc is a function as a Handler.
type HandlerFunc func(x *gateway.Exchange, w *Writer)

// Serve calls f.
func (f HandlerFunc) Serve(x *gateway.Exchange, w *Writer) { f(x, w) }

// Limits bounds what a client may send. Zero fields take the default.
type Limits struct {
	Head       int           // bytes of a head; 64 KiB, beyond: 431
	Fields     int           // header fields; 200, beyond: 431
	URI        int           // bytes of a request target; 16 KiB, beyond: 414
	HeadTime   time.Duration // for a whole head; 60 s
	BodyTime   time.Duration // between two reads of a body; 60 s
	SendTime   time.Duration // for one write to the client; 60 s
	Idle       time.Duration // a connection between requests; 75 s
	TunnelIdle time.Duration // an upgraded connection without traffic; 1 h
}

func (l *Limits) defaults() {
	for _, d := range []struct {
		to *int
		v  int
	}{{&l.Head, 64 << 10}, {&l.Fields, 200}, {&l.URI, 16 << 10}} {
		if *d.to <= 0 {
			*d.to = d.v
		}
	}
	for _, d := range []struct {
		to *time.Duration
		v  time.Duration
	}{{&l.HeadTime, time.Minute}, {&l.BodyTime, time.Minute}, {&l.SendTime, time.Minute}, {&l.Idle, 75 * time.Second}, {&l.TunnelIdle, time.Hour}} {
		if *d.to <= 0 {
			*d.to = d.v
		}
	}
}

// ServerConfig is what a Server needs.
type ServerConfig struct {
	Handler Handler
	Log     *slog.Logger
	Now     func() time.Time
	Limits  Limits
	// RealIPFrom lists the peers whose RealIPHeader names the client
	// ("X-Real-IP" when empty). RealIPRecursive walks a list from the right
	// over addresses that are themselves in RealIPFrom.
	RealIPFrom      []netip.Prefix
	RealIPHeader    string
	RealIPRecursive bool
}

// Server serves HTTP/1.1, and HTTP/2 over TLS.
type Server struct {
	cfg  ServerConfig
	http *http.Server
	pool sync.Pool

	mu      sync.Mutex
	tunnels map[*tunnel]struct{} // guarded by mu
	done    bool                 // guarded by mu: no new tunnels
	empty   chan struct{}        // guarded by mu: closed when done and the last tunnel ends
}

// NewServer makes a server that listens nowhere yet.
func NewServer(cfg ServerConfig) *Server {
	cfg.Limits.defaults()
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.RealIPHeader == "" {
		cfg.RealIPHeader = "X-Real-IP"
	}
	s := &Server{cfg: cfg, tunnels: map[*tunnel]struct{}{}}
	s.pool.New = func() any { return new(gateway.Exchange) }
	s.http = &http.Server{
		Handler:                      http.HandlerFunc(s.serve),
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            cfg.Limits.HeadTime,
		IdleTimeout:                  cfg.Limits.Idle,
		MaxHeaderBytes:               cfg.Limits.Head,
		ErrorLog:                     slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			g, ok := c.(*guard)
			if !ok {
				g = newGuard(c, cfg.Limits, nil)
			}
			return context.WithValue(ctx, connKey{}, g)
		},
	}
	return s
}

type connKey struct{}

// Serve answers the connections of l until Stop. Connections are TCP, or
// *tls.Conn with the handshake done. It returns nil after Stop.
func (s *Server) Serve(l net.Listener) error {
	err := s.http.Serve(guarded{l, s.cfg.Limits})
	if err == http.ErrServerClosed {
		return nil
	}
	return err
}

// Stop accepts no more connections and waits for the requests and tunnels
// under way. What is not done when ctx ends is cut off, and the error is ctx's.
func (s *Server) Stop(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	s.mu.Lock()
	s.done = true
	empty := make(chan struct{})
	if s.empty = empty; len(s.tunnels) == 0 {
		close(empty)
	}
	s.mu.Unlock()
	select {
	case <-empty:
	case <-ctx.Done():
		err = ctx.Err()
		s.mu.Lock()
		left := slices.Collect(maps.Keys(s.tunnels))
		s.mu.Unlock()
		for _, t := range left {
			t.Close()
		}
	}
	s.http.Close()
	return err
}

// guarded puts a guard before every HTTP/1 connection.
type guarded struct {
	net.Listener
	limits Limits
}

func (l guarded) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if t, ok := c.(*tls.Conn); ok {
		cs := t.ConnectionState()
		if cs.NegotiatedProtocol == "h2" {
			return c, nil
		}
		return newGuard(c, l.limits, &cs), nil
	}
	return newGuard(c, l.limits, nil), nil
}

func newGuard(c net.Conn, l Limits, cs *tls.ConnectionState) *guard {
	return &guard{Conn: c, limits: l, tls: cs, peer: addrPort(c.RemoteAddr()), local: addrPort(c.LocalAddr())}
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
