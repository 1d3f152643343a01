package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"gatehouse/admin"
	"gatehouse/gateway"
	"gatehouse/gateway/engine"
	"gatehouse/gateway/listen"
	"gatehouse/gateway/live"
	"gatehouse/gateway/proxy"
	"gatehouse/plugins"
	"gatehouse/store/embedded"
)

// gatewayPart is the gateway of this process.
type gatewayPart struct {
	adminKey  string
	server    *engine.Server
	ports     []gatewayPort
	views     []net.Listener // of ports, while they are served
	serving   sync.WaitGroup
	ending    chan struct{} // closed by stop
	transport *engine.Transport
	caller    *engine.Caller
	ballast   []byte
}

// gatewayPort is a socket of the gateway.
type gatewayPort struct {
	socket  *socket
	proxied bool                // behind a header of the PROXY protocol,
	trusted []netip.Prefix      // of these peers
	certs   listen.Certificates // nil: plain
	quic    *net.UDPConn        // nil: no HTTP/3
	altSvc  string              // what tells clients of it
}

// ballastSize is memory that is reserved and never touched, so the system
// gives none for it. The collector takes it for part of the heap and lets at
// least as much garbage gather before it works: a gateway that keeps little
// would collect many times in a second. GOGC multiplies both.
const ballastSize = 16 << 20

