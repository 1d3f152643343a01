package engine

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
)

// h2Conn replays what was read of a connection.
type h2Conn struct {
	net.Conn
	prefix []byte
	done   chan struct{}
}

func (c *h2Conn) Read(p []byte) (int, error) {
	if len(c.prefix) > 0 {
		n := copy(p, c.prefix)
		c.prefix = c.prefix[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

type netLink struct {
	srv *http.Server
	nc  net.Conn
}

func (l netLink) tick(int64) {}
func (l netLink) drain()     { go l.srv.Shutdown(context.Background()) }
func (l netLink) cut()       { l.nc.Close() }

func (s *Server) serveHTTP2(w wire, prefix []byte) {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	p.SetHTTP2(true)
	done := make(chan struct{})
	srv := &http.Server{Protocols: p, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { s.serveNet(w, rw, r) }),
		IdleTimeout: s.cfg.Limits.Idle, ReadHeaderTimeout: s.cfg.Limits.HeadTime, DisableGeneralOptionsHandler: true,
		ConnState: func(_ net.Conn, st http.ConnState) {
			if st == http.StateClosed {
				close(done)
			}
		}}
	var nc net.Conn = w.nc
	if w.tls == nil {
		nc = &h2Conn{w.nc, prefix, done}
	} else {
		srv.TLSConfig = &tls.Config{NextProtos: []string{"h2"}}
	}
	k := netLink{srv, w.nc}
	s.track(k)
	if err := srv.Serve(&oneConn{nc, done}); err != nil && !errors.Is(err, net.ErrClosed) {
		<-done
	}
	s.forget(k)
}
