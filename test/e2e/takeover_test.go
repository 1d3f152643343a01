package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// node is a service behind the gateway: it answers, streams, and speaks
// WebSocket as far as this test does.
func node(t *testing.T) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ws":
			c, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n")
			go func() {
				for i := 0; ; i++ { // frames all the time, some of them long
					if _, err := c.Write(wsFrame(2, strings.Repeat("x", i%300))); err != nil {
						return
					}
					time.Sleep(time.Millisecond)
				}
			}()
			for {
				op, _, err := readFrame(rw.Reader)
				if err != nil {
					return
				}
				if op == 8 {
					c.Write(wsFrame(8, "\x03\xe9"))
					return
				}
			}
		case "/slow":
			for range 20 {
				io.WriteString(w, "0123456789")
				http.NewResponseController(w).Flush()
				time.Sleep(50 * time.Millisecond)
			}
		default:
			b, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %d", r.Method, len(b))
		}
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// wsFrame is an unmasked WebSocket frame.
func wsFrame(op byte, payload string) []byte {
	b := []byte{0x80 | op, byte(len(payload))}
	if len(payload) > 125 {
		b = []byte{0x80 | op, 126, byte(len(payload) >> 8), byte(len(payload))}
	}
	return append(b, payload...)
}

func readFrame(r *bufio.Reader) (op byte, payload []byte, err error) {
	var head [2]byte
	if _, err = io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := int(head[1] & 0x7f)
	if n == 126 {
		var l [2]byte
		if _, err = io.ReadFull(r, l[:]); err != nil {
			return 0, nil, err
		}
		n = int(l[0])<<8 | int(l[1])
	}
	var mask [4]byte
	if head[1]&0x80 != 0 {
		if _, err = io.ReadFull(r, mask[:]); err != nil {
			return 0, nil, err
		}
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(r, payload)
	for i := range payload {
		payload[i] ^= mask[i%4]
	}
	return head[0] & 0x0f, payload, err
}

// load is clients at work, each of whom expects that nothing ever fails.
type load struct {
	s      *stack
	ctx    context.Context
	wg     sync.WaitGroup
	stop   context.CancelFunc
	counts [7]atomic.Int64
	worst  atomic.Int64 // nanoseconds an exchange took, of all
}

var loadNames = [7]string{"kept connections", "new connections", "HTTP/2", "streams", "WebSocket closes", "Admin API", "provider"}

func startLoad(s *stack) *load {
	ctx, stop := context.WithCancel(s.t.Context())
	l := &load{s: s, ctx: ctx, stop: stop}
	for range 4 {
		l.each(0, l.kept())
	}
	for range 2 {
		l.each(1, l.fresh)
	}
	h2 := new(http.Protocols)
	h2.SetUnencryptedHTTP2(true)
	prior := &http.Client{Transport: &http.Transport{Protocols: h2}, Timeout: 30 * time.Second}
	for range 4 {
		l.each(2, func() error { return l.post(prior, s.gateway+"/h2") })
	}
	l.each(3, l.stream)
	l.each(4, l.websocket)
	key := readFile(s.t, filepath.Join(s.data, "admin.key"))
	n := 0
	l.each(5, func() error { n++; return l.route(key, n) })
	kept := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{}}
	m := 0
	l.each(6, func() error { m++; return l.client(kept, m) })
	return l
}

// each repeats do until the load stops.
func (l *load) each(i int, do func() error) {
	l.wg.Go(func() {
		for l.ctx.Err() == nil {
			began := time.Now()
			if err := do(); err != nil && l.ctx.Err() == nil {
				l.s.t.Errorf("%s: %v", loadNames[i], err)
				return
			}
			if took := int64(time.Since(began)); i != 3 && i != 4 && took > l.worst.Load() {
				l.worst.Store(took)
			}
			l.counts[i].Add(1)
		}
	})
}

func (l *load) end() {
	l.stop()
	l.wg.Wait()
	for i := range l.counts {
		l.s.t.Logf("%s: %d", loadNames[i], l.counts[i].Load())
		if l.counts[i].Load() == 0 {
			l.s.t.Errorf("%s: nothing was done", loadNames[i])
		}
	}
	l.s.t.Logf("longest exchange: %v", time.Duration(l.worst.Load()))
}

