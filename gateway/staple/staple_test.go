package staple

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"
)

// authority issues certificates and answers for them.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func issue(t testing.TB, by *authority, c *x509.Certificate) *authority {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour), time.Now().Add(30*24*time.Hour)
	parent, signer := c, crypto.Signer(k)
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, k.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, k}
}

func newAuthority(t testing.TB, name string) *authority {
	return issue(t, nil, &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature})
}

// site is a certificate that names responders.
func (a *authority) site(t testing.TB, responders ...string) *tls.Certificate {
	s := issue(t, a, &x509.Certificate{Subject: pkix.Name{CommonName: "a.example"}, DNSNames: []string{"a.example"}, OCSPServer: responders})
	return &tls.Certificate{Certificate: [][]byte{s.cert.Raw, a.cert.Raw}, PrivateKey: s.key, Leaf: s.cert}
}

// responder answers as say makes it.
type responder struct {
	*httptest.Server
	asked atomic.Int32
	mu    sync.Mutex
	say   func(*ocsp.Request) []byte // guarded by mu
}

func newResponder(t testing.TB) *responder {
	r := &responder{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		b, _ := io.ReadAll(q.Body)
		req, err := ocsp.ParseRequest(b)
		if err != nil || q.Method != "POST" || q.Header.Get("Content-Type") != "application/ocsp-request" {
			t.Errorf("%s %s %v", q.Method, q.Header.Get("Content-Type"), err)
			http.Error(w, "bad", 400)
			return
		}
		r.mu.Lock()
		answer := r.say(req)
		r.mu.Unlock()
		if answer == nil {
			http.Error(w, "later", http.StatusServiceUnavailable)
		}
		w.Write(answer)
		r.asked.Add(1)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *responder) says(f func(*ocsp.Request) []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.say = f
}

func (a *authority) answer(t testing.TB, o ocsp.Response, by *authority) []byte {
	b, err := ocsp.CreateResponse(a.cert, by.cert, o, by.key)
	if err != nil {
		t.Error(err)
	}
	return b
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain: " + what)
		}
	}
}

// clock is set by hand; moving it makes the stapler look.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time { return time.Unix(0, c.at.Load()) }

func (c *clock) move(s *Stapler, d time.Duration) { c.at.Add(int64(d)); s.poke() }

func running(t *testing.T) (*Stapler, *clock, *bytes.Buffer) {
	t.Helper()
	c := &clock{}
	c.at.Store(time.Now().UnixNano())
	var log bytes.Buffer
	s := New(Config{Now: c.now, Log: slog.New(slog.NewTextHandler(&log, nil))})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return s, c, &log
}

