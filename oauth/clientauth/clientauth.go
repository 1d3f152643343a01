// Package clientauth finds out which client sent a request, and makes it
// prove that (RFC 6749, section 2.3).
//
// The steps are here, each method is in a file: basic.go, post.go, none.go.
// Secrets are checked in verify.go, guessing is slowed down in failures.go.
// What the client may then do is no concern of this package.
package clientauth

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
)

// Hasher checks chosen secrets and makes their hashes.
type Hasher interface {
	Hash(ctx context.Context, secret string) (phc string, err error)
	Verify(ctx context.Context, phc, secret string) (ok bool, err error)
	// Outdated says whether a hash should be made anew.
	Outdated(phc string) bool
}

// Upgrader replaces the stored hash of a secret by a better one.
type Upgrader interface {
	UpgradeSecret(ctx context.Context, client, old, hash string) error
}

// Config is what an Authenticator needs. Clients and Hasher must be set.
type Config struct {
	Clients  oauth.ClientFinder
	Hasher   Hasher
	Upgrader Upgrader // nil: old hashes stay
	Log      *slog.Logger
	Now      func() time.Time // nil: time.Now
}

// Authenticator authenticates clients. It is safe for concurrent use.
type Authenticator struct {
	cfg      Config
	now      func() time.Time
	log      *slog.Logger
	key      [32]byte // of this process; nothing made with it leaves
	verified verified
	failures failures
}

// New returns an Authenticator.
func New(cfg Config) *Authenticator {
	a := &Authenticator{cfg: cfg, now: cfg.Now, log: cfg.Log}
	if a.now == nil {
		a.now = time.Now
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	rand.Read(a.key[:]) // never fails
	a.verified.until = map[[32]byte]time.Time{}
	a.failures.buckets = map[string]bucket{}
	return a
}

// credentials are what a request presents.
type credentials struct {
	method string // as token_endpoint_auth_method names it
	id     string
	secret string
}

// methods look for credentials, in this order.
var methods = []func(*http.Request, url.Values) (credentials, bool, error){basic, post, none}

// ErrTooMany answers a client that failed too often.
var ErrTooMany = &oauth.Error{
	Code: "temporarily_unavailable", Description: "There were too many failed attempts to authenticate this client. Try again later.",
	Status: http.StatusTooManyRequests,
}

// Authenticate returns the client that sent the request. The form is the
// request's body. It fails with an *oauth.Error, or with what the store or the
// hasher fail with. Call Challenge with its error before answering.
func (a *Authenticator) Authenticate(ctx context.Context, r *http.Request, form url.Values) (*oauth.Client, error) {
	cred, err := present(r, form)
	if err != nil {
		return nil, err
	}
	c, err := a.cfg.Clients.Client(ctx, cred.id)
	if fault.KindOf(err) == fault.NotFound {
		return nil, a.unknown(ctx, r, cred)
	}
	if err != nil {
		return nil, err
	}
	if cred.method == "none" || c.Public() {
		if cred.method != c.TokenEndpointAuthMethod {
			return nil, mismatch(c, cred)
		}
		return c, nil
	}
	who := c.ID + " " + peer(r)
	ok, stored, err := a.check(ctx, c, cred.secret, func() bool { return a.failures.allowed(who, a.now()) })
	if err != nil {
		return nil, err
	}
	if !ok {
		a.failures.add(who, a.now())
		a.log.Debug("client authentication failed", "client_id", c.ID)
		return nil, oauth.ErrInvalidClient
	}
	if cred.method != c.TokenEndpointAuthMethod {
		return nil, mismatch(c, cred) // told only to who knows the secret
	}
	a.upgrade(ctx, c, stored, cred.secret)
	return c, nil
}

// unknown takes as long as a wrong secret and fails alike. Which kind of
// secret it pretends there is depends on the id alone, so that asking twice
// tells nothing.
func (a *Authenticator) unknown(ctx context.Context, r *http.Request, cred credentials) error {
	if cred.method == "none" {
		return oauth.ErrInvalidClient
	}
	who := "? " + peer(r)
	if !a.failures.allowed(who, a.now()) {
		return ErrTooMany
	}
	a.failures.add(who, a.now())
	pretended := &oauth.Client{ID: cred.id, SecretHash: noSHA256}
	if sum := a.mac(cred.id); sum[0]&1 == 0 {
		pretended.SecretHash = noArgon
	}
	if _, _, err := a.check(ctx, pretended, cred.secret, func() bool { return true }); err != nil {
		return err
	}
	return oauth.ErrInvalidClient
}

// present returns the credentials in a request, of exactly one method.
func present(r *http.Request, form url.Values) (credentials, error) {
	if form.Has("client_assertion") || form.Has("client_assertion_type") {
		return credentials{}, oauth.ErrInvalidClient.WithHint("The server does not support client assertions.")
	}
	var found credentials
	for _, method := range methods {
		cred, ok, err := method(r, form)
		switch {
		case err != nil:
			return credentials{}, err
		case !ok:
			continue
		case found.method != "":
			return credentials{}, oauth.ErrInvalidRequest.WithHint("The request authenticates the client in more than one way.")
		}
		found = cred
	}
	if found.method == "" {
		return credentials{}, oauth.ErrInvalidRequest.WithHint("Client credentials are missing or malformed, in the Authorization header as well as in the body.")
	}
	if id := form.Get("client_id"); id != "" && id != found.id {
		return credentials{}, oauth.ErrInvalidRequest.WithHint("The client_id differs from that of the Authorization header.")
	}
	return found, nil
}

func mismatch(c *oauth.Client, cred credentials) error {
	return oauth.ErrInvalidClient.WithHint("The client is registered with the authentication method '" + c.TokenEndpointAuthMethod +
		"', but used '" + cred.method + "'. Use the registered one, or change the client's token_endpoint_auth_method.")
}

// Challenge sets the headers that go with a failed authentication: a client
// that used the Authorization header is answered in kind (RFC 6749, section
// 5.2).
func Challenge(h http.Header, r *http.Request, err error) {
	e := oauth.AsError(err)
	switch {
	case e.Status == http.StatusTooManyRequests:
		h.Set("Retry-After", "60")
	case e.Code == "invalid_client" && strings.HasPrefix(strings.ToLower(r.Header.Get("Authorization")), "basic "):
		h.Set("WWW-Authenticate", `Basic realm="oauth2"`)
	}
}
