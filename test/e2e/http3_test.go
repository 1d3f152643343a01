package e2e

import (
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
	s := newStack(t, "")
	port := freePorts(t, 1)[0]
	text := readFile(t, s.config)
	i := strings.Index(text, `ssl: {listen: ["127.0.0.1:`)
	j := i + strings.Index(text[i:], "]")
	plainTLS := text[i+len(`ssl: {listen: ["`) : j-1]
	text = text[:j] + fmt.Sprintf(", {ip: 127.0.0.1, port: %d, enable_http3: true}", port) + text[j:]
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.process = s.serve("gateway")
	ca, err := localca.Open(t.TempDir(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue([]string{"localhost"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	certPEM, keyPEM := pemPair(t, cert)
	ssl, _ := json.Marshal(map[string]any{"sni": "localhost", "cert": certPEM, "key": keyPEM})
	s.put("ssls/1", string(ssl))
	s.put("routes/1", `{"uri":"/*","upstream":{"nodes":{"`+strings.TrimPrefix(origin.URL, "http://")+`":1}}}`)

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

func pemPair(t *testing.T, c *tls.Certificate) (cert, key string) {
	t.Helper()
	raw, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
}
