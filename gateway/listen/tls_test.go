package listen

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"gatehouse/gateway/live"
	"gatehouse/gateway/staple"
	"gatehouse/resource"
)

// anySession brings its one session back whatever the name is.
type anySession struct{ s *tls.ClientSessionState }

func (a *anySession) Get(string) (*tls.ClientSessionState, bool) { return a.s, a.s != nil }
func (a *anySession) Put(_ string, s *tls.ClientSessionState)    { a.s = s }
func (h house) site(name, cert, key, more string) string {
	return fmt.Sprintf(`{"sni":%q,"cert":%s,"key":%s%s}`, name, quoted(cert), quoted(key), more)
}

func client(t testing.TB, cert, key string) []tls.Certificate {
	t.Helper()
	if cert == "" {
		return nil
	}
	p, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	return []tls.Certificate{p}
}

// visit makes one request on a connection of its own; status 0: the handshake
// failed.
func (h house) visit(t testing.TB, cfg *tls.Config) (status int, resumed bool) {
	t.Helper()
	cfg.InsecureSkipVerify = true
	c, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	tc := tls.Client(c, cfg)
	if err := tc.Handshake(); err != nil {
		return 0, false
	}
	fmt.Fprintf(tc, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", cfg.ServerName)
	res, err := http.ReadResponse(bufio.NewReader(tc), nil)
	if err != nil { // with TLS 1.3 the server's alert comes after our handshake
		return 0, false
	}
	res.Body.Close()
	return res.StatusCode, tc.ConnectionState().DidResume
}

func tickets(keys ...byte) *Tickets {
	t := NewTickets()
	var list [][32]byte
	for _, k := range keys {
		list = append(list, [32]byte{k})
	}
	t.Use(list)
	return t
}

var versions = map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

// A session is resumed by another process with the same keys, while
// certificates change and after keys have been rotated.
func TestSessionsOutliveTheProcess(t *testing.T) {
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			cert, key := pair(t, "a.example")
			first := start(t, "", live.TLS{Sessions: tickets(1)})
			first.put(resource.SSLs, "1", first.site("a.example", cert, key, ""))
			cfg := &tls.Config{ServerName: "a.example", MaxVersion: version, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
			visit := func(h house, want bool, what string) {
				t.Helper()
				if status, resumed := h.visit(t, cfg); status != 404 || resumed != want {
					t.Errorf("%s: status %d, resumed %v, want %v", what, status, resumed, want)
				}
			}
			visit(first, false, "first")
			visit(first, true, "again")
			cert, key = pair(t, "a.example")
			first.put(resource.SSLs, "1", first.site("a.example", cert, key, ""))
			visit(first, true, "another certificate")

			keys := tickets(2, 1)
			second := start(t, "", live.TLS{Sessions: keys})
			second.put(resource.SSLs, "7", second.site("a.example", cert, key, ""))
			visit(second, true, "another process, a new key in front")
			keys.Use([][32]byte{{3}, {2}})
			visit(second, true, "the ticket was renewed with the new key")
			keys.Use([][32]byte{{4}})
			visit(second, false, "its key is gone")

			off := start(t, "", live.TLS{Sessions: tickets(4), NoTickets: true})
			off.put(resource.SSLs, "1", off.site("a.example", cert, key, ""))
			visit(off, false, "tickets are off")
		})
	}
}

