// Package wire holds the gateway against the protocols' own test programs, and
// against what the wire does to it.
package wire

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"gatehouse/gateway/engine"
	"gatehouse/resource"
	"gatehouse/test/fixtures"
)

func TestMain(m *testing.M) { os.Exit(fixtures.Main(m)) }

// install builds a test program once and keeps it in the user's cache.
func install(t *testing.T, name, pkg, version string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "gatehouse-test", strings.ReplaceAll(pkg, "/", "_")+"@"+version)
	bin := filepath.Join(dir, name)
	if _, err := os.Stat(bin); err == nil {
		return bin
	}
	cmd := exec.CommandContext(t.Context(), "go", "install", pkg+"@"+version)
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", pkg, err, out)
	}
	return bin
}

// upstream serves h and returns its address.
func upstream(t testing.TB, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close() })
	return l.Addr().String()
}

func route(d *fixtures.DataPlane, node, more string) {
	d.Put(resource.Routes, "1", fmt.Sprintf(`{"uri":"/*","upstream":{"type":"roundrobin","nodes":{%q:1}%s},"enable_websocket":true}`, node, more))
}

// TestH2Spec runs h2spec, all of it and strictly, against both listeners
// (RFC 9113, RFC 7541).
func TestH2Spec(t *testing.T) {
	bin := install(t, "h2spec", "github.com/summerwind/h2spec/cmd/h2spec", "v2.2.1+incompatible")
	d := fixtures.StartDataPlane(t, engine.Limits{})
	route(d, upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/plain")
		_, _ = w.Write(bytes.Repeat([]byte("x"), 8192))
	})), "")
	for name, addr := range map[string]string{"clear text": d.Addr, "tls": d.TLSAddr} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			_, port, _ := net.SplitHostPort(addr)
			args := []string{"-h", "localhost", "-p", port, "--strict", "--timeout", "3"}
			if name == "tls" {
				args = append(args, "-t", "-k")
			}
			out, err := exec.CommandContext(ctx, bin, args...).CombinedOutput()
			_, failures, _ := strings.Cut(string(out), "Failures:")
			// What is no preface is HTTP/1.1 on the clear-text listener, and no
			// request of it: 400, in words, and the end (TestNoPreface). h2spec
			// has the end only, not the words, which it reads as a frame.
			if name == "clear text" && strings.Count(failures, "×") == 1 && strings.Contains(failures, "Sends invalid connection preface") {
				return
			}
			if err != nil || !strings.Contains(string(out), " 0 failed") {
				t.Errorf("%v\n%s", err, failures)
			}
		})
	}
}

