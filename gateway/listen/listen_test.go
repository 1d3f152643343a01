package listen

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"gatehouse/gateway"
	"gatehouse/gateway/engine"
	"gatehouse/gateway/live"
	"gatehouse/gateway/proxy"
	"gatehouse/resource"
	"gatehouse/store/memory"
)

// pair makes a certificate for names, signed by itself.
func pair(t testing.TB, names ...string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	kb, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: kb}))
}

func quoted(s string) string { b, _ := json.Marshal(s); return string(b) }

type house struct {
	addr  string // of TCP and UDP
	put   func(k resource.Kind, id, doc string)
	check func(k resource.Kind, id, doc string) error
}

func start(t testing.TB, fallback string, common ...live.TLS) house {
	t.Helper()
	store := memory.NewResources()
	cfg := live.Config{Store: store, FallbackSNI: fallback}
	for _, c := range common {
		cfg.TLS = c
	}
	l, err := live.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan struct{})
	go func() { defer close(ran); l.Run(ctx) }()
	tr := engine.NewTransport(nil)
	p, err := proxy.New(proxy.Config{Live: l, Transport: tr})
	if err != nil {
		t.Fatal(err)
	}
	s := engine.NewServer(engine.ServerConfig{Handler: p})
	tcp, err := TCP(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	udp, err := UDP(ctx, tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 2)
	go func() { served <- s.Serve(TLS(tcp, l, slog.New(slog.DiscardHandler))) }()
	go func() { served <- s.ServeQUIC(udp, QUIC(l)) }()
	t.Cleanup(func() {
		stop, done := context.WithTimeout(context.Background(), 2*time.Second)
		defer done()
		s.Stop(stop)
		for range 2 {
			if err := <-served; err != nil {
				t.Error(err)
			}
		}
		cancel()
		<-ran
		tr.Close()
	})
	h := house{addr: tcp.Addr().String()}
	h.check = func(k resource.Kind, id, doc string) error { return l.Check(k, id, json.RawMessage(doc)) }
	h.put = func(k resource.Kind, id, doc string) {
		t.Helper()
		c := resource.Change{Kind: k, ID: id}
		if doc != "" {
			if err := l.Check(k, id, json.RawMessage(doc)); err != nil {
				t.Fatal(err)
			}
			c.JSON = json.RawMessage(doc)
		}
		rev, err := store.Apply(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Wait(ctx, rev); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// dial returns the common name of the certificate that was shown.
func (h house) dial(t testing.TB, name string, max uint16) (string, error) {
	d := &tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: &tls.Config{ServerName: name, InsecureSkipVerify: true, MaxVersion: max}}
	c, err := d.DialContext(t.Context(), "tcp", h.addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return c.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName, nil
}

func TestServerNames(t *testing.T) {
	h := start(t, "fallback.test")
	for i, names := range [][]string{{"a.example"}, {"*.example"}, {"b.example", "c.example"}, {"fallback.test"}} {
		cert, key := pair(t, names...)
		snis, _ := json.Marshal(names)
		h.put(resource.SSLs, fmt.Sprint(i), fmt.Sprintf(`{"snis":%s,"cert":%s,"key":%s}`, snis, quoted(cert), quoted(key)))
	}
	cert, key := pair(t, "off.example")
	h.put(resource.SSLs, "off", fmt.Sprintf(`{"sni":"off.example","status":0,"cert":%s,"key":%s}`, quoted(cert), quoted(key)))
	cert, key = pair(t, "new.test")
	h.put(resource.SSLs, "new", fmt.Sprintf(`{"sni":"new.test","ssl_protocols":["TLSv1.3"],"cert":%s,"key":%s}`, quoted(cert), quoted(key)))
	for name, want := range map[string]string{
		"a.example": "a.example", "A.Example": "a.example", "x.example": "*.example", "c.example": "b.example",
		"x.y.example": "fallback.test", "off.example": "*.example", "": "fallback.test", "new.test": "new.test",
	} {
		if got, err := h.dial(t, name, 0); err != nil || got != want {
			t.Errorf("%q: %q %v, want %q", name, got, err, want)
		}
	}
	if _, err := h.dial(t, "new.test", tls.VersionTLS12); err == nil {
		t.Error("TLS 1.2 with ssl_protocols TLSv1.3")
	}
	h.put(resource.SSLs, "3", "")
	if _, err := h.dial(t, "other.test", 0); err == nil {
		t.Error("a name without certificate is served")
	}
}

func TestHTTPOverTLS(t *testing.T) {
	h := start(t, "")
	up, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	node := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %s %s", r.Proto, r.Host, r.Header.Get("X-Forwarded-Proto"), r.Header.Get("Cookie"), b)
	})}
	go node.Serve(up)
	defer node.Close()
	cert, key := pair(t, "a.example")
	h.put(resource.SSLs, "1", fmt.Sprintf(`{"sni":"a.example","cert":%s,"key":%s}`, quoted(cert), quoted(key)))
	h.put(resource.Routes, "1", `{"uri":"/*","upstream":{"nodes":{"`+up.Addr().String()+`":1}}}`)
	for _, h2 := range []bool{true, false} {
		tr := &http.Transport{TLSClientConfig: &tls.Config{ServerName: "a.example", InsecureSkipVerify: true}, ForceAttemptHTTP2: h2}
		defer tr.CloseIdleConnections()
		for _, body := range []string{"", "hello"} {
			q, _ := http.NewRequest("POST", "https://"+h.addr+"/x", nil)
			if body != "" {
				q.Body = io.NopCloser(io.LimitReader(endless{}, int64(len(body)))) // no length
			}
			q.Host = "a.example"
			q.Header["Cookie"] = []string{"a=1; b=2"}
			res, err := tr.RoundTrip(q)
			if err != nil {
				t.Fatal(err)
			}
			got, _ := io.ReadAll(res.Body)
			res.Body.Close()
			want := "HTTP/1.1 a.example https a=1; b=2 " + "xxxxx"[:len(body)]
			if (res.ProtoMajor == 2) != h2 || string(got) != want {
				t.Errorf("h2 %v: %s %q, want %q", h2, res.Proto, got, want)
			}
		}
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func TestClientCertificates(t *testing.T) {
	h := start(t, "")
	cert, key := pair(t, "mtls.example")
	ca, caKey := pair(t, "client")
	other, otherKey := pair(t, "stranger")
	open, openKey := pair(t, "open.example")
	h.put(resource.SSLs, "1", fmt.Sprintf(`{"sni":"mtls.example","cert":%s,"key":%s,"client":{"ca":%s}}`, quoted(cert), quoted(key), quoted(ca)))
	h.put(resource.SSLs, "2", fmt.Sprintf(`{"sni":"open.example","cert":%s,"key":%s}`, quoted(open), quoted(openKey)))
	h.put(resource.Routes, "1", `{"uri":"/*"}`) // 503 when it is reached
	ask := func(sni, host, cert, key string, quic bool) int {
		cfg := &tls.Config{ServerName: sni, InsecureSkipVerify: true}
		if cert != "" {
			p, err := tls.X509KeyPair([]byte(cert), []byte(key))
			if err != nil {
				t.Fatal(err)
			}
			cfg.Certificates = []tls.Certificate{p}
		}
		var tr http.RoundTripper = &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}
		if quic {
			h3 := &http3.Transport{TLSClientConfig: cfg}
			defer h3.Close()
			tr = h3
		}
		q, _ := http.NewRequest("GET", "https://"+h.addr+"/", nil)
		q.Host = host
		res, err := tr.RoundTrip(q)
		if err != nil {
			return 0
		}
		res.Body.Close()
		return res.StatusCode
	}
	for _, r := range []struct {
		name, sni, host, cert, key string
		want                       int
	}{
		{"good", "mtls.example", "mtls.example", ca, caKey, 503},
		{"none", "mtls.example", "mtls.example", "", "", 0},
		{"stranger", "mtls.example", "mtls.example", other, otherKey, 0},
		{"other door", "open.example", "mtls.example", "", "", 421},
		{"other host", "mtls.example", "open.example", ca, caKey, 421},
		{"open", "open.example", "open.example", "", "", 503},
	} {
		for _, quic := range []bool{false, true} {
			if got := ask(r.sni, r.host, r.cert, r.key, quic); got != r.want {
				t.Errorf("%s: %d, want %d (QUIC %v)", r.name, got, r.want, quic)
			}
		}
	}
}

func TestSlowHandshakeDelaysNobody(t *testing.T) {
	h := start(t, "")
	cert, key := pair(t, "a.example")
	h.put(resource.SSLs, "1", fmt.Sprintf(`{"sni":"a.example","cert":%s,"key":%s}`, quoted(cert), quoted(key)))
	for range 20 {
		c, err := net.Dial("tcp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if _, err := h.dial(t, "a.example", 0); err != nil {
		t.Error(err)
	}
}

func TestBusyPortIsNamed(t *testing.T) {
	l, err := TCP(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = TCP(t.Context(), l.Addr().String())
	var busy *BusyError
	if !errors.As(err, &busy) || busy.Addr != l.Addr().String() {
		t.Errorf("%v", err)
	}
	pc, err := UDP(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	if _, err = UDP(t.Context(), pc.LocalAddr().String()); !errors.As(err, &busy) || busy.Addr != pc.LocalAddr().String() {
		t.Errorf("udp: %v", err)
	}
}

// An https upstream is verified unless told otherwise; the name is the Host.
func TestUpstreamIsVerified(t *testing.T) {
	cert, key := pair(t, "up.example")
	kp, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{kp}})
	if err != nil {
		t.Fatal(err)
	}
	node := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.TLS.ServerName) }), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	go node.Serve(l)
	defer node.Close()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(cert))
	tr := engine.NewTransport(nil)
	defer tr.Close()
	for _, r := range []struct {
		name string
		cfg  *tls.Config
		sni  string
		ok   bool
	}{
		{"known", &tls.Config{RootCAs: roots}, "up.example", true},
		{"other name", &tls.Config{RootCAs: roots}, "other.example", false},
		{"unknown authority", nil, "up.example", false},
		{"not verified", &tls.Config{InsecureSkipVerify: true}, "other.example", true},
	} {
		var resp gateway.Response
		c := &engine.Call{Scheme: "https", Addr: l.Addr().String(), SNI: r.sni, TLS: r.cfg, Timeout: gateway.Timeout{Connect: time.Second, Send: time.Second, Read: time.Second},
			Method: "GET", Target: "/", Host: r.sni, Header: &gateway.Header{}, Keep: gateway.KeepAlive{Size: 1, Idle: time.Minute, Requests: 10}}
		body, err := tr.Send(t.Context(), c, &resp)
		if (err == nil) != r.ok {
			t.Errorf("%s: %v", r.name, err)
		}
		if err == nil {
			if b, _ := io.ReadAll(body); string(b) != r.sni {
				t.Errorf("%s: SNI %q", r.name, b)
			}
			body.Close()
		}
	}
}

