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
	"testing"
	"time"
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