// A session stands in for the certificate its own name asked for, and for
// nothing else.
func TestSessionsDoNotStandIn(t *testing.T) {
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			h := start(t, "", live.TLS{Sessions: tickets(1)})
			one, oneKey := pair(t, "client one")
			two, _ := pair(t, "client two")
			for i, n := range []struct{ name, ca string }{{"one.example", one}, {"two.example", two}, {"open.example", ""}, {"same.example", one}} {
				cert, key := pair(t, n.name)
				more := ""
				if n.ca != "" {
					more = `,"client":{"ca":` + quoted(n.ca) + `}`
				}
				h.put(resource.SSLs, fmt.Sprint(i), h.site(n.name, cert, key, more))
			}
			cache := &anySession{}
			visit := func(name string, with []tls.Certificate) (int, bool) {
				t.Helper()
				return h.visit(t, &tls.Config{ServerName: name, MaxVersion: version, Certificates: with, ClientSessionCache: cache})
			}
			for _, c := range []struct {
				begin   string
				with    []tls.Certificate
				then    string
				status  int
				resumed bool
			}{
				{"one.example", client(t, one, oneKey), "one.example", 404, true}, // the ticket carries the certificate
				{"one.example", client(t, one, oneKey), "two.example", 0, false},
				{"one.example", client(t, one, oneKey), "same.example", 0, false},
				{"one.example", client(t, one, oneKey), "open.example", 404, false},
				{"open.example", nil, "one.example", 0, false},
				{"open.example", nil, "OPEN.example", 404, true},
			} {
				cache.s = nil
				if status, _ := visit(c.begin, c.with); status != 404 || cache.s == nil {
					t.Fatalf("%s: %d, session %v", c.begin, status, cache.s != nil)
				}
				if status, resumed := visit(c.then, nil); status != c.status || resumed != c.resumed {
					t.Errorf("a session of %s under %s: status %d, resumed %v, want %d, %v", c.begin, c.then, status, resumed, c.status, c.resumed)
				}
			}

			// The name asks for something else from now on.
			for what, more := range map[string]string{"another authority": `,"client":{"ca":` + quoted(two) + `}`, "another depth": `,"client":{"depth":0,"ca":` + quoted(one) + `}`} {
				cert, key := pair(t, "one.example")
				h.put(resource.SSLs, "0", h.site("one.example", cert, key, `,"client":{"ca":`+quoted(one)+`}`))
				cache.s = nil
				if status, _ := visit("one.example", client(t, one, oneKey)); status != 404 {
					t.Fatalf("%s: %d", what, status)
				}
				h.put(resource.SSLs, "0", h.site("one.example", cert, key, more))
				if status, resumed := visit("one.example", nil); status != 0 || resumed {
					t.Errorf("%s: an old session gives %d, resumed %v", what, status, resumed)
				}
			}
		})
	}
}

// Paths that skip_mtls_uri_regex names need no certificate, others do; a wrong
// certificate is no certificate; and neither HTTP version lets a request
// through on a connection of another name.
func TestCertificatesByPath(t *testing.T) {
	h := start(t, "")
	ca, caKey := pair(t, "client")
	other, otherKey := pair(t, "stranger")
	skip, skipKey := pair(t, "skip.example")
	open, openKey := pair(t, "open.example")
	h.put(resource.SSLs, "1", h.site("skip.example", skip, skipKey, `,"client":{"ca":`+quoted(ca)+`,"skip_mtls_uri_regex":["^/public/","^/health$"]}`))
	h.put(resource.SSLs, "2", h.site("open.example", open, openKey, ""))
	h.put(resource.Routes, "1", `{"uri":"/*"}`) // 503 when it is reached
	good, bad := client(t, ca, caKey), client(t, other, otherKey)
	for _, c := range []struct {
		name, sni, host, path string
		with                  []tls.Certificate
		want                  int
	}{
		{"none, exempt", "skip.example", "skip.example", "/public/x", nil, 503},
		{"none, exempt with a query", "skip.example", "skip.example", "/health?x=/secret", nil, 503},
		{"none", "skip.example", "skip.example", "/secret", nil, 400},
		{"none, query as a path", "skip.example", "skip.example", "/secret?/public/", nil, 400},
		{"none, around", "skip.example", "skip.example", "/public/../secret", nil, 400},
		{"none, around in disguise", "skip.example", "skip.example", "/public/%2e%2e/secret", nil, 400},
		{"none, not quite", "skip.example", "skip.example", "/health/x", nil, 400},
		{"good", "skip.example", "skip.example", "/secret", good, 503},
		{"good, exempt", "skip.example", "skip.example", "/public/x", good, 503},
		{"stranger, exempt", "skip.example", "skip.example", "/public/x", bad, 0},
		{"stranger", "skip.example", "skip.example", "/secret", bad, 0},
		{"none, other door", "open.example", "skip.example", "/public/x", nil, 421},
		{"none, other host", "skip.example", "open.example", "/public/x", nil, 421},
		{"good, other host", "skip.example", "open.example", "/x", good, 421},
		{"open", "open.example", "open.example", "/x", nil, 503},
	} {
		for _, h2 := range []bool{false, true} {
			cfg := &tls.Config{ServerName: c.sni, InsecureSkipVerify: true}
			if c.with != nil { // whatever authorities are asked for
				cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.with[0], nil }
			}
			tr := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: h2}
			q, _ := http.NewRequest("GET", "https://"+h.addr+c.path, nil)
			q.Host = c.host
			res, err := tr.RoundTrip(q)
			got := 0
			if err == nil {
				res.Body.Close()
				if got = res.StatusCode; (res.ProtoMajor == 2) != h2 {
					t.Errorf("%s: %s", c.name, res.Proto)
				}
			}
			if got != c.want {
				t.Errorf("%s, HTTP/2 %v: %d %v, want %d", c.name, h2, got, err, c.want)
			}
			tr.CloseIdleConnections()
		}
	}
	if err := h.check(resource.SSLs, "1", h.site("skip.example", skip, skipKey, `,"client":{"ca":`+quoted(ca)+`,"skip_mtls_uri_regex":["(?=x)"]}`)); err == nil || !strings.Contains(err.Error(), "skip_mtls_uri_regex") {
		t.Errorf("a regular expression that cannot run: %v", err)
	}
}

