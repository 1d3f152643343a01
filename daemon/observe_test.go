package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// syncBuffer is what a process says.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// running is a gateway of its own with a route to an upstream.
type running struct {
	*Daemon
	t                    *testing.T
	node, admin, metrics string
	talk                 *syncBuffer
	stopped              bool
}

func startGateway(t *testing.T, change func(*Config)) *running {
	t.Helper()
	r := &running{t: t, node: freeAddr(t), admin: freeAddr(t), metrics: freeAddr(t), talk: &syncBuffer{}}
	c := defaults()
	c.Data = t.TempDir()
	g := &c.Gateway
	g.APISIX.SSL.Enable = false
	for to, addr := range map[*Listen]string{&g.Deployment.Admin.AdminListen: r.admin, &g.PluginAttr.Prometheus.ExportAddr: r.metrics} {
		if err := to.FromScalar(addr); err != nil {
			t.Fatal(err)
		}
	}
	var at Listen
	if err := at.FromScalar(r.node); err != nil {
		t.Fatal(err)
	}
	g.APISIX.NodeListen = []Listen{at}
	g.Deployment.Admin.AdminKey = []AdminKey{{Name: "test", Key: "0123456789abcdef", Role: "admin"}}
	if change != nil {
		change(c)
	}
	var err error
	if r.Daemon, err = Start(context.Background(), c, Parts{Gateway: true}, r.talk); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.end)
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }))
	t.Cleanup(up.Close)
	r.put("routes/1", `{"uri":"/*","upstream":{"type":"roundrobin","nodes":{"`+up.Listener.Addr().String()+`":1}}}`)
	r.put("global_rules/1", `{"plugins":{"prometheus":{}}}`)
	return r
}

// end stops the process, once.
func (r *running) end() {
	if r.stopped {
		return
	}
	r.stopped = true
	if err := r.stop(); err != nil {
		r.t.Error(err)
	}
	if r.t.Failed() {
		r.t.Log(r.talk.String())
	}
}

func (r *running) put(path, doc string) {
	r.t.Helper()
	q, err := http.NewRequest(http.MethodPut, "http://"+r.admin+"/apisix/admin/"+path, strings.NewReader(doc))
	if err != nil {
		r.t.Fatal(err)
	}
	q.Header.Set("X-API-KEY", "0123456789abcdef")
	res, err := http.DefaultClient.Do(q)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	if text, _ := io.ReadAll(res.Body); res.StatusCode >= 300 {
		r.t.Fatalf("%s: %s %s", path, res.Status, text)
	}
}

func (r *running) get(url string) string {
	r.t.Helper()
	res, err := http.Get(url)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(body)
}

// raw sends bytes and returns what comes back until the end.
func (r *running) raw(send string) string {
	r.t.Helper()
	c, err := net.Dial("tcp", r.node)
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(c, send)
	b, _ := io.ReadAll(c)
	return string(b)
}

