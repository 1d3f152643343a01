// Package staple keeps OCSP answers for certificates, so that a handshake can
// carry one (RFC 6066, section 8).
//
// Answers are fetched in the background, by Run; a handshake takes what is
// there and waits for nothing. A responder is asked at the address that the
// certificate itself names and nowhere else: no redirect, no proxy. Nothing is
// kept on disk.
package staple

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ocsp"
)

// Bounds of asking.
const (
	fetchTime = 10 * time.Second
	maxAnswer = 64 << 10
	maxURLs   = 3 // of one certificate
	maxAtOnce = 4

	firstRetry   = 30 * time.Second // doubled with each failure
	longestRetry = time.Hour
	soonest      = 30 * time.Second // after a good answer
	latest       = 12 * time.Hour
	openEnded    = time.Hour       // life of an answer that does not say when the next one comes
	clockSkew    = 5 * time.Minute // a responder's clock may be ahead of ours
)

// Config is what a Stapler needs; zero fields take defaults.
type Config struct {
	Log   *slog.Logger
	Now   func() time.Time
	Roots *x509.CertPool // for responders with https; nil: the system's
}

// Stapler keeps answers for the certificates it was given.
type Stapler struct {
	log  *slog.Logger
	now  func() time.Time
	http *http.Client
	wake chan struct{} // there is something new to do

	mu      sync.Mutex
	entries map[[32]byte]*Entry // guarded by mu
}

// Entry is a certificate and the answer for it.
type Entry struct {
	s      *Stapler
	bare   *tls.Certificate
	issuer *x509.Certificate
	key    [32]byte
	every  time.Duration // ask no less often
	cur    atomic.Pointer[answer]

	next   time.Time // guarded by s.mu; when to ask
	busy   bool      // guarded by s.mu; it is being asked
	failed int       // guarded by s.mu; times since an answer was good
}

// answer is the certificate with a good answer.
type answer struct {
	cert  *tls.Certificate
	until time.Time
}

// New makes a Stapler that asks nobody until Run.
func New(cfg Config) *Stapler {
	s := &Stapler{log: cfg.Log, now: cfg.Now, wake: make(chan struct{}, 1), entries: map[[32]byte]*Entry{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.http = &http.Client{
		Timeout:       fetchTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:     (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			TLSClientConfig: &tls.Config{RootCAs: cfg.Roots, MinVersion: tls.VersionTLS12},
			// Answers are signed and asked for seldom.
			DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 16 << 10,
		},
	}
	return s
}

// mustStaple is the TLS feature extension (RFC 7633) and the feature
// status_request in it.
var mustStaple = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}

const statusRequest = 5

// Wanted says whether a certificate asks for an answer with each handshake.
func Wanted(leaf *x509.Certificate) bool {
	for _, e := range leaf.Extensions {
		var features []int
		if !e.Id.Equal(mustStaple) {
			continue
		}
		if rest, err := asn1.Unmarshal(e.Value, &features); err != nil || len(rest) > 0 {
			continue
		}
		for _, f := range features {
			if f == statusRequest {
				return true
			}
		}
	}
	return false
}

// Able says why there can be no answer for a certificate, or nil.
func Able(cert *tls.Certificate) error {
	_, err := issuerOf(cert)
	if err == nil && len(responders(cert.Leaf)) == 0 {
		err = errors.New("the certificate names no OCSP responder with http or https")
	}
	return err
}

func issuerOf(cert *tls.Certificate) (*x509.Certificate, error) {
	if cert.Leaf == nil || len(cert.Certificate) < 2 {
		return nil, errors.New("the certificate of the issuer is not behind the certificate")
	}
	issuer, err := x509.ParseCertificate(cert.Certificate[1])
	if err == nil {
		err = cert.Leaf.CheckSignatureFrom(issuer)
	}
	if err != nil {
		return nil, fmt.Errorf("the second certificate is not the issuer's: %w", err)
	}
	return issuer, nil
}

func responders(leaf *x509.Certificate) []string {
	var list []string
	for _, s := range leaf.OCSPServer {
		u, err := url.Parse(s)
		if err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.User == nil && len(list) < maxURLs {
			list = append(list, s)
		}
	}
	return list
}

// Add takes a certificate in, or finds it with the answer it has. Answers are
// asked for at least as often as every; 0: as their life says. It fails for
// the reasons of Able.
func (s *Stapler) Add(cert *tls.Certificate, every time.Duration) (*Entry, error) {
	issuer, err := issuerOf(cert)
	if err == nil {
		err = Able(cert)
	}
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	for _, der := range cert.Certificate {
		fmt.Fprintf(h, "%d ", len(der))
		h.Write(der)
	}
	fmt.Fprintf(h, "%d", every)
	e := &Entry{s: s, bare: cert, issuer: issuer, every: every, next: s.now(), key: [32]byte(h.Sum(nil))}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.entries[e.key]; old != nil {
		return old, nil
	}
	s.entries[e.key] = e
	s.poke()
	return e, nil
}

// Retain forgets every certificate but these.
func (s *Stapler) Retain(list []*Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(list) == 0 && len(s.entries) == 0 {
		return
	}
	kept := make(map[[32]byte]*Entry, len(list))
	for _, e := range list {
		kept[e.key] = e
	}
	s.entries = kept
	s.poke()
}

// poke lets Run look again.
func (s *Stapler) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Certificate is the certificate with an answer while there is one that is
// good, and without one else.
func (e *Entry) Certificate() *tls.Certificate {
	if a := e.cur.Load(); a != nil && e.s.now().Before(a.until) {
		return a.cert
	}
	return e.bare
}

// Run asks for answers until ctx ends.
func (s *Stapler) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, maxAtOnce)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-s.wake:
		}
		due, wait := s.due()
		for _, e := range due {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			wg.Go(func() {
				s.renew(ctx, e)
				<-slots
				s.poke()
			})
		}
		timer.Reset(wait)
	}
}

