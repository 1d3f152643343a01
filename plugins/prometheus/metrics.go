package prometheus

import (
	"log/slog"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// maxSeries bounds the label sets of http_status, and those of http_latency
// and bandwidth. Beyond it requests are counted without labels.
const maxSeries = 10000

// The labels, in the order series are made with.
var (
	statusLabels = []string{"code", "route", "matched_uri", "matched_host", "service", "consumer", "node", "request_type", "request_llm_model", "llm_model", "response_source"}
	flowLabels   = []string{"type", "route", "service", "consumer", "node", "request_type", "request_llm_model", "llm_model"}
)

// Values of labels.
const (
	sourceGateway  = "apisix"
	sourceUpstream = "upstream"
	requestType    = "traditional_http"
)

// metrics are shared by all instances. An exchange is counted once, in the
// cell of its kind; a scrape adds the cells up to the series they belong to.
type metrics struct {
	log    *slog.Logger
	max    int     // maxSeries, but for tests
	lanes  uintptr // cells of a kind, a power of two
	recent recent

	mu        sync.RWMutex
	kinds     map[kindKey]*kind             // guarded by mu
	list      []*kind                       // guarded by mu; the same, only appended to
	statuses  map[statusKey]*statusSeries   // guarded by mu
	latencies map[latencyKey]*latencySeries // guarded by mu
	bytes     map[flowKey]*byteSeries       // guarded by mu
	warned    bool                          // guarded by mu

	scrape sync.Mutex // one at a time: it guards the sums of the series
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

// kindKey are the series an exchange is counted in.
type kindKey struct {
	status  statusKey
	latency latencyKey
	bytes   flowKey
	full    bool // it lost labels
}

// kind is all that exchanges of one kind are counted in.
type kind struct {
	status  *statusSeries
	latency *latencySeries
	bytes   *byteSeries
	full    bool
	lanes   []atomic.Pointer[cell] // so that cores do not wait for each other
}

// The latencies of an exchange.
const (
	whole = iota
	upstream
	own
)

// bounds of http_latency.
var bounds = [...]time.Duration{time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute}

// times is a histogram; the last bucket is for what is beyond every bound.
type times struct {
	buckets [len(bounds) + 1]uint64
	sum     time.Duration
}

func (t *times) observe(d time.Duration) {
	i := 0
	for i < len(bounds) && d > bounds[i] {
		i++
	}
	t.buckets[i]++
	t.sum += d
}

func (t *times) add(o *times) {
	for i, n := range o.buckets {
		t.buckets[i] += n
	}
	t.sum += o.sum
}

// counts is what a number of exchanges came to.
type counts struct {
	requests uint64
	in, out  int64
	took     [3]times
}

// cell counts exchanges that were on one lane.
type cell struct {
	mu     sync.Mutex
	counts // guarded by mu
}

// observe counts one exchange.
func (k *kind) observe(lane uintptr, total, up time.Duration, proxied bool, in, out int64) {
	c := k.lanes[lane].Load()
	if c == nil {
		k.lanes[lane].CompareAndSwap(nil, new(cell))
		c = k.lanes[lane].Load()
	}
	c.mu.Lock()
	c.requests++
	c.in += in
	c.out += out
	c.took[whole].observe(total)
	if proxied {
		c.took[upstream].observe(up)
	}
	c.took[own].observe(max(0, total-up))
	c.mu.Unlock()
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

func newMetrics(log *slog.Logger) *metrics {
	m := &metrics{log: log, max: maxSeries, lanes: 1,
		kinds: map[kindKey]*kind{}, statuses: map[statusKey]*statusSeries{}, latencies: map[latencyKey]*latencySeries{}, bytes: map[flowKey]*byteSeries{}}
	for most := 2 * runtime.GOMAXPROCS(0); most > 2 && int(m.lanes) < most && m.lanes < 16; {
		m.lanes *= 2
	}
	return m
}

// of finds the kind of an exchange by its labels, or makes it.
func (m *metrics) of(off *disabled, labels statusKey, proxied bool) *kind {
	k := kindKey{labels.without(off.status), latencyKey{labels.flowKey.without(off.latency), proxied}, labels.flowKey.without(off.bandwidth), false}
	m.mu.RLock()
	found := m.kinds[k]
	m.mu.RUnlock()
	if found != nil {
		return found
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.statuses) >= m.max || len(m.latencies) >= m.max || len(m.bytes) >= m.max || len(m.kinds) >= 2*m.max {
		m.lose(&k)
	}
	if found := m.kinds[k]; found != nil {
		return found
	}
	made := &kind{m.statusOf(k.status), m.latencyOf(k.latency), m.bytesOf(k.bytes), k.full, make([]atomic.Pointer[cell], m.lanes)}
	m.kinds[k] = made
	m.list = append(m.list, made)
	return made
}

// lose takes the labels from k that would need a series more. What is there
// already still counts. The caller holds mu.
func (m *metrics) lose(k *kindKey) {
	before := *k
	many := len(m.kinds) >= 2*m.max
	if m.statuses[k.status] == nil || many {
		k.status = statusKey{code: k.status.code}
	}
	if m.latencies[k.latency] == nil || many {
		k.latency = latencyKey{proxied: k.latency.proxied}
	}
	if m.bytes[k.bytes] == nil || many {
		k.bytes = flowKey{}
	}
	if *k == before {
		return
	}
	k.full = true
	if !m.warned && m.log != nil {
		m.warned = true
		m.log.Warn("too many series; requests are counted without labels", "max_series", m.max)
	}
}

// statusOf returns the series of k. The caller holds mu; so for the others.
func (m *metrics) statusOf(k statusKey) *statusSeries {
	s := m.statuses[k]
	if s == nil {
		code := ""
		if k.code != 0 {
			code = strconv.Itoa(k.code)
		}
		s = &statusSeries{labels: prometheus.MakeLabelPairs(statusDesc, []string{code, k.route, k.matchedURI, "", k.service, k.consumer, k.node, k.requestType, "", "", k.source})}
		m.statuses[k] = s
	}
	return s
}

func (m *metrics) latencyOf(k latencyKey) *latencySeries {
	s := m.latencies[k]
	if s == nil {
		s = &latencySeries{}
		s.labels[whole], s.labels[own] = k.pairs(latencyDesc, "request"), k.pairs(latencyDesc, "apisix")
		if k.proxied {
			s.labels[upstream] = k.pairs(latencyDesc, "upstream")
		}
		m.latencies[k] = s
	}
	return s
}

func (m *metrics) bytesOf(k flowKey) *byteSeries {
	s := m.bytes[k]
	if s == nil {
		s = &byteSeries{ingress: k.pairs(bandwidthDesc, "ingress"), egress: k.pairs(bandwidthDesc, "egress")}
		m.bytes[k] = s
	}
	return s
}