// A connection that is older than the demand does not escape it.
func TestDemandReachesOpenConnections(t *testing.T) {
	h := start(t, "")
	one, oneKey := pair(t, "one")
	two, _ := pair(t, "two")
	cert, key := pair(t, "a.example")
	h.put(resource.Routes, "1", `{"uri":"/*"}`)
	h.put(resource.SSLs, "1", h.site("a.example", cert, key, ""))
	for _, h2 := range []bool{false, true} {
		for _, c := range []struct {
			name, before, after string
			with                []tls.Certificate
			want                int
		}{
			{"none before", "", `,"client":{"ca":` + quoted(one) + `}`, nil, 400},
			{"same", `,"client":{"ca":` + quoted(one) + `}`, `,"client":{"ca":` + quoted(one) + `},"labels":{"x":"y"}`, client(t, one, oneKey), 503},
			{"another authority", `,"client":{"ca":` + quoted(one) + `}`, `,"client":{"ca":` + quoted(two) + `}`, client(t, one, oneKey), 400},
		} {
			h.put(resource.SSLs, "1", h.site("a.example", cert, key, c.before))
			dials := 0
			cfg := &tls.Config{ServerName: "a.example", InsecureSkipVerify: true, Certificates: c.with}
			rt := &http.Transport{Protocols: new(http.Protocols), DialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
				dials++
				return (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", addr)
			}}
			if rt.Protocols.SetHTTP1(!h2); h2 {
				rt.Protocols.SetHTTP2(true)
				cfg.NextProtos = []string{"h2"}
			}
			ask := func() int {
				q, _ := http.NewRequest("GET", "https://"+h.addr+"/", nil)
				q.Host = "a.example"
				res, err := rt.RoundTrip(q)
				if err != nil {
					t.Fatal(err)
				}
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
				if (res.ProtoMajor == 2) != h2 {
					t.Error(res.Proto)
				}
				return res.StatusCode
			}
			if got := ask(); got != 503 {
				t.Errorf("%s: %d at first", c.name, got)
			}
			h.put(resource.SSLs, "1", h.site("a.example", cert, key, c.after))
			if got := ask(); got != c.want || dials != 1 {
				t.Errorf("%s, HTTP/2 %v: %d on %d connections, want %d on 1", c.name, h2, got, dials, c.want)
			}
			rt.CloseIdleConnections()
		}
	}
}

func TestCiphersAndProtocols(t *testing.T) {
	cert, key := pair(t, "a.example")
	chosen, err := live.ParseCiphers("ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384")
	if err != nil {
		t.Fatal(err)
	}
	plain, few := start(t, ""), start(t, "", live.TLS{Ciphers: chosen, Protocols: []string{"TLSv1.2"}})
	old := start(t, "")
	old.put(resource.SSLs, "1", old.site("a.example", cert, key, `,"ssl_protocols":["TLSv1.1","TLSv1.2"]`))
	for _, h := range []house{plain, few} {
		h.put(resource.SSLs, "1", h.site("a.example", cert, key, ""))
	}
	for _, c := range []struct {
		name     string
		h        house
		min, max uint16
		suite    uint16
		ok       bool
	}{
		{"GCM", plain, 0, tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, true},
		{"ChaCha", plain, 0, tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, true},
		{"CBC", plain, 0, tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA, false},
		{"TLS 1.1", plain, tls.VersionTLS10, tls.VersionTLS11, tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA, false},
		{"not chosen", few, 0, tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, false},
		{"chosen", few, 0, tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, true},
		{"version not chosen", few, tls.VersionTLS13, 0, 0, false},
		{"TLS 1.1 where it is named", old, tls.VersionTLS10, tls.VersionTLS11, tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA, true},
	} {
		cfg := &tls.Config{ServerName: "a.example", InsecureSkipVerify: true, MinVersion: c.min, MaxVersion: c.max}
		if c.suite != 0 {
			cfg.CipherSuites = []uint16{c.suite}
		}
		k, err := tls.Dial("tcp", c.h.addr, cfg)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if err == nil {
			k.Close()
		}
	}
	for _, list := range []string{"HIGH:!aNULL", "DHE-RSA-AES128-GCM-SHA256", "TLS_AES_128_GCM_SHA256", ":"} {
		if _, err := live.ParseCiphers(list); err == nil {
			t.Errorf("%s is accepted", list)
		}
	}
}

