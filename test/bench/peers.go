package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// peer is a proxy that listens for HTTP and HTTPS.
type peer struct {
	*process
	http, https string
}

// bench is a run.
type bench struct {
	dir      string
	o        options
	running  []*process
	upstream string
	peers    map[string]*peer
	gate     *gate
}

// prepare builds what is ours, and starts the upstream and every peer.
func (b *bench) prepare(ctx context.Context) error {
	b.peers = map[string]*peer{}
	if b.o.binary == "" {
		b.o.binary = filepath.Join(b.dir, "gatehouse")
		if err := b.build(ctx, "gatehouse", "./cmd/gatehouse"); err != nil {
			return err
		}
	}
	if err := b.certificate(); err != nil {
		return err
	}
	files := filepath.Join(b.dir, "www", "f")
	if err := os.MkdirAll(files, 0o755); err != nil {
		return err
	}
	for name, size := range map[string]int{"64k": 64 << 10, "1m": 1 << 20} {
		body := make([]byte, size)
		_, _ = rand.Read(body)
		if err := os.WriteFile(filepath.Join(files, name), body, 0o644); err != nil {
			return err
		}
	}
	b.upstream = address(freePort())
	conf := b.file("upstream.conf", nginxConf(b.dir, "upstream", fmt.Sprintf(`sendfile on; tcp_nopush on; open_file_cache max=100 inactive=600s;
 server { listen %s backlog=4096; root %s/www; location / { default_type text/plain; return 200 "%s"; } location /f/ { } }`,
		b.upstream, b.dir, strings.Repeat("x", 1024))))
	if _, err := b.launch(ctx, "upstream", 1, b.upstream, "nginx", "-c", conf); err != nil {
		return err
	}
	for _, name := range []string{"gatehouse", "nginx", "haproxy", "caddy", "reverseproxy"} {
		if !b.wanted(name) {
			continue
		}
		if err := b.start(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// wanted says whether any case that will run has this peer.
func (b *bench) wanted(name string) bool {
	for _, c := range theCases {
		if len(b.o.cases) > 0 && !contains(b.o.cases, c.name) {
			continue
		}
		if contains(b.of(c), name) {
			return true
		}
	}
	return false
}

// of lists the peers of a case.
func (b *bench) of(c benchCase) (names []string) {
	for _, n := range append([]string{"gatehouse", "nginx"}, c.peers...) {
		if len(b.o.peers) == 0 || contains(b.o.peers, n) {
			names = append(names, n)
		}
	}
	return names
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func (b *bench) file(name, text string) string {
	path := filepath.Join(b.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		panic(err)
	}
	return path
}

func (b *bench) build(ctx context.Context, name, pkg string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", filepath.Join(b.dir, name), pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", pkg, err, out)
	}
	return nil
}

// start starts one peer.
func (b *bench) start(ctx context.Context, name string) (err error) {
	p := &peer{http: address(freePort()), https: address(freePort())}
	b.peers[name] = p
	switch name {
	case "gatehouse":
		b.gate, err = b.startGatehouse(ctx, p)
		return err
	case "nginx":
		conf := b.file("nginx.conf", nginxConf(b.dir, "nginx", fmt.Sprintf(`proxy_buffer_size 16k; proxy_buffers 16 32k; proxy_busy_buffers_size 128k; proxy_max_temp_file_size 0;
 upstream u { server %s; keepalive 1024; keepalive_requests 1000000000; keepalive_timeout 600s; }
 ssl_certificate %[4]s/cert.pem; ssl_certificate_key %[4]s/key.pem; ssl_protocols TLSv1.2 TLSv1.3;
 server { listen %[2]s backlog=4096; listen %[3]s backlog=4096 ssl http2;
  location / { proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection "";
   proxy_set_header Host $host; proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
   proxy_set_header X-Forwarded-Host $host; proxy_set_header X-Forwarded-Proto $scheme; } }`, b.upstream, p.http, p.https, b.dir)))
		p.process, err = b.launch(ctx, name, 0, p.http, "nginx", "-c", conf)
	case "haproxy":
		conf := b.file("haproxy.cfg", fmt.Sprintf(`global
  nbthread 1
  maxconn 9700
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  http-reuse always
  option forwardfor
frontend f
  bind %s
  bind %s ssl crt %s/both.pem alpn h2,http/1.1
  http-request set-header X-Real-IP %%[src]
  http-request set-header X-Forwarded-Host %%[req.hdr(host)]
  http-request set-header X-Forwarded-Proto http
  default_backend b
backend b
  server s %s pool-max-conn -1 pool-purge-delay 600s
`, p.http, p.https, b.dir, b.upstream))
		p.process, err = b.launch(ctx, name, 0, p.http, "haproxy", "-db", "-f", conf)
	case "caddy":
		bin, err := caddy(ctx)
		if err != nil {
			return err
		}
		conf := b.file("Caddyfile", fmt.Sprintf("{\n\tadmin off\n\tauto_https off\n}\nhttp://%s {\n\treverse_proxy %[4]s\n}\nhttps://%[2]s {\n\ttls %[3]s/cert.pem %[3]s/key.pem\n\treverse_proxy %[4]s\n}\n", p.http, p.https, b.dir, b.upstream))
		p.process, err = b.launch(ctx, name, 0, p.http, bin, "run", "--adapter", "caddyfile", "--config", conf)
		return err
	case "reverseproxy":
		if err := b.build(ctx, name, "./test/bench/reverseproxy"); err != nil {
			return err
		}
		p.process, err = b.launch(ctx, name, 0, p.http, filepath.Join(b.dir, name), p.http, p.https, b.upstream, b.dir)
	}
	return err
}

func nginxConf(dir, name, http string) string {
	user := ""
	if os.Getuid() == 0 {
		user = "user root; "
	}
	return fmt.Sprintf(`%sworker_processes 1; daemon off; pid %[2]s/%[3]s.pid; error_log %[2]s/%[3]s.err; worker_rlimit_nofile 65536;
events { worker_connections 16384; }
http { access_log off; tcp_nodelay on; keepalive_requests 1000000000; keepalive_timeout 600s; client_max_body_size 100m;
 client_body_temp_path %[2]s/t1; proxy_temp_path %[2]s/t2; fastcgi_temp_path %[2]s/t3; uwsgi_temp_path %[2]s/t4; scgi_temp_path %[2]s/t5;
 %[4]s
}
`, user, dir, name, http)
}

// caddy builds Caddy once and keeps it in the user's cache.
func caddy(ctx context.Context) (string, error) {
	const version = "v2.11.9"
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "gatehouse-bench", "caddy-"+version)
	bin := filepath.Join(dir, "caddy")
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	fmt.Println("building Caddy", version)
	cmd := exec.CommandContext(ctx, "go", "install", "github.com/caddyserver/caddy/v2/cmd/caddy@"+version)
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building Caddy: %w\n%s", err, out)
	}
	return bin, nil
}

// certificate makes the certificate that every peer shows.
func (b *bench) certificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	cert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	private := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
	b.file("cert.pem", cert)
	b.file("key.pem", private)
	b.file("both.pem", cert+private)
	return nil
}

// versions names the machine and the peers.
func (b *bench) versions() (out []string) {
	first := func(name string, args ...string) string {
		text, _ := exec.Command(name, args...).CombinedOutput()
		line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
		return line
	}
	model := "unknown processor"
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "model name"); ok {
			model = strings.Trim(v, " \t:\n")
			break
		}
	}
	out = append(out, model+", Linux "+first("uname", "-r"), first("nginx", "-v"), first("haproxy", "-v"), first("go", "version"))
	if bin, err := caddy(context.Background()); err == nil && b.wanted("caddy") {
		out = append(out, "Caddy "+first(bin, "version"))
	}
	return out
}
