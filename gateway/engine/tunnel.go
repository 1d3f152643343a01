package engine

import (
	"sync/atomic"
	"time"
)

// tunnel is the client's side of an upgraded connection.
type tunnel struct {
	c     *client
	early []byte // came before the upgrade was answered
	last  atomic.Int64
}

func (t *tunnel) Read(p []byte) (int, error) {
	if len(t.early) > 0 {
		n := copy(p, t.early)
		t.early = t.early[n:]
		return n, nil
	}
	n, err := t.c.nc.Read(p)
	t.last.Store(t.c.srv.seconds.Load())
	return n, err
}

func (t *tunnel) Write(p []byte) (int, error) {
	n, err := t.c.nc.Write(p)
	t.last.Store(t.c.srv.seconds.Load())
	return n, err
}

// Close ends the connection; the server forgets it when its goroutine ends.
func (t *tunnel) Close() error { return t.c.nc.Close() }

// CloseWrite tells the client that nothing more comes.
func (t *tunnel) CloseWrite() error {
	if w, ok := t.c.nc.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return t.c.nc.Close()
}

// tick closes a tunnel without traffic. A write that waits for its client for
// too long counts as none.
func (t *tunnel) tick(now int64) {
	if time.Duration(now-t.last.Load())*time.Second >= t.c.srv.cfg.Limits.TunnelIdle {
		_ = t.c.nc.SetDeadline(time.Unix(1, 0))
	}
}

// drain leaves a tunnel to its users, who are told by nobody that the server
// stops: Stop's context ends it.
func (t *tunnel) drain() {}