// A certificate that asks for OCSP answers gets them, as does one whose
// resource asks; others do not.
func TestHandshakesCarryAnswers(t *testing.T) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	if ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	responder := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		b, _ := io.ReadAll(q.Body)
		req, err := ocsp.ParseRequest(b)
		if err != nil {
			t.Error(err)
			return
		}
		a, err := ocsp.CreateResponse(ca, ca, ocsp.Response{Status: ocsp.Good, SerialNumber: req.SerialNumber, ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}, caKey)
		if err != nil {
			t.Error(err)
		}
		w.Write(a)
	}))
	defer responder.Close()
	serial := int64(1)
	issue := func(name string, must bool, responders ...string) (cert, key string) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		serial++
		c := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, OCSPServer: responders}
		if must {
			c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 3, 6, 1, 5, 5, 7, 1, 24}, Value: []byte{0x30, 3, 2, 1, 5}}}
		}
		der, err := x509.CreateCertificate(rand.Reader, c, ca, k.Public(), caKey)
		if err != nil {
			t.Fatal(err)
		}
		kb, err := x509.MarshalECPrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		chain := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})...)
		return string(chain), string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: kb}))
	}
	s := staple.New(staple.Config{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	defer func() { cancel(); <-done }()
	h := start(t, "", live.TLS{Stapler: s})
	const on = `,"ocsp_stapling":{"enabled":true}`
	for i, c := range []struct {
		name string
		must bool
		more string
		want bool
	}{{"must.example", true, "", true}, {"asked.example", false, on, true}, {"plain.example", false, `,"ocsp_stapling":{"enabled":false}`, false}} {
		cert, key := issue(c.name, c.must, responder.URL)
		h.put(resource.SSLs, fmt.Sprint(i), h.site(c.name, cert, key, c.more))
		stapled := func(version uint16) bool {
			k, err := tls.Dial("tcp", h.addr, &tls.Config{ServerName: c.name, InsecureSkipVerify: true, MaxVersion: version})
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			raw := k.OCSPResponse()
			if raw == nil {
				return false
			}
			if a, err := ocsp.ParseResponseForCert(raw, k.ConnectionState().PeerCertificates[0], ca); err != nil || a.Status != ocsp.Good {
				t.Errorf("%s: %v %v", c.name, a, err)
			}
			return true
		}
		for _, v := range versions {
			got := stapled(v)
			for end := time.Now().Add(10 * time.Second); got != c.want && time.Now().Before(end); got = stapled(v) {
			}
			if got != c.want {
				t.Errorf("%s: answer %v, want %v", c.name, got, c.want)
			}
		}
	}
	nobody, nobodyKey := issue("nobody.example", false)
	alone, aloneKey := pair(t, "alone.example")
	for want, doc := range map[string]string{
		"names no OCSP responder": h.site("nobody.example", nobody, nobodyKey, on),
		"issuer":                  h.site("alone.example", alone, aloneKey, on),
		"skip_verify":             h.site("alone.example", alone, aloneKey, `,"ocsp_stapling":{"enabled":true,"skip_verify":true}`),
	} {
		if err := h.check(resource.SSLs, "x", doc); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	// It asks for what it cannot get: it is served all the same.
	lonely, lonelyKey := issue("lonely.example", true)
	h.put(resource.SSLs, "9", h.site("lonely.example", lonely, lonelyKey, ""))
	if name, err := h.dial(t, "lonely.example", 0); err != nil || name != "lonely.example" {
		t.Errorf("%q %v", name, err)
	}
}