func (l *load) dial() (net.Conn, error) {
	c, err := net.DialTimeout("tcp", strings.TrimPrefix(l.s.gateway, "http://"), 10*time.Second)
	if err == nil {
		c.SetDeadline(time.Now().Add(time.Minute))
	}
	return c, err
}

// kept posts on one connection until it is told that it closes.
func (l *load) kept() func() error {
	var c net.Conn
	var r *bufio.Reader
	return func() error {
		if c == nil {
			var err error
			if c, err = l.dial(); err != nil {
				return err
			}
			r = bufio.NewReader(c)
		}
		if _, err := io.WriteString(c, "POST /kept HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"); err != nil {
			return err
		}
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			return err
		}
		b, err := io.ReadAll(res.Body)
		if err != nil || string(b) != "POST 5" {
			return fmt.Errorf("%s: %q, %v", res.Status, b, err)
		}
		if res.Close {
			c.Close()
			c = nil
		}
		return nil
	}
}

func (l *load) fresh() error {
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}
	return l.post(c, l.s.gateway+"/fresh")
}

func (l *load) post(c *http.Client, url string) error {
	res, err := c.Post(url, "text/plain", strings.NewReader("hello"))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); err != nil || string(b) != "POST 5" {
		return fmt.Errorf("%s: %q, %v", res.Status, b, err)
	}
	return nil
}

// stream reads an answer that takes a second.
func (l *load) stream() error {
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get(l.s.gateway + "/slow")
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); err != nil || len(b) != 200 {
		return fmt.Errorf("%s: %d bytes, %v", res.Status, len(b), err)
	}
	return nil
}

// websocket reads frames until a Close frame comes, answers it, and wants the
// end then.
func (l *load) websocket() error {
	c, err := l.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(l.ctx, func() { c.Close() })()
	io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n")
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("upgrading: %v, %v", res, err)
	}
	for {
		op, payload, err := readFrame(r)
		if err != nil {
			return fmt.Errorf("without a Close frame: %w", err)
		}
		if op != 8 {
			continue
		}
		if string(payload) != "\x03\xf4" { // 1012, service restart
			return fmt.Errorf("the Close frame says %x", payload)
		}
		c.Write([]byte{0x88, 0x82, 0, 0, 0, 0, 3, 0xf4})
		if b, err := io.ReadAll(r); err != nil || len(b) > 0 {
			return fmt.Errorf("after the Close frame %q, %v", b, err)
		}
		return nil
	}
}

// route makes a route and uses it at once.
func (l *load) route(key string, n int) error {
	uri := fmt.Sprintf("/made/%d", n)
	body := fmt.Sprintf(`{"uri":%q,"upstream":{"nodes":{"127.0.0.1:1":1}}}`, uri)
	req, _ := http.NewRequest("PUT", fmt.Sprintf("%s/apisix/admin/routes/made%d", l.s.admin, n), strings.NewReader(body))
	req.Header.Set("X-API-KEY", key)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	b, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if res.StatusCode != http.StatusCreated {
		return fmt.Errorf("%s: %s", res.Status, b)
	}
	res, err = (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}).Get(l.s.gateway + uri)
	if err != nil {
		return err
	}
	res.Body.Close()
	if res.StatusCode != http.StatusBadGateway { // nobody listens there
		return fmt.Errorf("the route that was just made: %s", res.Status)
	}
	return nil
}

// client registers a client and reads it.
func (l *load) client(c *http.Client, n int) error {
	id := fmt.Sprintf("c%d", n)
	res, err := c.Post(l.s.hydraAdmin+"/admin/clients", "application/json", strings.NewReader(`{"client_id":"`+id+`","client_secret":"generated-`+id+`","redirect_uris":["http://127.0.0.1/c"]}`))
	if err != nil {
		return err
	}
	b, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if res.StatusCode != http.StatusCreated {
		return fmt.Errorf("%s: %s", res.Status, b)
	}
	res, err = c.Get(l.s.hydraAdmin + "/admin/clients/" + id)
	if err != nil {
		return err
	}
	b, _ = io.ReadAll(res.Body)
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", res.Status, b)
	}
	return nil
}

