package prometheus

import (
	"log/slog"
	"slices"
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// maxSeries bounds the label sets of http_status, and those of http_latency
// and bandwidth. Beyond it requests are counted without labels.
const maxSeries = 10000

// buckets of http_latency, in milliseconds.
var buckets = []float64{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 30000, 60000}

// The labels, in the order series are made with.
var (
	statusLabels = [...]string{"code", "route", "matched_uri", "matched_host", "service", "consumer", "node", "request_type", "request_llm_model", "llm_model", "response_source"}
	flowLabels   = [...]string{"type", "route", "service", "consumer", "node", "request_type", "request_llm_model", "llm_model"}
)

// Values of labels.
const (
	sourceGateway  = "apisix"
	sourceUpstream = "upstream"
	requestType    = "traditional_http"
)

// metrics are shared by all instances. Series are resolved once for a set of
// labels and found again without making one.
type metrics struct {
	log       *slog.Logger
	status    *prometheus.CounterVec
	latency   *prometheus.HistogramVec
	bandwidth *prometheus.CounterVec
	requests  prometheus.Counter
	overflow  prometheus.Counter
	max       int // maxSeries, but for tests

	mu        sync.RWMutex
	statuses  map[statusKey]prometheus.Counter // guarded by mu
	latencies map[latencyKey]*latencies        // guarded by mu
	bytes     map[flowKey]*bytes               // guarded by mu
	warned    bool                             // guarded by mu
}

// flowKey are the labels all metrics share.
type flowKey struct{ route, service, consumer, node, requestType string }

type statusKey struct {
	flowKey
	code               int
	matchedURI, source string
}

type latencyKey struct {
	flowKey
	proxied bool
}

// latencies are the series of one latencyKey; upstream is nil when it was not
// proxied.
type latencies struct{ request, upstream, gateway prometheus.Observer }

// bytes are the series of one flowKey.
type bytes struct{ ingress, egress prometheus.Counter }

// series is all that one exchange is counted in.
type series struct {
	status prometheus.Counter
	*latencies
	*bytes
}

// disabled says which labels stay empty. Immutable.
type disabled struct {
	status             statusOff
	latency, bandwidth flowOff
}

type flowOff struct{ route, service, consumer, node, requestType bool }

type statusOff struct {
	flowOff
	matchedURI, source bool
}

func newDisabled(l DisabledLabels) disabled {
	flow := func(names []string) flowOff {
		off := func(n string) bool { return slices.Contains(names, n) }
		return flowOff{off("route"), off("service"), off("consumer"), off("node"), off("request_type")}
	}
	return disabled{
		status:    statusOff{flow(l.HTTPStatus), slices.Contains(l.HTTPStatus, "matched_uri"), slices.Contains(l.HTTPStatus, "response_source")},
		latency:   flow(l.HTTPLatency),
		bandwidth: flow(l.Bandwidth),
	}
}

// without empties what is disabled.
func (k flowKey) without(off flowOff) flowKey {
	empty := func(s *string, off bool) {
		if off {
			*s = ""
		}
	}
	empty(&k.route, off.route)
	empty(&k.service, off.service)
	empty(&k.consumer, off.consumer)
	empty(&k.node, off.node)
	empty(&k.requestType, off.requestType)
	return k
}

func (k statusKey) without(off statusOff) statusKey {
	k.flowKey = k.flowKey.without(off.flowOff)
	if off.matchedURI {
		k.matchedURI = ""
	}
	if off.source {
		k.source = ""
	}
	return k
}

// of finds the series of an exchange, or makes them.
func (m *metrics) of(off *disabled, k statusKey, proxied bool) series {
	lk := latencyKey{k.flowKey.without(off.latency), proxied}
	bk := k.flowKey.without(off.bandwidth)
	k = k.without(off.status)
	m.mu.RLock()
	s := series{m.statuses[k], m.latencies[lk], m.bytes[bk]}
	m.mu.RUnlock()
	if s.status != nil && s.latencies != nil && s.bytes != nil {
		return s
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.statuses) >= m.max || len(m.latencies) >= m.max || len(m.bytes) >= m.max {
		// What is there already still counts; what is not loses its labels.
		m.full()
		if s.status == nil {
			k = statusKey{code: k.code}
		}
		if s.latencies == nil {
			lk = latencyKey{proxied: proxied}
		}
		if s.bytes == nil {
			bk = flowKey{}
		}
	}
	return series{m.makeStatus(k), m.makeLatencies(lk), m.makeBytes(bk)}
}

// makeStatus returns the series of k. The caller holds mu; so for the others.
func (m *metrics) makeStatus(k statusKey) prometheus.Counter {
	if c := m.statuses[k]; c != nil {
		return c
	}
	code := ""
	if k.code != 0 {
		code = strconv.Itoa(k.code)
	}
	c := m.status.WithLabelValues(code, k.route, k.matchedURI, "", k.service, k.consumer, k.node, k.requestType, "", "", k.source)
	m.statuses[k] = c
	return c
}

func (m *metrics) makeLatencies(k latencyKey) *latencies {
	l := m.latencies[k]
	if l == nil {
		of := func(kind string) prometheus.Observer { return m.latency.WithLabelValues(k.labels(kind)...) }
		l = &latencies{request: of("request"), gateway: of("apisix")}
		if k.proxied {
			l.upstream = of("upstream")
		}
		m.latencies[k] = l
	}
	return l
}

func (m *metrics) makeBytes(k flowKey) *bytes {
	b := m.bytes[k]
	if b == nil {
		b = &bytes{m.bandwidth.WithLabelValues(k.labels("ingress")...), m.bandwidth.WithLabelValues(k.labels("egress")...)}
		m.bytes[k] = b
	}
	return b
}

func (k flowKey) labels(kind string) []string {
	return []string{kind, k.route, k.service, k.consumer, k.node, k.requestType, "", ""}
}

// full notes that a request is counted without labels. The caller holds mu.
func (m *metrics) full() {
	m.overflow.Inc()
	if !m.warned && m.log != nil {
		m.warned = true
		m.log.Warn("too many series; requests are counted without labels", "max_series", m.max)
	}
}
