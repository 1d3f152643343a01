// Package authorize is the authorization endpoint, GET and POST /oauth2/auth
// (RFC 6749, section 4.1; OpenID Connect Core 1.0, section 3.1.2).
//
// A request passes a table of checks (checks.go), one after the other. Up to
// the redirect URI an error is shown to the user, for there is no address to
// trust; after it, errors go to the client. What has passed is handed to
// oauth/interaction, and comes back as a verifier: login, then consent, then
// the answer to the client (respond.go).
//
// The package asks nobody and stores nothing.
package authorize

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"gatehouse/oauth"
	"gatehouse/oauth/fallback"
	"gatehouse/oauth/interaction"
)

// Coder makes authorization codes.
type Coder interface {
	Code(a *oauth.Authorization) (string, error)
}

// Hints verifies ID tokens that were issued here, whether expired or not.
type Hints interface {
	VerifyIDTokenHint(ctx context.Context, raw string) (claims map[string]any, err error)
}

// Endpoint serves /oauth2/auth. All fields must be set.
type Endpoint struct {
	Settings *oauth.Settings
	Clients  oauth.ClientFinder
	Desk     *interaction.Desk
	Coder    Coder
	Hints    Hints
	Pages    *fallback.Pages
}

var _ http.Handler = (*Endpoint)(nil)

// maxRequest is the most a request may hold, in bytes.
const maxRequest = 32 << 10

func (e *Endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		w.Header().Set("Allow", "GET, POST")
		http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
		return
	}
	h := w.Header()
	h.Set("Cache-Control", "private, no-cache, no-store, must-revalidate")
	h.Set("Referrer-Policy", "no-referrer")

	params, err := parameters(w, r)
	if err != nil {
		fallback.Redirect(w, r, e.Settings, err)
		return
	}
	if verifier := params.Get("login_verifier"); verifier != "" {
		step, err := e.Desk.RedeemLogin(r.Context(), w, r, verifier)
		e.next(w, r, params, step, err)
		return
	}
	if verifier := params.Get("consent_verifier"); verifier != "" {
		step, err := e.Desk.RedeemConsent(r.Context(), w, r, verifier)
		e.next(w, r, params, step, err)
		return
	}
	q, err := e.check(r.Context(), params)
	if err != nil {
		e.refuse(w, r, q.target(), err)
		return
	}
	step, err := e.Desk.Begin(r.Context(), w, r, &q.Request, q.client)
	e.next(w, r, params, step, err)
}

// parameters reads the request's parameters; those of a POST come in the body
// (OpenID Connect Core 1.0, section 3.1.2.1).
func parameters(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	if len(r.URL.RawQuery) > maxRequest {
		return nil, oauth.ErrInvalidRequest.WithHint("The request is too large.")
	}
	params, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, oauth.ErrInvalidRequest.WithHint("The query cannot be decoded.").Because(err)
	}
	if r.Method != http.MethodPost {
		return params, nil
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
	if err := r.ParseForm(); err != nil {
		return nil, oauth.ErrInvalidRequest.WithHint("The body is too large or cannot be decoded.").Because(err)
	}
	for k, vs := range r.PostForm {
		params[k] = append(params[k], vs...)
	}
	return params, nil
}

// next does what a step of the flow leads to.
func (e *Endpoint) next(w http.ResponseWriter, r *http.Request, params url.Values, step interaction.Step, err error) {
	var to *target
	if step.Request != nil {
		to = &target{step.Request.RedirectURI, step.Request.ResponseMode, step.Request.State}
	}
	switch {
	case err != nil:
		if to == nil {
			// A verifier that cannot be opened names no client; the request
			// beside it may, if it passes the checks.
			if q, cerr := e.check(r.Context(), params); cerr == nil {
				to = q.target()
			}
		}
		e.refuse(w, r, to, err)
	case step.Authorization != nil:
		e.grant(w, r, to, step.Authorization)
	default:
		http.Redirect(w, r, step.Location, http.StatusFound)
	}
}

// grant answers with a code (RFC 6749, section 4.1.2; RFC 9207).
func (e *Endpoint) grant(w http.ResponseWriter, r *http.Request, to *target, a *oauth.Authorization) {
	code, err := e.Coder.Code(a)
	if err != nil {
		e.refuse(w, r, to, err)
		return
	}
	e.respond(w, r, to, map[string]string{"code": code, "scope": strings.Join(a.Scopes, " "), "iss": e.Settings.Issuer})
}

// refuse tells the client, or the user where there is no client to tell.
func (e *Endpoint) refuse(w http.ResponseWriter, r *http.Request, to *target, err error) {
	if to == nil {
		fallback.Redirect(w, r, e.Settings, err)
		return
	}
	oe := fallback.Classify(r, e.Settings, err)
	e.respond(w, r, to, map[string]string{"error": oe.Code, "error_description": oe.Text(), "iss": e.Settings.Issuer})
}
