// Package prometheus is the plugin prometheus: it counts requests, their
// latency and their bytes. It does not serve the metrics: who owns the
// registry does.
package prometheus

import (
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"

	"gatehouse/gateway"
)

const name = "prometheus"

// Config is the configuration on a route or in a global rule.
type Config struct {
	PreferName bool `json:"prefer_name" default:"false" doc:"Call routes and services by their name instead of their id, where they have one."`
}

// Metadata is the plugin_metadata.
type Metadata struct {
	DisabledLabels DisabledLabels `json:"disabled_labels" doc:"Labels that stay empty, by metric: fewer labels are fewer series."`
}

// DisabledLabels are labels to leave empty.
type DisabledLabels struct {
	HTTPStatus  []string `json:"http_status" unique:"true" items:"enum=route|matched_uri|matched_host|service|consumer|node|request_type|request_llm_model|llm_model|response_source" doc:"Of http_status."`
	HTTPLatency []string `json:"http_latency" unique:"true" items:"enum=route|service|consumer|node|request_type|request_llm_model|llm_model" doc:"Of http_latency."`
	Bandwidth   []string `json:"bandwidth" unique:"true" items:"enum=route|service|consumer|node|request_type|request_llm_model|llm_model" doc:"Of bandwidth."`
}

// Plugin is prometheus.
var Plugin = gateway.Define(name, 500, build,
	gateway.WithVersion(0.2), gateway.WithMetadata[Metadata](), gateway.PreferRoute())

type logger struct {
	Config
	metrics *metrics
	off     disabled
}

var _ gateway.Logger = (*logger)(nil)

func build(c Config, env *gateway.Env) (any, error) {
	md, err := gateway.Metadata[Metadata](env, name)
	if err != nil {
		return nil, err
	}
	off := newDisabled(md.DisabledLabels)
	kept := gateway.Kept(env.Keep, name+"/metrics", func() *result { return register(env.Metrics, env.Log) })
	if kept.err != nil {
		return nil, fmt.Errorf("registering metrics: %w", kept.err)
	}
	return &logger{Config: c, metrics: kept.metrics, off: off}, nil
}

// result is what register made, or why it could not.
type result struct {
	metrics *metrics
	err     error
}

// register makes the metrics and puts them into the registry, or takes those
// an earlier instance put there.
func register(r prometheus.Registerer, log *slog.Logger) *result {
	m, err := put(r, newMetrics(log))
	if err != nil {
		return &result{err: err}
	}
	info, err := put(r, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "apisix_node_info", Help: "This process."}, []string{"hostname", "version"}))
	if err != nil {
		return &result{err: err}
	}
	host, herr := os.Hostname()
	if herr != nil {
		host = ""
	}
	info.WithLabelValues(host, version()).Set(1)
	return &result{metrics: m}
}

// put registers a collector, or returns the one registered before.
func put[C prometheus.Collector](r prometheus.Registerer, c C) (C, error) {
	err := r.Register(c)
	if already, ok := err.(prometheus.AlreadyRegisteredError); ok {
		if old, ok := already.ExistingCollector.(C); ok {
			return old, nil
		}
	}
	return c, err
}

func version() string {
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "unknown"
}

// Log counts the exchange.
func (l *logger) Log(x *gateway.Exchange) {
	code := x.Resp.Status
	if code < 100 || code > 999 {
		code = 0
	}
	m := l.metrics
	key := recentKey{l, x.Route, x.Node, x.Consumer, x.MatchedURI, code, x.FromUpstream, x.UpstreamTime > 0}
	k := m.recent.get(&key)
	if k == nil {
		k = m.of(&l.off, l.labels(x, code), key.proxied)
		m.recent.put(&key, k)
	}
	k.observe(mix(address(x))%m.lanes, max(0, x.End.Sub(x.Start)), x.UpstreamTime, key.proxied, max(0, x.BytesIn), max(0, x.BytesOut))
}

// labels are the exchange's labels before any is disabled.
func (l *logger) labels(x *gateway.Exchange, code int) statusKey {
	k := statusKey{code: code, matchedURI: x.MatchedURI, source: sourceGateway}
	k.requestType = requestType
	if r := x.Route; r != nil {
		k.route, k.service = r.ID, r.ServiceID
		if l.PreferName {
			if r.Name != "" {
				k.route = r.Name
			}
			if r.ServiceName != "" {
				k.service = r.ServiceName
			}
		}
	}
	if x.Consumer != nil {
		k.consumer = x.Consumer.Username
	}
	if x.Node != nil {
		k.node = x.Node.Host
	}
	if x.FromUpstream {
		k.source = sourceUpstream
	}
	return k
}
