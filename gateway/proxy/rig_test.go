package proxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/gateway"
	"gatehouse/gateway/engine"
	"gatehouse/gateway/live"
	"gatehouse/resource"
	"gatehouse/store/memory"
)

// rig is a whole data plane on loopback.
type rig struct {
	t     testing.TB
	store resource.Store
	live  *live.Live
	addr  string
	logs  *syncBuffer
	tr    *engine.Transport
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newRig(t testing.TB, plugins []gateway.Plugin, change ...func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, store: memory.NewResources(), logs: &syncBuffer{}, tr: engine.NewTransport(nil)}
	log := slog.New(slog.NewTextHandler(r.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	r.live, err = live.New(live.Config{Store: r.store, Plugins: plugins, Env: gateway.Env{Log: log}})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.live.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { r.live.Run(ctx) })
	cfg := Config{Live: r.live, Transport: r.tr, Log: log}
	for _, c := range change {
		c(&cfg)
	}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := engine.NewServer(engine.ServerConfig{Handler: p, Log: log})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = l.Addr().String()
	wg.Go(func() { s.Serve(l) })
	t.Cleanup(func() {
		cancel()
		stop, done := context.WithTimeout(context.Background(), 3*time.Second)
		defer done()
		s.Stop(stop)
		wg.Wait()
		r.tr.Close()
		if t.Failed() {
			t.Log(r.logs.String())
		}
	})
	return r
}

// put stores a resource and waits until it is live.
func (r *rig) put(kind resource.Kind, id, doc string) {
	r.t.Helper()
	if err := r.live.Check(kind, id, json.RawMessage(doc)); err != nil {
		r.t.Fatal(err)
	}
	r.force(kind, id, doc)
}

func (r *rig) force(kind resource.Kind, id, doc string) {
	r.t.Helper()
	c := resource.Change{Kind: kind, ID: id}
	if doc != "" {
		c.JSON = json.RawMessage(doc)
	}
	rev, err := r.store.Apply(context.Background(), c)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := r.live.Wait(ctx, rev); err != nil {
		r.t.Fatal(err)
	}
}

// route puts route 1: everything to nodes.
func (r *rig) route(more string, nodes ...string) {
	r.t.Helper()
	m := map[string]int{}
	for _, n := range nodes {
		m[n] = 1
	}
	b, _ := json.Marshal(m)
	if more != "" {
		more += ","
	}
	r.put(resource.Routes, "1", fmt.Sprintf(`{"uri":"/*",%s"upstream":{"type":"roundrobin","nodes":%s}}`, more, b))
}

// ask sends a request as written and reads one answer.
func (r *rig) ask(send string) (status int, header http.Header, body string) {
	r.t.Helper()
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(c, send)
	method, _, _ := strings.Cut(send, " ")
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		r.t.Fatalf("%q: %v", send, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatalf("%q: %v", send, err)
	}
	return res.StatusCode, res.Header, string(b)
}

func (r *rig) get(path string, fields ...string) (int, http.Header, string) {
	r.t.Helper()
	return r.ask("GET " + path + " HTTP/1.1\r\nHost: gw.example:9080\r\n" + strings.Join(append(fields, ""), "\r\n") + "\r\n")
}

// node is an upstream on raw TCP: answer gets each request's head as it stood
// on the wire, and its connection.
type node struct {
	addr  string
	mu    sync.Mutex
	heads []string
	conns int
}

func newNode(t testing.TB, answer func(n *node, head string, br *bufio.Reader, c net.Conn) (keep bool)) *node {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{addr: l.Addr().String()}
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			n.mu.Lock()
			n.conns++
			n.mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				br := bufio.NewReader(c)
				for {
					var head strings.Builder
					for {
						line, err := br.ReadString('\n')
						if err != nil {
							return
						}
						if line == "\r\n" {
							break
						}
						head.WriteString(line)
					}
					n.mu.Lock()
					n.heads = append(n.heads, head.String())
					n.mu.Unlock()
					if !answer(n, head.String(), br, c) {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return n
}

func (n *node) seen() (heads []string, conns int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.heads...), n.conns
}

// echo answers the head it got.
func echo(t testing.TB) *node {
	return newNode(t, func(_ *node, head string, br *bufio.Reader, c net.Conn) bool {
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(head), head)
		return true
	})
}

func says(t testing.TB, answer string) *node {
	return newNode(t, func(_ *node, _ string, _ *bufio.Reader, c net.Conn) bool {
		io.WriteString(c, answer)
		return !strings.Contains(answer, "close")
	})
}

// closed is an address nobody listens on.
func closed(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
