package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"
)

// TestOldDiesWhileHandingOver: the successor that was half way goes on alone.
func TestOldDiesWhileHandingOver(t *testing.T) {
	s := newStack(t, "")
	old := s.serve("all")
	s.cleanUp()
	s.put("routes/r", `{"uri":"/*","upstream":{"nodes":{"`+node(t)+`":1}}}`)
	halting := halfway(t, readFile(t, s.config))
	next := start(t, s.env, "gatehouse", "serve", "all", "--takeover", "-c", halting.config)
	more := halting.wait()
	old.kill()
	more.Close()
	next.wait("its start", func() bool { return strings.Contains(next.output(), "msg=started") })
	if status, body := send(t, "GET", s.gateway+"/x", "", ""); status != 200 {
		t.Errorf("the gateway answers %d %s", status, body)
	}
	s.put("routes/r2", `{"uri":"/r2","upstream":{"nodes":{"127.0.0.1:1":1}}}`)
}

// TestTakeOverNobody: the flag is harmless where no process runs, and without
// it nobody is replaced.
func TestTakeOverNobody(t *testing.T) {
	s := newStack(t, "")
	p := start(t, s.env, "gatehouse", "serve", "gateway", "--takeover", "-c", s.config)
	p.wait("gateway", answers(http.DefaultClient, s.gateway+"/"))
	s.cleanUp()
	if out, code := s.run("serve", "gateway", "-c", s.config); code != 1 || !strings.Contains(out, "in use by another gatehouse process") || !strings.Contains(out, "--takeover") {
		t.Errorf("a second process: %d, %s", code, out)
	}
	if out, code := s.run("serve", "all", "--takeover", "-c", s.config); code != 1 || !strings.Contains(out, "in use by another gatehouse process") {
		t.Errorf("a second process of other parts: %d, %s", code, out)
	}
	fi, err := os.Stat(filepath.Join(s.data, "control-gateway.sock"))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the control socket: %v, %v", fi, err)
	}
	if status, _ := send(t, "GET", s.gateway+"/", "", ""); status != 404 {
		t.Errorf("the first process answers %d", status)
	}
}

// TestServiceManagerIsTold: readiness and the main process, by sd_notify.
func TestServiceManagerIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	said := func() string {
		t.Helper()
		l.SetReadDeadline(time.Now().Add(30 * time.Second))
		b := make([]byte, 1024)
		n, err := l.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	s := newStack(t, "")
	s.env = append(s.env, "NOTIFY_SOCKET="+path)
	first := start(t, s.env, "gatehouse", "serve", "gateway", "-c", s.config)
	s.cleanUp()
	if got, want := said(), fmt.Sprintf("MAINPID=%d\nREADY=1", first.cmd.Process.Pid); got != want {
		t.Errorf("said %q, want %q", got, want)
	}
	if out, code := s.run("reload"); code != 0 {
		t.Fatal(out)
	}
	if got := said(); got != "RELOADING=1" {
		t.Errorf("said %q", got)
	}
	if got, want := said(), fmt.Sprintf("MAINPID=%d\nREADY=1", s.successor(first.cmd.Process.Pid, first)); got != want {
		t.Errorf("said %q, want %q", got, want)
	}
	s.run("stop")
	if got := said(); got != "STOPPING=1" {
		t.Errorf("said %q", got)
	}
}

// TestTakeoverTLS: HTTPS and HTTP/3 change hands. A request on HTTP/3 that is
// under way ends; the successor serves HTTP/3 when the old process is gone.
func TestTakeoverTLS(t *testing.T) {
	s := newStack(t, "")
	text := readFile(t, s.config)
	_, rest, _ := strings.Cut(text, `ssl: {listen: ["`)
	addr, _, _ := strings.Cut(rest, `"`)
	host, port, _ := net.SplitHostPort(addr)
	text = strings.Replace(text, `["`+addr+`"]`, fmt.Sprintf(`[{ip: %s, port: %s, enable_http3: true}]`, host, port), 1)
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	old := s.serve("gateway")
	s.cleanUp()
	cert, key := selfSigned(t, "h3.test")
	s.put("ssls/1", fmt.Sprintf(`{"snis":["h3.test"],"cert":%s,"key":%s}`, cert, key))
	s.put("routes/r", `{"uri":"/*","upstream":{"nodes":{"`+node(t)+`":1}}}`)
	conf := &tls.Config{ServerName: "h3.test", InsecureSkipVerify: true}
	quic := func() *http.Client {
		tr := &http3.Transport{TLSClientConfig: conf}
		t.Cleanup(func() { tr.Close() })
		return &http.Client{Transport: tr, Timeout: 20 * time.Second}
	}
	get := func(c *http.Client, path string) (string, error) {
		res, err := c.Get("https://" + addr + path)
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		return string(b), err
	}
	tcp := &http.Client{Transport: &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true}, Timeout: 20 * time.Second}
	for name, c := range map[string]*http.Client{"tcp": tcp, "quic": quic()} {
		if b, err := get(c, "/x"); b != "GET 0" || err != nil {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	slow := make(chan error, 1)
	c := quic()
	began, begun := context.WithCancel(t.Context())
	go func() {
		res, err := c.Get("https://" + addr + "/slow")
		begun()
		if err == nil {
			var b []byte
			if b, err = io.ReadAll(res.Body); err == nil && len(b) != 200 {
				err = fmt.Errorf("%d bytes", len(b))
			}
		}
		slow <- err
	}()
	<-began.Done()
	next := start(t, s.env, "gatehouse", "serve", "gateway", "--takeover", "-c", s.config)
	next.wait("its start", func() bool { return strings.Contains(next.output(), "msg=started") })
	if b, err := get(tcp, "/x"); b != "GET 0" || err != nil {
		t.Errorf("tcp, right after: %q, %v", b, err)
	}
	if err := <-slow; err != nil {
		t.Errorf("the request that was under way: %v", err)
	}
	<-old.done
	if b, err := get(quic(), "/x"); b != "GET 0" || err != nil {
		t.Errorf("quic, when the old one is gone: %q, %v", b, err)
	}
}

// selfSigned makes a certificate and its key, as JSON strings.
func selfSigned(t *testing.T, name string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	text := func(kind string, b []byte) string {
		out, _ := json.Marshal(string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b})))
		return string(out)
	}
	return text("CERTIFICATE", der), text("EC PRIVATE KEY", raw)
}
