package proxy

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"gatehouse/gateway"
	"gatehouse/gateway/engine"
	"gatehouse/resource"
)

func TestNoRoute(t *testing.T) {
	r := newRig(t, nil)
	status, h, body := r.get("/nothing")
	if status != 404 || body != "{\"error_msg\":\"404 Route Not Found\"}\n" || h.Get("Content-Type") != "text/plain; charset=utf-8" || h.Get("Server") != "gatehouse" {
		t.Errorf("%d %v %q", status, h, body)
	}
	if status, _, body := r.ask("HEAD /nothing HTTP/1.1\r\nHost: a\r\n\r\n"); status != 404 || body != "" {
		t.Errorf("HEAD: %d %q", status, body)
	}
	if status, _, _ := r.ask("GARBAGE / HTTP/1.1\r\nHost: a\r\n\r\n"); status != 404 {
		t.Errorf("odd method: %d", status)
	}
}

func TestWhatTheUpstreamSees(t *testing.T) {
	r := newRig(t, nil)
	n := echo(t)
	_, port, _ := net.SplitHostPort(r.addr)
	rows := []struct{ name, more, send, want string }{
		{"plain", "", "GET /a/b?x=1&y=%20z HTTP/1.1\r\nHost: example.com:8888\r\nUser-Agent: ua\r\nX-Foo: 1\r\nX-Foo: 2\r\nx_under: u\r\n\r\n",
			"GET /a/b?x=1&y=%20z HTTP/1.1\r\nHost: example.com:8888\r\nX-Real-IP: 127.0.0.1\r\nX-Forwarded-For: 127.0.0.1\r\nUser-Agent: ua\r\nX-Foo: 1\r\nX-Foo: 2\r\nx_under: u\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: example.com:8888\r\nX-Forwarded-Port: 8888\r\n"},
		{"path not plain", "", "GET /a%2Fb/../c//d?q HTTP/1.1\r\nHost: a\r\n\r\n",
			"GET /a/c/d?q HTTP/1.1\r\nHost: a\r\nX-Real-IP: 127.0.0.1\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a\r\nX-Forwarded-Port: " + port + "\r\n"},
		{"forged fields", "", "GET /a HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX_Forwarded_Proto: https\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\nX-Real-IP: 9.9.9.9\r\nX_Real_IP: 9.9.9.9\r\nForwarded: for=1.1.1.1\r\nX-Consumer-Username: root\r\nx_consumer_username: root\r\nX-Consumer-Custom-Id: 1\r\nX-Consumer-Groups: g\r\nX-Credential_Identifier: c\r\nVia: 1.0 x\r\n\r\n",
			"GET /a HTTP/1.1\r\nHost: a\r\nX-Real-IP: 127.0.0.1\r\nX-Forwarded-For: 127.0.0.1\r\nVia: 1.0 x\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a\r\nX-Forwarded-Port: " + port + "\r\n"},
		{"hop by hop", "", "GET /a HTTP/1.1\r\nHost: a\r\nConnection: close, X-Hop, x-forwarded-for\r\nX-Hop: h\r\nTE: trailers\r\nKeep-Alive: x\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic eDp5\r\nUpgrade: websocket\r\nX-Stays: 1\r\n\r\n",
			"GET /a HTTP/1.1\r\nHost: a\r\nConnection: TE\r\nTE: trailers\r\nX-Real-IP: 127.0.0.1\r\nX-Forwarded-For: 127.0.0.1\r\nX-Stays: 1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a\r\nX-Forwarded-Port: " + port + "\r\n"},
		{"upgrade not enabled", "", "GET /up HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
			"GET /up HTTP/1.1\r\nHost: a\r\nX-Real-IP: 127.0.0.1\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a\r\nX-Forwarded-Port: " + port + "\r\n"},
		{"upgrade enabled", `"enable_websocket":true`, "GET /up HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
			"GET /up HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Real-IP: 127.0.0.1\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a\r\nX-Forwarded-Port: " + port + "\r\n"},
	}
	for _, row := range rows {
		r.route(row.more, n.addr)
		if status, _, got := r.ask(row.send); status != 200 || got != row.want {
			t.Errorf("%s: %d\n%s\nwant\n%s", row.name, status, got, row.want)
		}
	}
}

