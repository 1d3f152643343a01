package wire

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/gateway/engine"
	"gatehouse/resource"
	"gatehouse/test/fixtures"
)

// speak is an upstream on raw TCP that says what it is told to once it has read
// a head, and then waits for the end.
func speak(t testing.TB, answer string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	ended := make(chan struct{})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { <-ended; c.Close() })
			wg.Go(func() {
				defer c.Close()
				br := bufio.NewReader(c)
				for {
					line, err := br.ReadString('\n')
					if err != nil {
						return
					}
					if line == "\r\n" {
						_, _ = io.WriteString(c, answer)
					}
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); close(ended); wg.Wait() })
	return l.Addr().String()
}

// exchange sends bytes and reads until the gateway closes; hung says that it
// did not.
func exchange(t testing.TB, c net.Conn, send string) (got string, hung bool) {
	t.Helper()
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(c, send)
	b, err := io.ReadAll(c)
	return string(b), errors.Is(err, os.ErrDeadlineExceeded)
}

func tcp(t testing.TB, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestStatuses: each thing that is wrong has its status (RFC 9110, section 15),
// in the gateway's form, and the connection ends where what follows is in
// doubt.
func TestStatuses(t *testing.T) {
	d := fixtures.StartDataPlane(t, engine.Limits{HeadTime: time.Second, BodyTime: time.Second, Body: 1000})
	ok := upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	silent := speak(t, "")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refusing := l.Addr().String()
	l.Close()
	for id, doc := range map[string]string{
		"ok":     `{"uri":"/ok*","enable_websocket":true,"upstream":{"nodes":{"` + ok + `":1}}}`,
		"silent": `{"uri":"/silent","timeout":{"connect":1,"send":1,"read":0.2},"upstream":{"nodes":{"` + silent + `":1}}}`,
		"down":   `{"uri":"/down","upstream":{"nodes":{"` + refusing + `":1}}}`,
		"none":   `{"uri":"/none","upstream":{"nodes":{}}}`,
		"name":   `{"uri":"/name","upstream":{"nodes":{"no.such.invalid:80":1}}}`,
		"babble": `{"uri":"/babble","upstream":{"nodes":{"` + speak(t, "SSH-2.0-OpenSSH_9.2p1\r\n") + `":1}}}`,
		"grpc":   `{"uri":"/grpc","upstream":{"scheme":"grpc","nodes":{"` + ok + `":1}}}`,
		"socket": `{"uri":"/socket","enable_websocket":true,"upstream":{"nodes":{"` + speak(t, "HTTP/1.1 426 Upgrade Required\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n") + `":1}}}`,
	} {
		d.Put(resource.Routes, id, doc)
	}
	const host = "Host: a\r\n"
	const smuggled = "GET /ok HTTP/1.1\r\nHost: smuggled\r\n\r\n"
	for _, row := range []struct {
		name, send string
		want       int
		ends       bool // what follows is in doubt: one answer, then the end
	}{
		{"400 framing", "POST /ok HTTP/1.1\r\n" + host + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled, 400, true},
		{"400 no host", "GET /ok HTTP/1.1\r\n\r\n" + smuggled, 400, true},
		{"400 HTTP/0.9", "GET /ok\r\n\r\n" + smuggled, 400, true},
		{"400 TLS on a plain port", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("\x00\n", 200), 400, true},
		{"400 chunk", "POST /ok HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello!!\r\n0\r\n\r\n" + smuggled, 400, true},
		{"405 method", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n" + smuggled, 405, true},
		{"408 head", "GET /ok HTTP/1.1\r\nHos", 408, true},
		{"408 body", "POST /ok HTTP/1.1\r\n" + host + "Content-Length: 10\r\n\r\nhello", 408, true},
		{"413 announced", "POST /ok HTTP/1.1\r\n" + host + "Content-Length: 1001\r\n\r\n" + smuggled, 413, true},
		{"413 sent", "POST /ok HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n3e9\r\n" + strings.Repeat("x", 1001) + "\r\n0\r\n\r\n" + smuggled, 413, true},
		{"414 target", "GET /" + strings.Repeat("a", 17000) + " HTTP/1.1\r\n" + host + "\r\n" + smuggled, 414, true},
		{"414 target without an end", "GET /" + strings.Repeat("a", 100_000), 414, true},
		{"417 expectation", "POST /ok HTTP/1.1\r\n" + host + "Expect: payment\r\nContent-Length: 3\r\n\r\nabc" + smuggled, 417, true},
		{"421 https on a plain port", "GET https://a/ok HTTP/1.1\r\n" + host + "\r\n" + smuggled, 421, true},
		{"426 gRPC over HTTP/1.1", "POST /grpc HTTP/1.1\r\n" + host + "Content-Type: application/grpc\r\nContent-Length: 5\r\n\r\n\x00\x00\x00\x00\x00", 426, false},
		{"426 of an upstream", "GET /socket HTTP/1.1\r\n" + host + "\r\n", 426, false},
		{"431 size", "GET /ok HTTP/1.1\r\n" + host + "X: " + strings.Repeat("a", 70_000) + "\r\n\r\n" + smuggled, 431, true},
		{"431 count", "GET /ok HTTP/1.1\r\n" + host + strings.Repeat("X: a\r\n", 300) + "\r\n" + smuggled, 431, true},
		{"501 coding", "POST /ok HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip\r\n\r\nabc" + smuggled, 501, true},
		{"505 version", "GET /ok HTTP/2.0\r\n" + host + "\r\n" + smuggled, 505, true},
		{"505 next version", "GET /ok HTTP/3.0\r\n" + host + "\r\n" + smuggled, 505, true},
		{"502 refused", "GET /down HTTP/1.1\r\n" + host + "\r\n", 502, false},
		{"502 no HTTP", "GET /babble HTTP/1.1\r\n" + host + "\r\n", 502, false},
		{"503 no node", "GET /none HTTP/1.1\r\n" + host + "\r\n", 503, false},
		{"503 no such name", "GET /name HTTP/1.1\r\n" + host + "\r\n", 503, false},
		{"504 no answer", "GET /silent HTTP/1.1\r\n" + host + "\r\n", 504, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			send := row.send
			if !row.ends {
				send += "GET /ok HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
			}
			got, hung := exchange(t, tcp(t, d.Addr), send)
			if hung {
				t.Fatalf("the connection hangs after %q", got)
			}
			br := bufio.NewReader(strings.NewReader(got))
			res, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatalf("%q: %v", got, err)
			}
			body, err := io.ReadAll(res.Body)
			if err != nil || res.StatusCode != row.want {
				t.Fatalf("%d %v, want %d: %q", res.StatusCode, err, row.want, got)
			}
			if row.name == "426 of an upstream" {
				if len(body) > 0 || res.Header.Get("Upgrade") != "websocket" {
					t.Errorf("%q", got)
				}
			} else if want := http.StatusText(row.want); !strings.Contains(string(body), want) || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") {
				t.Errorf("not the gateway's page: %q", got)
			}
			if row.want == 426 && (res.Header.Get("Upgrade") == "" || !strings.Contains(strings.Join(res.Header.Values("Connection"), ","), "Upgrade")) {
				t.Errorf("426 without Upgrade: %q", got)
			}
			if res.Close != row.ends {
				t.Errorf("the connection ends: %v, want %v: %q", res.Close, row.ends, got)
			}
			next, err := http.ReadResponse(br, nil)
			switch {
			case row.ends && err == nil:
				t.Errorf("a second answer, %d, to bytes in doubt", next.StatusCode)
			case !row.ends && (err != nil || next.StatusCode != 200):
				t.Errorf("the next request on the connection: %v %v", next, err)
			}
		})
	}
	t.Run("JSON", func(t *testing.T) {
		t.Parallel()
		got, _ := exchange(t, tcp(t, d.Addr), "GET /none HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\nConnection: close\r\n\r\n")
		if !strings.Contains(got, `{"error_msg":"503 Service Unavailable"}`) {
			t.Errorf("%q", got)
		}
	})
}

