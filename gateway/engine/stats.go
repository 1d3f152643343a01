package engine

import (
	"crypto/tls"
	"sync/atomic"
)

// ServerStats is what a server has counted since it was made, and what is
// open now.
type ServerStats struct {
	Accepted int64 // connections, those turned away too
	// Turned away: their listener, or their address, had as many as it may.
	TurnedListener, TurnedAddress int64

	Open map[string]int64 // connections by protocol: "http/1", "http/2", "http/3"
	// Of the open ones: waiting for a request, reading one, answering one.
	Waiting, Reading, Answering int64

	Refused  map[int]int64 // requests that could not be made out, by status
	Broken   int64         // HTTP/2 and HTTP/3 connections ended because the client broke the protocol
	Sessions map[TLSSession]int64
}

// TLSSession is a kind of handshake.
type TLSSession struct {
	Version string // "1.2", "1.3"
	Resumed bool
}

// serverStats are the counters behind ServerStats.
type serverStats struct {
	accepted, turnedListener, turnedAddress atomic.Int64

	refused [200]atomic.Int64 // by status, from 400
	tls     [2][2]atomic.Int64
}

func (s *serverStats) refuse(status int) {
	if i := status - 400; i >= 0 && i < len(s.refused) {
		s.refused[i].Add(1)
	}
}

// secured counts the handshake of a connection.
func (s *serverStats) secured(cs *tls.ConnectionState) {
	version, resumed := 0, 0
	if cs.Version >= tls.VersionTLS13 {
		version = 1
	}
	if cs.DidResume {
		resumed = 1
	}
	s.tls[version][resumed].Add(1)
}

// activity is what a connection is at.
type activity uint8

const (
	waiting activity = iota
	reading
	answering
)

// reporter is a connection that says what it is at.
type reporter interface {
	report() (protocol string, at activity)
}

func (c *client) report() (string, activity) {
	switch c.phase() {
	case phaseIdle, phaseGone:
		return "http/1", waiting
	case phaseHead:
		return "http/1", reading
	}
	sends, _ := c.sends.load()
	if reads, _ := c.reads.load(); reads && !sends {
		return "http/1", reading
	}
	return "http/1", answering
}

func (c *h2conn) report() (string, activity) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running > 0 {
		return "http/2", answering
	}
	return "http/2", waiting
}

func (c *h3conn) report() (string, activity) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.streams) > 0 {
		return "http/3", answering
	}
	return "http/3", waiting
}

// Stats looks at every connection: call it now and then, not per request.
func (s *Server) Stats() ServerStats {
	c := &s.stats
	st := ServerStats{
		Accepted: c.accepted.Load(), TurnedListener: c.turnedListener.Load(), TurnedAddress: c.turnedAddress.Load(), Broken: s.broken.Load(),
		Open: map[string]int64{"http/1": 0, "http/2": 0, "http/3": 0}, Refused: map[int]int64{}, Sessions: map[TLSSession]int64{},
	}
	s.mu.Lock()
	links := make([]link, 0, len(s.links))
	for k := range s.links {
		links = append(links, k)
	}
	s.mu.Unlock()
	for _, k := range links {
		r, ok := k.(reporter)
		if !ok {
			continue
		}
		protocol, at := r.report()
		st.Open[protocol]++
		switch at {
		case waiting:
			st.Waiting++
		case reading:
			st.Reading++
		default:
			st.Answering++
		}
	}
	for i := range c.refused {
		if n := c.refused[i].Load(); n > 0 {
			st.Refused[400+i] = n
		}
	}
	for v, version := range [...]string{"1.2", "1.3"} {
		for r, resumed := range [...]bool{false, true} {
			st.Sessions[TLSSession{version, resumed}] = c.tls[v][r].Load()
		}
	}
	return st
}

// TransportStats is what a transport has counted since it was made, and what
// is open now.
type TransportStats struct {
	Idle, Busy int64 // HTTP/1.1 connections open
	Reused     int64 // HTTP/1.1 requests sent on a connection that was kept
	Opened     int64 // connections, HTTP/2 too
	Failed     int64 // connections that did not come about
}

// transportStats are the counters behind TransportStats.
type transportStats struct {
	reused         int64 // guarded by Transport.mu
	opened, failed atomic.Int64
}

// dialled counts an attempt.
func (s *transportStats) dialled(err error) {
	if err != nil {
		s.failed.Add(1)
	} else {
		s.opened.Add(1)
	}
}

// Stats counts what is open.
func (t *Transport) Stats() TransportStats {
	st := TransportStats{Opened: t.stats.opened.Load(), Failed: t.stats.failed.Load()}
	t.mu.Lock()
	defer t.mu.Unlock()
	st.Reused = t.stats.reused
	for _, p := range t.idle {
		st.Idle += int64(len(p.list))
	}
	st.Busy = int64(len(t.open)) - st.Idle
	return st
}
