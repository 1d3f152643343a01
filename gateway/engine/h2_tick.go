package engine

import "time"

// What tick judges of an HTTP/2 connection: the same as of HTTP/1.1 (pace.go),
// of the socket, the connection's window and each stream.

// never is the limit of a wait that is bounded elsewhere.
const never = time.Duration(1 << 62)

// tickWrite gives up a client that does not take what is written to it, grants
// the connection a byte now and then, or does not end a header block. The
// caller holds mu.
func (c *h2conn) tickWrite(now int64) {
	lim := &c.srv.cfg.Limits
	gone := false
	if began := c.out.began; began > 0 {
		acked, _, ok := traffic(c.tcp, nil)
		gone = ok && c.writes.late(now, acked, lim.SendTime, lim, true) || !ok && now-began >= seconds(lim.SendTime)
	} else {
		c.writes.pause()
	}
	if c.window <= 0 && c.running > 0 {
		gone = c.grants.late(now, c.sent, never, lim, true) || gone
	} else {
		c.grants.pause()
	}
	if since := c.heading.Load(); since > 0 && now-since >= seconds(lim.HeadTime) {
		gone = true
	}
	if gone {
		giveUp(c.tcp)
		_ = c.nc.SetDeadline(time.Unix(1, 0))
	}
}

// tick enforces the times of a stream; false: it is to be reset. The caller
// holds c.mu.
func (st *h2stream) tick(now int64) bool {
	c, lim := st.c, &st.c.srv.cfg.Limits
	if took := now - st.began; lim.Total > 0 && took >= seconds(lim.Total) {
		if st.begun || took >= seconds(lim.Total)+lateAnswer {
			return false
		}
		st.cx.expire() // the handler says so
		if st.reading > 0 {
			st.fail(clientError(ErrSlow))
		}
	}
	if st.reading > 0 {
		if now-st.reading >= seconds(lim.BodyTime) ||
			st.arrivals.late(now, uint64(st.total), never, lim, !st.begun && !st.calls) {
			st.fail(clientError(ErrSlow))
		}
	} else {
		st.arrivals.pause()
	}
	if !st.waiting {
		st.grants.pause()
		return true
	}
	// While the connection's window is shut, it is not the stream's that is
	// slow.
	return now-st.since < seconds(lim.SendTime) &&
		!(st.window <= 0 && c.window > 0 && st.grants.late(now, uint64(st.x.BytesOut), never, lim, true))
}

// lateAnswer is how many seconds a handler has, once its exchange has taken
// too long, to say so.
const lateAnswer = 5