// TestHandshakeOutlivesTheListener: a client whose handshake is under way when
// the server stops is served.
func TestHandshakeOutlivesTheListener(t *testing.T) {
	cert, key := pair(t, "a.test")
	crt, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := TCP(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := engine.NewServer(engine.ServerConfig{Handler: engine.HandlerFunc(func(x *gateway.Exchange, w *engine.Writer) {
		x.Resp.Status, x.Resp.Length = 200, 0
		w.Head()
	})})
	served := make(chan error, 1)
	go func() {
		served <- s.Serve(TLS(tcp, fixed{&tls.Config{Certificates: []tls.Certificate{crt}}}, slog.New(slog.DiscardHandler)))
	}()
	first, err := net.Dial("tcp", tcp.Addr().String()) // begins, and waits
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	accepted, err := tls.Dial("tcp", tcp.Addr().String(), &tls.Config{InsecureSkipVerify: true}) // so the first was accepted
	if err != nil {
		t.Fatal(err)
	}
	accepted.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	stopped := make(chan error, 1)
	go func() { stopped <- s.Stop(ctx) }()
	for { // until nobody listens
		c, err := net.Dial("tcp", tcp.Addr().String())
		if err != nil {
			break
		}
		c.Close()
	}
	c := tls.Client(first, &tls.Config{InsecureSkipVerify: true})
	defer c.Close()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	got, err := io.ReadAll(c)
	if err != nil || !bytes.HasPrefix(got, []byte("HTTP/1.1 200 ")) || !bytes.Contains(got, []byte("Connection: close\r\n")) {
		t.Errorf("%q, %v", got, err)
	}
	c.Close()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

type fixed struct{ cfg *tls.Config }

func (f fixed) TLSConfig(*tls.ClientHelloInfo) (*tls.Config, error) { return f.cfg, nil }