func TestAnswerLivesUntilTheNext(t *testing.T) {
	s, now, _ := running(t)
	a, r := newAuthority(t, "ca"), newResponder(t)
	cert := a.site(t, r.URL)
	good := func(q *ocsp.Request) []byte {
		if q.SerialNumber.Cmp(cert.Leaf.SerialNumber) != 0 {
			t.Error("asked for another certificate")
		}
		return a.answer(t, ocsp.Response{Status: ocsp.Good, SerialNumber: q.SerialNumber, ThisUpdate: now.now(), NextUpdate: now.now().Add(4 * time.Hour)}, a)
	}
	r.says(good)
	e, err := s.Add(cert, 0)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first answer", func() bool { return e.Certificate().OCSPStaple != nil })
	first := e.Certificate().OCSPStaple
	if again, err := s.Add(cert, 0); err != nil || again != e {
		t.Errorf("the same certificate has another entry: %v", err)
	}

	// The responder falls silent: what is good stays, is asked for again with
	// longer and longer waits, and ends with its life.
	r.says(func(*ocsp.Request) []byte { return nil })
	asked := r.asked.Load()
	now.move(s, 2*time.Hour)
	eventually(t, "a second question", func() bool { return r.asked.Load() > asked })
	if !bytes.Equal(e.Certificate().OCSPStaple, first) {
		t.Error("a good answer was given up when the responder failed")
	}
	eventually(t, "the failure", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return e.failed == 1 && !e.busy })
	s.mu.Lock()
	if wait := e.next.Sub(now.now()); wait > firstRetry || wait < firstRetry*8/10 {
		t.Errorf("the first retry after %v, want about %v", wait, firstRetry)
	}
	s.mu.Unlock()
	now.move(s, time.Minute)
	eventually(t, "a third question", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return e.failed == 2 && !e.busy })
	s.mu.Lock()
	if wait := e.next.Sub(now.now()); wait > 2*firstRetry || wait < 2*firstRetry*8/10 {
		t.Errorf("the second retry after %v, want about %v", wait, 2*firstRetry)
	}
	s.mu.Unlock()
	now.move(s, 2*time.Hour)
	if e.Certificate().OCSPStaple != nil {
		t.Error("an answer outlives its nextUpdate")
	}

	r.says(good)
	now.move(s, 2*time.Hour)
	eventually(t, "another answer", func() bool { b := e.Certificate().OCSPStaple; return b != nil && !bytes.Equal(b, first) })

	// Revoked: what was good is so no more.
	r.says(func(q *ocsp.Request) []byte {
		return a.answer(t, ocsp.Response{Status: ocsp.Revoked, SerialNumber: q.SerialNumber, ThisUpdate: now.now(), NextUpdate: now.now().Add(4 * time.Hour), RevokedAt: now.now()}, a)
	})
	now.move(s, 2*time.Hour)
	eventually(t, "the end of the answer", func() bool { return e.Certificate().OCSPStaple == nil })
}

