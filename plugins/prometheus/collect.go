package prometheus

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// The metrics of exchanges.
var (
	statusDesc    = prometheus.NewDesc("apisix_http_status", "Answers by status and what they were for.", statusLabels, nil)
	latencyDesc   = prometheus.NewDesc("apisix_http_latency", "Milliseconds a request took: whole, in the upstream, in the gateway.", flowLabels, nil)
	bandwidthDesc = prometheus.NewDesc("apisix_bandwidth", "Bytes received from and sent to clients.", flowLabels, nil)
	requestsDesc  = prometheus.NewDesc("apisix_http_requests_total", "Requests answered.", nil, nil)
	overflowDesc  = prometheus.NewDesc("gatehouse_metrics_overflow_total", "Requests counted without labels because there were too many series.", nil, nil)
)

// The series of each metric: their labels, and what a scrape sums up for them.
// The sums are guarded by metrics.scrape.
type (
	statusSeries struct {
		labels []*dto.LabelPair
		n      uint64
	}
	latencySeries struct {
		labels [3][]*dto.LabelPair // upstream is nil when nothing was proxied
		n      uint64
		took   [3]times
	}
	byteSeries struct {
		ingress, egress []*dto.LabelPair
		n               uint64
		in, out         int64
	}
)

// pairs are the labels of a series, in the form a scrape needs.
func (k flowKey) pairs(d *prometheus.Desc, kind string) []*dto.LabelPair {
	return prometheus.MakeLabelPairs(d, []string{kind, k.route, k.service, k.consumer, k.node, k.requestType, "", ""})
}

var _ prometheus.Collector = (*metrics)(nil)

// Describe lists the metrics.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{statusDesc, latencyDesc, bandwidthDesc, requestsDesc, overflowDesc} {
		ch <- d
	}
}

// Collect adds the cells up.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	m.scrape.Lock()
	defer m.scrape.Unlock()
	m.mu.RLock()
	kinds := m.list
	m.mu.RUnlock()
	m.recent.clear()

	var requests, overflow uint64
	var statuses []*statusSeries
	var latencies []*latencySeries
	var bytes []*byteSeries
	for _, k := range kinds {
		*k.status, *k.latency, *k.bytes = statusSeries{labels: k.status.labels}, latencySeries{labels: k.latency.labels}, byteSeries{ingress: k.bytes.ingress, egress: k.bytes.egress}
	}
	for _, k := range kinds {
		sum := k.sum()
		if sum.requests == 0 { // made, and not counted in yet
			continue
		}
		requests += sum.requests
		if k.full {
			overflow += sum.requests
		}
		if k.status.n == 0 {
			statuses = append(statuses, k.status)
		}
		if k.latency.n == 0 {
			latencies = append(latencies, k.latency)
		}
		if k.bytes.n == 0 {
			bytes = append(bytes, k.bytes)
		}
		k.status.n += sum.requests
		k.latency.n += sum.requests
		k.bytes.n += sum.requests
		for i := range sum.took {
			k.latency.took[i].add(&sum.took[i])
		}
		k.bytes.in += sum.in
		k.bytes.out += sum.out
	}

	for _, s := range statuses {
		ch <- &counter{statusDesc, s.labels, float64(s.n)}
	}
	for _, s := range latencies {
		for i, labels := range s.labels {
			if labels != nil {
				ch <- &histogram{latencyDesc, labels, s.took[i]}
			}
		}
	}
	for _, s := range bytes {
		ch <- &counter{bandwidthDesc, s.ingress, float64(s.in)}
		ch <- &counter{bandwidthDesc, s.egress, float64(s.out)}
	}
	ch <- &counter{requestsDesc, nil, float64(requests)}
	ch <- &counter{overflowDesc, nil, float64(overflow)}
}

// sum is what all lanes of the kind counted.
func (k *kind) sum() (s counts) {
	for i := range k.lanes {
		c := k.lanes[i].Load()
		if c == nil {
			continue
		}
		c.mu.Lock()
		s.requests += c.requests
		s.in += c.in
		s.out += c.out
		for j := range s.took {
			s.took[j].add(&c.took[j])
		}
		c.mu.Unlock()
	}
	return s
}

// counter and histogram are series as they were at a scrape.
type counter struct {
	desc   *prometheus.Desc
	labels []*dto.LabelPair
	v      float64
}

// Desc is the metric's description.
func (c *counter) Desc() *prometheus.Desc { return c.desc }

// Write fills what is sent to who scrapes.
func (c *counter) Write(to *dto.Metric) error {
	to.Label, to.Counter = c.labels, &dto.Counter{Value: &c.v}
	return nil
}

type histogram struct {
	desc   *prometheus.Desc
	labels []*dto.LabelPair
	took   times
}

// Desc is the metric's description.
func (h *histogram) Desc() *prometheus.Desc { return h.desc }

// Write fills what is sent to who scrapes.
func (h *histogram) Write(to *dto.Metric) error {
	list := make([]dto.Bucket, len(bounds))
	buckets := make([]*dto.Bucket, len(bounds))
	numbers := make([]uint64, len(bounds)+1)
	var n uint64
	for i, b := range h.took.buckets {
		n += b
		numbers[i] = n
		if i < len(bounds) {
			list[i].CumulativeCount, list[i].UpperBound = &numbers[i], &upperBounds[i]
			buckets[i] = &list[i]
		}
	}
	sum := milliseconds(h.took.sum)
	to.Label, to.Histogram = h.labels, &dto.Histogram{SampleCount: &numbers[len(bounds)], SampleSum: &sum, Bucket: buckets}
	return nil
}

// upperBounds are bounds in milliseconds.
var upperBounds = func() (b [len(bounds)]float64) {
	for i, d := range bounds {
		b[i] = milliseconds(d)
	}
	return b
}()

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
