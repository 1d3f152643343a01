// Package proxy is the life of a request: route, plugins, upstream, answer.
// Serve is that life, read from top to bottom, failures included.
//
// It parses no byte of the wire (gateway/engine), compiles no configuration
// (gateway/live) and holds no policy (plugins).
package proxy

import (
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"gatehouse/gateway"
	"gatehouse/gateway/engine"
	"gatehouse/gateway/live"
)

// Config is what a Proxy needs.
type Config struct {
	Live      interface{ Current() *live.Snapshot }
	Transport *engine.Transport
	Log       *slog.Logger
	// Access is told of every request that has ended; nil: nobody.
	Access  gateway.Logger
	Now     func() time.Time
	Metrics prometheus.Registerer // nil: none
	// Trusted are the peers whose X-Forwarded-* and Forwarded go upstream.
	Trusted []netip.Prefix
	// Server is the Server field of answers; "" sends "gatehouse".
	Server string
	// ShowUpstreamStatus sends X-APISIX-Upstream-Status with every answer of
	// an upstream, not only with 5xx.
	ShowUpstreamStatus bool
	// Local are handlers of this process, tried before the routes.
	Local []Local
}

// Local is a handler that answers every path below Prefix itself.
type Local struct {
	Prefix string // "/apisix/admin": this path and those below it
	// Loopback serves TCP peers on a loopback address only, whatever header
	// fields say; for others the prefix is not there.
	Loopback bool
	Handler  engine.Handler
}

// Proxy answers requests. It is the engine's Handler.
type Proxy struct {
	cfg    Config
	panics prometheus.Counter
}

var _ engine.Handler = (*Proxy)(nil)

