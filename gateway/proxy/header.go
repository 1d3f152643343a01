package proxy

import (
	"net/netip"
	"strconv"
	"strings"

	"gatehouse/gateway"
	"gatehouse/lib/h1"
)

// isHop says whether a field belongs to one connection (RFC 9110, section
// 7.6.1) or is the engine's to write. The engine keeps the client's from us; a
// plugin may still have set one.
func isHop(name string) bool {
	switch len(name) {
	case 2:
		return h1.EqualFold(name, "TE")
	case 4:
		return h1.EqualFold(name, "Host")
	case 6:
		return h1.EqualFold(name, "Expect")
	case 7:
		return h1.EqualFold(name, "Trailer") || h1.EqualFold(name, "Upgrade")
	case 10:
		return h1.EqualFold(name, "Connection") || h1.EqualFold(name, "Keep-Alive")
	case 14:
		return h1.EqualFold(name, "Content-Length") || h1.EqualFold(name, "HTTP2-Settings")
	case 16:
		return h1.EqualFold(name, "Proxy-Connection")
	case 17:
		return h1.EqualFold(name, "Transfer-Encoding")
	case 19:
		return h1.EqualFold(name, "Proxy-Authorization")
	}
	return false
}

// spoken is what a field of a client says that only a proxy or this gateway
// may say, or that must be well formed.
type spoken uint8

const (
	nothing    spoken = iota
	identity          // who the consumer is
	misspelt          // X_Forwarded_For, Content_Length and the like, which some upstreams read as the real one
	forwarded         // "Forwarded"
	xForwarded        // X-Forwarded-For, X-Real-IP: the outgoing header has its own
	xProto
	xHost
	xPort
	traced // traceparent, tracestate
)

// speaks classifies a field name.
func speaks(name string) spoken {
	if len(name) < 9 {
		return nothing
	}
	switch name[0] | 0x20 {
	case 'c':
		if len(name) == 14 && h1.EqualFold(name, "Content_Length") {
			return misspelt
		}
		return nothing
	case 'f':
		if h1.EqualFold(name, "Forwarded") {
			return forwarded
		}
		return nothing
	case 't':
		if h1.EqualFold(name, "traceparent") || h1.EqualFold(name, "tracestate") {
			return traced
		}
		if len(name) == 17 && h1.EqualFold(name, "Transfer_Encoding") {
			return misspelt
		}
		return nothing
	case 'x':
	default:
		return nothing
	}
	if name[1] != '-' && name[1] != '_' {
		return nothing
	}
	if strings.IndexByte(name, '_') >= 0 {
		plain := strings.ReplaceAll(name, "_", "-")
		if s := speaks(plain); s >= xForwarded && s <= xPort {
			return misspelt
		} else if s == identity {
			return identity
		}
		return nothing
	}
	switch name[2] | 0x20 {
	case 'c':
		const consumer, credential = "X-Consumer-", "X-Credential-Identifier"
		if len(name) >= len(consumer) && h1.EqualFold(name[:len(consumer)], consumer) || h1.EqualFold(name, credential) {
			return identity
		}
	case 'r':
		if h1.EqualFold(name, "X-Real-IP") {
			return xForwarded
		}
	case 'f':
		switch {
		case h1.EqualFold(name, "X-Forwarded-For"):
			return xForwarded
		case h1.EqualFold(name, "X-Forwarded-Proto"):
			return xProto
		case h1.EqualFold(name, "X-Forwarded-Host"):
			return xHost
		case h1.EqualFold(name, "X-Forwarded-Port"):
			return xPort
		}
	}
	return nothing
}

// introduce takes from the request what the client must not say, and says what
// we observed of it instead, before plugins run: they read it, and an
// operator's plugin may still change it. A trusted peer's word stands.
func (f *flight) introduce() {
	h := &f.x.Req.Header
	f.trust = f.trusted()
	trust := f.trust
	var proto, host, port, trace bool
	h.DelFunc(func(field gateway.Field) bool {
		switch speaks(field.Name) {
		case identity, misspelt:
			return true
		case forwarded:
			return !trust
		case xProto:
			proto = trust && field.Value != ""
			return !proto
		case xHost:
			host = trust && field.Value != ""
			return !host
		case xPort:
			port = trust && field.Value != ""
			return !port
		case traced:
			trace = true
		}
		return false
	})
	if trace {
		f.x.Req.CheckTrace()
	}
	if !proto {
		h.Append("X-Forwarded-Proto", f.x.Req.Scheme)
	}
	if !host {
		h.Append("X-Forwarded-Host", f.x.Req.Authority)
	}
	if !port {
		h.Append("X-Forwarded-Port", f.port())
	}
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

// outgoing makes the header for the upstream: the client's address, and the
// request's fields as plugins left them without those of the connection.
func (f *flight) outgoing() {
	x, to := f.x, &f.header
	x.Req.Header.DropOwnCookies()
	to.Reset()
	ip := x.Req.ClientIP
	if !x.Req.Client.IsValid() {
		ip = netip.IPv4Unspecified().String()
	}
	to.Append("X-Real-IP", ip)
	if f.trust {
		var list []string
		for v := range x.Req.Header.Values("X-Forwarded-For") {
			list = append(list, v)
		}
		if len(list) > 0 {
			ip = strings.Join(append(list, x.Req.Peer.Addr().Unmap().String()), ", ")
		}
	}
	to.Append("X-Forwarded-For", ip)
	for _, h := range x.Req.Header.Fields() {
		if !isHop(h.Name) && speaks(h.Name) != xForwarded {
			to.Append(h.Name, h.Value)
		}
	}
}

// port is the port the client named, else the one it reached.
func (f *flight) port() string {
	a := f.x.Req.Authority // well formed: the engine has split it
	if i := strings.LastIndexByte(a, ':'); i > strings.LastIndexByte(a, ']') && i+1 < len(a) {
		return a[i+1:]
	}
	if p := f.x.Req.Local.Port(); f.localPort != p || f.localText == "" {
		f.localPort, f.localText = p, strconv.Itoa(int(p))
	}
	return f.localText
}
