package proxy

import (
	"net"
	"net/netip"
	"strconv"
	"strings"

	"gatehouse/gateway"
)

// hop are the fields of one connection (RFC 9110, section 7.6.1), and those
// the engine writes itself.
var hop = [...]string{
	"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "TE", "Trailer",
	"Transfer-Encoding", "Upgrade", "HTTP2-Settings", "Expect", "Content-Length", "Host",
}

func isHop(name string) bool {
	switch len(name) {
	case 2, 4, 6, 7, 10, 14, 16, 17, 18, 19:
		for _, h := range hop {
			if len(h) == len(name) && strings.EqualFold(h, name) {
				return true
			}
		}
	}
	return false
}

// dropHop removes what the client's Connection names, before any plugin runs:
// later it could name a field that a plugin has set. The standard ones go when
// the request is sent; plugins may look at them.
func dropHop(x *gateway.Exchange) { dropNominated(&x.Req.Header) }

func dropNominated(h *gateway.Header) {
	var names []string
	for v := range h.Values("Connection") {
		for t := range strings.SplitSeq(v, ",") {
			t = strings.Trim(t, " \t")
			if t != "" && !isHop(t) && !strings.EqualFold(t, "close") {
				names = append(names, t)
			}
		}
	}
	for _, n := range names {
		h.Del(n)
	}
}

// dropIdentity removes the fields by which this gateway tells an upstream who
// a consumer is, in every spelling.
func dropIdentity(x *gateway.Exchange) {
	x.Req.Header.DelFunc(func(f gateway.Field) bool {
		if len(f.Name) < 11 || f.Name[0]|0x20 != 'x' {
			return false
		}
		n := strings.ToLower(strings.ReplaceAll(f.Name, "_", "-"))
		return strings.HasPrefix(n, "x-consumer-") || n == "x-credential-identifier"
	})
}

// forwarded are the fields by which a proxy speaks of the client.
var forwarded = [...]string{"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-real-ip", "forwarded"}

// dropForwarded removes spellings with an underscore, which some upstreams
// read as the real ones, and "Forwarded" of a peer that is not trusted.
func (f *flight) dropForwarded() {
	trusted := f.trusted()
	f.x.Req.Header.DelFunc(func(h gateway.Field) bool {
		if len(h.Name) < 9 {
			return false
		}
		if strings.IndexByte(h.Name, '_') >= 0 {
			n := strings.ToLower(strings.ReplaceAll(h.Name, "_", "-"))
			for _, name := range forwarded {
				if n == name {
					return true
				}
			}
			return false
		}
		return !trusted && strings.EqualFold(h.Name, "Forwarded")
	})
}

func (f *flight) trusted() bool {
	peer := f.x.Req.Peer.Addr()
	for _, p := range f.p.cfg.Trusted {
		if p.Contains(peer) {
			return true
		}
	}
	return false
}

// setForwarded writes what we observed of the client, before plugins run: they
// read it, and an operator's plugin may still change it.
func (f *flight) setForwarded() {
	x := f.x
	trusted := f.trusted()
	for _, o := range [...]struct{ name, value string }{
		{"X-Forwarded-Proto", x.Req.Scheme},
		{"X-Forwarded-Host", x.Req.Authority},
		{"X-Forwarded-Port", f.port()},
	} {
		if !trusted || x.Req.Header.Get(o.name) == "" {
			x.Req.Header.Del(o.name)
			x.Req.Header.Add(o.name, o.value)
		}
	}
}

// outgoing makes the header for the upstream: the client's address, and the
// request's fields as plugins left them without those of the connection.
func (f *flight) outgoing(to *gateway.Header) {
	x := f.x
	x.Req.Header.DropOwnCookies()
	to.Reset()
	client := x.Req.Client
	if !client.IsValid() {
		client = netip.IPv4Unspecified()
	}
	ip := client.String()
	to.Add("X-Real-IP", ip)
	chain := ip
	if f.trusted() {
		var list []string
		for v := range x.Req.Header.Values("X-Forwarded-For") {
			list = append(list, v)
		}
		if len(list) > 0 {
			chain = strings.Join(append(list, x.Req.Peer.Addr().Unmap().String()), ", ")
		}
	}
	to.Add("X-Forwarded-For", chain)
	for _, h := range x.Req.Header.Fields() {
		if isHop(h.Name) || strings.EqualFold(h.Name, "X-Real-IP") || strings.EqualFold(h.Name, "X-Forwarded-For") {
			continue
		}
		to.Add(h.Name, h.Value)
	}
}

// port is the port the client named, else the one it reached.
func (f *flight) port() string {
	if _, p, err := net.SplitHostPort(f.x.Req.Authority); err == nil && p != "" {
		return p
	}
	return strconv.Itoa(int(f.x.Req.Local.Port()))
}
