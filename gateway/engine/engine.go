// Package engine speaks HTTP on the wire, to clients (Server) and to upstreams
// (Transport), and translates between it and gateway.Exchange.
//
// It decides what is a well-formed request, where it ends and which path it
// names, in one place for everybody else. It does not route, run plugins or
// choose nodes. The grammar of HTTP/1.1 is lib/h1, every raw system call is
// lib/sock.
//
// Start at Server.Serve and client.serve for what comes in, at Transport.Send
// for what goes out, at front for what a client protocol must offer.
package engine

import (
	"cmp"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gatehouse/gateway"
	"gatehouse/lib/h1"
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

// Limits bounds what a client may send and how long it may take. Zero fields
// take the default, which stands behind the semicolon. Times are enforced once
// a second.
type Limits struct {
	Head         int           // bytes of a head; 64 KiB, beyond: 431
	Fields       int           // header fields; 200, beyond: 431
	URI          int           // bytes of a request target; 16 KiB, beyond: 414
	Body         int64         // bytes of a request's body; 0: no limit, beyond: 413
	HeadTime     time.Duration // for a whole head; 60 s, beyond: 408
	BodyTime     time.Duration // between two reads of a body; 60 s, beyond: 408
	SendTime     time.Duration // in which the client takes nothing of an answer; 60 s
	Rate         int           // bytes in a second that a client sends of a body, and takes of an answer, while it is waited for; 240, negative: no limit
	RateTime     time.Duration // over which Rate is measured; 30 s
	Total        time.Duration // for an exchange, tunnels excepted; 0: no limit, beyond: 504, or cut off
	Idle         time.Duration // a connection between requests; 75 s
	TunnelIdle   time.Duration // an upgraded connection without traffic; 1 h
	Requests     int           // on one connection; 0: no limit
	Conns        int           // open connections per listener; 0: no limit, beyond: closed at once
	ConnsPerAddr int           // open connections of one client address; 0: no limit, beyond: closed at once
	Streams      int           // requests at once on one connection of HTTP/2 or HTTP/3; 100
}

func (l *Limits) defaults() {
	for _, d := range []struct {
		to *int
		v  int
	}{{&l.Head, 64 << 10}, {&l.Fields, 200}, {&l.URI, 16 << 10}, {&l.Streams, 100}} {
		if *d.to <= 0 {
			*d.to = d.v
		}
	}
	if l.Rate == 0 {
		l.Rate = 240
	}
	for _, d := range []struct {
		to *time.Duration
		v  time.Duration
	}{{&l.HeadTime, time.Minute}, {&l.BodyTime, time.Minute}, {&l.SendTime, time.Minute}, {&l.RateTime, 30 * time.Second}, {&l.Idle, 75 * time.Second}, {&l.TunnelIdle, time.Hour}} {
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
	// Refused is told of each request that was answered without Handler,
	// because it could not be made out, after the answer; may be nil.
	Refused func(x *gateway.Exchange)
	// NoHTTP2 refuses HTTP/2 by prior knowledge on plain connections.
	NoHTTP2 bool
	// Exhausted is called when no connection can be
	// accepted for want of descriptors or memory; may be nil.
	Exhausted func()
}

// Server serves HTTP/1.1 and HTTP/2, the latter over TLS or by prior
// knowledge, and HTTP/3 (ServeQUIC).
type Server struct {
	cfg     ServerConfig
	heads   h1.Limits
	actives sync.Pool // of *active
	pipes   pipes
	seconds atomic.Int64
	date    atomic.Pointer[string]
	broken  atomic.Int64 // HTTP/2 and HTTP/3 connections that broke the protocol
	stats   serverStats
	shed    atomic.Int64 // connections that fell idle since memory was given back

	mu         sync.Mutex
	links      map[link]struct{}       // guarded by mu; every open connection of a client
	addrs      map[netip.Addr]int      // guarded by mu; connections by client, when that is limited
	listeners  map[io.Closer]int       // guarded by mu; and their connections
	advertised map[net.Listener]string // guarded by mu; the Alt-Svc of TLS listeners
	serving    int                     // guarded by mu: calls of Serve and ServeQUIC
	conns      int                     // guarded by mu: connections that were let in
	done       bool                    // guarded by mu: stopping
	empty      chan struct{}           // guarded by mu: closed when done and nobody is left; nil: not stopping, or closed
	sweeping   bool                    // guarded by mu: the sweeper runs
	sweeps     sync.WaitGroup          // the sweeper
	halt       chan struct{}           // ends the sweeper

	restart atomic.Bool // somebody else serves the clients from now on: see Farewell
}

// link is a connection of a client, as the server that looks after it sees it.
type link interface {
	// tick is called once a second, to enforce times. It must not block.
	tick(now int64)
	// drain lets what is under way end and then closes. A connection without a
	// request stays open: its next one may be on its way.
	drain()
	// quiet closes a connection that is drained and has nothing to do. It may
	// be called again.
	quiet()
	// cut closes at once.
	cut()
}

// wire is what is known of a connection before its first byte.
type wire struct {
	nc    net.Conn             // nil: QUIC
	tcp   *net.TCPConn         // below nc; nil: none
	tls   *tls.ConnectionState // nil: plain
	peer  netip.AddrPort
	local netip.AddrPort
	ip    string // of peer

	altSvc   string // what answers say of HTTP/3; "": nothing
	listener io.Closer
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
	s := &Server{cfg: cfg, links: map[link]struct{}{}, addrs: map[netip.Addr]int{}, listeners: map[io.Closer]int{}, advertised: map[net.Listener]string{}, halt: make(chan struct{})}
	s.heads = h1.Limits{Head: cfg.Limits.Head, Target: cfg.Limits.URI, Fields: cfg.Limits.Fields}
	s.actives.New = func() any { return new(active) }
	s.setClock(time.Now())
	return s
}

// Advertise lets the answers on TLS connections of l say where HTTP/3 is
// served, in the field Alt-Svc (RFC 7838), unless they say it themselves. It is
// called before Serve.
func (s *Server) Advertise(l net.Listener, altSvc string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advertised[l] = altSvc
}

// Serve answers the connections of l until Stop. Connections are TCP, or
// *tls.Conn with the handshake done. It returns nil after Stop.
func (s *Server) Serve(l net.Listener) error {
	if !s.open(l) {
		l.Close()
		return nil
	}
	defer s.close(l)
	var said time.Time // a warning
	for delay := 5 * time.Millisecond; ; {
		nc, err := l.Accept()
		if err == nil {
			delay = 5 * time.Millisecond
			s.admit(l, nc)
			continue
		}
		if s.stopping() { // what was accepted before is admitted above
			return nil
		}
		if !transient(err) {
			return err
		}
		if now := time.Now(); now.Sub(said) >= time.Second {
			said = now
			s.cfg.Log.Warn("accepting connections", "addr", l.Addr().String(), "err", err)
		}
		if exhausted(err) && s.makeRoom() {
			delay = 20 * time.Millisecond
		}
		select {
		case <-time.After(delay):
			delay = min(2*delay, time.Second)
		case <-s.halt:
			return nil
		}
	}
}

// transient errors of Accept pass: out of descriptors or memory, or a client
// that left before it was accepted.
func transient(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.ECONNRESET} {
		if errors.Is(err, e) {
			return true
		}
	}
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// exhausted says whether descriptors or memory are what is missing.
func exhausted(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM)
}

// idler is a link that may wait for a request.
type idler interface {
	link
	// idleSince is the second since which it waits; false: it does not.
	idleSince() (int64, bool)
}

// makeRoom closes a part of the connections that wait for a request, those
// idle longest first: who asks now comes before who may ask. It says whether
// there were any.
func (s *Server) makeRoom() bool {
	type idle struct {
		k     idler
		since int64
	}
	var list []idle
	s.mu.Lock()
	for l := range s.links {
		if k, ok := l.(idler); ok {
			if since, ok := k.idleSince(); ok {
				list = append(list, idle{k, since})
			}
		}
	}
	s.mu.Unlock()
	slices.SortFunc(list, func(a, b idle) int { return cmp.Compare(a.since, b.since) })
	for _, i := range list[:min(len(list), max(len(list)/8, 16))] {
		i.k.drain()
		i.k.quiet()
	}
	if s.cfg.Exhausted != nil {
		s.cfg.Exhausted()
	}
	return len(list) > 0
}

func (s *Server) open(l io.Closer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done {
		return false
	}
	s.listeners[l] = 0
	s.serving++
	if !s.sweeping {
		s.sweeping = true
		s.sweeps.Go(s.sweep)
	}
	return true
}

func (s *Server) close(l io.Closer) {
	l.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listeners[l] == 0 {
		delete(s.listeners, l)
	}
	s.serving--
	s.left()
}

// left notices when the last of a server that stops is gone. The caller holds
// mu.
func (s *Server) left() {
	if s.empty != nil && s.serving == 0 && s.conns == 0 {
		close(s.empty)
		s.empty = nil
	}
}

func (s *Server) stopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done
}

