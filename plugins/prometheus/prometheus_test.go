package prometheus

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"gatehouse/gateway"
	"gatehouse/lib/schema"
)

// keeper keeps for ever.
type keeper map[string]any

func (k keeper) Keep(key string, make func() any) any {
	if _, ok := k[key]; !ok {
		k[key] = make()
	}
	return k[key]
}

var now = time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)

func newEnv() (*gateway.Env, *prometheus.Registry) {
	reg := prometheus.NewRegistry()
	return &gateway.Env{Now: func() time.Time { return now }, Keep: keeper{}, Metrics: reg}, reg
}

func instance(t testing.TB, env *gateway.Env, conf string) gateway.Logger {
	t.Helper()
	p, err := Plugin.New(json.RawMessage(conf), env)
	if err != nil {
		t.Fatal(err)
	}
	return p.(gateway.Logger)
}

// proxied is an exchange that took 12 ms, 9 of them in the upstream.
func proxied() *gateway.Exchange {
	x := &gateway.Exchange{
		Route:      &gateway.Route{ID: "1", Name: "shop", ServiceID: "s1", ServiceName: "store"},
		MatchedURI: "/api/*", Consumer: &gateway.Consumer{Username: "jack"},
		Node: &gateway.Node{Host: "127.0.0.1"}, FromUpstream: true,
		Start: now.Add(-12 * time.Millisecond), End: now, UpstreamTime: 9 * time.Millisecond, BytesIn: 100, BytesOut: 2000,
	}
	x.Resp.Status = 200
	return x
}

// lines returns the samples of a metric without histogram buckets.
func lines(t *testing.T, reg *prometheus.Registry, name string) string {
	t.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	var out []string
	for l := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(l, name) && !strings.Contains(l, "_bucket{") {
			out = append(out, strings.TrimSpace(l))
		}
	}
	return strings.Join(out, "\n")
}

func TestLog(t *testing.T) {
	env, reg := newEnv()
	l := instance(t, env, `{}`)
	l.Log(proxied())
	l.Log(proxied())
	refused := &gateway.Exchange{Route: &gateway.Route{ID: "1"}, MatchedURI: "/*", Start: now.Add(-time.Millisecond), End: now}
	refused.Resp.Status = 401
	l.Log(refused)
	l.Log(&gateway.Exchange{Start: now.Add(time.Hour), End: now}) // no route, no status, a clock that went back

	for name, want := range map[string]string{
		"apisix_http_status": `apisix_http_status{code="",consumer="",llm_model="",matched_host="",matched_uri="",node="",request_llm_model="",request_type="traditional_http",response_source="apisix",route="",service=""} 1
apisix_http_status{code="200",consumer="jack",llm_model="",matched_host="",matched_uri="/api/*",node="127.0.0.1",request_llm_model="",request_type="traditional_http",response_source="upstream",route="1",service="s1"} 2
apisix_http_status{code="401",consumer="",llm_model="",matched_host="",matched_uri="/*",node="",request_llm_model="",request_type="traditional_http",response_source="apisix",route="1",service=""} 1`,
		"apisix_http_requests_total": `apisix_http_requests_total 4`,
	} {
		if got := lines(t, reg, name); got != want {
			t.Errorf("%s:\ngot\n%s\nwant\n%s", name, got, want)
		}
	}
	all := lines(t, reg, "apisix_http_latency") + "\n" + lines(t, reg, "apisix_bandwidth")
	const labels = `consumer="jack",llm_model="",node="127.0.0.1",request_llm_model="",request_type="traditional_http",route="1",service="s1",type=`
	for _, want := range []string{
		`apisix_http_latency_sum{` + labels + `"request"} 24`,
		`apisix_http_latency_sum{` + labels + `"upstream"} 18`,
		`apisix_http_latency_sum{` + labels + `"apisix"} 6`,
		`apisix_bandwidth{` + labels + `"ingress"} 200`,
		`apisix_bandwidth{` + labels + `"egress"} 4000`,
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no %s in\n%s", want, all)
		}
	}
	if n := strings.Count(all, `apisix_http_latency_count{`); n != 7 {
		t.Errorf("got %d latencies, want 7: no upstream for what was not proxied", n)
	}
	if got := lines(t, reg, "apisix_node_info"); !strings.HasSuffix(got, " 1") {
		t.Errorf("node_info: got %q", got)
	}
}