func TestPassHost(t *testing.T) {
	r := newRig(t, nil)
	n := echo(t)
	for _, row := range []struct{ conf, want string }{
		{`"pass_host":"pass"`, "example.com"}, {`"pass_host":"node"`, n.addr}, {`"pass_host":"rewrite","upstream_host":"up.example"`, "up.example"},
	} {
		r.put(resource.Routes, "1", `{"uri":"/*","upstream":{"nodes":{"`+n.addr+`":1},`+row.conf+`}}`)
		if _, _, got := r.ask("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"); !strings.Contains(got, "\r\nHost: "+row.want+"\r\n") {
			t.Errorf("%s: %s", row.conf, got)
		}
	}
}

func TestBodiesGoBothWays(t *testing.T) {
	r := newRig(t, nil)
	n := newNode(t, func(_ *node, head string, br *bufio.Reader, c net.Conn) bool {
		q, err := http.ReadRequest(bufio.NewReader(io.MultiReader(strings.NewReader(head+"\r\n"), br)))
		if err != nil {
			return false
		}
		b, err := io.ReadAll(q.Body)
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%v %s %v", len(b)+len(fmt.Sprint(q.ContentLength, "  ", err)), q.ContentLength, b, err)
		return false
	})
	r.route("", n.addr)
	if _, _, got := r.ask("POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"); got != "5 hello <nil>" {
		t.Errorf("length: %q", got)
	}
	if _, _, got := r.ask("POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"); got != "-1 hello! <nil>" {
		t.Errorf("chunked: %q", got)
	}
	if status, _, _ := r.ask("POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n"); status != 400 {
		t.Errorf("broken chunks: %d", status)
	}
}

func TestAnswersPassedBack(t *testing.T) {
	r := newRig(t, nil)
	rows := []struct {
		name, answer string
		status       int
		body         string
		header       string // "Name: value" that must be there; "-Name" that must not
	}{
		{"length", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello", 200, "hello", "X-A: b"},
		{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nT: x\r\n\r\n", 200, "hello", "-T"},
		{"until close", "HTTP/1.0 200 OK\r\n\r\nhello close", 200, "hello close", "-Connection"},
		{"lone line feeds", "HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", 502, "", ""},
		{"no reason", "HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n", 404, "", "-X-Apisix-Upstream-Status"},
		{"500", "HTTP/1.1 500 X\r\nContent-Length: 1\r\n\r\nx", 500, "x", "X-APISIX-Upstream-Status: 500"},
		{"204", "HTTP/1.1 204 No Content\r\n\r\n", 204, "", ""},
		{"304", "HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", 304, "", "ETag: x"},
		{"nominated", "HTTP/1.1 200 OK\r\nConnection: X-Secret\r\nX-Secret: s\r\nContent-Length: 0\r\n\r\n", 200, "", "-X-Secret"},
		{"interim", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 103, "", "Link: x"},
		{"both framings", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 502, "", ""},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 502, "", ""},
		{"unasked upgrade", "HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", 502, "", ""},
		{"garbage", "hello\r\n\r\n close", 502, "", ""},
		{"large head", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 200<<10) + "\r\n\r\n", 502, "", ""},
	}
	for _, row := range rows {
		n := says(t, row.answer)
		r.route("", n.addr)
		status, h, body := r.get("/")
		if status != row.status || row.status < 400 && body != row.body {
			t.Errorf("%s: %d %q, want %d %q", row.name, status, body, row.status, row.body)
		}
		if name, bad := strings.CutPrefix(row.header, "-"); bad && h.Get(name) != "" {
			t.Errorf("%s: %s came through: %v", row.name, name, h)
		} else if name, value, ok := strings.Cut(row.header, ": "); ok && h.Get(name) != value {
			t.Errorf("%s: %v, want %s", row.name, h, row.header)
		}
	}
	n := says(t, "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n")
	r.route("", n.addr)
	if status, h, body := r.ask("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"); status != 200 || h.Get("Content-Length") != "12" || body != "" {
		t.Errorf("HEAD: %d %v %q", status, h, body)
	}
}