// admit begins a connection, within the limits.
func (s *Server) admit(l net.Listener, nc net.Conn) {
	w := wire{nc: nc, peer: addrPort(nc.RemoteAddr()), local: addrPort(nc.LocalAddr())}
	below := nc
	proto := ""
	if t, ok := nc.(*tls.Conn); ok {
		cs := t.ConnectionState()
		w.tls, proto, below = &cs, cs.NegotiatedProtocol, t.NetConn()
	}
	switch c := below.(type) {
	case *net.TCPConn:
		w.tcp = c
	case interface{ TCP() *net.TCPConn }:
		w.tcp = c.TCP()
	}
	if !s.count(l, w.peer.Addr()) {
		nc.Close()
		return
	}
	w.ip, w.listener = w.peer.Addr().String(), l
	if w.tls != nil {
		s.stats.secured(w.tls)
		w.altSvc = s.altSvc(l)
	}
	if proto != "h2" {
		go newClient(s, w).serve()
		return
	}
	go func() {
		s.serveHTTP2(w, nil)
		s.uncount(w)
	}()
}

func (s *Server) altSvc(l net.Listener) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.advertised[l]
}

func (s *Server) count(l io.Closer, a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.accepted.Add(1)
	if lim := s.cfg.Limits.Conns; lim > 0 && s.listeners[l] >= lim {
		s.stats.turnedListener.Add(1)
		return false
	}
	if lim := s.cfg.Limits.ConnsPerAddr; lim > 0 {
		if s.addrs[a] >= lim {
			s.stats.turnedAddress.Add(1)
			return false
		}
		s.addrs[a]++
	}
	s.listeners[l]++
	s.conns++
	return true
}

