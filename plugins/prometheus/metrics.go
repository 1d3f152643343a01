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

	mu       sync.RWMutex
	statuses map[statusKey]prometheus.Counter // guarded by mu
	flows    map[flowKey]*flow                // guarded by mu
	warned   bool                             // guarded by mu
}

type statusKey struct {
	code                                               int
	route, matchedURI, service, consumer, node, source string
}

type flowKey struct{ route, service, consumer, node string }

// flow are the series of one flowKey.
type flow struct {
	request, upstream, gateway prometheus.Observer
	ingress, egress            prometheus.Counter
}

// disabled says which labels stay empty, by the place in statusLabels and
// flowLabels. Immutable.
type disabled struct {
	status             [len(statusLabels)]bool
	latency, bandwidth [len(flowLabels)]bool
	any                bool
}

func newDisabled(l DisabledLabels) *disabled {
	d := &disabled{any: len(l.HTTPStatus)+len(l.HTTPLatency)+len(l.Bandwidth) > 0}
	for i, n := range statusLabels {
		d.status[i] = slices.Contains(l.HTTPStatus, n)
	}
	for i, n := range flowLabels {
		d.latency[i] = slices.Contains(l.HTTPLatency, n)
		d.bandwidth[i] = slices.Contains(l.Bandwidth, n)
	}
	return d
}

func (m *metrics) statusOf(off *disabled, k statusKey) prometheus.Counter {
	if off.any {
		k = k.without(off)
	}
	m.mu.RLock()
	c := m.statuses[k]
	m.mu.RUnlock()
	if c != nil {
		return c
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.statuses[k]; c != nil {
		return c
	}
	if len(m.statuses) >= maxSeries {
		m.full()
		k = statusKey{code: k.code}
	}
	code := ""
	if k.code != 0 {
		code = strconv.Itoa(k.code)
	}
	rtype := requestType
	if off.status[7] {
		rtype = ""
	}
	c = m.status.WithLabelValues(code, k.route, k.matchedURI, "", k.service, k.consumer, k.node, rtype, "", "", k.source)
	if len(m.statuses) < maxSeries+1000 { // the codes without labels
		m.statuses[k] = c
	}
	return c
}

// without empties what is disabled.
func (k statusKey) without(off *disabled) statusKey {
	for i, v := range [len(statusLabels)]*string{1: &k.route, 2: &k.matchedURI, 4: &k.service, 5: &k.consumer, 6: &k.node, 10: &k.source} {
		if v != nil && off.status[i] {
			*v = ""
		}
	}
	return k
}

func (m *metrics) flowOf(off *disabled, k flowKey) *flow {
	if off.any {
		return m.makeFlow(off, k)
	}
	m.mu.RLock()
	f := m.flows[k]
	m.mu.RUnlock()
	if f != nil {
		return f
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.flows[k]; f != nil {
		return f
	}
	if len(m.flows) >= maxSeries {
		m.full()
		k = flowKey{}
		if f := m.flows[k]; f != nil {
			return f
		}
	}
	f = m.makeFlow(off, k)
	m.flows[k] = f
	return f
}

// makeFlow resolves the series of k.
func (m *metrics) makeFlow(off *disabled, k flowKey) *flow {
	labels := func(kind string, off [len(flowLabels)]bool) []string {
		l := []string{kind, k.route, k.service, k.consumer, k.node, requestType, "", ""}
		for i := range l {
			if off[i] {
				l[i] = ""
			}
		}
		return l
	}
	return &flow{
		request:  m.latency.WithLabelValues(labels("request", off.latency)...),
		upstream: m.latency.WithLabelValues(labels("upstream", off.latency)...),
		gateway:  m.latency.WithLabelValues(labels("apisix", off.latency)...),
		ingress:  m.bandwidth.WithLabelValues(labels("ingress", off.bandwidth)...),
		egress:   m.bandwidth.WithLabelValues(labels("egress", off.bandwidth)...),
	}
}

// full notes that a request is counted without labels. The caller holds mu.
func (m *metrics) full() {
	m.overflow.Inc()
	if !m.warned && m.log != nil {
		m.warned = true
		m.log.Warn("too many series; requests are counted without labels", "max_series", maxSeries)
	}
}