// due lists what is to be asked now, and how long nothing else is.
func (s *Stapler) due() (list []*Entry, wait time.Duration) {
	now := s.now()
	wait = time.Hour
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.entries {
		switch left := e.next.Sub(now); {
		case e.busy:
		case left <= 0:
			e.busy = true
			list = append(list, e)
		default:
			wait = min(wait, left)
		}
	}
	return list, wait
}

// renew asks for an answer and keeps it when it is good. One that says the
// certificate is revoked ends what was kept; other failures leave it.
func (s *Stapler) renew(ctx context.Context, e *Entry) {
	got, err := s.ask(ctx, e)
	now := s.now()
	var again time.Duration
	if err == nil {
		until := got.NextUpdate
		if until.IsZero() {
			until = now.Add(openEnded)
		}
		c := *e.bare
		c.OCSPStaple = got.Raw
		e.cur.Store(&answer{&c, until})
		again = min(until.Sub(now)/2, latest)
		if e.every > 0 {
			again = min(again, e.every)
		}
		again = max(again, soonest)
	} else if errors.Is(err, errRevoked) {
		e.cur.Store(nil)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e.busy = false
	if err != nil {
		again = min(firstRetry<<min(e.failed, 16), longestRetry)
		e.failed++
		if ctx.Err() == nil {
			s.log.Warn("no OCSP answer for a certificate", "subject", e.bare.Leaf.Subject.String(), "serial", e.bare.Leaf.SerialNumber.Text(16), "failures", e.failed, "err", err)
		}
	} else {
		e.failed = 0
	}
	e.next = now.Add(again - time.Duration(rand.Int64N(int64(again/10)+1)))
}

var errRevoked = errors.New("the certificate is revoked")

// ask asks the responders in turn.
func (s *Stapler) ask(ctx context.Context, e *Entry) (*ocsp.Response, error) {
	request, err := ocsp.CreateRequest(e.bare.Leaf, e.issuer, nil)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, at := range responders(e.bare.Leaf) {
		r, err := s.askAt(ctx, at, request, e)
		if err == nil || errors.Is(err, errRevoked) {
			return r, err
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func (s *Stapler) askAt(ctx context.Context, at string, request []byte, e *Entry) (*ocsp.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, at, bytes.NewReader(request))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/ocsp-request")
	r.Header.Set("Accept", "application/ocsp-response")
	resp, err := s.http.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %d", r.URL.Host, resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("reading the answer of %s: %w", r.URL.Host, err)
	}
	if len(body) > maxAnswer {
		return nil, fmt.Errorf("the answer of %s is too large", r.URL.Host)
	}
	a, err := verify(body, e.bare.Leaf, e.issuer, s.now())
	if err != nil {
		return nil, fmt.Errorf("the answer of %s: %w", r.URL.Host, err)
	}
	return a, nil
}

// verify accepts an answer that says a certificate is good, is signed by its
// issuer or by whom the issuer lets sign answers, and is neither old nor of
// the future (RFC 6960, sections 3.2 and 4.2.2.2).
func verify(body []byte, leaf, issuer *x509.Certificate, now time.Time) (*ocsp.Response, error) {
	a, err := ocsp.ParseResponseForCert(body, leaf, issuer)
	if err != nil {
		return nil, err
	}
	if by := a.Certificate; by != nil && !by.Equal(issuer) {
		allowed := false
		for _, u := range by.ExtKeyUsage {
			allowed = allowed || u == x509.ExtKeyUsageOCSPSigning
		}
		if !allowed || now.Before(by.NotBefore) || now.After(by.NotAfter) {
			return nil, errors.New("signed by a certificate that may not sign answers")
		}
	}
	if a.ThisUpdate.After(now.Add(clockSkew)) {
		return nil, errors.New("it is of the future")
	}
	if !a.NextUpdate.IsZero() && !a.NextUpdate.After(now) {
		return nil, errors.New("it is out of date")
	}
	switch a.Status {
	case ocsp.Good:
		return a, nil
	case ocsp.Revoked:
		return nil, errRevoked
	}
	return nil, errors.New("the responder does not know the certificate")
}