func TestForgottenCertificatesAreNotAskedFor(t *testing.T) {
	s, now, _ := running(t)
	a, r := newAuthority(t, "ca"), newResponder(t)
	var serials sync.Map
	r.says(func(q *ocsp.Request) []byte {
		n, _ := serials.LoadOrStore(q.SerialNumber.String(), new(atomic.Int32))
		n.(*atomic.Int32).Add(1)
		return a.answer(t, ocsp.Response{Status: ocsp.Good, SerialNumber: q.SerialNumber, ThisUpdate: now.now(), NextUpdate: now.now().Add(time.Hour)}, a)
	})
	one, err := s.Add(a.site(t, r.URL), 0)
	if err != nil {
		t.Fatal(err)
	}
	two, err := s.Add(a.site(t, r.URL), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	count := func(e *Entry) int32 {
		n, ok := serials.Load(e.bare.Leaf.SerialNumber.String())
		if !ok {
			return 0
		}
		return n.(*atomic.Int32).Load()
	}
	idle := func(e *Entry) bool { s.mu.Lock(); defer s.mu.Unlock(); return !e.busy }
	eventually(t, "both answers", func() bool { return count(one) == 1 && count(two) == 1 && idle(one) && idle(two) })
	now.move(s, time.Minute)
	eventually(t, "the one that is asked for every minute", func() bool { return count(two) == 2 && idle(two) })
	s.Retain([]*Entry{two})
	now.move(s, time.Hour)
	eventually(t, "the one that is kept", func() bool { return count(two) == 3 })
	if count(one) != 1 {
		t.Error("a certificate that is gone was asked for")
	}
}

func TestVerify(t *testing.T) {
	a, other := newAuthority(t, "ca"), newAuthority(t, "ca")
	cert := a.site(t, "http://127.0.0.1/")
	delegate := issue(t, a, &x509.Certificate{Subject: pkix.Name{CommonName: "ocsp"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}})
	server := issue(t, a, &x509.Certificate{Subject: pkix.Name{CommonName: "b.example"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	now := time.Now()
	serial := cert.Leaf.SerialNumber
	good := ocsp.Response{Status: ocsp.Good, SerialNumber: serial, ThisUpdate: now.Add(-time.Minute), NextUpdate: now.Add(time.Hour)}
	with := func(f func(*ocsp.Response)) ocsp.Response { r := good; f(&r); return r }
	for _, c := range []struct {
		name string
		o    ocsp.Response
		by   *authority
		want string
	}{
		{"by the issuer", good, a, ""},
		{"by a delegate", with(func(r *ocsp.Response) { r.Certificate = delegate.cert }), delegate, ""},
		{"without an end", with(func(r *ocsp.Response) { r.NextUpdate = time.Time{} }), a, ""},
		{"by another", good, other, "signature"},
		{"by a server of the issuer", with(func(r *ocsp.Response) { r.Certificate = server.cert }), server, "may not sign"},
		{"of another certificate", with(func(r *ocsp.Response) { r.SerialNumber = big.NewInt(1) }), a, "no response matching"},
		{"old", with(func(r *ocsp.Response) { r.NextUpdate = now.Add(-time.Second) }), a, "out of date"},
		{"of the future", with(func(r *ocsp.Response) { r.ThisUpdate = now.Add(time.Hour) }), a, "future"},
		{"revoked", with(func(r *ocsp.Response) { r.Status, r.RevokedAt = ocsp.Revoked, now }), a, "revoked"},
		{"unknown", with(func(r *ocsp.Response) { r.Status = ocsp.Unknown }), a, "does not know"},
	} {
		_, err := verify(a.answer(t, c.o, c.by), cert.Leaf, a.cert, now)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if _, err := verify([]byte("garbage"), cert.Leaf, a.cert, now); err == nil {
		t.Error("garbage was accepted")
	}
}

// A responder may neither send us elsewhere nor fill our memory.
func TestResponderIsHeldToItsAddress(t *testing.T) {
	s := New(Config{})
	a := newAuthority(t, "ca")
	var reached atomic.Bool
	inner := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Store(true) }))
	defer inner.Close()
	redirect := httptest.NewServer(http.RedirectHandler(inner.URL, http.StatusTemporaryRedirect))
	defer redirect.Close()
	flood := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for range 1000 {
			if _, err := w.Write(make([]byte, maxAnswer)); err != nil {
				return
			}
		}
	}))
	defer flood.Close()
	for url, want := range map[string]string{redirect.URL: "answers 307", flood.URL: "too large"} {
		e, err := s.Add(a.site(t, url), 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.ask(t.Context(), e); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if reached.Load() {
		t.Error("a redirect was followed")
	}
}

func TestAbleAndWanted(t *testing.T) {
	a, other := newAuthority(t, "ca"), newAuthority(t, "other")
	cert := a.site(t, "http://127.0.0.1/")
	alone, foreign := *cert, *cert
	alone.Certificate = cert.Certificate[:1]
	foreign.Certificate = [][]byte{cert.Certificate[0], other.cert.Raw}
	for name, c := range map[string]struct {
		cert *tls.Certificate
		ok   bool
	}{
		"whole": {cert, true}, "no issuer": {&alone, false}, "another issuer": {&foreign, false},
		"no responder": {a.site(t), false}, "file": {a.site(t, "file:///etc/passwd"), false}, "password": {a.site(t, "http://a:b@127.0.0.1/"), false},
	} {
		if err := Able(c.cert); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, c := range []struct {
		value []byte
		want  bool
	}{{[]byte{0x30, 3, 2, 1, 5}, true}, {[]byte{0x30, 6, 2, 1, 17, 2, 1, 5}, true}, {[]byte{0x30, 3, 2, 1, 17}, false}, {[]byte{5, 0}, false}} {
		must := issue(t, a, &x509.Certificate{ExtraExtensions: []pkix.Extension{{Id: mustStaple, Value: c.value}}})
		if got := Wanted(must.cert); got != c.want {
			t.Errorf("% x: %v, want %v", c.value, got, c.want)
		}
	}
	if Wanted(cert.Leaf) {
		t.Error("a certificate without the extension wants a staple")
	}
}
