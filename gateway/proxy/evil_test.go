package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestEvilUpstreams: whatever a node sends, a client gets an answer it can
// read in one way, or sees that it was cut off, and the client after it gets
// an answer of its own: the node's leftovers are nobody's.
func TestEvilUpstreams(t *testing.T) {
	const poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
	const good = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	cut := -1
	for _, row := range []struct {
		name, answer string
		want         int // status; cut: a head and half a body; 0: what it says is fine
		body         string
		ends         bool // the node closes after it
	}{
		{"no status line", "hello there\r\n\r\n" + poison, 502, "", false},
		{"HTTP/0.9", "<html>hello</html>", 502, "", true},
		{"another protocol", "SSH-2.0-OpenSSH_9.2p1\r\n", 502, "", false},
		{"TLS", "\x15\x03\x01\x00\x02\x02\x46", 502, "", false},
		{"nothing", "", 502, "", true},
		{"half a head", "HTTP/1.1 200 OK\r\nContent-Le", 502, "", true},
		{"HTTP/2", "\x00\x00\x12\x04\x00\x00\x00\x00\x00", 502, "", false},
		{"HTTP/2.0", "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok" + poison, 502, "", false},
		{"bare line feeds", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok" + poison, 502, "", false},
		{"folded field", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok", 502, "", false},
		{"NUL", "HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 2\r\n\r\nok", 502, "", false},
		{"space before colon", "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok", 502, "", false},
		{"both framings", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + poison, 502, "", false},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 40\r\n\r\nok" + poison, 502, "", false},
		{"a list of lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2, 40\r\n\r\nok" + poison, 502, "", false},
		{"signed length", "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", 502, "", false},
		{"huge length", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nok", 502, "", false},
		{"another coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 502, "", false},
		{"chunked in 1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n2\r\nok\r\n0\r\n\r\n" + poison, 502, "", false},
		{"101 unasked", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + poison, 502, "", false},
		{"interim flood", strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 10_000) + good, 502, "", false},
		{"continue flood", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 10_000) + good, 502, "", false},
		{"header bomb", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: "+strings.Repeat("a", 1000)+"\r\n", 1000) + "\r\n", 502, "", false},
		{"many fields", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: a\r\n", 600) + "Content-Length: 2\r\n\r\nok", 502, "", false},
		{"endless status line", "HTTP/1.1 200 " + strings.Repeat("a", 1<<20), 502, "", false},
		{"status 099", "HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n", 502, "", false},
		{"status 600", "HTTP/1.1 600 Odd\r\nContent-Length: 0\r\n\r\n", 502, "", false},
		{"status 1000", "HTTP/1.1 1000 Odd\r\nContent-Length: 0\r\n\r\n", 502, "", false},
		{"bad chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n" + poison, cut, "ok", false},
		{"chunk with a prefix", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0x2\r\nok\r\n0\r\n\r\n", cut, "ok", false},
		{"chunk too long", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokay\r\n0\r\n\r\n", cut, "ok", false},
		{"truncated chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", cut, "ok", true},
		{"truncated chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\nok", cut, "ok", true},
		{"truncated body", "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nok", cut, "ok", true},
		{"extension flood", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n" + strings.Repeat("1;"+strings.Repeat("a", 1000)+"\r\nx\r\n", 100), cut, "ok" + strings.Repeat("x", 16), false},
		{"trailer bomb", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n" + strings.Repeat("X: "+strings.Repeat("a", 1000)+"\r\n", 1000), cut, "ok", false},
		// These are good, and something follows.
		{"bytes after the body", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + "rest", 0, "ok", false},
		{"two answers", good + poison, 0, "ok", false},
		{"an answer after chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + poison, 0, "ok", false},
		{"204 with a body", "HTTP/1.1 204 No Content\r\nContent-Length: 80\r\n\r\n" + poison, 0, "", false},
		{"304 with a body", "HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\npoison" + poison, 0, "", false},
		{"trailers that frame", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + poison, 0, "ok", false},
		{"interim answers", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + good + poison, 0, "ok", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, nil)
			n := newNode(t, func(_ *node, head string, _ *bufio.Reader, c net.Conn) bool {
				if !strings.HasPrefix(head, "GET /evil") {
					_, _ = io.WriteString(c, good)
					return true
				}
				_, _ = io.WriteString(c, row.answer)
				return !row.ends
			})
			r.route(`"timeout":{"connect":5,"send":5,"read":5}`, n.addr)
			for range 3 {
				if status, _, body := r.get("/good"); status != 200 || body != "ok" {
					t.Fatalf("before: %d %q", status, body)
				}
				checkEvil(t, r, row.want, row.body)
				if status, _, body := r.get("/good"); status != 200 || body != "ok" {
					t.Fatalf("the next client got %d %q", status, body)
				}
			}
		})
	}
}

// checkEvil asks for /evil on a connection of its own and reads what comes to
// its end.
func checkEvil(t *testing.T, r *rig, want int, body string) {
	t.Helper()
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	began := time.Now()
	_ = c.SetDeadline(began.Add(20 * time.Second))
	_, _ = io.WriteString(c, "GET /evil HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	br := bufio.NewReader(c)
	res, err := http.ReadResponse(br, nil)
	for err == nil && res.StatusCode < 200 {
		res, err = http.ReadResponse(br, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	got, readErr := io.ReadAll(res.Body)
	rest, _ := io.ReadAll(br)
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("it took %v", took)
	}
	if strings.Contains(string(got)+string(rest), "poison") {
		t.Errorf("what belongs to nobody reached a client: %q %q", got, rest)
	}
	switch {
	case want == 502 && (res.StatusCode != 502 || readErr != nil):
		t.Errorf("%d %q %v, want 502", res.StatusCode, got, readErr)
	case want < 0 && (res.StatusCode != 200 || string(got) != body || readErr == nil):
		t.Errorf("%d %q %v, want %q, cut off", res.StatusCode, got, readErr, body)
	case want == 0 && (res.StatusCode >= 400 || string(got) != body || readErr != nil):
		t.Errorf("%d %q %v, want %q", res.StatusCode, got, readErr, body)
	}
	if want >= 0 && len(rest) > 0 {
		t.Errorf("%q after the answer", rest)
	}
}

// TestHeadWithABody: a node that answers HEAD with a body poisons nothing.
func TestHeadWithABody(t *testing.T) {
	r := newRig(t, nil)
	n := newNode(t, func(_ *node, head string, _ *bufio.Reader, c net.Conn) bool {
		body := "right"
		if strings.HasPrefix(head, "HEAD") {
			body = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
		}
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		return true
	})
	r.route("", n.addr)
	for range 20 {
		if status, _, body := r.ask("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"); status != 200 || body != "" {
			t.Fatalf("%d %q", status, body)
		}
		if status, _, body := r.get("/"); status != 200 || body != "right" {
			t.Fatalf("%d %q", status, body)
		}
	}
}

// TestLateBytes: what a node sends on a connection that is idle is nobody's
// answer.
func TestLateBytes(t *testing.T) {
	r := newRig(t, nil)
	idle, sent := make(chan struct{}), make(chan struct{})
	n := newNode(t, func(_ *node, _ string, _ *bufio.Reader, c net.Conn) bool {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		go func() {
			<-idle
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
			sent <- struct{}{}
		}()
		return true
	})
	r.route("", n.addr)
	for range 10 {
		if status, _, body := r.get("/"); status != 200 || body != "ok" {
			t.Fatalf("%d %q", status, body)
		}
		idle <- struct{}{}
		<-sent
	}
}

// TestFailuresLeaveNothing: thousands of failing calls leave no goroutine and
// no connection behind.
func TestFailuresLeaveNothing(t *testing.T) {
	r := newRig(t, nil)
	bad := says(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n close")
	r.route("", bad.addr, closed(t))
	ask := func(times int) {
		for range times {
			c, err := net.Dial("tcp", r.addr)
			if err != nil {
				t.Fatal(err)
			}
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
			_, _ = io.Copy(io.Discard, c)
			c.Close()
		}
	}
	ask(50)
	before := runtime.NumGoroutine()
	ask(1000)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		now := runtime.NumGoroutine()
		if now <= before+10 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, %d before", now, before)
		}
	}
}
