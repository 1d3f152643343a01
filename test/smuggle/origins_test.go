package smuggle

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"
)

// message is a request as somebody saw it.
type message struct{ method, id, body string }

// ledger counts messages.
type ledger struct {
	mu   sync.Mutex
	seen map[message]int // guarded by mu
	bad  []string        // guarded by mu; what could not be read
}

func newLedger() *ledger { return &ledger{seen: map[message]int{}} }

var idPattern = regexp.MustCompile(`id=([0-9]+)`)

func (l *ledger) note(method, target string, body []byte) {
	id := "none: " + target
	if m := idPattern.FindStringSubmatch(target); m != nil {
		id = m[1]
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen[message{method, id, fmt.Sprintf("%x", sha256.Sum256(body))}]++
}

func (l *ledger) fault(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bad = append(l.bad, fmt.Sprintf(format, args...))
}

// origin is a server that tells what it saw.
type origin struct {
	name string
	addr string
	saw  func() *ledger
}

// serveGo is net/http as an origin.
func serveGo(t *testing.T) origin {
	l := newLedger()
	ln := listen(t)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		l.note(r.Method, r.RequestURI, body)
		_, _ = io.WriteString(w, "seen\n")
	})}
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(func() { s.Close() })
	return origin{"go", ln.Addr().String(), func() *ledger { return l }}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func free(t *testing.T) string {
	l := listen(t)
	defer l.Close()
	return l.Addr().String()
}

// run starts a program that listens on addr, and stops it with the test.
func run(t *testing.T, addr string, argv ...string) {
	t.Helper()
	if _, err := exec.LookPath(argv[0]); err != nil {
		argv[0] = filepath.Join("/usr/sbin", argv[0])
	}
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", argv[0], err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return
		}
		if time.Now().After(end) {
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("%s does not listen on %s: %s", argv[0], addr, text)
		}
	}
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// directory is a temporary one that servers can use under their own user.
func directory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "gatehouse-smuggle-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	_ = os.Chmod(dir, 0o755)
	return dir
}

// What nginx, HAProxy and Apache forward to a recorder is what they saw.

func serveNginx(t *testing.T) origin {
	behind, addr, dir := serveGo(t), free(t), directory(t)
	user := ""
	if os.Getuid() == 0 {
		user = "user root;"
	}
	run(t, addr, "nginx", "-p", dir, "-e", "stderr", "-c", write(t, dir, "nginx.conf", fmt.Sprintf(`%s worker_processes 1; daemon off; pid %[2]s/pid; error_log %[2]s/err;
events { worker_connections 4096; }
http { access_log off; client_max_body_size 0; underscores_in_headers on; merge_slashes off; keepalive_requests 1000000;
 client_body_temp_path %[2]s/1; proxy_temp_path %[2]s/2; fastcgi_temp_path %[2]s/3; uwsgi_temp_path %[2]s/4; scgi_temp_path %[2]s/5;
 upstream u { server %[3]s; keepalive 64; }
 server { listen %[4]s; location / { proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_next_upstream off; } } }
`, user, dir, behind.addr, addr)))
	return origin{"nginx", addr, behind.saw}
}

func serveHAProxy(t *testing.T) origin {
	behind, addr, dir := serveGo(t), free(t), directory(t)
	run(t, addr, "haproxy", "-db", "-f", write(t, dir, "haproxy.cfg", fmt.Sprintf(`global
  maxconn 4000
defaults
  mode http
  retries 0
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend f
  bind %s
  default_backend b
backend b
  server s %s
`, addr, behind.addr)))
	return origin{"haproxy", addr, behind.saw}
}

func serveApache(t *testing.T) origin {
	behind, addr, dir := serveGo(t), free(t), directory(t)
	user := ""
	if os.Getuid() == 0 {
		user = "User www-data\nGroup www-data\n"
	}
	run(t, addr, "apache2", "-DFOREGROUND", "-f", write(t, dir, "apache.conf", fmt.Sprintf(`ServerRoot %s
ServerName localhost
PidFile pid
ErrorLog err
Mutex file:%[1]s
DefaultRuntimeDir %[1]s
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so
%[2]sListen %[3]s
MaxKeepAliveRequests 0
AllowEncodedSlashes NoDecode
ProxyPass "/" "http://%[4]s/" nocanon
`, dir, user, addr, behind.addr)))
	return origin{"apache", addr, behind.saw}
}

func serveNode(t *testing.T) origin {
	addr, control, dir := free(t), free(t), directory(t)
	_, port, _ := net.SplitHostPort(addr)
	_, controlPort, _ := net.SplitHostPort(control)
	run(t, addr, "node", write(t, dir, "origin.js", fmt.Sprintf(`
const http = require('http'), crypto = require('crypto');
const seen = [];
http.createServer((q, a) => {
  const h = crypto.createHash('sha256');
  q.on('data', d => h.update(d));
  q.on('end', () => { seen.push([q.method, q.url, h.digest('hex')]); a.end('seen\n'); });
  q.on('error', () => {});
}).listen(%s, '127.0.0.1');
http.createServer((q, a) => a.end(JSON.stringify(seen))).listen(%s, '127.0.0.1');
`, port, controlPort)))
	return origin{"node", addr, func() *ledger {
		l := newLedger()
		res, err := http.Get("http://" + control + "/")
		if err != nil {
			l.fault("asking node: %v", err)
			return l
		}
		defer res.Body.Close()
		var rows [][3]string
		if err := json.NewDecoder(res.Body).Decode(&rows); err != nil {
			l.fault("asking node: %v", err)
		}
		for _, r := range rows {
			id := "none: " + r[1]
			if m := idPattern.FindStringSubmatch(r[1]); m != nil {
				id = m[1]
			}
			l.seen[message{r[0], id, r[2]}]++
		}
		return l
	}}
}

// tap stands between the gateway and an origin and reads what the gateway
// sends by a parser that is not the gateway's.
func tap(t *testing.T, to string) (addr string, sent *ledger) {
	sent = newLedger()
	l := listen(t)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go pass(c, to, sent)
		}
	}()
	return l.Addr().String(), sent
}

func pass(c net.Conn, to string, sent *ledger) {
	defer c.Close()
	o, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer o.Close()
	r, w := io.Pipe()
	go func() {
		br := bufio.NewReader(r)
		for {
			if _, err := br.Peek(1); err != nil {
				break
			}
			q, err := http.ReadRequest(br)
			if err != nil {
				if err != io.ErrUnexpectedEOF { // a call that was cut short
					sent.fault("the gateway sent what is no request: %v", err)
				}
				break
			}
			body, err := io.ReadAll(q.Body)
			if err != nil {
				if err != io.ErrUnexpectedEOF {
					sent.fault("the gateway sent what is no body: %v", err)
				}
				break
			}
			sent.note(q.Method, q.RequestURI, body)
		}
		_, _ = io.Copy(io.Discard, r)
	}()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(c, o)
		c.Close()
	}()
	_, _ = io.Copy(io.MultiWriter(w, o), c)
	w.Close()
	if t, ok := o.(*net.TCPConn); ok {
		_ = t.CloseWrite()
	}
	<-done
}
