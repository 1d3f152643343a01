package daemon

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/lib/localca"
	"gatehouse/lib/proxyproto"
)

// node is a gateway of its own process, as far as it can tell.
type node struct {
	*Daemon
	log  *logBuffer
	data string
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func startNode(t *testing.T, data string) *node {
	t.Helper()
	file := filepath.Join(t.TempDir(), "gatehouse.yaml")
	err := os.WriteFile(file, []byte(`
gateway:
  apisix:
    node_listen: ["127.0.0.1:0"]
    ssl: {listen: ["127.0.0.1:0"]}
    proxy_protocol: {listen_http_port: "127.0.0.1:0", listen_https_port: "127.0.0.1:0"}
  deployment: {admin: {admin_listen: "127.0.0.1:0"}}
  plugin_attr: {prometheus: {enable_export_server: false}}
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	c, err := LoadConfig(file, func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	c.Data = data
	n := &node{log: &logBuffer{}, data: data}
	if n.Daemon, err = Start(t.Context(), c, Parts{Gateway: true}, n.log); err != nil {
		t.Fatal(err)
	}
	return n
}

// addr finds a listener in the log.
func (n *node) addr(t *testing.T, line string) string {
	t.Helper()
	m := regexp.MustCompile(`msg=` + line).FindStringSubmatch(n.log.String())
	if m == nil {
		t.Fatalf("no line %s in\n%s", line, n.log)
	}
	return m[1]
}

func (n *node) put(t *testing.T, path, body string) {
	t.Helper()
	key, err := os.ReadFile(filepath.Join(n.data, adminKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	q, _ := http.NewRequest("PUT", "http://"+n.addr(t, `"gateway Admin API" addr=(\S+)`)+"/apisix/admin/"+path, strings.NewReader(body))
	q.Header.Set("X-API-KEY", strings.TrimSpace(string(key)))
	res, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if out, _ := io.ReadAll(res.Body); res.StatusCode >= 300 {
		t.Fatalf("PUT %s: %d %s", path, res.StatusCode, out)
	}
}

// A node that restarts resumes the sessions its clients have, and a port behind
// the PROXY protocol passes on whom the header names.
func TestNodeKeepsSessionsAndNames(t *testing.T) {
	data := t.TempDir()
	ca, err := localca.Open(t.TempDir(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue([]string{"a.example"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	up, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	origin := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Header.Get("X-Forwarded-For")) })}
	go origin.Serve(up)
	defer origin.Close()

	cfg := &tls.Config{ServerName: "a.example", InsecureSkipVerify: true, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	ask := func(addr, header string, secure bool) (body string, resumed bool) {
		t.Helper()
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(c, header)
		if secure {
			c = tls.Client(c, cfg)
		}
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		if secure {
			resumed = c.(*tls.Conn).ConnectionState().DidResume
		}
		return string(b), resumed
	}

	n := startNode(t, data)
	quoted := func(typ string, der []byte) string {
		b, _ := json.Marshal(string(pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der})))
		return string(b)
	}
	n.put(t, "ssls/1", fmt.Sprintf(`{"sni":"a.example","cert":%s,"key":%s}`, quoted("CERTIFICATE", cert.Certificate[0]), quoted("PRIVATE KEY", key)))
	n.put(t, "routes/1", fmt.Sprintf(`{"uri":"/*","upstream":{"nodes":{%q:1}}}`, up.Addr()))
	for i, want := range []bool{false, true} {
		if body, resumed := ask(n.addr(t, `gateway addr=(\S+) tls=true http3`), "", true); body != "127.0.0.1" || resumed != want {
			t.Errorf("request %d: %q, resumed %v, want %v", i, body, resumed, want)
		}
	}
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}

	n = startNode(t, data)
	defer n.stop()
	if _, resumed := ask(n.addr(t, `gateway addr=(\S+) tls=true http3`), "", true); !resumed {
		t.Error("the session did not survive the restart")
	}
	header := string(proxyproto.Header{Src: netip.MustParseAddrPort("192.0.2.7:1"), Dst: netip.MustParseAddrPort("192.0.2.1:2")}.AppendV2(nil))
	for _, secure := range []bool{false, true} {
		if body, _ := ask(n.addr(t, fmt.Sprintf(`gateway addr=(\S+) tls=%v proxy_protocol`, secure)), header, secure); body != "192.0.2.7" {
			t.Errorf("TLS %v: the origin was told %q, want 192.0.2.7", secure, body)
		}
	}
}

func TestTLSSettingsAreChecked(t *testing.T) {
	for text, want := range map[string]string{
		`gateway: {apisix: {ssl: {ssl_ciphers: "HIGH:!aNULL"}}}`:                    "cipher HIGH is not offered",
		`gateway: {apisix: {ssl: {ssl_protocols: "TLSv1 TLSv1.2"}}}`:                "ssl_protocols are",
		`gateway: {apisix: {proxy_protocol: {trusted_addresses: ["10.0.0.0/99"]}}}`: "expected an address or network",
		`gateway: {apisix: {proxy_protocol: {enable_tcp_pp: true}}}`:                "enable_tcp_pp",
	} {
		file := filepath.Join(t.TempDir(), "gatehouse.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadConfig(file, func(string) (string, bool) { return "", false }); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