func TestPreferName(t *testing.T) {
	env, reg := newEnv()
	instance(t, env, `{"prefer_name":true}`).Log(proxied())
	if got := lines(t, reg, "apisix_http_status"); !strings.Contains(got, `route="shop",service="store"`) {
		t.Errorf("got %s", got)
	}
}

func TestDisabledLabels(t *testing.T) {
	env, reg := newEnv()
	env.Metadata = func(string) json.RawMessage {
		return json.RawMessage(`{"disabled_labels":{"http_status":["node","matched_uri","request_type"],"bandwidth":["consumer"]}}`)
	}
	instance(t, env, `{}`).Log(proxied())
	if got := lines(t, reg, "apisix_http_status"); !strings.Contains(got, `consumer="jack",llm_model="",matched_host="",matched_uri="",node="",request_llm_model="",request_type="",`) {
		t.Errorf("got %s", got)
	}
	if got := lines(t, reg, "apisix_bandwidth"); strings.Contains(got, "jack") || !strings.Contains(got, `node="127.0.0.1"`) {
		t.Errorf("got %s", got)
	}
	if got := lines(t, reg, "apisix_http_latency"); !strings.Contains(got, "jack") {
		t.Errorf("got %s", got)
	}
}

// Metrics go on when an instance is rebuilt, even if nobody kept them.
func TestRebuilt(t *testing.T) {
	env, reg := newEnv()
	instance(t, env, `{}`).Log(proxied())
	instance(t, env, `{}`).Log(proxied())
	env.Keep = keeper{}
	instance(t, env, `{}`).Log(proxied())
	if got := lines(t, reg, "apisix_http_requests_total"); got != "apisix_http_requests_total 3" {
		t.Errorf("got %s", got)
	}
}

func TestSeriesAreBounded(t *testing.T) {
	env, reg := newEnv()
	l := instance(t, env, `{}`)
	const most = 40
	l.(*logger).metrics.max = most
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range most {
				x := proxied()
				x.Consumer = &gateway.Consumer{Username: fmt.Sprint(g, " ", i)}
				l.Log(x)
			}
		})
	}
	wg.Wait()
	if n := strings.Count(lines(t, reg, "apisix_http_status"), "\n") + 1; n != most+1 { // and one without labels
		t.Errorf("got %d series, want %d", n, most+1)
	}
	for name, want := range map[string]string{"gatehouse_metrics_overflow_total": "120", "apisix_http_requests_total": "160"} {
		if got := lines(t, reg, name); got != name+" "+want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	late := proxied()
	late.Consumer = nil
	if l.Log(late); strings.Contains(lines(t, reg, "apisix_http_status"), `consumer="",llm_model="",matched_host="",matched_uri="/api/*"`) {
		t.Error("a series was made beyond the limit")
	}
}

func TestSchema(t *testing.T) {
	conf, err := schema.Compile(Plugin.Schema())
	if err != nil {
		t.Fatal(err)
	}
	md, err := schema.Compile(Plugin.MetadataSchema())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		s    *schema.Schema
		doc  string
		good bool
	}{
		{conf, `{}`, true}, {conf, `{"prefer_name":true}`, true}, {conf, `{"prefer_name":1}`, false}, {conf, `{"x":1}`, false},
		{md, `{"disabled_labels":{"http_status":["node"]}}`, true}, {md, `{"disabled_labels":{"http_status":["nodes"]}}`, false}, {md, `{"disabled_labels":{"x":[]}}`, false},
	} {
		if err := c.s.ValidateJSON([]byte(c.doc)); (err == nil) != c.good {
			t.Errorf("%s: got %v", c.doc, err)
		}
	}
	if !Plugin.PreferRoute {
		t.Error("prometheus in a route does not replace that of a global rule")
	}
}

func TestLogDoesNotAllocate(t *testing.T) {
	env, _ := newEnv()
	l := instance(t, env, `{}`)
	x := proxied()
	l.Log(x)
	if n := testing.AllocsPerRun(100, func() { l.Log(x) }); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}
