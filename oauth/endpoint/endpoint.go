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
	"gatehouse/oauth/token"
)

// Authenticator finds out which client sent a request.
type Authenticator interface {
	Authenticate(ctx context.Context, r *http.Request, form url.Values) (*oauth.Client, error)
}

// KeySet is the published key set, as JSON.
type KeySet interface {
	JWKS(ctx context.Context) ([]byte, error)
}

// Endpoints serves the short endpoints. All fields must be set.
type Endpoints struct {
	Settings *oauth.Settings
	Store    oauth.Store
	Clients  oauth.ClientFinder
	Auth     Authenticator
	Living   *token.Living
	Mint     *mint.Mint
	Keys     KeySet
	// Algs are the algorithms ID tokens can be signed with.
	Algs    []string
	Version string
}

// Public registers what is served on the public port.
func (e *Endpoints) Public(mux *http.ServeMux) {
	mux.HandleFunc("GET /.well-known/openid-configuration", e.Discovery)
	mux.HandleFunc("GET /.well-known/oauth-authorization-server", e.Discovery)
	mux.HandleFunc("GET /.well-known/jwks.json", e.JWKS)
	mux.HandleFunc("GET /userinfo", e.Userinfo)
	mux.HandleFunc("POST /userinfo", e.Userinfo)
	mux.HandleFunc("POST /oauth2/revoke", e.Revoke)
	mux.HandleFunc("GET /health/alive", e.Alive)
	mux.HandleFunc("GET /health/ready", e.Ready)
}

// Admin registers what is served on the admin port, where nobody is asked who
// they are.
func (e *Endpoints) Admin(mux *http.ServeMux) {
	for _, prefix := range []string{"", "/admin"} {
		mux.HandleFunc("POST "+prefix+"/oauth2/introspect", e.ServeIntrospect)
	}
	mux.HandleFunc("GET /health/alive", e.Alive)
	mux.HandleFunc("GET /health/ready", e.Ready)
	mux.HandleFunc("GET /version", e.ServeVersion)
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