func (r *running) eventually(what string, is func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); {
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: not in time", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// A log that was moved away goes on in a new file after SIGUSR1, and stopping
// writes what is left. Requests that could not be made out have lines too.
func TestAccessLogFile(t *testing.T) {
	r := startGateway(t, func(c *Config) {
		c.Gateway.NginxConfig.HTTP.AccessLog = "logs/access.log"
		c.Gateway.NginxConfig.HTTP.AccessLogFormat = `$request_method $uri $status "$failed"`
	})
	path := filepath.Join(r.Config.Data, "logs", "access.log")
	read := func(name string) string { b, _ := os.ReadFile(name); return string(b) }
	r.get("http://" + r.node + "/one?token=t0p")
	r.eventually("the first line", func() bool { return read(path) == "GET /one 200 \"-\"\n" })
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	r.get("http://" + r.node + "/two")
	if err := syscall.Kill(os.Getpid(), syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	r.eventually("the old file", func() bool { return read(path+".1") == "GET /one 200 \"-\"\nGET /two 200 \"-\"\n" })
	r.eventually("the new file", func() bool { _, err := os.Stat(path); return err == nil })
	if got := r.raw("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 400 ") {
		t.Fatalf("got %q", got)
	}
	r.get("http://" + r.node + "/three")
	r.end()
	if got, want := read(path), "- - 400 \"request refused: Bad Request\"\nGET /three 200 \"-\"\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("got %v, %v, want mode 0640", info.Mode(), err)
	}
}

// Without settings the lines go where the process talks, in its form.
func TestAccessLogDefaults(t *testing.T) {
	for _, form := range []string{"text", "json"} {
		r := startGateway(t, func(c *Config) { c.Log.Format = form })
		r.get("http://" + r.node + "/hello?code=t0p")
		r.end()
		var found string
		for l := range strings.Lines(r.talk.String()) {
			if form == "json" && !json.Valid([]byte(l)) {
				t.Errorf("%q is no JSON", l)
			}
			if strings.Contains(l, "/hello") {
				found = l
			}
		}
		want := `"GET /hello HTTP/1.1" 200 5 `
		if form == "json" {
			want = `"path":"/hello","protocol":"HTTP/1.1","status":200,`
		}
		if !strings.Contains(found, want) || strings.Contains(found, "t0p") {
			t.Errorf("%s: got %q, want %q in it", form, found, want)
		}
	}
}

func TestAccessLogOff(t *testing.T) {
	r := startGateway(t, func(c *Config) { c.Gateway.NginxConfig.HTTP.EnableAccessLog = false })
	r.get("http://" + r.node + "/hello")
	if err := syscall.Kill(os.Getpid(), syscall.SIGUSR1); err != nil { // must not end the process
		t.Fatal(err)
	}
	r.get("http://" + r.node + "/hello")
	r.end()
	if strings.Contains(r.talk.String(), "/hello") {
		t.Errorf("got %q", r.talk.String())
	}
}

// docs/metrics.md names every metric there is, and no other.
func TestMetricsPage(t *testing.T) {
	r := startGateway(t, nil)
	r.get("http://" + r.node + "/hello")
	r.get("http://" + r.node + "/again")
	r.raw("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
	page, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for l := range strings.Lines(string(page)) {
		if name, _, ok := strings.Cut(strings.TrimPrefix(l, "| `"), "`"); ok && strings.HasPrefix(l, "| `") {
			documented[name] = true
		}
	}
	text := r.get("http://" + r.metrics + "/apisix/prometheus/metrics")
	for l := range strings.Lines(text) {
		f := strings.Fields(l)
		if len(f) < 4 || f[1] != "TYPE" || strings.HasPrefix(f[2], "go_") || strings.HasPrefix(f[2], "process_") {
			continue
		}
		if !documented[f[2]] {
			t.Errorf("docs/metrics.md does not name %s", f[2])
		}
		delete(documented, f[2])
	}
	for name := range documented {
		t.Errorf("docs/metrics.md names %s, which is not there", name)
	}
	// The refused connection is read from for a moment before it is gone.
	for end := time.Now().Add(10 * time.Second); !strings.Contains(text, `gatehouse_client_connections{protocol="http/1"} 1`) && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
		text = r.get("http://" + r.metrics + "/apisix/prometheus/metrics")
	}
	for _, want := range []string{
		`gatehouse_requests_refused_total{code="400"} 1`, `apisix_nginx_http_current_connections{state="accepted"} 2`, `apisix_nginx_http_current_connections{state="handled"} 2`,
		`gatehouse_upstream_connections_opened_total 1`, `gatehouse_upstream_connections{state="idle"} 1`, `gatehouse_client_connections{protocol="http/1"} 1`,
		`apisix_http_requests_total 2`, `gatehouse_upstream_connections_reused_total 1`, `gatehouse_upstream_connections_failed_total 0`, `gatehouse_client_connections_refused_total{limit="address"} 0`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no %s", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}
