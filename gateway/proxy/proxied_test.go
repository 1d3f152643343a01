package proxy

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/lib/localca"
	"gatehouse/lib/proxyproto"
	"gatehouse/resource"
)

// proxiedNode is an upstream whose connections begin with a header; it notes
// what each said and how many requests came over it.
type proxiedNode struct {
	addr string
	mu   sync.Mutex
	from []string // guarded by mu; client of each connection
	reqs []int    // guarded by mu
}

func newProxiedNode(t *testing.T, secure *tls.Config) *proxiedNode {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &proxiedNode{addr: l.Addr().String()}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { n.serve(c, secure) })
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return n
}

func (n *proxiedNode) serve(c net.Conn, secure *tls.Config) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	h, err := proxyproto.Read(c)
	from := h.Src.String()
	if err != nil {
		from = err.Error()
	}
	if secure != nil {
		c = tls.Server(c, secure)
	}
	n.mu.Lock()
	i := len(n.from)
	n.from, n.reqs = append(n.from, from), append(n.reqs, 0)
	n.mu.Unlock()
	for br := bufio.NewReader(c); err == nil; {
		var q *http.Request
		if q, err = http.ReadRequest(br); err != nil {
			return
		}
		io.Copy(io.Discard, q.Body)
		n.mu.Lock()
		n.reqs[i]++
		n.mu.Unlock()
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(from), from)
	}
}

// No client's request ever arrives on a connection that was opened for
// another, whoever else keeps connections to the same node.
func TestNodesAreToldTheClient(t *testing.T) {
	for _, version := range []string{"v1", "v2"} {
		t.Run(version, func(t *testing.T) {
			r, n := newRig(t, nil), newProxiedNode(t, nil)
			r.put(resource.Routes, "1", fmt.Sprintf(`{"uri":"/*","upstream":{"nodes":{%q:1},"proxy_protocol":%q}}`, n.addr, version))
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					c, err := net.Dial("tcp", r.addr)
					if err != nil {
						t.Error(err)
						return
					}
					defer c.Close()
					br := bufio.NewReader(c)
					for i := range 5 {
						body := strings.Repeat("x", i*5000) // whole, and one that is sent beside the answer
						fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
						res, err := http.ReadResponse(br, nil)
						if err != nil {
							t.Error(err)
							return
						}
						b, _ := io.ReadAll(res.Body)
						if string(b) != c.LocalAddr().String() {
							t.Errorf("the node was told %q, want %s", b, c.LocalAddr())
						}
					}
				})
			}
			wg.Wait()
			n.mu.Lock()
			defer n.mu.Unlock()
			if len(n.from) != 20 {
				t.Errorf("%d connections, want 20", len(n.from))
			}
			for i, reqs := range n.reqs {
				if reqs != 1 {
					t.Errorf("connection %d carried %d requests", i, reqs)
				}
			}
		})
	}
}

// The header stands before TLS.
func TestNodesAreToldTheClientBeforeTLS(t *testing.T) {
	ca, err := localca.Open(t.TempDir(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue([]string{"a.example"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	r, n := newRig(t, nil), newProxiedNode(t, &tls.Config{Certificates: []tls.Certificate{*cert}})
	r.put(resource.Routes, "1", fmt.Sprintf(`{"uri":"/*","upstream":{"scheme":"https","nodes":{%q:1},"tls":{"verify":false},"proxy_protocol":"v2"}}`, n.addr))
	if status, _, body := r.get("/"); status != 200 || !strings.HasPrefix(body, "127.0.0.1:") {
		t.Errorf("%d, the node was told %q", status, body)
	}
}

// The connections of an upstream without the header are not taken for calls
// with it, nor the other way round.
func TestProxiedCallsTakeNoKeptConnection(t *testing.T) {
	r := newRig(t, nil)
	n := newNode(t, func(_ *node, head string, _ *bufio.Reader, c net.Conn) bool {
		first, _, _ := strings.Cut(head, "\r\n")
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(first), first)
		return true
	})
	r.put(resource.Routes, "1", fmt.Sprintf(`{"uri":"/plain","upstream":{"nodes":{%q:1}}}`, n.addr))
	r.put(resource.Routes, "2", fmt.Sprintf(`{"uri":"/told","upstream":{"nodes":{%q:1},"proxy_protocol":"v1"}}`, n.addr))
	for _, path := range []string{"/plain", "/told", "/plain", "/told"} {
		_, _, body := r.get(path)
		if told := strings.HasPrefix(body, "PROXY TCP4 127.0.0.1 "); told != (path == "/told") {
			t.Errorf("%s: the connection begins with %q", path, body)
		}
	}
	if _, conns := n.seen(); conns != 3 {
		t.Errorf("%d connections, want one for /plain and two for /told", conns)
	}
}

func TestProxyProtocolIsChecked(t *testing.T) {
	r := newRig(t, nil)
	for doc, want := range map[string]string{
		`{"nodes":{"a:1":1},"proxy_protocol":"v3"}`:                 "proxy_protocol",
		`{"nodes":{"a:1":1},"proxy_protocol":"v1","scheme":"grpc"}`: "grpc",
	} {
		if err := r.live.Check(resource.Upstreams, "1", json.RawMessage(doc)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", doc, err)
		}
	}
}
