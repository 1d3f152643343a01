package listen

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"gatehouse/gateway"
	"gatehouse/gateway/engine"
	"gatehouse/lib/proxyproto"
)

var (
	quiet    = slog.New(slog.DiscardHandler)
	loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
)

type oneCert struct{ cfg *tls.Config }

func (c oneCert) TLSConfig(*tls.ClientHelloInfo) (*tls.Config, error) { return c.cfg, nil }

// behind serves connections that begin with a header; answers name the client.
func behind(t *testing.T, trusted []netip.Prefix, lim engine.Limits, certs Certificates) (addr string) {
	t.Helper()
	s := engine.NewServer(engine.ServerConfig{Limits: lim, Handler: engine.HandlerFunc(func(x *gateway.Exchange, w *engine.Writer) {
		body := fmt.Sprintf("%s %s %s", x.Req.Peer, x.Req.ClientIP, x.Req.Proto)
		x.Resp.Status, x.Resp.Length = 200, int64(len(body))
		w.Head()
		io.WriteString(w, body)
	})})
	tcp, err := TCP(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := Proxied(tcp, trusted, quiet)
	if certs != nil {
		l = TLS(l, certs, quiet)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, done := context.WithTimeout(context.Background(), time.Second)
		defer done()
		s.Stop(ctx)
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return tcp.Addr().String()
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c.(*net.TCPConn)
}

func answer(t *testing.T, br *bufio.Reader) string {
	t.Helper()
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

const get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

var from = proxyproto.Header{Src: netip.MustParseAddrPort("192.0.2.7:4711"), Dst: netip.MustParseAddrPort("192.0.2.1:443")}

func TestHeaderNamesTheClient(t *testing.T) {
	addr := behind(t, loopback, engine.Limits{}, nil)
	six := proxyproto.Header{Src: netip.MustParseAddrPort("[2001:db8::7]:1"), Dst: netip.MustParseAddrPort("[2001:db8::1]:2")}
	for name, h := range map[string]struct{ header, want string }{
		"v1":      {string(from.AppendV1(nil)), "192.0.2.7:4711 192.0.2.7"},
		"v2":      {string(from.AppendV2(nil)), "192.0.2.7:4711 192.0.2.7"},
		"v2 six":  {string(six.AppendV2(nil)), "[2001:db8::7]:1 2001:db8::7"},
		"local":   {string(proxyproto.Header{}.AppendV2(nil)), ""},
		"unknown": {"PROXY UNKNOWN\r\n", ""},
	} {
		for _, parts := range []int{1, 1000} {
			c := dial(t, addr)
			want := h.want
			if want == "" {
				want = c.LocalAddr().String() + " 127.0.0.1"
			}
			// Two requests leave with the header: not a byte of them is lost.
			sent := h.header + get + get
			for step := len(sent)/parts + 1; sent != ""; sent = sent[min(step, len(sent)):] {
				io.WriteString(c, sent[:min(step, len(sent))])
			}
			br := bufio.NewReader(c)
			for range 2 {
				if got := answer(t, br); got != want+" HTTP/1.1" {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
		}
	}
}

// HTTP/2 and TLS begin behind the header as they do without one.
func TestProtocolsBehindTheHeader(t *testing.T) {
	cert, key := pair(t, "a.example")
	kp, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	plain := behind(t, loopback, engine.Limits{}, nil)
	secure := behind(t, loopback, engine.Limits{}, oneCert{&tls.Config{Certificates: []tls.Certificate{kp}, NextProtos: []string{"h2", "http/1.1"}}})
	open := func(addr string) net.Conn {
		c := dial(t, addr)
		c.Write(from.AppendV2(nil))
		return c
	}
	h2 := &http.Transport{
		Protocols:   new(http.Protocols),
		DialContext: func(_ context.Context, _, addr string) (net.Conn, error) { return open(addr), nil },
		DialTLSContext: func(_ context.Context, _, addr string) (net.Conn, error) {
			return tls.Client(open(addr), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}), nil
		},
	}
	h2.Protocols.SetHTTP2(true)
	h2.Protocols.SetUnencryptedHTTP2(true)
	defer h2.CloseIdleConnections()
	h1 := &http.Transport{DialTLSContext: func(_ context.Context, _, addr string) (net.Conn, error) {
		return tls.Client(open(addr), &tls.Config{InsecureSkipVerify: true}), nil
	}}
	defer h1.CloseIdleConnections()
	for _, c := range []struct {
		rt        http.RoundTripper
		url, want string
	}{
		{h2, "http://" + plain, "HTTP/2.0"}, {h2, "https://" + secure, "HTTP/2.0"}, {h1, "https://" + secure, "HTTP/1.1"},
	} {
		q, _ := http.NewRequest("GET", c.url, nil)
		res, err := c.rt.RoundTrip(q)
		if err != nil {
			t.Errorf("%s %s: %v", c.url, c.want, err)
			continue
		}
		b, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if want := "192.0.2.7:4711 192.0.2.7 " + c.want; string(b) != want {
			t.Errorf("%s: %q, want %q", c.url, b, want)
		}
	}
}

// The header is required, whole, and from those who may send it.
func TestNoHeaderNoService(t *testing.T) {
	trusting := behind(t, loopback, engine.Limits{}, nil)
	elsewhere := behind(t, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, engine.Limits{}, nil)
	nobody := behind(t, nil, engine.Limits{}, nil)
	for name, c := range map[string]struct{ addr, send string }{
		"none":          {trusting, get},
		"broken":        {trusting, "PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n" + get},
		"second header": {trusting, string(from.AppendV1(nil)) + string(from.AppendV1(nil))},
		"stranger":      {elsewhere, string(from.AppendV1(nil)) + get},
		"nobody":        {nobody, string(from.AppendV2(nil)) + get},
	} {
		k := dial(t, c.addr)
		io.WriteString(k, c.send)
		k.CloseWrite()
		b, err := io.ReadAll(k)
		if strings.Contains(string(b), "192.0.2.7") || strings.Contains(string(b), "200 OK") {
			t.Errorf("%s: answered %q %v", name, b, err)
		}
	}
}

// A limit by address goes by the address the header says.
func TestLimitsGoByTheHeader(t *testing.T) {
	addr := behind(t, loopback, engine.Limits{ConnsPerAddr: 1}, nil)
	try := func(src string) bool {
		c := dial(t, addr)
		c.Write(proxyproto.Header{Src: netip.MustParseAddrPort(src), Dst: from.Dst}.AppendV1(nil))
		io.WriteString(c, get)
		b := make([]byte, 12)
		_, err := io.ReadFull(c, b)
		return err == nil
	}
	for _, c := range []struct {
		src  string
		want bool
	}{{"192.0.2.7:1", true}, {"192.0.2.8:1", true}, {"192.0.2.7:2", false}, {"[::ffff:192.0.2.8]:3", false}} {
		if got := try(c.src); got != c.want {
			t.Errorf("%s: served %v, want %v", c.src, got, c.want)
		}
	}
}

// A peer elsewhere cannot make itself a client on this host.
func TestNobodyElseSpeaksForThisHost(t *testing.T) {
	var host netip.Addr
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() {
			host = p.Addr()
		}
	}
	if !host.IsValid() {
		t.Skip("this host has no address but loopback's")
	}
	tcp, err := TCP(t.Context(), netip.AddrPortFrom(host, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	l := Proxied(tcp, []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}, quiet)
	defer l.Close()
	for _, src := range []string{"127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "192.0.2.7:1"} {
		c := dial(t, tcp.Addr().String())
		c.Write(proxyproto.Header{Src: netip.MustParseAddrPort(src), Dst: from.Dst}.AppendV2(nil))
		if src == "192.0.2.7:1" {
			got, err := l.Accept()
			if err != nil || got.RemoteAddr().String() != src {
				t.Errorf("%v %v, want %s", got, err, src)
			}
			continue
		}
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("%s: read %d, %v", src, n, err)
		}
	}
}

// What the engine needs to serve a connection without copying: the socket.
func TestTheSocketIsBelow(t *testing.T) {
	tcp, err := TCP(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := Proxied(tcp, loopback, quiet)
	defer l.Close()
	c := dial(t, tcp.Addr().String())
	c.Write(append(from.AppendV2(nil), "rest"...))
	got, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	below, ok := got.(interface{ TCP() *net.TCPConn })
	if !ok {
		t.Fatalf("%T hides its socket", got)
	}
	b := make([]byte, 4)
	if _, err := io.ReadFull(below.TCP(), b); err != nil || !bytes.Equal(b, []byte("rest")) {
		t.Errorf("%q %v", b, err)
	}
}

// Silent connections beyond the bound cost the oldest of them its place, not
// a client that speaks.
func TestOldestPendingGoes(t *testing.T) {
	tcp, err := TCP(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := newGate(tcp, quiet, "", func(_ context.Context, c net.Conn) (net.Conn, error) {
		_, err := io.ReadFull(c, make([]byte, 1))
		return c, err
	})
	g.most = 3
	g.open()
	defer g.Close()
	defer g.Cut()
	silent := make([]*net.TCPConn, 3)
	for i := range silent {
		silent[i] = dial(t, tcp.Addr().String())
	}
	for range 3 { // none of these keeps its place
		c := dial(t, tcp.Addr().String())
		c.Write([]byte("x"))
		k, err := g.Accept()
		if err != nil {
			t.Fatal(err)
		}
		k.Close()
	}
	if n, err := silent[0].Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the oldest is still there: %d %v", n, err)
	}
	silent[2].Write([]byte("x"))
	if _, err := g.Accept(); err != nil {
		t.Error(err)
	}
}