// New makes a Proxy.
func New(cfg Config) (*Proxy, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Server == "" {
		cfg.Server = "gatehouse"
	}
	p := &Proxy{cfg: cfg, panics: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "gatehouse_plugin_panics_total", Help: "Requests that ended because a plugin panicked.",
	})}
	if cfg.Metrics != nil {
		if err := cfg.Metrics.Register(p.panics); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Serve answers one request.
func (p *Proxy) Serve(x *gateway.Exchange, w *engine.Writer) {
	for i := range p.cfg.Local {
		if l := &p.cfg.Local[i]; l.takes(x) {
			l.Handler.Serve(x, w)
			x.End = p.cfg.Now()
			p.access(x)
			return
		}
	}
	f, ok := x.Reuse.(*flight)
	if !ok {
		f = newFlight()
		x.Reuse = f
	}
	f.begin(p, x, w)
	f.run()
	f.end()
}

func (l *Local) takes(x *gateway.Exchange) bool {
	rest, ok := strings.CutPrefix(x.Req.Path, l.Prefix)
	return ok && (rest == "" || rest[0] == '/') && (!l.Loopback || x.Req.Peer.Addr().IsLoopback())
}

// flight is a request under way. It is reused.
type flight struct {
	p      *Proxy
	x      *gateway.Exchange
	w      *engine.Writer
	snap   *live.Snapshot
	target *live.Target
	global *gateway.Chain
	chain  *gateway.Chain // of the route, later of the route and the consumer
	trust  bool           // the peer is a trusted proxy
	tries  tries
	failed string // why, for the log

	call    engine.Call
	scratch engine.Scratch // of the call
	header  gateway.Header // of the call
	info    func(status int, h *gateway.Header)

	localPort uint16 // and its text, of the request before
	localText string
}

var noChain = &gateway.Chain{}

func newFlight() *flight {
	f := &flight{}
	f.info = f.interim
	return f
}

func (f *flight) begin(p *Proxy, x *gateway.Exchange, w *engine.Writer) {
	f.p, f.x, f.w, f.snap, f.chain = p, x, w, p.cfg.Live.Current(), noChain
	x.Consumers = f.snap
}

// end leaves nothing of the request behind.
func (f *flight) end() {
	f.header.Reset()
	t := f.tries
	clear(t.nodes)
	f.p, f.x, f.w, f.snap, f.target, f.global, f.chain = nil, nil, nil, nil, nil, nil, nil
	f.trust, f.failed, f.call = false, "", engine.Call{}
	f.tries = tries{nodes: t.nodes[:0], codes: t.codes[:0]}
}

// run is the life of a request.
func (f *flight) run() {
	x, w := f.x, f.w
	f.introduce() // what we know of the client, instead of what it says

	reply := f.guarded(func() *gateway.Reply {
		f.match()
		if r := f.misdirected(); r != nil {
			return r
		}
		if r := f.outdated(); r != nil {
			return r
		}
		if r := rewrite(x, f.global.Rewrite); r != nil {
			return r
		}
		if f.target != nil && f.target.Fault == 0 {
			if r := rewrite(x, f.chain.Rewrite); r != nil {
				return r
			}
			if r := f.merge(); r != nil {
				return r
			}
		}
		if r := access(x, f.global.Access); r != nil {
			return r
		}
		if f.target == nil {
			return notFound
		}
		if f.target.Fault != 0 {
			return &gateway.Reply{Status: f.target.Fault}
		}
		if r := access(x, f.chain.Access); r != nil {
			return r
		}
		if up := x.Route.Upstream; up == nil || len(up.Nodes) == 0 {
			return &gateway.Reply{Status: 503}
		}
		return nil
	})
	if reply == nil {
		reply = f.forward()
	}
	if reply != nil && !w.Sent() {
		f.answer(reply)
		x.End = time.Time{}
	}
	if x.End.IsZero() {
		x.End = f.p.cfg.Now()
	}
	f.log()
}

// match finds the route and the chains.
func (f *flight) match() {
	x := f.x
	f.global = f.snap.Global(nil)
	t, uri, ok := f.snap.Match(x)
	if !ok {
		return
	}
	f.target, x.Route, x.MatchedURI = t, t.Route, uri
	f.global, f.chain = f.snap.Global(t), t.Chain
}

var notFound = &gateway.Reply{
	Status: 404,
	Header: []gateway.Field{{Name: "Content-Type", Value: "text/plain; charset=utf-8"}},
	Body:   []byte("{\"error_msg\":\"404 Route Not Found\"}\n"),
}

// misdirected refuses a request whose host asks for client certificates and
// whose connection was opened for another name (RFC 9110, section 15.5.20), and
// one over a connection whose client has not shown what its name asks for now.
func (f *flight) misdirected() *gateway.Reply {
	cs := f.x.Req.TLS
	if cs == nil || len(cs.PeerCertificates) == 0 && !f.snap.ClientCerts() {
		return nil
	}
	demand := f.snap.Connected(cs.ServerName)
	if !strings.EqualFold(cs.ServerName, f.x.Req.Host) {
		if demand != nil || len(cs.PeerCertificates) > 0 || f.snap.DemandsClientCert(f.x.Req.Host) {
			return &gateway.Reply{Status: http.StatusMisdirectedRequest}
		}
		return nil
	}
	if demand != nil && !demand.Allows(cs, f.x.Req.Path) {
		return &gateway.Reply{Status: http.StatusBadRequest}
	}
	return nil
}

// outdated refuses gRPC over HTTP/1: it is defined for HTTP/2 only, and a call
// would lose its status, which is in the trailers. What a plugin translates
// (grpc-web) comes as another type.
func (f *flight) outdated() *gateway.Reply {
	x := f.x
	if !strings.HasPrefix(x.Req.Proto, "HTTP/1") || x.Route == nil || x.Route.Upstream == nil {
		return nil
	}
	if s := x.Route.Upstream.Scheme; s != "grpc" && s != "grpcs" {
		return nil
	}
	rest, ok := strings.CutPrefix(x.Req.Header.Get("Content-Type"), "application/grpc")
	if !ok || rest != "" && rest[0] != '+' && rest[0] != ';' {
		return nil
	}
	return upgradeRequired
}

var upgradeRequired = &gateway.Reply{Status: http.StatusUpgradeRequired, Header: []gateway.Field{{Name: "Upgrade", Value: "HTTP/2.0"}}}

// merge takes in the plugins of the consumer that the rewrite phase found, and
// runs the rewriters that are new with them.
func (f *flight) merge() *gateway.Reply {
	if f.x.Consumer == nil {
		return nil
	}
	m, err := f.snap.Merge(f.target, f.x.Consumer)
	if err != nil {
		return &gateway.Reply{Status: 500, Err: err}
	}
	if m == nil {
		return nil
	}
	f.chain = m.Chain
	return rewrite(f.x, m.Added)
}

// busy says whether plugins had a part in the time since the request came.
func (f *flight) busy() bool {
	return len(f.global.Rewrite)+len(f.global.Access)+len(f.chain.Rewrite)+len(f.chain.Access) > 0
}

func rewrite(x *gateway.Exchange, list []gateway.Rewriter) *gateway.Reply {
	for _, p := range list {
		if r := p.Rewrite(x); r != nil {
			return r
		}
	}
	return nil
}

func access(x *gateway.Exchange, list []gateway.Guard) *gateway.Reply {
	for _, p := range list {
		if r := p.Access(x); r != nil {
			return r
		}
	}
	return nil
}

func prepare(x *gateway.Exchange, list []gateway.Preparer) *gateway.Reply {
	for _, p := range list {
		if r := p.BeforeProxy(x); r != nil {
			return r
		}
	}
	return nil
}

// guarded runs plugins; one that panics ends its request, nothing else.
func (f *flight) guarded(run func() *gateway.Reply) (r *gateway.Reply) {
	defer func() {
		if e := recover(); e != nil {
			f.p.panics.Inc()
			f.p.cfg.Log.Error("plugin panicked", "route_id", f.routeID(), "path", f.x.Req.Path, "err", e, "stack", string(debug.Stack()))
			r = &gateway.Reply{Status: 500}
			f.failed = "plugin panicked"
		}
	}()
	return run()
}

func (f *flight) routeID() string {
	if f.x.Route != nil {
		return f.x.Route.ID
	}
	return ""
}

// answer sends a reply of this gateway: plugins see its header and body.
func (f *flight) answer(r *gateway.Reply) {
	x, w := f.x, f.w
	x.FromUpstream = false
	body := r.Body
	x.Resp.Status = r.Status
	if x.Resp.Status < 200 || x.Resp.Status > 599 {
		x.Resp.Status = 500
	}
	x.Resp.Header.Reset()
	for _, h := range r.Header {
		if strings.EqualFold(h.Name, "Set-Cookie") || strings.EqualFold(h.Name, "WWW-Authenticate") {
			x.Resp.Header.Add(h.Name, h.Value)
		} else {
			x.Resp.Header.Set(h.Name, h.Value)
		}
	}
	if r.Err != nil {
		f.failed = r.Err.Error()
		f.p.cfg.Log.Warn("request refused", "route_id", f.routeID(), "status", r.Status, "err", r.Err)
	}
	bodyless := r.Status == 204 || r.Status == 304
	if len(body) == 0 && !bodyless {
		if r.Status >= 300 {
			var typ string
			typ, body = engine.Page(r.Status, x.Req.Header.Get("Accept"))
			x.Resp.Header.Set("Content-Type", typ)
		}
	}
	x.Resp.Length = int64(len(body))
	f.decorate()
	if f.headerFilter() != nil { // a filter panicked: the plain error, without it
		x.Resp.Status = 500
		var typ string
		typ, body = engine.Page(500, x.Req.Header.Get("Accept"))
		x.Resp.Header.Reset()
		x.Resp.Header.Set("Content-Type", typ)
		x.Resp.Length = int64(len(body))
		w.Head()
		f.write(body)
		return
	}
	if f.filtersBody() && !bodyless {
		if r := f.guarded(func() *gateway.Reply { body = f.bodyFilter(body, true); return nil }); r != nil {
			x.Resp.Status, body = 500, nil
		}
		x.Resp.Length = int64(len(body))
	}
	if bodyless {
		body, x.Resp.Length = nil, -1
	}
	w.Head()
	f.write(body)
}

func (f *flight) write(body []byte) {
	if len(body) > 0 {
		if _, err := f.w.Write(body); err != nil {
			f.failed = "client gone"
		}
	}
}

// decorate adds what goes with every answer, and what plugins asked to add.
func (f *flight) decorate() {
	x := f.x
	x.Resp.Header.Set("Server", f.p.cfg.Server)
	if len(f.tries.codes) > 0 && (x.Resp.Status >= 500 || f.p.cfg.ShowUpstreamStatus) {
		x.Resp.Header.Set("X-APISIX-Upstream-Status", f.tries.String())
	}
	for _, h := range x.Answer.Fields() {
		if strings.EqualFold(h.Name, "Set-Cookie") {
			x.Resp.Header.Add(h.Name, h.Value)
		} else {
			x.Resp.Header.Set(h.Name, h.Value)
		}
	}
}

func (f *flight) headerFilter() *gateway.Reply {
	return f.guarded(func() *gateway.Reply {
		for _, c := range [...]*gateway.Chain{f.global, f.chain} {
			if c == nil {
				continue
			}
			for _, p := range c.HeaderFilter {
				p.FilterHeader(f.x)
			}
		}
		return nil
	})
}

func (f *flight) filtersBody() bool {
	return f.global != nil && len(f.global.BodyFilter) > 0 || len(f.chain.BodyFilter) > 0
}

func (f *flight) bodyFilter(chunk []byte, last bool) []byte {
	for _, c := range [...]*gateway.Chain{f.global, f.chain} {
		if c == nil {
			continue
		}
		for _, p := range c.BodyFilter {
			chunk = p.FilterBody(f.x, chunk, last)
		}
	}
	return chunk
}

// log runs the loggers, the access log last.
func (f *flight) log() {
	f.guarded(func() *gateway.Reply {
		for _, c := range [...]*gateway.Chain{f.global, f.chain} {
			if c == nil {
				continue
			}
			for _, p := range c.Log {
				p.Log(f.x)
			}
		}
		return nil
	})
	f.x.Failed = f.failed
	f.p.access(f.x)
}

func (p *Proxy) access(x *gateway.Exchange) {
	if p.cfg.Access != nil {
		p.cfg.Access.Log(x)
	}
}

// Refused takes note of a request that the engine could not make out; see
// engine.ServerConfig.
func (p *Proxy) Refused(x *gateway.Exchange) {
	x.End, x.Failed = p.cfg.Now(), "request refused: "+engine.StatusText(x.Resp.Status)
	p.access(x)
}
