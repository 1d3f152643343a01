package daemon

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"gatehouse/gateway/accesslog"
	"gatehouse/gateway/engine"
)

// engineMetrics asks the engine for its numbers when somebody scrapes: a
// request pays nothing for them. docs/metrics.md explains each.
type engineMetrics struct {
	server    *engine.Server
	transport *engine.Transport
	lines     *accesslog.Log // nil: none
}

var (
	metricConnections = prometheus.NewDesc("apisix_nginx_http_current_connections", "Connections of clients: active, reading, writing and waiting now; accepted and handled since the start.", []string{"state"}, nil)
	metricClients     = prometheus.NewDesc("gatehouse_client_connections", "Open connections of clients.", []string{"protocol"}, nil)
	metricTurned      = prometheus.NewDesc("gatehouse_client_connections_refused_total", "Connections closed at once because there were too many.", []string{"limit"}, nil)
	metricBroken      = prometheus.NewDesc("gatehouse_client_connections_broken_total", "HTTP/2 and HTTP/3 connections ended because the client broke the protocol.", nil, nil)
	metricRefused     = prometheus.NewDesc("gatehouse_requests_refused_total", "Requests answered by the engine because they could not be made out.", []string{"code"}, nil)
	metricTLS         = prometheus.NewDesc("gatehouse_tls_handshakes_total", "Connections of clients with a finished TLS handshake.", []string{"version", "resumed"}, nil)
	metricUpstreams   = prometheus.NewDesc("gatehouse_upstream_connections", "Open HTTP/1.1 connections to upstreams.", []string{"state"}, nil)
	metricOpened      = prometheus.NewDesc("gatehouse_upstream_connections_opened_total", "Connections opened to upstreams.", nil, nil)
	metricReused      = prometheus.NewDesc("gatehouse_upstream_connections_reused_total", "HTTP/1.1 requests sent on a connection that was kept.", nil, nil)
	metricFailed      = prometheus.NewDesc("gatehouse_upstream_connections_failed_total", "Connections to upstreams that did not come about.", nil, nil)
	metricLost        = prometheus.NewDesc("gatehouse_access_log_lines_dropped_total", "Access log lines that were not written.", nil, nil)
)

var _ prometheus.Collector = (*engineMetrics)(nil)

// Describe lists the metrics.
func (m *engineMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{metricConnections, metricClients, metricTurned, metricBroken, metricRefused, metricTLS,
		metricUpstreams, metricOpened, metricReused, metricFailed, metricLost} {
		ch <- d
	}
}

// Collect asks for the numbers.
func (m *engineMetrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	counter := func(d *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	s := m.server.Stats()
	turned := s.TurnedListener + s.TurnedAddress
	gauge(metricConnections, s.Waiting+s.Reading+s.Answering, "active")
	gauge(metricConnections, s.Reading, "reading")
	gauge(metricConnections, s.Answering, "writing")
	gauge(metricConnections, s.Waiting, "waiting")
	gauge(metricConnections, s.Accepted, "accepted")
	gauge(metricConnections, s.Accepted-turned, "handled")
	for protocol, n := range s.Open {
		gauge(metricClients, n, protocol)
	}
	counter(metricTurned, s.TurnedListener, "listener")
	counter(metricTurned, s.TurnedAddress, "address")
	counter(metricBroken, s.Broken)
	for code, n := range s.Refused {
		counter(metricRefused, n, strconv.Itoa(code))
	}
	for k, n := range s.Sessions {
		counter(metricTLS, n, k.Version, strconv.FormatBool(k.Resumed))
	}
	t := m.transport.Stats()
	gauge(metricUpstreams, t.Idle, "idle")
	gauge(metricUpstreams, t.Busy, "busy")
	counter(metricOpened, t.Opened)
	counter(metricReused, t.Reused)
	counter(metricFailed, t.Failed)
	if m.lines != nil {
		counter(metricLost, m.lines.Dropped())
	}
}
