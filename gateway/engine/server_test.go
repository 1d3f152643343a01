package engine

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/gateway"
)

// start serves h on loopback and returns the address.
func start(t testing.TB, h HandlerFunc, change ...func(*ServerConfig)) (string, *Server) {
	t.Helper()
	cfg := ServerConfig{Handler: h}
	for _, c := range change {
		c(&cfg)
	}
	s := NewServer(cfg)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s.Stop(ctx)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String(), s
}

func say(x *gateway.Exchange, w *Writer, body string) {
	x.Resp.Status, x.Resp.Length = 200, int64(len(body))
	w.Head()
	io.WriteString(w, body)
}

// raw sends bytes and returns everything that comes back until the connection
// closes, or until wait answers have come.
func raw(t testing.TB, addr, send string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, send); err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(c)
	return string(b)
}

func status(answer string) string {
	if len(answer) < 12 {
		return answer
	}
	return answer[9:12]
}

func TestBadRequestsAreRefusedAndClosed(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	addr, _ := start(t, func(x *gateway.Exchange, w *Writer) {
		if x.Req.Body != nil {
			if _, err := io.Copy(io.Discard, x.Req.Body); err != nil {
				w.Refuse(400)
				return
			}
		}
		mu.Lock()
		seen = append(seen, x.Req.Method+" "+x.Req.Path)
		mu.Unlock()
		say(x, w, "ok")
	})
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
	rows := []struct{ name, send, want string }{
		{"cl and te", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled, "400"},
		{"te and cl", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + smuggled, "400"},
		{"two lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx" + smuggled, "400"},
		{"two equal lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx" + smuggled, "400"},
		{"length list", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\nx" + smuggled, "400"},
		{"signed length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx" + smuggled, "400"},
		{"negative length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\nx" + smuggled, "400"},
		{"huge length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\nx" + smuggled, "400"},
		{"te xchunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + smuggled, "400"},
		{"te vtab", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\x0b\r\n\r\n0\r\n\r\n" + smuggled, "400"},
		{"te twice", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled, "400"},
		{"te identity", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n" + smuggled, "400"},
		{"te in 1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
		{"space before colon", "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n" + smuggled, "400"},
		{"bare lf", "GET / HTTP/1.1\nHost: a\n\n", "400"},
		{"bare lf in fields", "GET / HTTP/1.1\r\nHost: a\r\nX: y\nZ: w\r\n\r\n", "400"},
		{"bare cr", "GET / HTTP/1.1\r\nHost: a\r\nX: y\rZ: w\r\n\r\n", "400"},
		{"folded line", "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", "400"},
		{"nul", "GET / HTTP/1.1\r\nHost: a\r\nX: y\x00\r\n\r\n", "400"},
		{"no colon", "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", "400"},
		{"name no token", "GET / HTTP/1.1\r\nHost: a\r\nX(: y\r\n\r\n", "400"},
		{"no host", "GET / HTTP/1.1\r\n\r\n", "400"},
		{"empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", "400"},
		{"two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "400"},
		{"host with user", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "400"},
		{"absolute other host", "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
		{"absolute other port", "GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
		{"absolute with user", "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
		{"absolute ftp", "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
		{"bad escape", "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
		{"above root", "GET /../x HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
		{"method no token", "G(T / HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
		{"two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
		{"http 0.9", "GET /\r\n\r\n", "400"},
		{"connect", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", "405"},
		{"trace", "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", "405"},
		{"expect", "GET / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n", "417"},
		{"long uri", "GET /" + strings.Repeat("a", 20<<10) + " HTTP/1.1\r\nHost: a\r\n\r\n", "414"},
		{"large head", "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("a", 70<<10) + "\r\n\r\n", "431"},
		{"many fields", "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: y\r\n", 201) + "\r\n", "431"},
		{"chunk size 0x", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n" + smuggled, "400"},
		{"chunk size +", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n" + smuggled, "400"},
		{"chunk size -", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n" + smuggled, "400"},
		{"chunk size huge", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\n" + smuggled, "400"},
		{"chunk bare lf", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n" + smuggled, "400"},
		{"chunk too long", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n" + smuggled, "400"},
		{"chunk extension flood", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;" + strings.Repeat("a", 2000) + "\r\nhello\r\n0\r\n\r\n" + smuggled, "400"},
		{"trailer bare lf", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\n\r\n" + smuggled, "400"},
	}
	for _, r := range rows {
		mu.Lock()
		seen = nil
		mu.Unlock()
		got := raw(t, addr, r.send)
		mu.Lock()
		if status(got) != r.want || strings.Count(got, "HTTP/1.1 ") != 1 || len(seen) != 0 {
			t.Errorf("%s: answered %q, handler saw %v, want one %s", r.name, got, seen, r.want)
		}
		mu.Unlock()
	}
}

func TestGoodRequests(t *testing.T) {
	addr, _ := start(t, func(x *gateway.Exchange, w *Writer) {
		var body []byte
		if x.Req.Body != nil {
			body, _ = io.ReadAll(x.Req.Body)
		}
		say(x, w, fmt.Sprintf("%s %s host=%s auth=%s path=%s q=%s out=%s len=%d h=%v body=%s;", x.Req.Method, x.Req.Target, x.Req.Host, x.Req.Authority, x.Req.Path, x.Req.Query, x.Out.Target, x.Req.Length, x.Req.Header.Fields(), body))
	})
	rows := []struct{ name, send, want string }{
		{"order and spelling kept", "GET /a HTTP/1.1\r\nHost: A.b:80\r\nX-b: 1\r\nx-A: 2\r\nConnection: close\r\n\r\n", "GET /a host=a.b auth=A.b:80 path=/a q= out= len=0 h=[{X-b 1} {x-A 2}] body=;"},
		{"absolute form", "GET http://a/x?y HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "GET /x?y host=a auth=a path=/x q=y out= len=0 h=[] body=;"},
		{"absolute form without path", "GET http://a:80 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "GET / host=a auth=a:80 path=/ q= out= len=0 h=[] body=;"},
		{"length", "POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello", "POST /p host=a auth=a path=/p q= out= len=5 h=[] body=hello;"},
		{"chunked", "POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\nConnection: close\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nT: r\r\n\r\n", "POST /p host=a auth=a path=/p q= out= len=-1 h=[] body=hello;"},
		{"not plain", "GET /a/../b%2fc?d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "GET /a/../b%2fc?d host=a auth=a path=/b/c q=d out=/b/c?d len=0 h=[] body=;"},
		{"1.0 without host", "GET /a HTTP/1.0\r\n\r\n", "GET /a host= auth= path=/a q= out= len=0 h=[] body=;"},
		{"empty lines first", "\r\n\r\nGET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "GET /a host=a auth=a path=/a q= out= len=0 h=[] body=;"},
	}
	for _, r := range rows {
		got := raw(t, addr, r.send)
		_, body, _ := strings.Cut(got, "\r\n\r\n")
		if status(got) != "200" || body != r.want {
			t.Errorf("%s: %q\nwant %q", r.name, got, r.want)
		}
	}
}

func TestPipelinedRequestsKeepTheirHeads(t *testing.T) {
	addr, _ := start(t, func(x *gateway.Exchange, w *Writer) {
		if x.Req.Body != nil {
			io.Copy(io.Discard, x.Req.Body)
		}
		say(x, w, "<"+x.Req.Path+">")
	})
	var send strings.Builder
	for i := range 20 {
		switch i % 3 {
		case 0:
			fmt.Fprintf(&send, "GET /%d HTTP/1.1\r\nHost: a\r\n\r\n", i)
		case 1:
			fmt.Fprintf(&send, "POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", i)
		case 2:
			fmt.Fprintf(&send, "POST /%d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", i)
		}
	}
	send.WriteString("GET /bad HTTP/1.1\r\n\r\n")
	got := raw(t, addr, send.String())
	for i := range 20 {
		if !strings.Contains(got, fmt.Sprintf("</%d>", i)) {
			t.Fatalf("answer %d is missing: %q", i, got)
		}
	}
	if strings.Count(got, "HTTP/1.1 200") != 20 || strings.Count(got, "HTTP/1.1 400") != 1 {
		t.Errorf("want 20 answers and a refusal: %q", got)
	}
}

func TestSlowHeadIsCutOff(t *testing.T) {
	addr, _ := start(t, func(x *gateway.Exchange, w *Writer) { say(x, w, "") }, func(c *ServerConfig) { c.Limits.HeadTime = 50 * time.Millisecond })
	begin := time.Now()
	if got := raw(t, addr, "GET / HTTP/1.1\r\nHost: a\r\n"); strings.Contains(got, " 200 ") || time.Since(begin) > 5*time.Second {
		t.Errorf("%q after %v", got, time.Since(begin))
	}
}

func TestSlowBodyIsCutOff(t *testing.T) {
	addr, _ := start(t, func(x *gateway.Exchange, w *Writer) {
		if _, err := io.Copy(io.Discard, x.Req.Body); err == nil {
			t.Error("body complete")
		}
		w.Refuse(408)
	}, func(c *ServerConfig) { c.Limits.BodyTime = 50 * time.Millisecond })
	if got := raw(t, addr, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nab"); status(got) != "408" {
		t.Errorf("%q", got)
	}
}

func TestExpectContinue(t *testing.T) {
	addr, _ := start(t, func(x *gateway.Exchange, w *Writer) {
		if x.Req.Path == "/no" {
			w.Refuse(403)
			return
		}
		b, _ := io.ReadAll(x.Req.Body)
		say(x, w, string(b))
	})
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
	br := bufio.NewReader(c)
	if line, _ := br.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("%q", line)
	}
	br.ReadString('\n')
	io.WriteString(c, "hi")
	r, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(r.Body); string(b) != "hi" {
		t.Errorf("%q", b)
	}
	got := raw(t, addr, "POST /no HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
	if status(got) != "403" || strings.Contains(got, "100 Continue") {
		t.Errorf("refused before the body: %q", got)
	}
}

func TestPanicIsAnErrorPage(t *testing.T) {
	addr, _ := start(t, func(*gateway.Exchange, *Writer) { panic("boom") })
	if got := raw(t, addr, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); status(got) != "500" || strings.Contains(got, "boom") {
		t.Errorf("%q", got)
	}
}

func TestAbortIsVisible(t *testing.T) {
	addr, _ := start(t, func(x *gateway.Exchange, w *Writer) {
		x.Resp.Status, x.Resp.Length = 200, -1
		w.Head()
		io.WriteString(w, "half")
		w.Flush()
		w.Abort()
	})
	r, err := http.Get("http://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if _, err := io.ReadAll(r.Body); err == nil {
		t.Error("a cut answer reads as a whole one")
	}
}

func TestRealIP(t *testing.T) {
	lo := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	rows := []struct {
		name, header, value string
		from                []netip.Prefix
		recursive           bool
		want                string
	}{
		{"untrusted", "X-Real-IP", "9.9.9.9", nil, false, "127.0.0.1"},
		{"trusted", "X-Real-IP", "9.9.9.9", lo, false, "9.9.9.9"},
		{"garbage", "X-Real-IP", "x", lo, false, "127.0.0.1"},
		{"last of a list", "X-Forwarded-For", "1.1.1.1, 2.2.2.2", lo, false, "2.2.2.2"},
		{"recursive", "X-Forwarded-For", "1.1.1.1, 2.2.2.2, 127.0.0.5", lo, true, "2.2.2.2"},
		{"v6", "X-Real-IP", "::ffff:9.9.9.9", lo, false, "9.9.9.9"},
	}
	for _, r := range rows {
		addr, _ := start(t, func(x *gateway.Exchange, w *Writer) { say(x, w, x.Req.Client.String()) }, func(c *ServerConfig) {
			c.RealIPFrom, c.RealIPHeader, c.RealIPRecursive = r.from, r.header, r.recursive
		})
		got := raw(t, addr, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"+r.header+": "+r.value+"\r\n\r\n")
		if !strings.HasSuffix(got, "\r\n\r\n"+r.want) {
			t.Errorf("%s: %q, want %s", r.name, got, r.want)
		}
	}
}

func TestFromHTTP(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Got", r.Method+" "+r.URL.Path+" "+r.URL.RawQuery+" "+r.Host+" "+r.Header.Get("X-Key"))
		w.WriteHeader(201)
		w.Write(b)
	})
	addr, _ := start(t, FromHTTP(h, nil).Serve)
	got := raw(t, addr, "PUT /a/b?c=d HTTP/1.1\r\nHost: a\r\nX-Key: k\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
	if status(got) != "201" || !strings.Contains(got, "X-Got: PUT /a/b c=d a k\r\n") || !strings.HasSuffix(got, "hi") {
		t.Errorf("%q", got)
	}
}

func TestStopWaitsForRequestsAndCutsTunnels(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	tunnelEnded := make(chan struct{})
	addr, s := start(t, func(x *gateway.Exchange, w *Writer) {
		if x.Req.Upgrade != "" {
			x.Resp.Status = 101
			c, err := w.Upgrade("websocket")
			if err != nil {
				t.Error(err)
				return
			}
			close(entered)
			io.Copy(io.Discard, c)
			c.Close()
			close(tunnelEnded)
			return
		}
		close(entered)
		<-release
		say(x, w, "done")
	})
	answer := make(chan string)
	go func() { answer <- raw(t, addr, "GET / HTTP/1.1\r\nHost: a\r\n\r\n") }()
	<-entered
	stopped := make(chan error)
	go func() { stopped <- s.Stop(context.Background()) }()
	for { // until the listener is gone
		c, err := net.Dial("tcp", addr)
		if err != nil {
			break
		}
		c.Close()
	}
	close(release)
	if got := <-answer; !strings.HasSuffix(got, "done") {
		t.Errorf("the request under way got %q", got)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}

	entered = make(chan struct{})
	addr, s = start(t, s.cfg.Handler.Serve)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Stop(ctx); err == nil {
		t.Error("a tunnel was cut off without saying so")
	}
	<-tunnelEnded
}

func TestBytesAfterUpgradeAreTheTunnels(t *testing.T) {
	addr, _ := start(t, func(x *gateway.Exchange, w *Writer) {
		x.Resp.Status = 101
		c, err := w.Upgrade("websocket")
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.CopyN(c, c, 10)
	})
	got := raw(t, addr, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\n\x00early\r\n!")
	if !strings.HasPrefix(got, "HTTP/1.1 101 ") || !strings.HasSuffix(got, "\r\n\r\n\n\x00early\r\n!") {
		t.Errorf("%q", got)
	}
}

// The bound is generous: it is there to notice a leap.
func TestAllocationsPerRequest(t *testing.T) {
	addr, _ := start(t, func(x *gateway.Exchange, w *Writer) { say(x, w, "ok") })
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 1024)
	send := []byte("GET /a/b HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\nAccept: */*\r\n\r\n")
	n := testing.AllocsPerRun(200, func() {
		c.Write(send)
		c.Read(buf)
	})
	if n > 60 {
		t.Errorf("%v allocations per request", n)
	}
	t.Logf("%v allocations per request", n)
}