// run is a command and its exit code.
func (s *stack) run(args ...string) (string, int) {
	s.t.Helper()
	cmd := exec.Command(filepath.Join(bin, "gatehouse"), args...)
	cmd.Env = append(environ(), s.env...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// serving is the process that has the lock.
func (s *stack) serving() int {
	pid, _ := strconv.Atoi(readFile(s.t, filepath.Join(s.data, "gateway.lock")))
	return pid
}

// successor waits until another process has taken over from pid, according to
// a log that both write.
func (s *stack) successor(pid int, log *process) int {
	s.t.Helper()
	var next int
	log.wait("successor of "+strconv.Itoa(pid), func() bool {
		for line := range strings.Lines(log.output()) {
			if before, ok := strings.CutSuffix(strings.TrimSpace(line), " after_pid="+strconv.Itoa(pid)); ok {
				_, own, _ := strings.Cut(before, " pid=")
				next, _ = strconv.Atoi(own)
			}
		}
		return next > 0
	})
	return next
}

// cleanUp ends the successors: they are no children of the test.
func (s *stack) cleanUp() {
	s.t.Cleanup(func() {
		if out, code := s.run("stop"); code != 0 && !strings.Contains(out, "no process runs") {
			s.t.Errorf("stop: %s", out)
			if pid := s.serving(); pid > 0 {
				if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); err == nil && strings.Contains(string(b), "GATEHOUSE_DATA="+s.data) {
					syscall.Kill(pid, syscall.SIGKILL)
				}
			}
		}
	})
}

// stopover is a configuration with which a successor stops half way, between
// lend and ready: it reads a pipe.
type stopover struct {
	t            *testing.T
	config, pipe string
}

func halfway(t *testing.T, config string) *stopover {
	t.Helper()
	dir := t.TempDir()
	h := &stopover{t, filepath.Join(dir, "gatehouse.yaml"), filepath.Join(dir, "pipe")}
	if err := syscall.Mkfifo(h.pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	config = strings.Replace(config, "gateway:\n", "gateway:\n  ssl_trusted_certificate: "+h.pipe+"\n", 1)
	if err := os.WriteFile(h.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return h
}

// wait returns when a successor reads. What is returned lets it go on, closed.
func (h *stopover) wait() *os.File {
	h.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		// Without O_NONBLOCK this would wait for a reader that may never come.
		f, err := os.OpenFile(h.pipe, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if err == nil {
			h.t.Cleanup(func() { f.Close() })
			return f
		}
		if !errors.Is(err, syscall.ENXIO) {
			h.t.Fatal(err)
		}
	}
	h.t.Fatal("no successor comes half way")
	return nil
}

// TestTakeover replaces the process ten times under load, in every way there
// is, with failing successors in between and a thousand changes of the
// configuration: nobody notices.
func TestTakeover(t *testing.T) {
	s := newStack(t, "")
	good := strings.Replace(readFile(t, s.config), "gateway:\n", "gateway:\n  nginx_config: {http: {enable_access_log: false}}\n", 1) + "\n"
	if err := os.WriteFile(s.config, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	first := s.serve("all")
	s.cleanUp()
	s.put("routes/all", `{"uri":"/*","enable_websocket":true,"upstream":{"nodes":{"`+node(t)+`":1}}}`)
	l := startLoad(s)
	pid := first.cmd.Process.Pid
	settle := func() { // until every client has been at the process that serves
		t.Helper()
		var before [7]int64
		for i := range before {
			before[i] = l.counts[i].Load()
		}
		deadline := time.Now().Add(30 * time.Second)
		for i := range before {
			for i != 3 && i != 4 && l.counts[i].Load() < before[i]+2 && !t.Failed() {
				if time.Now().After(deadline) {
					t.Fatalf("%s: nothing goes on", loadNames[i])
				}
				time.Sleep(5 * time.Millisecond)
			}
		}
	}
	settle()

	// By command.
	out, code := s.run("reload", "-c", s.config)
	if code != 0 || !strings.Contains(out, "took over from pid "+strconv.Itoa(pid)) {
		t.Fatalf("reload: %d, %s", code, out)
	}
	pid = s.successor(pid, first)
	settle()

	// A configuration that is wrong, and one that cannot be served.
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	for bad, want := range map[string]string{
		good + "\ngatway: {}\n": "unknown key",
		strings.Replace(good, `export_addr: "127.0.0.1:`, `export_addr: "`+busy.Addr().String()+`", export_uri: "/`, 1): "in use by another program",
	} {
		if err := os.WriteFile(s.config, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		out, code = s.run("reload")
		if code != 1 || !strings.Contains(out, want) {
			t.Errorf("reload of a bad configuration: %d, %s; want %q", code, out, want)
		}
		if now := s.serving(); now != pid {
			t.Errorf("pid %d serves after a failed reload, want %d", now, pid)
		}
		settle()
	}

	// By signal, with a port more.
	port := freePorts(t, 1)[0]
	changed := strings.Replace(good, "node_listen: [", fmt.Sprintf(`node_listen: ["127.0.0.1:%d", `, port), 1)
	if err := os.WriteFile(s.config, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	pid = s.successor(pid, first)
	settle()
	if status, body := send(t, "POST", fmt.Sprintf("http://127.0.0.1:%d/x", port), "", "hello"); status != 200 || body != "POST 5" {
		t.Errorf("on the new port: %d %s", status, body)
	}

	// Successors that are killed half way: they have the databases, and would
	// go on when somebody writes what they read.
	halting := halfway(t, changed)
	for range 3 {
		p := start(t, s.env, "gatehouse", "serve", "all", "--takeover", "-c", halting.config)
		halting.wait()
		p.kill()
		if out := p.output(); !strings.Contains(out, "provider public") || strings.Contains(out, "msg=started") {
			t.Fatalf("it was not half way: %s", out)
		}
		settle()
		deadline := time.Now().Add(10 * time.Second)
		for s.serving() != pid { // it signs the lock again
			if time.Now().After(deadline) {
				t.Fatalf("pid %d has not taken back", pid)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}

	// Ten times in all.
	for range 7 {
		if out, code := s.run("reload"); code != 0 {
			t.Fatalf("reload: %s", out)
		}
		pid = s.successor(pid, first)
		settle()
	}

	// By hand, with the port gone again.
	if err := os.WriteFile(s.config, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	last := start(t, s.env, "gatehouse", "serve", "all", "--takeover", "-c", s.config)
	last.wait("its start", func() bool { return strings.Contains(last.output(), "msg=started") })
	settle()
	if got := s.serving(); got != last.cmd.Process.Pid {
		t.Errorf("pid %d serves, want %d", got, last.cmd.Process.Pid)
	}
	last.wait("the end of the old one", func() bool { return syscall.Kill(pid, 0) != nil })
	if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
		c.Close()
		t.Error("a port that is not configured any more is open")
	}
	for deadline := time.Now().Add(2 * time.Minute); l.counts[5].Load() < 1000 && !t.Failed(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d changes in this time", l.counts[5].Load())
		}
	}
	l.end()
	if got := l.counts[4].Load(); got < 10 {
		t.Errorf("%d WebSocket conversations were ended in peace, want 10", got)
	}

	// What was answered is there, and the command line still finds the way.
	key := readFile(t, filepath.Join(s.data, "admin.key"))
	_, list := send(t, "GET", s.admin+"/apisix/admin/routes?page=1&page_size=500", key, "")
	var routes struct{ Total int64 }
	if err := json.Unmarshal([]byte(list), &routes); err != nil || routes.Total < l.counts[5].Load() {
		t.Errorf("%d routes, %v; %d were made", routes.Total, err, l.counts[5].Load())
	}
	if out, code := s.run("stop"); code != 0 || !strings.Contains(out, "stopped") {
		t.Errorf("stop: %d, %s", code, out)
	}
	<-last.done
	if out, code := s.run("stop"); code != 1 || !strings.Contains(out, "no process runs") {
		t.Errorf("stop of nothing: %d, %s", code, out)
	}
}