func (s *Server) uncount(w wire) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, a := w.listener, w.peer.Addr()
	if s.listeners[l]--; s.done && s.listeners[l] == 0 {
		delete(s.listeners, l)
	}
	if s.cfg.Limits.ConnsPerAddr > 0 {
		if s.addrs[a]--; s.addrs[a] <= 0 {
			delete(s.addrs, a)
		}
	}
	s.conns--
	s.left()
}

// track puts a connection under the server's care; false: it is stopping, and
// the connection must end after what it has begun.
func (s *Server) track(k link) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.links[k] = struct{}{}
	return !s.done
}

// forget is the last that happens to a connection.
func (s *Server) forget(k link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.links, k)
}

// sweep looks after every connection once a second: one timer for all instead
// of one per request.
func (s *Server) sweep() {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	var list []link
	var c calm
	for {
		select {
		case now := <-t.C:
			s.setClock(now)
		case <-s.halt:
			return
		}
		list = list[:0]
		s.mu.Lock()
		for k := range s.links {
			list = append(list, k)
		}
		s.mu.Unlock()
		for _, k := range list {
			k.tick(s.seconds.Load())
		}
		clear(list)
		if c.due(s.seconds.Load(), s.shed.Load()) {
			s.shed.Store(0)
			runtime.GC() // what pools keep goes with the second collection
			debug.FreeOSMemory()
		}
	}
}

// calm finds the moment when a crowd of connections has fallen idle: what they
// used goes back to the system, which the collector would keep for requests
// that do not come.
type calm struct{ before, freed int64 }

const (
	crowd     = 1000
	freeEvery = 60 // seconds, at least
)

// due is told, once a second, how many have fallen idle since it was last true.
// A busy connection counts when it is found between two requests, so a few
// always do.
func (c *calm) due(now, shed int64) bool {
	more := shed - c.before
	c.before = shed
	if shed < crowd || more >= shed/8 || now-c.freed < freeEvery {
		return false
	}
	c.before, c.freed = 0, now
	return true
}

// setClock sets the clock that is read instead of the time of day where a
// second is near enough, and the Date of answers.
func (s *Server) setClock(now time.Time) {
	s.seconds.Store(now.Unix())
	d := now.UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT")
	s.date.Store(&d)
}

// Connections is the number of open connections of clients, for metrics.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.links)
}

func addrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(interface{ AddrPort() netip.AddrPort }) // of TCP or UDP
	if !ok {
		return netip.AddrPort{}
	}
	ap := t.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