// TestNoPreface: a connection that does not begin as HTTP/2 does ends at once
// (RFC 9113, section 3.4). In clear text that is the end of an answer to what
// was no request either (RFC 9112, section 3); where HTTP/2 is agreed on,
// nothing else is said.
func TestNoPreface(t *testing.T) {
	d := fixtures.StartDataPlane(t, engine.Limits{})
	route(d, upstream(t, http.NotFoundHandler()), "")
	secure, err := tls.Dial("tcp", d.TLSAddr, &tls.Config{RootCAs: d.Roots, ServerName: "localhost", NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name, send, want string
		c                net.Conn
	}{
		{"clear text", "INVALID CONNECTION PREFACE\r\n\r\n", "HTTP/1.1 400 Bad Request\r\n", tcp(t, d.Addr)},
		{"clear text, half of it", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "HTTP/1.1 505 HTTP Version Not Supported\r\n", tcp(t, d.Addr)},
		{"tls", "INVALID CONNECTION PREFACE\r\n\r\n", "", secure},
	} {
		got, hung := exchange(t, row.c, row.send)
		if hung || !strings.HasPrefix(got, row.want) || row.want == "" && got != "" || strings.Count(got, "HTTP/1.1 ") > 1 {
			t.Errorf("%s: %q, hangs: %v", row.name, got, hung)
		}
		if row.want != "" && !strings.Contains(got, "Connection: close\r\n") {
			t.Errorf("%s: %q does not say that it ends", row.name, got)
		}
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func waitFor(t *testing.T, addr string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return
		}
	}
	t.Fatalf("nothing listens on %s", addr)
}

// TestWebSocket passes RFC 6455 through: messages of every kind and size, both
// ways at once, pings, close codes, and bytes as they were.
func TestWebSocket(t *testing.T) {
	d := fixtures.StartDataPlane(t, engine.Limits{})
	route(d, upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"echo"}, CompressionMode: websocket.CompressionContextTakeover})
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(8 << 20)
		for {
			typ, msg, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if string(msg) == "bye" {
				_ = c.Close(4321, "as you wish")
				return
			}
			if err := c.Write(r.Context(), typ, msg); err != nil {
				return
			}
		}
	})), "")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, _, err := websocket.Dial(ctx, "ws://"+d.Addr+"/chat", &websocket.DialOptions{Subprotocols: []string{"echo"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	c.SetReadLimit(8 << 20)
	if c.Subprotocol() != "echo" {
		t.Errorf("subprotocol %q", c.Subprotocol())
	}
	for _, size := range []int{0, 1, 125, 126, 65535, 65536, 4 << 20} {
		for _, typ := range []websocket.MessageType{websocket.MessageText, websocket.MessageBinary} {
			msg := bytes.Repeat([]byte("m"), size)
			if err := c.Write(ctx, typ, msg); err != nil {
				t.Fatal(err)
			}
			gotType, got, err := c.Read(ctx)
			if err != nil || gotType != typ || !bytes.Equal(got, msg) {
				t.Fatalf("%d bytes: %v %v, %d bytes back", size, err, gotType, len(got))
			}
		}
	}
	reading := c.CloseRead(ctx)
	if err := c.Ping(ctx); err != nil {
		t.Errorf("ping: %v", err)
	}
	_ = reading

	c2, _, err := websocket.Dial(ctx, "ws://"+d.Addr+"/chat", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c2.CloseNow()
	if err := c2.Write(ctx, websocket.MessageText, []byte("bye")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c2.Read(ctx); websocket.CloseStatus(err) != 4321 {
		t.Errorf("close: %v", err)
	}
}

// TestWebSocketBytesAreLeftAlone: masked and fragmented frames arrive as they
// were sent, in whatever pieces.
func TestWebSocketBytesAreLeftAlone(t *testing.T) {
	node, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	frames := []byte{0x01, 0x83, 1, 2, 3, 4, 'a' ^ 1, 'b' ^ 2, 'c' ^ 3, 0x89, 0x80, 9, 9, 9, 9, 0x80, 0x81, 5, 6, 7, 8, 'd' ^ 5}
	got := make(chan []byte, 1)
	go func() {
		c, err := node.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		head := readHead(c)
		if !strings.Contains(head, "Upgrade: websocket") {
			got <- []byte(head)
			return
		}
		// The answer and the first frame in one packet.
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n\x81\x02hi")
		b := make([]byte, len(frames))
		_, _ = io.ReadFull(c, b)
		got <- b
	}()
	d := fixtures.StartDataPlane(t, engine.Limits{})
	route(d, node.Addr().String(), "")
	c, err := net.Dial("tcp", d.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	// The first frame comes with the request.
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\nSec-WebSocket-Version: 13\r\n\r\n"+string(frames[:5]))
	if head := readHead(c); !strings.HasPrefix(head, "HTTP/1.1 101 ") {
		t.Fatal(head)
	}
	for _, b := range frames[5:] {
		_, _ = c.Write([]byte{b})
	}
	hi := make([]byte, 4)
	if _, err := io.ReadFull(c, hi); err != nil || string(hi) != "\x81\x02hi" {
		t.Errorf("%q %v", hi, err)
	}
	if b := <-got; !bytes.Equal(b, frames) {
		t.Errorf("the node got %x, want %x", b, frames)
	}
}

func readHead(c net.Conn) string {
	var b []byte
	one := make([]byte, 1)
	for !bytes.HasSuffix(b, []byte("\r\n\r\n")) {
		if _, err := c.Read(one); err != nil {
			break
		}
		b = append(b, one...)
	}
	return string(b)
}
