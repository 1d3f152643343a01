package wire

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"gatehouse/gateway/engine"
	"gatehouse/resource"
	"gatehouse/test/fixtures"
)

// interopCases are those of gRPC's interop client that need no credentials of
// a cloud, and their flags; but for pick_first_unary, which wants the server to
// name itself, as this server does not.
var interopCases = []struct {
	name string
	more []string
}{
	{"empty_unary", nil},
	{"large_unary", nil},
	{"client_streaming", nil},
	{"server_streaming", nil},
	{"ping_pong", nil},
	{"empty_stream", nil},
	{"timeout_on_sleeping_server", nil},
	{"cancel_after_begin", nil},
	{"cancel_after_first_response", nil},
	{"status_code_and_message", nil},
	{"special_status_message", nil},
	{"custom_metadata", nil},
	{"unimplemented_method", nil},
	{"unimplemented_service", nil},
	{"rpc_soak", soak},
	{"channel_soak", soak},
	{"orca_per_rpc", orca},
	{"orca_oob", orca},
}

var (
	soak = []string{"--soak_iterations=20", "--soak_num_threads=2", "--soak_per_iteration_max_acceptable_latency_ms=5000", "--soak_overall_timeout_seconds=25"}
	orca = []string{`--service_config_json={"loadBalancingConfig":[{"test_backend_metrics_load_balancer":{}}]}`}
)

// TestGRPCInterop lets gRPC's own client call gRPC's own server through the
// gateway: in clear text, and over TLS on both sides.
func TestGRPCInterop(t *testing.T) {
	const version = "v1.85.0"
	client := install(t, "client", "google.golang.org/grpc/interop/client", version)
	server := install(t, "server", "google.golang.org/grpc/interop/server", version)
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	site := selfSigned(t, "grpc.test", cert, key)
	d := fixtures.StartDataPlane(t, engine.Limits{})
	d.Put(resource.SSLs, "1", site)
	for _, row := range []struct {
		name, addr     string
		server, client []string
		upstream       string
	}{
		{"clear text", d.Addr, nil, nil, `"scheme":"grpc"`},
		{"tls", d.TLSAddr, []string{"--use_tls", "--tls_cert_file", cert, "--tls_key_file", key},
			[]string{"--use_tls", "--use_test_ca", "--ca_file", cert, "--server_host_override", "grpc.test"}, `"scheme":"grpcs","tls":{"verify":false}`},
	} {
		t.Run(row.name, func(t *testing.T) {
			port := freePort(t)
			srv := exec.Command(server, append(row.server, "--port", port)...)
			var log bytes.Buffer
			srv.Stdout, srv.Stderr = &log, &log
			if err := srv.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = srv.Process.Kill()
				_ = srv.Wait()
				if t.Failed() {
					t.Logf("the server: %s", &log)
				}
			}()
			waitFor(t, "127.0.0.1:"+port)
			route(d, "127.0.0.1:"+port, ","+row.upstream)
			host, gate, _ := net.SplitHostPort(row.addr)
			run := func(name string, more []string) {
				t.Run(name, func(t *testing.T) {
					ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
					defer cancel()
					args := append([]string{"--server_host", host, "--server_port", gate, "--test_case", name}, row.client...)
					if out, err := exec.CommandContext(ctx, client, append(args, more...)...).CombinedOutput(); err != nil {
						t.Errorf("%v\n%s", err, out)
					}
				})
			}
			for _, c := range interopCases {
				run(c.name, c.more)
			}
			route(d, named(t, cert, key, len(row.server) > 0), ","+row.upstream)
			run("pick_first_unary", nil)
		})
	}
}

// named is a server of UnaryCall that says its name in each answer: a
// SimpleResponse with server_id (4) "a".
func named(t *testing.T, cert, key string, secure bool) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/grpc.testing.TestService/UnaryCall" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/grpc")
		_, _ = io.WriteString(w, "\x00\x00\x00\x00\x03\x22\x01a")
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	})}
	s.Protocols.SetHTTP2(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	go func() {
		if secure {
			_ = s.ServeTLS(l, cert, key)
		} else {
			_ = s.Serve(l)
		}
	}()
	t.Cleanup(func() { s.Close() })
	return l.Addr().String()
}

// selfSigned writes a certificate for a name and its key, and returns the
// resource that serves them.
func selfSigned(t *testing.T, name, certFile, keyFile string) (ssl string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	key := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw})
	for path, b := range map[string][]byte{certFile: cert, keyFile: key} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	doc, err := json.Marshal(map[string]any{"snis": []string{name}, "cert": string(cert), "key": string(key)})
	if err != nil {
		t.Fatal(err)
	}
	return string(doc)
}
