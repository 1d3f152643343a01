package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/quic-go/quic-go/http3"

	"gatehouse/lib/localca"
)

// TestHTTP3 turns enable_http3 on: a client learns from Alt-Svc over TCP where
// HTTP/3 is, and gets the same there.
func TestHTTP3(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s", r.Method, r.Header.Get("X-Forwarded-Proto"), body)
	}))
	defer origin.Close()
	s, port, plainTLS := withHTTP3(t, origin.URL)
	tc := &tls.Config{ServerName: "localhost", InsecureSkipVerify: true}
	tcp := &http.Client{Transport: &http.Transport{TLSClientConfig: tc.Clone(), ForceAttemptHTTP2: true}, Timeout: 10 * time.Second}
	one := &http.Client{Transport: &http.Transport{TLSClientConfig: tc}, Timeout: 10 * time.Second}
	h3 := &http3.Transport{TLSClientConfig: tc}
	defer h3.Close()
	udp := &http.Client{Transport: h3, Timeout: 10 * time.Second}
	at := fmt.Sprintf("https://127.0.0.1:%d/", port)
	says := fmt.Sprintf("h3=\":%d\"; ma=86400", port)
	for _, c := range []struct {
		name        string
		client      *http.Client
		url, altSvc string
		proto, body string
	}{
		{"HTTP/2", tcp, at, says, "HTTP/2.0", "POST https hello"},
		{"HTTP/1.1", one, at, says, "HTTP/1.1", "POST https hello"},
		{"HTTP/3", udp, at, "", "HTTP/3.0", "POST https hello"},
		{"a listener without it", tcp, "https://" + plainTLS + "/", "", "HTTP/2.0", "POST https hello"},
		{"plain", tcp, s.gateway + "/", "", "HTTP/1.1", "POST http hello"},
	} {
		res, err := c.client.Post(c.url, "text/plain", strings.NewReader("hello"))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.Proto != c.proto || string(body) != c.body || res.Header.Get("Alt-Svc") != c.altSvc {
			t.Errorf("%s: got %s %q Alt-Svc %q, want %s %q %q", c.name, res.Proto, body, res.Header.Get("Alt-Svc"), c.proto, c.body, c.altSvc)
		}
	}
	udp.Timeout = 500 * time.Millisecond
	if _, err := udp.Get("https://" + plainTLS + "/"); err == nil {
		t.Error("HTTP/3 where it is off")
	}
	h3.Close()
	s.stop()
}

// withHTTP3 runs a gateway with HTTP/3 on a port, and a TLS listener without it,
// for localhost and one service.
func withHTTP3(t *testing.T, service string) (s *stack, port int, plainTLS string) {
	t.Helper()
	s = newStack(t, "")
	port = freePorts(t, 1)[0]
	text := readFile(t, s.config)
	const key = `ssl: {listen: ["`
	i := strings.Index(text, key) + len(key)
	j := i + strings.Index(text[i:], `"]`)
	plainTLS = text[i:j]
	text = text[:j+1] + fmt.Sprintf(", {ip: 127.0.0.1, port: %d, enable_http3: true}", port) + text[j+1:]
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.process = s.serve("gateway")
	ca, err := localca.Open(s.data, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue([]string{"localhost"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	var chain []byte
	for _, c := range cert.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c})...)
	}
	private := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
	ssl, _ := json.Marshal(map[string]any{"sni": "localhost", "cert": string(chain), "key": string(private)})
	s.put("ssls/1", string(ssl))
	s.put("routes/1", `{"uri":"/*","upstream":{"nodes":{"`+strings.TrimPrefix(service, "http://")+`":1}}}`)
	return s, port, plainTLS
}

// TestHTTP3InABrowser lets Chromium, whose QUIC is another, load a page, send a
// form, follow events and fetch much at once.
func TestHTTP3InABrowser(t *testing.T) {
	const size = 3 << 20
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<title>home</title>")
	})
	mux.HandleFunc("GET /big", func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(make([]byte, size)) })
	mux.HandleFunc("POST /size", func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	})
	mux.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: hello\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	origin := httptest.NewServer(mux)
	defer origin.Close()
	s, port, _ := withHTTP3(t, origin.URL)
	ctx := browser(t, s.data, chromedp.Flag("disable-quic", false), chromedp.Flag("origin-to-force-quic-on", fmt.Sprintf("localhost:%d", port)),
		chromedp.Flag("host-resolver-rules", "MAP localhost 127.0.0.1"))
	do(t, ctx, "the page", chromedp.Navigate(fmt.Sprintf("https://localhost:%d/", port)))
	for _, c := range []struct{ script, want string }{
		{`performance.getEntriesByType("navigation")[0].nextHopProtocol`, "h3"},
		{`fetch("/size", {method: "POST", body: new Uint8Array(3 << 20)}).then(r => r.text())`, fmt.Sprint(size)},
		{`Promise.all([...Array(8).keys()].map(i => fetch("/big?" + i).then(r => r.arrayBuffer()))).then(all => all.map(b => b.byteLength).join())`,
			strings.TrimSuffix(strings.Repeat(fmt.Sprint(size)+",", 8), ",")},
		{`new Promise(done => { const e = new EventSource("/events"); e.onmessage = m => { e.close(); done(m.data) } })`, "hello"},
		{`[...new Set(performance.getEntriesByType("resource").filter(e => e.name.includes("/big")).map(e => e.nextHopProtocol))].join()`, "h3"},
	} {
		step, cancel := context.WithTimeout(ctx, 30*time.Second)
		got, err := chromedp.Run(step, chromedp.Evaluate[string](c.script, chromedp.EvalAwaitPromise))
		cancel()
		if got != c.want || err != nil {
			t.Errorf("%s: got %q %v, want %q", c.script, got, err, c.want)
		}
	}
}
