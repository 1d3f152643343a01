// Package endpoint serves the provider's short endpoints: discovery, keys,
// userinfo, introspection, revocation, health.
//
// Each is one file. Introspect (introspect.go) is also a Go call, for a
// gateway in the same process. The authorization and token endpoints have
// packages of their own.
package endpoint

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"gatehouse/oauth"
	"gatehouse/oauth/mint"
)

// Authenticator finds out which client sent a request.
type Authenticator interface {
	Authenticate(ctx context.Context, r *http.Request, form url.Values) (*oauth.Client, error)
}

// KeySet is the published key set, as JSON.
type KeySet interface {
	JWKS(ctx context.Context) ([]byte, error)
}

// Config is what Endpoints need. All fields must be set.
type Config struct {
	Settings     *oauth.Settings
	Store        oauth.Store
	Clients      oauth.ClientFinder
	Auth         Authenticator
	Mint         *mint.Mint
	Keys         KeySet
	Introspector *Introspector
}

// Endpoints serves the short endpoints of the public port.
type Endpoints struct {
	Config
	mux *http.ServeMux
}

var _ http.Handler = (*Endpoints)(nil)

// New returns the endpoints.
func New(cfg Config) *Endpoints {
	e := &Endpoints{Config: cfg, mux: http.NewServeMux()}
	for pattern, serve := range map[string]http.HandlerFunc{
		"GET /.well-known/openid-configuration":       e.discovery,
		"GET /.well-known/oauth-authorization-server": e.discovery,
		"GET /.well-known/jwks.json":                  e.jwks,
		"GET /userinfo":                               e.userinfo,
		"POST /userinfo":                              e.userinfo,
		"POST /oauth2/revoke":                         e.revoke,
		"GET /health/alive":                           e.alive,
		"GET /health/ready":                           e.ready,
		"/":                                           e.nowhere,
	} {
		e.mux.HandleFunc(pattern, serve)
	}
	return e
}

func (e *Endpoints) ServeHTTP(w http.ResponseWriter, r *http.Request) { e.mux.ServeHTTP(w, r) }

// Introspection serves POST /admin/oauth2/introspect. It belongs on the admin
// port: it asks nobody who they are.
func (e *Endpoints) Introspection() http.Handler { return http.HandlerFunc(e.introspection) }

// nowhere answers for paths there are not, and for other methods.
func (e *Endpoints) nowhere(w http.ResponseWriter, r *http.Request) {
	if strings.Contains(r.Header.Get("Accept"), "json") {
		type problem struct {
			Code    int    `json:"code"`
			Message string `json:"message"`
			Reason  string `json:"reason"`
		}
		oauth.WriteJSON(w, http.StatusNotFound, struct {
			Error problem `json:"error"`
		}{problem{http.StatusNotFound, "Not Found", "There is nothing at this path, or not for this method."}})
		return
	}
	http.Error(w, "404: there is nothing at this path, or not for this method", http.StatusNotFound)
}

// fail answers with an error, and logs what is our own fault.
func (e *Endpoints) fail(w http.ResponseWriter, r *http.Request, err error) {
	if oauth.AsError(err).Status >= 500 {
		e.Settings.Log.Error("request failed", "path", r.URL.Path, "err", err, "cause", oauth.AsError(err).Cause)
	}
	oauth.WriteError(w, err, e.Settings.ExposeInternalError)
}

// url is the address of a public endpoint.
func (e *Endpoints) url(path string) string {
	base := e.Settings.PublicURL
	if base == "" {
		base = e.Settings.Issuer
	}
	return strings.TrimRight(base, "/") + path
}

// readyTimeout is how long the store may take to say it is there.
const readyTimeout = 3 * time.Second
