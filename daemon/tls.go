package daemon

import (
	"context"
	"time"

	"gatehouse/gateway/engine"
	"gatehouse/gateway/listen"
	"gatehouse/gateway/live"
	"gatehouse/gateway/staple"
)

// openProxied opens the ports for what comes behind a header of the PROXY
// protocol.
func (d *Daemon) openProxied(certs listen.Certificates) error {
	p := &d.Config.Gateway.APISIX.ProxyProtocol
	trusted, err := Prefixes(p.Trusted)
	if err != nil {
		return err
	}
	for _, kind := range []struct {
		at      []Listen
		setting string
		tls     bool
	}{
		{p.ListenHTTP, "gateway.apisix.proxy_protocol.listen_http_port (GATEWAY_APISIX_PROXY_PROTOCOL_LISTEN_HTTP_PORT)", false},
		{p.ListenHTTPS, "gateway.apisix.proxy_protocol.listen_https_port (GATEWAY_APISIX_PROXY_PROTOCOL_LISTEN_HTTPS_PORT)", true},
	} {
		for _, at := range kind.at {
			l, err := d.sockets.tcp(at.Addr(), kind.setting)
			if err != nil {
				return err
			}
			p := gatewayPort{socket: l, proxied: true, trusted: trusted}
			if kind.tls {
				p.certs = certs
			}
			d.gateway.ports = append(d.gateway.ports, p)
			d.log.Info("gateway", "addr", l.Addr().String(), "tls", kind.tls, "proxy_protocol", true)
		}
	}
	return nil
}

// tlsOfSites is what the ssl resources have in common. OCSP answers are
// fetched until ctx ends.
func (d *Daemon) tlsOfSites(ctx context.Context, extra []byte) (live.TLS, error) {
	c := &d.Config.Gateway.APISIX.SSL
	protocols, err := live.ParseProtocols(c.Protocols)
	if err != nil {
		return live.TLS{}, err
	}
	ciphers, err := live.ParseCiphers(c.Ciphers)
	if err != nil {
		return live.TLS{}, err
	}
	stapler := staple.New(staple.Config{Log: d.log, Now: time.Now, Roots: engine.Roots(extra)})
	d.task(func() { stapler.Run(ctx) })
	return live.TLS{Protocols: protocols, Ciphers: ciphers, Sessions: d.tickets, NoTickets: !c.Tickets, Stapler: stapler}, nil
}