func TestConnectionsAreKept(t *testing.T) {
	r := newRig(t, nil)
	n := says(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	r.route("", n.addr)
	for range 10 {
		if status, _, body := r.get("/"); status != 200 || body != "ok" {
			t.Fatal(status, body)
		}
	}
	if _, conns := n.seen(); conns != 1 {
		t.Errorf("%d connections for 10 requests, want 1", conns)
	}
	r.put(resource.Routes, "1", `{"uri":"/*","upstream":{"nodes":{"`+n.addr+`":1},"keepalive_pool":{"requests":2,"size":4,"idle_timeout":60}}}`)
	_, before := n.seen()
	for range 10 {
		r.get("/")
	}
	if _, after := n.seen(); after-before < 4 {
		t.Errorf("%d new connections for 10 requests of 2 each", after-before)
	}
}

func TestRetries(t *testing.T) {
	r := newRig(t, nil)
	ok := says(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	var dropped atomic.Int32
	drop := newNode(t, func(_ *node, head string, br *bufio.Reader, c net.Conn) bool { dropped.Add(1); return false })

	r.route("", closed(t), ok.addr)
	for range 4 {
		if status, _, body := r.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"); status != 200 || body != "ok" {
			t.Fatalf("a refused connection goes on to the next node: %d", status)
		}
	}
	r.route("", closed(t), closed(t))
	if status, h, _ := r.get("/"); status != 502 || h.Get("X-Apisix-Upstream-Status") != "502, 502" {
		t.Errorf("all refused: %d %v", status, h)
	}
	r.put(resource.Routes, "1", `{"uri":"/*","upstream":{"retries":0,"nodes":{"`+closed(t)+`":1,"`+ok.addr+`":1}}}`)
	codes := map[int]int{}
	for range 4 {
		status, _, _ := r.get("/")
		codes[status]++
	}
	if codes[502] != 2 || codes[200] != 2 {
		t.Errorf("retries 0: %v", codes)
	}
	r.route("", drop.addr, ok.addr)
	for range 4 {
		if status, _, _ := r.get("/"); status != 200 {
			t.Errorf("GET after a lost connection: %d, want 200", status)
		}
	}
	dropped.Store(0)
	codes = map[int]int{}
	for range 4 {
		status, _, _ := r.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
		codes[status]++
	}
	if codes[502] != 2 || codes[200] != 2 || dropped.Load() != 2 {
		t.Errorf("POST was repeated: %v, %d attempts", codes, dropped.Load())
	}
}

// A kept connection that the node closes while it is idle costs no request.
func TestStaleConnection(t *testing.T) {
	r := newRig(t, nil)
	n := newNode(t, func(_ *node, _ string, _ *bufio.Reader, c net.Conn) bool {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		return false // closes without having said so
	})
	r.route("", n.addr)
	for range 50 {
		if status, _, _ := r.get("/"); status != 200 {
			t.Fatal(status)
		}
	}
}

func TestTimeouts(t *testing.T) {
	r := newRig(t, nil)
	release := make(chan struct{})
	silent := newNode(t, func(*node, string, *bufio.Reader, net.Conn) bool { <-release; return false })
	half := newNode(t, func(_ *node, _ string, _ *bufio.Reader, c net.Conn) bool {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
		<-release
		return false
	})
	defer close(release)
	r.route(`"timeout":{"connect":1,"send":1,"read":0.1}`, silent.addr)
	if status, h, _ := r.get("/"); status != 504 || h.Get("X-Apisix-Upstream-Status") != "504" {
		t.Errorf("silent: %d", status)
	}
	r.route(`"timeout":{"connect":1,"send":1,"read":0.1}`, half.addr)
	res, err := http.Get("http://" + r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); err == nil || string(b) != "half" {
		t.Errorf("an answer cut off reads as whole: %q %v", b, err)
	}
	r.put(resource.Routes, "1", `{"uri":"/*","upstream":{"nodes":{"no.such.invalid:80":1},"timeout":{"connect":2,"send":1,"read":1}}}`)
	if status, _, _ := r.get("/"); status != 503 && status != 504 {
		t.Errorf("unknown name: %d, want 503", status)
	}
}

func TestNothingBehindTheRoute(t *testing.T) {
	r := newRig(t, nil)
	for _, row := range []struct {
		doc  string
		want int
	}{
		{`{"uri":"/*","upstream":{"nodes":[]}}`, 503},
		{`{"uri":"/*"}`, 503},
		{`{"uri":"/*","service_id":"x"}`, 404},
		{`{"uri":"/*","plugin_config_id":"x"}`, 503},
		{`{"uri":"/*","upstream_id":"x"}`, 502},
		{`{"uri":"/*","status":0,"upstream":{"nodes":{"127.0.0.1:1":1}}}`, 404},
	} {
		r.put(resource.Routes, "1", row.doc)
		if status, _, _ := r.get("/"); status != row.want {
			t.Errorf("%s: %d, want %d", row.doc, status, row.want)
		}
	}
	r.put(resource.Routes, "1", `{"uri":"/*"}`)
	if _, h, body := r.get("/", "Accept: application/json"); h.Get("Content-Type") != "application/json" || !json.Valid([]byte(body)) {
		t.Errorf("%v %q", h, body)
	}
}

func TestEventsArriveWhenTheyHappen(t *testing.T) {
	r := newRig(t, nil)
	next := make(chan string)
	n := newNode(t, func(_ *node, _ string, _ *bufio.Reader, c net.Conn) bool {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
		for s := range next {
			fmt.Fprintf(c, "%x\r\n%s\r\n", len(s), s)
		}
		io.WriteString(c, "0\r\n\r\n")
		return true
	})
	r.route("", n.addr)
	res, err := http.Get("http://" + r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	br := bufio.NewReader(res.Body)
	for i := range 5 {
		want := fmt.Sprintf("data: %d\n", i)
		next <- want // the node sends no more before this one arrived
		if got, err := br.ReadString('\n'); got != want || err != nil {
			t.Fatalf("%q %v, want %q", got, err, want)
		}
	}
	close(next)
	if _, err := br.ReadString('\n'); err != io.EOF {
		t.Error(err)
	}
}

func TestLargeBodiesUseLittleMemory(t *testing.T) {
	const size = 100 << 20
	r := newRig(t, nil)
	n := newNode(t, func(_ *node, _ string, br *bufio.Reader, c net.Conn) bool {
		h := sha256.New()
		io.CopyN(h, br, size)
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-Sum: %x\r\n\r\n", size, h.Sum(nil))
		io.CopyN(c, zeros{}, size)
		return true
	})
	r.route("", n.addr)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	q, _ := http.NewRequest("POST", "http://"+r.addr, io.LimitReader(zeros{}, size))
	q.ContentLength = size
	res, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	got, err := io.Copy(io.Discard, res.Body)
	runtime.ReadMemStats(&after)
	if got != size || err != nil {
		t.Errorf("%d %v", got, err)
	}
	h := sha256.New()
	io.CopyN(h, zeros{}, size)
	if want := fmt.Sprintf("%x", h.Sum(nil)); res.Header.Get("X-Sum") != want {
		t.Error("the body arrived changed")
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 8<<20 {
		t.Errorf("%d bytes allocated for two bodies of %d", used, size)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// The node answers before it has read the request, and closes.
func TestEarlyAnswerReachesTheClient(t *testing.T) {
	r := newRig(t, nil)
	n := newNode(t, func(_ *node, _ string, _ *bufio.Reader, c net.Conn) bool {
		io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
		io.Copy(io.Discard, c)
		return false
	})
	r.route("", n.addr)
	pr, pw := io.Pipe()
	defer pw.Close()
	go func() { pw.Write(make([]byte, 1000)) }() // and then nothing more
	q, _ := http.NewRequest("POST", "http://"+r.addr, pr)
	res, err := http.DefaultTransport.RoundTrip(q)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, _ := io.ReadAll(res.Body); res.StatusCode != 413 || string(b) != "big" {
		t.Errorf("%d %q", res.StatusCode, b)
	}
}

func TestClientLeavingFreesTheUpstream(t *testing.T) {
	r := newRig(t, nil)
	gone := make(chan struct{})
	n := newNode(t, func(_ *node, _ string, br *bufio.Reader, c net.Conn) bool {
		br.ReadByte() // returns when the gateway hangs up
		close(gone)
		return false
	})
	r.route("", n.addr)
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	for {
		if heads, _ := n.seen(); len(heads) > 0 {
			break
		}
		runtime.Gosched()
	}
	c.Close()
	select {
	case <-gone:
	case <-time.After(5 * time.Second):
		t.Error("the upstream call goes on without a client")
	}
}

func TestWebSocket(t *testing.T) {
	r := newRig(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		c, err := websocket.Accept(w, q, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			typ, b, err := c.Read(q.Context())
			if err != nil {
				return
			}
			if c.Write(q.Context(), typ, b) != nil {
				return
			}
		}
	})}
	go srv.Serve(l)
	defer srv.Close()
	r.route(`"enable_websocket":true`, l.Addr().String())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, _, err := websocket.Dial(ctx, "ws://"+r.addr+"/echo", nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		want := strings.Repeat("x", i*1000)
		if err := c.Write(ctx, websocket.MessageText, []byte(want)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.Read(ctx); err != nil || string(got) != want {
			t.Fatalf("%d: %v", i, err)
		}
	}
	// The route goes away, the conversation goes on.
	r.force(resource.Routes, "1", "")
	if err := c.Write(ctx, websocket.MessageText, []byte("still")); err != nil {
		t.Fatal(err)
	}
	if _, got, err := c.Read(ctx); err != nil || string(got) != "still" {
		t.Fatal(err)
	}
	c.Close(websocket.StatusNormalClosure, "")
	if _, _, err := websocket.Dial(ctx, "ws://"+r.addr+"/echo", nil); err == nil {
		t.Error("upgraded without a route")
	}
	r.route("", l.Addr().String())
	if _, _, err := websocket.Dial(ctx, "ws://"+r.addr+"/echo", nil); err == nil {
		t.Error("upgraded without enable_websocket")
	}
	// A refused upgrade leaves an ordinary connection behind.
	status, _, _ := r.ask("GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET /y HTTP/1.1\r\nHost: a\r\n\r\n")
	if status == 101 {
		t.Error("upgraded")
	}
}

// Routes change while requests run: none may fail, whichever it hits.
func TestNoRequestIsLostOverChanges(t *testing.T) {
	r := newRig(t, nil)
	a := says(t, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na")
	b := says(t, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb")
	r.route("", a.addr)
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var served atomic.Int64
	for range 8 {
		wg.Go(func() {
			client := &http.Client{Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			for ctx.Err() == nil {
				res, err := client.Get("http://" + r.addr + "/x")
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode != 200 || string(body) != "a" && string(body) != "b" {
					t.Errorf("%d %q %v", res.StatusCode, body, err)
					return
				}
				served.Add(1)
			}
		})
	}
	for i := range 100 {
		n := a
		if i%2 == 0 {
			n = b
		}
		begin := time.Now()
		r.route(fmt.Sprintf(`"priority":%d`, i), n.addr)
		if _, _, got := r.get("/x"); got != map[*node]string{a: "a", b: "b"}[n] {
			t.Errorf("change %d is not live %v after it was stored: %q", i, time.Since(begin), got)
		}
	}
	stop()
	wg.Wait()
	if served.Load() == 0 {
		t.Error("nothing was served")
	}
}

func TestLocalHandlerIsForLoopbackOnly(t *testing.T) {
	l := &Local{Prefix: "/apisix/admin", Loopback: true}
	for _, row := range []struct {
		peer, path string
		want       bool
	}{
		{"127.0.0.1:1", "/apisix/admin/routes", true},
		{"[::1]:1", "/apisix/admin", true},
		{"10.0.0.1:1", "/apisix/admin/routes", false},
		{"127.0.0.1:1", "/apisix/administrator", false},
	} {
		x := &gateway.Exchange{}
		x.Req.Peer, x.Req.Path = netip.MustParseAddrPort(row.peer), row.path
		x.Req.Client = netip.MustParseAddr("127.0.0.1") // what headers say is not asked
		if got := l.takes(x); got != row.want {
			t.Errorf("%+v: %v", row, got)
		}
	}
	r := newRig(t, nil, func(c *Config) {
		c.Local = []Local{{Prefix: "/apisix/admin", Loopback: true, Handler: engine.FromHTTP(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			io.WriteString(w, "admin "+q.URL.Path)
		}), nil)}}
	})
	if _, _, got := r.get("/x/..//apisix/admin/routes"); got != "admin /apisix/admin/routes" {
		t.Errorf("%q", got)
	}
}

// TestFramingFieldsWithUnderscores: what an upstream might read as framing does
// not reach it.
func TestFramingFieldsWithUnderscores(t *testing.T) {
	r := newRig(t, nil)
	n := says(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	r.route("", n.addr)
	r.get("/", "TRANSFER_ENCODING: chunked", "Content_length: 0", "Content_Type: kept")
	n.mu.Lock()
	defer n.mu.Unlock()
	if head := strings.ToLower(n.heads[0]); strings.Contains(head, "transfer_") || strings.Contains(head, "content_length") || !strings.Contains(head, "content_type") {
		t.Errorf("the upstream got %q", n.heads[0])
	}
}
