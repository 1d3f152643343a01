package engine

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"gatehouse/gateway"
)

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(15 * time.Second))
	return c
}

// echo answers with the body, or with what was wrong with it.
func echo(x *gateway.Exchange, w *Writer) {
	var body []byte
	if x.Req.Body != nil {
		var err error
		if body, err = io.ReadAll(x.Req.Body); err != nil {
			switch {
			case errors.Is(err, ErrTooLarge):
				w.Refuse(413)
			case errors.Is(err, ErrSlow):
				w.Refuse(408)
			default:
				w.Refuse(400)
			}
			return
		}
	}
	say(x, w, string(body))
}

func TestSlowAndLargeRequests(t *testing.T) {
	addr, _ := start(t, echo, func(c *ServerConfig) {
		c.Limits = Limits{HeadTime: time.Second, BodyTime: time.Second, Idle: time.Second, Body: 10}
	})
	for _, row := range []struct{ name, send, want string }{
		{"half a head", "GET / HTTP/1.1\r\nHo", "HTTP/1.1 408 "},
		{"no body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 408 "},
		{"half a body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe", "HTTP/1.1 408 "},
		{"half a chunk", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe", "HTTP/1.1 408 "},
		{"announced too much", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n", "HTTP/1.1 413 "},
		{"sent too much", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n", "HTTP/1.1 413 "},
		{"nothing", "", ""},
		{"nothing more", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 "},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c := dial(t, addr)
			_, _ = io.WriteString(c, row.send)
			got, err := io.ReadAll(c) // to the end: the connection must be closed
			if err != nil || !strings.HasPrefix(string(got), row.want) {
				t.Errorf("%q %v, want %q", got, err, row.want)
			}
		})
	}
}

func TestConnectionsAreCounted(t *testing.T) {
	addr, _ := start(t, echo, func(c *ServerConfig) { c.Limits = Limits{ConnsPerAddr: 2} })
	ask := func(c net.Conn) string {
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		line, _ := bufio.NewReader(c).ReadString('\n')
		return line
	}
	one, two := dial(t, addr), dial(t, addr)
	for _, c := range []net.Conn{one, two} {
		if got := ask(c); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
			t.Fatal(got)
		}
	}
	if got := ask(dial(t, addr)); got != "" {
		t.Errorf("a third connection was answered: %q", got)
	}
	one.Close()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if strings.HasPrefix(ask(dial(t, addr)), "HTTP/1.1 200 ") {
			break
		}
		if time.Now().After(end) {
			t.Fatal("a connection that closed still counts")
		}
	}
}

func TestRequestsOnAConnectionAreCounted(t *testing.T) {
	addr, _ := start(t, echo, func(c *ServerConfig) { c.Limits = Limits{Requests: 2} })
	got := raw(t, addr, strings.Repeat("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 3))
	if n := strings.Count(got, "HTTP/1.1 200 "); n != 2 || strings.Count(got, "Connection: close") != 1 {
		t.Errorf("%d answers: %q", n, got)
	}
}

// TestContinue: the client is told to send its body when somebody wants it,
// and not when nobody does.
func TestContinue(t *testing.T) {
	addr, _ := start(t, func(x *gateway.Exchange, w *Writer) {
		if x.Req.Path == "/no" {
			w.Refuse(403)
			return
		}
		echo(x, w)
	})
	const head = " HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
	c := dial(t, addr)
	br := bufio.NewReader(c)
	_, _ = io.WriteString(c, "POST /yes"+head)
	if line, _ := br.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("%q", line)
	}
	_, _ = br.ReadString('\n')
	_, _ = io.WriteString(c, "hello")
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(res.Body); string(body) != "hello" {
		t.Errorf("%q", body)
	}
	c = dial(t, addr)
	_, _ = io.WriteString(c, "POST /no"+head)
	if got, _ := io.ReadAll(c); !strings.HasPrefix(string(got), "HTTP/1.1 403 ") || !strings.Contains(string(got), "Connection: close\r\n") {
		t.Errorf("%q", got)
	}
}

// TestDataAndEndInOnePacket: a client that closes its side together with its
// request is answered, and the connection ends.
func TestDataAndEndInOnePacket(t *testing.T) {
	addr, _ := start(t, echo)
	for range 50 {
		c := dial(t, addr)
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		_ = c.(*net.TCPConn).CloseWrite()
		if got, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 200 ") {
			t.Fatalf("%q %v", got, err)
		}
	}
}

// TestSlowReader: a client that does not read is given up, others are served.
func TestSlowReader(t *testing.T) {
	big := strings.Repeat("x", 64<<20)
	addr, s := start(t, func(x *gateway.Exchange, w *Writer) {
		if x.Req.Path == "/big" {
			say(x, w, big)
			return
		}
		say(x, w, "ok")
	}, func(c *ServerConfig) { c.Limits = Limits{SendTime: time.Second} })
	slow := dial(t, addr)
	_, _ = io.WriteString(slow, "GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
	if got := raw(t, addr, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); status(got) != "200" {
		t.Errorf("%q", got)
	}
	for end := time.Now().Add(10 * time.Second); s.Connections() > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the connection of a client that does not read stays")
		}
	}
}

// TestTrailers: those of a client's chunked body reach the handler, the
// answer's reach a client that takes them.
func TestTrailers(t *testing.T) {
	addr, _ := start(t, func(x *gateway.Exchange, w *Writer) {
		_, _ = io.Copy(io.Discard, x.Req.Body)
		x.Resp.Status, x.Resp.Length = 200, -1
		w.Head()
		_, _ = io.WriteString(w, "ok")
		x.Resp.Trailer.Add("X-Sum", x.Req.Trailer.Get("X-Sum"))
	})
	send := func(te string) string {
		return raw(t, addr, "POST / HTTP/1.1\r\nHost: a\r\nConnection: close"+te+"\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Sum: 7\r\nHost: evil\r\n\r\n")
	}
	if got := send(", TE\r\nTE: trailers"); !strings.HasSuffix(got, "2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n") {
		t.Errorf("%q", got)
	}
	if got := send(""); !strings.HasSuffix(got, "2\r\nok\r\n0\r\n\r\n") {
		t.Errorf("%q", got)
	}
}
