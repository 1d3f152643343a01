package engine

import (
	"context"
	"maps"
	"slices"
	"time"
)

// Farewell is how a server leaves its clients.
type Farewell struct {
	// Idle is how long a connection without a request is waited for: its next
	// request may be on its way, and is answered. It should be longer than a
	// round trip.
	Idle time.Duration
	// Restart says that somebody else serves the clients from now on.
	// WebSocket clients are told so, 1012 instead of 1001.
	Restart bool
}

// drainRound is how often connections are looked at while a server stops.
const drainRound = 50 * time.Millisecond

// Stop is Drain for a server that goes for good.
func (s *Server) Stop(ctx context.Context) error { return s.Drain(ctx, Farewell{Idle: time.Second}) }

// Drain accepts no more connections and waits for what is under way, so that
// no client loses anything:
//
//   - a connection that the kernel or a listener has accepted is served, and a
//     TLS handshake goes on;
//   - HTTP/1.1: the next answer carries Connection: close, whether its request
//     is here, on its way or still to come within Idle; then what the client
//     sends is read for a moment, so that no answer is lost to a reset;
//   - HTTP/2: GOAWAY with the highest id, and after a round trip the last one
//     served; streams up to it end first (RFC 9113, section 6.8);
//   - WebSocket: a Close frame to both sides, and their answers.
//
// What is not done when ctx ends is cut off, and the error is ctx's.
func (s *Server) Drain(ctx context.Context, f Farewell) error {
	s.mu.Lock()
	if s.done {
		s.mu.Unlock()
		return nil
	}
	s.done = true
	s.restart.Store(f.Restart)
	empty := make(chan struct{})
	s.empty = empty
	s.left()
	ls := slices.Collect(maps.Keys(s.listeners))
	s.mu.Unlock()
	for _, l := range ls {
		// What the kernel has accepted for us is taken first: closing would
		// reset it.
		d, ok := l.(interface{ SetDeadline(time.Time) error })
		if !ok || d.SetDeadline(time.Now().Add(drainRound)) != nil {
			l.Close()
		}
	}
	err := s.see(ctx, f, empty)
	if err != nil {
		for _, l := range ls {
			if c, ok := l.(interface{ Cut() }); ok {
				c.Cut()
			}
		}
		for _, k := range s.all() {
			k.cut()
		}
	}
	close(s.halt)
	s.sweeps.Wait()
	s.pipes.close()
	return err
}

// see sees every connection off.
func (s *Server) see(ctx context.Context, f Farewell, empty <-chan struct{}) error {
	told := map[link]time.Time{}
	t := time.NewTicker(drainRound)
	defer t.Stop()
	for now := time.Now(); ; {
		for _, k := range s.all() {
			since, ok := told[k]
			if !ok {
				since, told[k] = now, now
				k.drain()
			}
			if now.Sub(since) >= f.Idle {
				k.quiet()
			}
		}
		select {
		case <-empty:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case now = <-t.C:
		}
	}
}

// all returns the connections there are.
func (s *Server) all() []link {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.links))
}

// farewell closes our side of a connection and reads on for a moment, so that
// what the client has sent meanwhile does not become a reset, which would cost
// it the last answer (RFC 9112, section 9.6).
func (w *wire) farewell(wait time.Duration, buf []byte) {
	if t, ok := w.nc.(interface{ CloseWrite() error }); !ok || t.CloseWrite() != nil {
		return
	}
	nc := w.nc
	if w.tcp != nil {
		nc = w.tcp // below TLS: nobody decrypts what nobody reads
	}
	_ = nc.SetReadDeadline(time.Now().Add(wait))
	for total := 0; total < lingerBytes; {
		n, err := nc.Read(buf)
		if total += n; err != nil {
			return
		}
	}
}
