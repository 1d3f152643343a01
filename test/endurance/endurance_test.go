// Package endurance holds the program against many clients that want little:
// slow ones, idle ones. It runs as a process of its own, so that what it needs
// can be measured and both ends have their descriptors.
package endurance

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// bin is the program, built without the race detector: its memory is measured.
var bin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "gatehouse-endurance-")
	if err != nil {
		panic(err)
	}
	bin = filepath.Join(dir, "gatehouse")
	if out, err := exec.Command("go", "build", "-o", bin, "gatehouse/cmd/gatehouse").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

const adminKey = "0123456789abcdef0123456789abcdef"

// program is a gateway in a process of its own.
type program struct {
	t    *testing.T
	addr string // "127.0.0.1:port"
	cmd  *exec.Cmd
	log  string
}

// startProgram runs a gateway with one route for everything, until the test
// ends. limits are keys of gateway.nginx_config.http.
func startProgram(t *testing.T, limits, upstream string) *program {
	t.Helper()
	dir, p := t.TempDir(), freePorts(t, 4)
	conf := filepath.Join(dir, "gatehouse.yaml")
	text := fmt.Sprintf(`data: %s/data
gateway:
  nginx_config: {http: {enable_access_log: false%s}}
  apisix: {node_listen: [%q], ssl: {listen: [%q]}}
  deployment: {admin: {admin_key: [{name: test, key: %s, role: admin}], admin_listen: %q}}
  plugin_attr: {prometheus: {export_addr: %q}}
`, dir, limits, p[0], p[1], adminKey, p[2], p[3])
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	g := &program{t: t, addr: p[0], log: filepath.Join(dir, "log"), cmd: exec.Command(bin, "serve", "gateway", "-c", conf)}
	log, err := os.Create(g.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	g.cmd.Stdout, g.cmd.Stderr = log, log
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = g.cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = g.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			_ = g.cmd.Process.Kill()
			t.Error("the program did not stop")
		}
		if t.Failed() {
			text, _ := os.ReadFile(g.log)
			t.Logf("the program said\n%s", text[max(0, len(text)-4000):])
		}
	})
	g.eventually("the program does not listen", 20*time.Second, func() bool {
		c, err := net.Dial("tcp", p[2])
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	doc := fmt.Sprintf(`{"uri":"/*","upstream":{"type":"roundrobin","nodes":{%q:1}}}`, upstream)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+p[2]+"/apisix/admin/routes/1", strings.NewReader(doc))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-API-KEY", adminKey)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusCreated {
		t.Fatalf("storing the route: %s", res.Status)
	}
	return g
}

// memory is what the program keeps resident now, and has kept at most, in MB.
func (g *program) memory() (now, most int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid))
	if err != nil {
		g.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		switch f[0] {
		case "VmRSS:":
			now, _ = strconv.Atoi(f[1])
		case "VmHWM:":
			most, _ = strconv.Atoi(f[1])
		}
	}
	return now >> 10, most >> 10
}

// descriptors is how many the program has open.
func (g *program) descriptors() int {
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", g.cmd.Process.Pid))
	if err != nil {
		g.t.Fatal(err)
	}
	return len(list)
}

func (g *program) eventually(what string, within time.Duration, ok func() bool) {
	g.t.Helper()
	for end := time.Now().Add(within); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			g.t.Fatal(what)
		}
	}
}

func freePorts(t *testing.T, n int) (addrs []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		addrs = append(addrs, l.Addr().String())
	}
	return addrs
}

// origin answers "ok", on /big with many bytes, whether the body has come or
// not, and on /body when it has.
func origin(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	part := bytes.Repeat([]byte("x"), 64<<10)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/big":
			_ = http.NewResponseController(w).EnableFullDuplex()
			w.Header().Set("Content-Length", strconv.Itoa(256*len(part)))
			for range 256 {
				if _, err := w.Write(part); err != nil {
					return
				}
			}
			return
		case "/body":
			_, _ = io.Copy(io.Discard, r.Body)
		}
		_, _ = io.WriteString(w, "ok")
	})}
	s.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		_ = c.(*net.TCPConn).SetWriteBuffer(64 << 10) // what nobody reads stays here, not in the kernel
		return ctx
	}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close() })
	return l.Addr().String()
}

// guests are clients that behave: each asks, waits for its answer, and asks
// again a moment later.
type guests struct {
	t    *testing.T
	stop context.CancelFunc
	wg   sync.WaitGroup
	mu   sync.Mutex
	took []time.Duration // guarded by mu
}

func (g *program) invite(n int) *guests {
	ctx, stop := context.WithCancel(g.t.Context())
	q := &guests{t: g.t, stop: stop}
	for range n {
		q.wg.Go(func() {
			c, err := net.Dial("tcp", g.addr)
			if err != nil {
				g.t.Error(err)
				return
			}
			defer c.Close()
			pause := time.NewTicker(5 * time.Millisecond)
			defer pause.Stop()
			for ctx.Err() == nil {
				began := time.Now()
				if err := ask(c); err != nil {
					g.t.Errorf("a client that behaves: %v", err)
					return
				}
				q.mu.Lock()
				q.took = append(q.took, time.Since(began))
				q.mu.Unlock()
				<-pause.C
			}
		})
	}
	return q
}

// leave ends them, and holds how long they have waited against bounds that
// leave room for a busy machine.
func (q *guests) leave() {
	q.t.Helper()
	q.stop()
	q.wg.Wait()
	slices.Sort(q.took)
	n := len(q.took)
	if n < 100 {
		q.t.Fatalf("%d answers only", n)
	}
	p99, most := q.took[n*99/100], q.took[n-1]
	q.t.Logf("%d answers: half within %v, 99%% within %v, all within %v", n, q.took[n/2], p99, most)
	if p99 > 500*time.Millisecond || most > 3*time.Second {
		q.t.Errorf("clients that behave waited: 99%% within %v, all within %v", p99, most)
	}
}

// ask makes a request and reads its answer.
func ask(c net.Conn) error {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		return err
	}
	var b [1024]byte
	for n := 0; ; {
		m, err := c.Read(b[n:])
		if err != nil {
			return err
		}
		n += m
		if !bytes.HasPrefix(b[:n], []byte("HTTP/1.1 200 ")[:min(n, 13)]) || n == len(b) {
			return fmt.Errorf("answered %q", b[:n])
		}
		if bytes.HasSuffix(b[:n], []byte("\r\n\r\nok")) {
			return nil
		}
	}
}
