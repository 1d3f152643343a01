package listen

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"gatehouse/resource"
)

// quicDial returns the common name of the certificate that was shown over QUIC.
func (h house) quicDial(t testing.TB, name string) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	c, err := quic.DialAddr(ctx, h.addr, &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: []string{"h3"}}, nil)
	if err != nil {
		return "", err
	}
	defer c.CloseWithError(0x100, "")
	return c.ConnectionState().TLS.PeerCertificates[0].Subject.CommonName, nil
}

func TestServerNamesOverQUIC(t *testing.T) {
	h := start(t, "fallback.test")
	for i, names := range [][]string{{"a.example"}, {"*.example"}, {"fallback.test"}} {
		cert, key := pair(t, names...)
		h.put(resource.SSLs, fmt.Sprint(i), fmt.Sprintf(`{"sni":%q,"cert":%s,"key":%s}`, names[0], quoted(cert), quoted(key)))
	}
	cert, key := pair(t, "old.test")
	h.put(resource.SSLs, "old", fmt.Sprintf(`{"sni":"old.test","ssl_protocols":["TLSv1.2"],"cert":%s,"key":%s}`, quoted(cert), quoted(key)))
	for name, want := range map[string]string{"a.example": "a.example", "x.example": "*.example", "other.test": "fallback.test"} {
		if got, err := h.quicDial(t, name); err != nil || got != want {
			t.Errorf("%q: %q %v, want %q", name, got, err, want)
		}
	}
	if _, err := h.quicDial(t, "old.test"); err == nil {
		t.Error("TLS 1.3 with ssl_protocols TLSv1.2")
	}
	h.put(resource.SSLs, "2", "")
	if _, err := h.quicDial(t, "other.test"); err == nil {
		t.Error("a name without certificate is served")
	}
}

// TestResumptionWithoutEarlyData shows that a client which comes again saves
// the certificates, and that nothing is taken in 0-RTT.
func TestResumptionWithoutEarlyData(t *testing.T) {
	h := start(t, "")
	cert, key := pair(t, "a.example")
	h.put(resource.SSLs, "1", fmt.Sprintf(`{"sni":"a.example","cert":%s,"key":%s}`, quoted(cert), quoted(key)))
	h.put(resource.Routes, "1", `{"uri":"/*"}`) // 503 when it is reached
	cache := tls.NewLRUClientSessionCache(10)
	for visit := range 2 {
		var state quic.ConnectionState
		tr := &http3.Transport{
			TLSClientConfig: &tls.Config{ServerName: "a.example", InsecureSkipVerify: true, ClientSessionCache: cache},
			Dial: func(ctx context.Context, addr string, tc *tls.Config, qc *quic.Config) (*quic.Conn, error) {
				c, err := quic.DialAddrEarly(ctx, addr, tc, qc)
				if err == nil {
					<-c.HandshakeComplete()
					state = c.ConnectionState()
				}
				return c, err
			},
		}
		q, _ := http.NewRequestWithContext(t.Context(), http3.MethodGet0RTT, "https://"+h.addr+"/", nil)
		q.Host = "a.example"
		res, err := tr.RoundTrip(q)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		tr.Close()
		if res.StatusCode != 503 {
			t.Errorf("visit %d: %d", visit, res.StatusCode)
		}
		if got, want := state.TLS.DidResume, visit > 0; got != want {
			t.Errorf("visit %d: resumed %v, want %v", visit, got, want)
		}
		if state.Used0RTT {
			t.Errorf("visit %d: early data was taken", visit)
		}
	}
}

// TestOtherDatagrams shows that what is no QUIC is not answered.
func TestOtherDatagrams(t *testing.T) {
	h := start(t, "")
	c, err := net.Dial("udp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, b := range [][]byte{nil, {0}, make([]byte, 1200), []byte("GET / HTTP/1.1\r\n\r\n")} {
		_, _ = c.Write(b)
	}
	cert, key := pair(t, "a.example")
	h.put(resource.SSLs, "1", fmt.Sprintf(`{"sni":"a.example","cert":%s,"key":%s}`, quoted(cert), quoted(key)))
	if _, err := h.quicDial(t, "a.example"); err != nil {
		t.Error(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if n, err := c.Read(make([]byte, 2000)); err == nil {
		t.Errorf("answered %d bytes", n)
	}
}
