package engine

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"gatehouse/gateway"
)

// quicCert is a TLS configuration for HTTP/3 with a certificate for localhost.
func quicCert(t testing.TB) *tls.Config {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h3"}, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: k}}}
}

// startQUIC serves h over HTTP/3 and returns the URL.
func startQUIC(t testing.TB, h HandlerFunc, change ...func(*ServerConfig)) (string, *Server) {
	t.Helper()
	cfg := ServerConfig{Handler: h}
	for _, c := range change {
		c(&cfg)
	}
	s := NewServer(cfg)
	pc := udp(t)
	done := make(chan error, 1)
	conf := quicCert(t)
	go func() { done <- s.ServeQUIC(pc, conf) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = s.Stop(ctx)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	_, port, _ := net.SplitHostPort(pc.LocalAddr().String())
	return "https://localhost:" + port, s
}

func udp(t testing.TB) net.PacketConn {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return pc
}

// h3client is a client of its own connections.
func h3client(t testing.TB) *http.Client {
	t.Helper()
	tr := &http3.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableCompression: true}
	t.Cleanup(func() { tr.Close() })
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

// TestHTTP3FromHTTP: an http.Handler is told the protocol.
func TestHTTP3FromHTTP(t *testing.T) {
	url, _ := startQUIC(t, FromHTTP(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %d %d", r.Proto, r.ProtoMajor, r.ProtoMinor)
	}), nil).Serve)
	res, err := h3client(t).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got, err := io.ReadAll(res.Body); err != nil || string(got) != "HTTP/3.0 3 0" {
		t.Errorf("%q %v", got, err)
	}
}

func TestHTTP3Exchange(t *testing.T) {
	url, _ := startQUIC(t, func(x *gateway.Exchange, w *Writer) {
		body := ""
		if x.Req.Body != nil {
			b, err := io.ReadAll(x.Req.Body)
			if err != nil {
				w.Refuse(400)
				return
			}
			body = string(b)
		}
		var hints gateway.Header
		hints.Add("Link", "</a>")
		w.Info(103, &hints)
		x.Resp.Status, x.Resp.Length = 200, -1
		x.Resp.Header.Set("X-Saw", fmt.Sprintf("%s %s %s %s %s %s [%s] %s", x.Req.Method, x.Req.Proto, x.Req.Scheme, x.Req.Host, x.Req.Target, x.Req.Header.Get("Cookie"), body, x.Req.Trailer.Get("X-Sum")))
		x.Resp.Header.Set("Connection", "close")
		w.Head()
		_, _ = io.WriteString(w, "ok")
		x.Resp.Trailer.Add("X-End", "1")
	})
	cl := h3client(t)
	hinted := ""
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		hinted = fmt.Sprintf("%d %s", code, h.Get("Link"))
		return nil
	}})
	r, _ := http.NewRequestWithContext(ctx, "POST", url+"/x?y", io.MultiReader(strings.NewReader("hel"), strings.NewReader("lo")))
	r.Header.Set("Cookie", "a=1; b=2")
	r.Trailer = http.Header{"X-Sum": {"7"}}
	res, err := cl.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(res.Body)
	if err != nil || string(got) != "ok" || res.StatusCode != 200 {
		t.Errorf("got %d %q %v", res.StatusCode, got, err)
	}
	if got, want := res.Header.Get("X-Saw"), "POST HTTP/3.0 https localhost /x?y a=1; b=2 [hello] 7"; got != want {
		t.Errorf("saw %q, want %q", got, want)
	}
	if got, want := hinted, "103 </a>"; got != want {
		t.Errorf("hints %q, want %q", got, want)
	}
	if got := res.Trailer.Get("X-End"); got != "1" {
		t.Errorf("trailer %q", got)
	}
	if res.Header.Get("Date") == "" || res.Header.Get("Connection") != "" {
		t.Errorf("header %v", res.Header)
	}
}
