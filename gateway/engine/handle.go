package engine

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"gatehouse/gateway"
)

// What can be wrong with a client's body.
var (
	ErrClient   = gateway.ErrClient
	ErrSlow     = gateway.ErrSlow
	ErrTooLarge = gateway.ErrTooLarge
)

// handle is an exchange from its head to its end, whatever the protocol. The
// front has filled Ctx, Start, BytesIn and of Req: Method, Scheme, Proto,
// Authority, Target, Header, Body, Length, Trailers, Upgrade, Peer, Local,
// ClientIP (of the peer) and TLS. fail is the status that refuses what cannot
// be understood. It says false when the handler panicked: somebody may still
// hold x.
func (s *Server) handle(x *gateway.Exchange, w *Writer, fail int) (ok bool) {
	x.Now = s.cfg.Now
	if fail == 0 {
		fail = s.derive(x)
	}
	defer func() {
		err := recover()
		if ok = err == nil; !ok {
			if err != http.ErrAbortHandler {
				s.cfg.Log.Error("request handler panicked", "path", x.Req.Path, "err", err, "stack", string(debug.Stack()))
			}
			if w.sent {
				w.aborted = true
			} else {
				w.Refuse(http.StatusInternalServerError)
			}
		}
		if !w.taken {
			w.f.finish(w)
		}
		if fail != 0 && s.cfg.Refused != nil {
			s.cfg.Refused(x)
		}
	}()
	if fail != 0 {
		s.stats.refuse(fail)
		s.cfg.Log.Debug("malformed request refused", "client", x.Req.ClientIP, "status", fail)
		w.Refuse(fail)
		return true
	}
	s.cfg.Handler.Serve(x, w)
	return true
}

// derive finds what all protocols have in common; it returns the status that
// refuses the request, or 0.
func (s *Server) derive(x *gateway.Exchange) (fail int) {
	var ok bool
	if x.Req.Authority != "" || x.Req.Proto != "HTTP/1.0" {
		if x.Req.Host, ok = splitHost(x.Req.Authority); !ok {
			return 400
		}
	}
	if x.Req.Target == "*" {
		return 404 // OPTIONS *: no route speaks for the whole server
	}
	path, query, plain, err := normalize(x.Req.Target)
	if err != nil {
		return 400
	}
	x.Req.Path, x.Req.Query = path, query
	if !plain {
		x.Out.Target = encode(path, query)
	}
	if s.cfg.Limits.Body > 0 && x.Req.Length > s.cfg.Limits.Body {
		return 413
	}
	x.Req.Client = x.Req.Peer.Addr()
	if len(s.cfg.RealIPFrom) > 0 {
		if a := s.client(x); a != x.Req.Client {
			x.Req.Client, x.Req.ClientIP = a, a.String()
		}
	}
	return 0
}

// clearExchange empties x for its next use and keeps its memory.
func clearExchange(x *gateway.Exchange) {
	req, resp, ans, up, down := x.Req.Header, x.Resp.Header, x.Answer, x.Req.Trailer, x.Resp.Trailer
	for _, h := range [...]*gateway.Header{&req, &resp, &ans, &up, &down} {
		h.Reset()
	}
	*x = gateway.Exchange{Answer: ans, Reuse: x.Reuse}
	x.Req.Header, x.Resp.Header, x.Req.Trailer, x.Resp.Trailer = req, resp, up, down
}

// client is the peer, or what a trusted peer says of it. A header that is no
// address is ignored.
func (s *Server) client(x *gateway.Exchange) netip.Addr {
	a := x.Req.Peer.Addr()
	if !s.trusted(a) {
		return a
	}
	var list []string
	for v := range x.Req.Header.Values(s.cfg.RealIPHeader) {
		list = append(list, strings.Split(v, ",")...)
	}
	for _, v := range slices.Backward(list) {
		next, ok := parseAddr(strings.TrimSpace(v))
		if !ok {
			return a
		}
		if a = next; !s.cfg.RealIPRecursive || !s.trusted(a) {
			return a
		}
	}
	return a
}

func (s *Server) trusted(a netip.Addr) bool {
	for _, p := range s.cfg.RealIPFrom {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// parseAddr accepts an address with or without a port.
func parseAddr(v string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(v); err == nil {
		return a.Unmap().WithZone(""), true
	}
	if ap, err := netip.ParseAddrPort(v); err == nil {
		return ap.Addr().Unmap().WithZone(""), true
	}
	return netip.Addr{}, false
}

// clientError says that the client's body could not be read, and why.
func clientError(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = ErrSlow
	}
	if errors.Is(err, ErrClient) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrClient, err)
}
