package proxy

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"gatehouse/gateway"
)

// random is n bytes that compress badly and repeat nowhere.
func random(n int) []byte {
	b := make([]byte, n)
	g := rand.NewChaCha8([32]byte{1})
	_, _ = g.Read(b)
	return b
}

// TestLongBodies: a body of any size arrives byte by byte as it was sent, how
// ever slowly the client takes it, and the connections serve on.
func TestLongBodies(t *testing.T) {
	r := newRig(t, nil)
	whole := random(24 << 20)
	n := newNode(t, func(_ *node, head string, _ *bufio.Reader, c net.Conn) bool {
		var size int
		_, _ = fmt.Sscanf(head, "GET /%d ", &size)
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)
		_, _ = c.Write(whole[:size])
		return true
	})
	r.route("", n.addr)
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	_ = c.(*net.TCPConn).SetReadBuffer(128 << 10)
	br := bufio.NewReaderSize(c, 1<<10)
	for _, size := range []int{0, 1, 1000, 15_000, 16_384, 17_000, 40_000, 65_536, 300_000, 24 << 20, 1} {
		fmt.Fprintf(c, "GET /%d HTTP/1.1\r\nHost: a\r\n\r\n", size)
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		got, err := io.ReadAll(res.Body)
		if err != nil || sha256.Sum256(got) != sha256.Sum256(whole[:size]) {
			t.Fatalf("%d bytes: got %d, equal %v: %v", size, len(got), bytes.Equal(got, whole[:size]), err)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conns != 1 {
		t.Errorf("%d connections to the upstream, want 1", n.conns)
	}
}

// TestReadTimeoutIsBetweenParts: a long body may take longer than the read
// timeout as long as it flows.
func TestReadTimeoutIsBetweenParts(t *testing.T) {
	r := newRig(t, nil)
	part := random(100 << 10)
	n := newNode(t, func(_ *node, _ string, _ *bufio.Reader, c net.Conn) bool {
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", 6*len(part))
		pace := time.NewTicker(300 * time.Millisecond)
		defer pace.Stop()
		for range 6 {
			<-pace.C
			if _, err := c.Write(part); err != nil {
				return false
			}
		}
		return true
	})
	r.route(`"timeout":{"connect":1,"send":1,"read":1}`, n.addr)
	if status, _, body := r.get("/"); status != 200 || len(body) != 6*len(part) {
		t.Errorf("%d, %d bytes, want 200 and %d", status, len(body), 6*len(part))
	}
}

// TestBrokenLongBody: an upstream that breaks off, or says nothing more, costs
// the client its connection, so that half an answer is not taken for a whole.
func TestBrokenLongBody(t *testing.T) {
	r := newRig(t, nil)
	hold := make(chan struct{})
	n := newNode(t, func(_ *node, head string, _ *bufio.Reader, c net.Conn) bool {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
		_, _ = c.Write(random(200_000))
		if head[:10] == "GET /hang " {
			<-hold
		}
		return false
	})
	t.Cleanup(func() { close(hold) })
	r.route(`"timeout":{"connect":1,"send":1,"read":1}`, n.addr)
	for _, path := range []string{"/cut", "/hang"} {
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", path)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.Copy(io.Discard, res.Body)
		if err != io.ErrUnexpectedEOF || got > 200_000 {
			t.Errorf("%s: %d bytes, %v; want at most 200000 and an unexpected end", path, got, err)
		}
	}
}

// reader is a plugin that decides by the body.
type reader struct {
	Limit int    `json:"limit"`
	Set   string `json:"set"`
}

func (p *reader) Access(x *gateway.Exchange) *gateway.Reply {
	b, r := x.Req.WholeBody(p.Limit)
	if r != nil {
		return r
	}
	x.Req.Header.Set("X-Read", x.Req.Header.Get("X-Read")+fmt.Sprintf("%x", sha256.Sum256(b))[:8]+".")
	if p.Set != "" {
		x.Req.SetBody([]byte(p.Set))
	}
	return nil
}

func readers() []gateway.Plugin {
	build := func(c reader, _ *gateway.Env) (any, error) { return &c, nil }
	return []gateway.Plugin{gateway.Define("first", 20, build), gateway.Define("second", 10, build)}
}

// TestPluginsReadTheBody: within a limit, several of them, and the upstream
// gets it all the same.
func TestPluginsReadTheBody(t *testing.T) {
	r := newRig(t, readers())
	n := newNode(t, func(_ *node, head string, br *bufio.Reader, c net.Conn) bool {
		q, err := http.ReadRequest(bufio.NewReader(io.MultiReader(strings.NewReader(head+"\r\n"), br)))
		if err != nil {
			t.Error(err)
			return false
		}
		b, err := io.ReadAll(q.Body)
		if err != nil {
			t.Error(err)
		}
		say := fmt.Sprintf("%x %s %d %v", sha256.Sum256(b), q.Header.Get("X-Read"), q.ContentLength, q.Trailer)
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(say), say)
		return false
	})
	sum := func(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }
	small, large := random(100), random(50_000)
	chunked := func(b []byte) string {
		return fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\nX-Sum: 7\r\n\r\n", len(b), b)
	}
	length := func(b []byte) string { return fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(b), b) }
	read := func(b []byte) string { return sum(b)[:8] + "." + sum(b)[:8] + "." }
	r.route(`"plugins":{"first":{"limit":60000},"second":{"limit":50000}}`, n.addr)
	for _, row := range []struct{ name, rest, want string }{
		{"length", length(small), sum(small) + " " + read(small) + " 100 map[]"},
		{"long", length(large), sum(large) + " " + read(large) + " 50000 map[]"},
		{"chunked", chunked(large), sum(large) + " " + read(large) + " -1 map[X-Sum:[7]]"},
		{"none", "\r\n", sum(nil) + " " + read(nil) + " 0 map[]"},
	} {
		status, _, body := r.ask("POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n" + row.rest)
		if status != 200 || body != row.want {
			t.Errorf("%s: %d %q, want %q", row.name, status, body, row.want)
		}
	}
	for name, rest := range map[string]string{"length": length(random(60_001)), "chunked": chunked(random(60_001)), "the second's limit": length(random(50_001))} {
		if status, _, _ := r.ask("POST / HTTP/1.1\r\nHost: a\r\n" + rest); status != 413 {
			t.Errorf("%s too large: %d, want 413", name, status)
		}
	}
	r.route(`"plugins":{"first":{"limit":60000,"set":"new"},"second":{"limit":50000}}`, n.addr)
	if _, _, body := r.ask("POST / HTTP/1.1\r\nHost: a\r\n" + chunked(large)); body != sum([]byte("new"))+" "+sum(large)[:8]+"."+sum([]byte("new"))[:8]+". 3 map[]" {
		t.Errorf("rewritten: %q", body)
	}
	r.route(`"plugins":{"first":{"limit":60000}}`, n.addr)
	if status, _, _ := r.ask("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"); status != 400 {
		t.Errorf("no body that can be read: %d, want 400", status)
	}
}