// TestMisdirectedOverTLS: an https target is at home there.
func TestMisdirectedOverTLS(t *testing.T) {
	d := fixtures.StartDataPlane(t, engine.Limits{})
	route(d, upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "ok") })), "")
	c, err := tls.Dial("tcp", d.TLSAddr, &tls.Config{RootCAs: d.Roots, ServerName: "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	got, _ := exchange(t, c, "GET https://localhost/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("%q", got)
	}
}

// TestFloodsLeaveNothing: thousands of connections that send what is wrong, or
// nothing, or leave in the middle, leave neither goroutines nor memory behind.
func TestFloodsLeaveNothing(t *testing.T) {
	d := fixtures.StartDataPlane(t, engine.Limits{HeadTime: time.Second, BodyTime: time.Second, Idle: time.Second})
	route(d, upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })), `,"keepalive_pool":{"size":4}`)
	sends := []string{
		"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
		"GET /" + strings.Repeat("a", 20_000),
		"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("b", 60_000),
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\nx",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nx",
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + strings.Repeat("\xff", 100),
		"",
	}
	flood := func(n int) {
		var wg sync.WaitGroup
		slots := make(chan struct{}, 200)
		for i := range n {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				c, err := net.Dial("tcp", d.Addr)
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, sends[i%len(sends)])
				switch i % 3 {
				case 0:
					_ = c.(*net.TCPConn).SetLinger(0)
				case 1:
					_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
					_, _ = io.Copy(io.Discard, c)
				}
				c.Close()
			})
		}
		wg.Wait()
	}
	settle := func(most int) (goroutines int, heap uint64) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); d.Server.Connections() > 0 || runtime.NumGoroutine() > most; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d connections and %d goroutines stay, want none and %d", d.Server.Connections(), runtime.NumGoroutine(), most)
			}
		}
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return runtime.NumGoroutine(), m.HeapAlloc
	}
	at := runtime.NumGoroutine()
	flood(1000)
	before, heap := settle(at + 100)
	flood(6000)
	if got, _ := exchange(t, tcp(t, d.Addr), "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("a client among them: %q", got)
	}
	if _, grown := settle(before + 20); grown > heap+8<<20 {
		t.Errorf("%d bytes of heap, %d before", grown, heap)
	}
}