// startGateway opens the gateway's database and ports. A key that is made now
// is printed once.
func (d *Daemon) startGateway(ctx context.Context, talk io.Writer) error {
	c, g := d.Config, &d.Config.Gateway
	lock, err := d.before.lock("gateway")
	if err != nil {
		return err
	}
	store, err := embedded.OpenResources(ctx, c.Data, embedded.WithLock(lock))
	if err != nil {
		return err
	}
	d.mayLend("gateway", store)
	d.closers = append(d.closers, store.Close)
	extra, err := d.trustedPEM()
	if err != nil {
		return err
	}
	session, _, err := secretFile(c.Data, sessionSecretFile, longSecret)
	if err != nil {
		return err
	}
	keys, err := d.adminKeys(talk)
	if err != nil {
		return err
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	part := &gatewayPart{ending: make(chan struct{}), ballast: make([]byte, ballastSize), adminKey: keys[0].Key, transport: engine.NewTransport(nil), caller: engine.NewCaller(extra)}
	d.gateway = part
	if err := g.reach(part.transport); err != nil {
		return err
	}
	env := gateway.Env{Log: d.log, Now: time.Now, Metrics: metrics, Caller: part.caller, SessionSecret: []byte(session)}
	secure, err := d.tlsOfSites(ctx, extra)
	if err != nil {
		return err
	}
	running, err := live.New(live.Config{Store: store, Plugins: plugins.All(), Env: env, Roots: engine.Roots(extra), FallbackSNI: g.APISIX.SSL.FallbackSNI, TLS: secure})
	if err != nil {
		return err
	}
	if err := running.Load(ctx); err != nil {
		return fmt.Errorf("reading the gateway's resources: %w", err)
	}
	d.task(func() {
		if err := running.Run(ctx); err != nil && ctx.Err() == nil {
			d.fail(fmt.Errorf("following the gateway's resources: %w", err))
		}
	})
	allow, err := Prefixes(g.Deployment.Admin.AllowAdmin)
	if err != nil {
		return err
	}
	api, err := (&admin.APISIX{Store: store, Plugins: plugins.All(), Check: running, Live: running, Keys: keys, AllowAdmin: allow, Log: d.log, Now: time.Now}).Handler()
	if err != nil {
		return err
	}
	trusted, err := Prefixes(g.APISIX.TrustedAddresses)
	if err != nil {
		return err
	}
	var ticks clock
	pc := proxy.Config{Live: running, Transport: part.transport, Log: d.log, Now: ticks.Now, Metrics: metrics, Trusted: trusted, ShowUpstreamStatus: g.APISIX.ShowUpstreamStatus}
	lines, err := d.openAccessLog(ctx, talk)
	if err != nil {
		return err
	}
	if lines != nil {
		pc.Access = lines
	}
	if g.APISIX.EnableServerTokens {
		version, _ := Version()
		pc.Server = "gatehouse/" + version
	}
	if g.Deployment.Admin.OnNodeListen {
		pc.Local = []proxy.Local{{Prefix: "/apisix/admin", Loopback: true, Handler: engine.FromHTTP(api, d.log)}}
	}
	life, err := proxy.New(pc)
	if err != nil {
		return err
	}
	part.server = engine.NewServer(engine.ServerConfig{
		Handler: life, Log: d.log, Now: ticks.Now, RealIPFrom: trusted, RealIPHeader: "X-Forwarded-For", RealIPRecursive: true,
		Limits: g.limits(), Refused: life.Refused, Exhausted: func() { part.transport.Shed(shedNodes) },
	})
	metrics.MustRegister(&engineMetrics{part.server, part.transport, lines})

	for _, at := range g.APISIX.NodeListen {
		l, err := d.sockets.tcp(at.Addr(), "gateway.apisix.node_listen (GATEWAY_APISIX_NODE_LISTEN)")
		if err != nil {
			return err
		}
		part.ports = append(part.ports, gatewayPort{socket: l})
		d.log.Info("gateway", "addr", l.Addr().String())
	}
	if g.APISIX.SSL.Enable {
		for _, at := range g.APISIX.SSL.Listen {
			if err := d.openTLS(at, running); err != nil {
				return err
			}
		}
	}
	if err := d.openProxied(running); err != nil {
		return err
	}
	l, err := d.sockets.tcp(g.Deployment.Admin.AdminListen.Addr(), "gateway.deployment.admin.admin_listen (GATEWAY_DEPLOYMENT_ADMIN_ADMIN_LISTEN)")
	if err != nil {
		return err
	}
	d.servers.add(l, api, nil)
	d.log.Info("gateway Admin API", "addr", l.Addr().String())
	if prom := g.PluginAttr.Prometheus; prom.EnableExport {
		l, err := d.sockets.tcp(prom.ExportAddr.Addr(), "gateway.plugin_attr.prometheus.export_addr (GATEWAY_PLUGIN_ATTR_PROMETHEUS_EXPORT_ADDR)")
		if err != nil {
			return err
		}
		mux := http.NewServeMux()
		mux.Handle("GET "+prom.ExportURI, promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
		d.servers.add(l, mux, nil)
	}
	return nil
}

// openTLS opens what HTTPS is served on, and HTTP/3 where that is on.
func (d *Daemon) openTLS(at TLSListen, certs listen.Certificates) error {
	const setting = "gateway.apisix.ssl.listen (GATEWAY_APISIX_SSL_LISTEN)"
	l, err := d.sockets.tcp(at.Addr(), setting)
	if err != nil {
		return err
	}
	p := gatewayPort{socket: l, certs: certs}
	if at.EnableHTTP3 {
		at.Port = l.Addr().(*net.TCPAddr).Port // it may have been 0
		if p.quic, err = d.sockets.udp(at.Addr(), setting); err != nil {
			return err
		}
		p.altSvc = fmt.Sprintf("h3=\":%d\"; ma=86400", at.Port)
	}
	d.gateway.ports = append(d.gateway.ports, p)
	d.log.Info("gateway", "addr", l.Addr().String(), "tls", true, "http3", at.EnableHTTP3)
	return nil
}

// shedNodes is how many idle connections to nodes are closed when descriptors
// run out.
const shedNodes = 64

// reach sets how nodes are found, and what is kept open to them.
func (g *GatewayConfig) reach(t *engine.Transport) error {
	servers, err := nameservers(g.APISIX.DNSResolver)
	if err != nil {
		return err
	}
	second := func(n int) time.Duration { return time.Duration(n) * time.Second }
	t.Resolver = engine.NewResolver(engine.ResolverConfig{
		Servers: servers, Valid: second(g.APISIX.DNSResolverValid), Stale: second(g.APISIX.DNSResolverStale), Timeout: second(g.APISIX.ResolverTimeout),
	})
	up := &g.NginxConfig.HTTP.Upstream
	t.Limits = engine.UpstreamLimits{Conns: up.MaxConnections, Life: up.KeepaliveTime}
	return nil
}

// limits are what a client may send and how long it may take.
func (g *GatewayConfig) limits() engine.Limits {
	h := &g.NginxConfig.HTTP
	rate := h.ClientMinRate
	if rate == 0 {
		rate = -1
	}
	return engine.Limits{
		Head: h.ClientMaxHeaderSize, Fields: h.ClientMaxHeaders, URI: h.ClientMaxURISize, Body: int64(h.ClientMaxBodySize),
		HeadTime: h.ClientHeaderTimeout, BodyTime: h.ClientBodyTimeout, SendTime: h.SendTimeout, Idle: h.KeepaliveTimeout, TunnelIdle: h.TunnelTimeout,
		Requests: h.KeepaliveRequests, Conns: h.MaxConnections, ConnsPerAddr: h.MaxConnectionsPeer, Streams: h.HTTP2MaxStreams,
		Rate: rate, RateTime: h.ClientMinRateWindow, Total: h.RequestTimeout,
	}
}

// start serves; failed is told when that ends on its own. HTTP/3 has to wait
// for alone: two processes cannot share a UDP socket, each would get datagrams
// of the other's connections. Until then clients use TCP.
func (g *gatewayPart) start(log *slog.Logger, alone <-chan struct{}, failed func(error)) {
	for _, p := range g.ports {
		l := p.socket.view()
		g.views = append(g.views, l)
		if p.proxied {
			l = listen.Proxied(l, p.trusted, log)
		}
		if p.certs != nil {
			l = listen.TLS(l, p.certs, log)
		}
		if p.quic != nil {
			g.server.Advertise(l, p.altSvc)
			g.serving.Go(func() {
				select {
				case <-alone:
					failed(g.server.ServeQUIC(p.quic, listen.QUIC(p.certs)))
				case <-g.ending:
				}
			})
		}
		g.serving.Go(func() {
			if err := g.server.Serve(l); !errors.Is(err, net.ErrClosed) { // see deaf
				failed(err)
			}
		})
	}
}

// deaf accepts no more connections. The rest is up to stop.
func (g *gatewayPart) deaf() {
	for _, l := range g.views {
		l.Close()
	}
}

// stop lets requests and tunnels under way finish, until ctx ends.
func (g *gatewayPart) stop(ctx context.Context, f engine.Farewell) {
	close(g.ending)
	if g.server != nil {
		_ = g.server.Drain(ctx, f)
		g.serving.Wait()
	}
	g.transport.Close()
	g.caller.Close()
}

// trustedPEM is what calls to upstreams and providers trust besides the system.
func (d *Daemon) trustedPEM() ([]byte, error) {
	extra := d.ca.PEM
	if path := d.Config.Gateway.TrustedCertificate; path != "" {
		more, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("reading gateway.ssl_trusted_certificate: %w", err)
		}
		extra = append(append([]byte{}, extra...), more...)
	}
	return extra, nil
}

// adminKeys are the configured keys, or the one kept in the data directory.
func (d *Daemon) adminKeys(talk io.Writer) ([]admin.AdminKey, error) {
	var keys []admin.AdminKey
	for _, k := range d.Config.Gateway.Deployment.Admin.AdminKey {
		keys = append(keys, admin.AdminKey{Name: k.Name, Key: k.Key, Role: k.Role})
	}
	if len(keys) > 0 {
		return keys, nil
	}
	key, fresh, err := secretFile(d.Config.Data, adminKeyFile, hexSecret)
	if err != nil {
		return nil, err
	}
	if fresh {
		fmt.Fprintf(talk, "gatehouse: the key of the Admin API is %s (kept in %s)\n", key, d.Config.Data+"/"+adminKeyFile)
	}
	return []admin.AdminKey{{Name: "admin", Key: key, Role: admin.RoleAdmin}}, nil
}
