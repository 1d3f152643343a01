// Package token is the token endpoint, POST /oauth2/token (RFC 6749, section
// 3.2).
//
// The steps every grant shares are in token.go and redeem.go; a grant is one
// file and proves one thing: code.go, refresh.go, credentials.go. living.go
// finds out whether an authorization still stands, for the other endpoints
// too. Tokens are made in mint, clients proved in clientauth.
package token

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"gatehouse/oauth"
	"gatehouse/oauth/clientauth"
	"gatehouse/oauth/mint"
)

// Authenticator finds out which client sent a request.
type Authenticator interface {
	Authenticate(ctx context.Context, r *http.Request, form url.Values) (*oauth.Client, error)
}

// Endpoint serves POST /oauth2/token. All fields must be set.
type Endpoint struct {
	Settings *oauth.Settings
	Store    oauth.Store
	Living   *Living
	Auth     Authenticator
	Mint     *mint.Mint
}

var _ http.Handler = (*Endpoint)(nil)

// request is what a grant gets to see.
type request struct {
	form   url.Values
	client *oauth.Client
}

// grant is what was proved: on whose behalf tokens are issued, and which.
type grant struct {
	authorization *oauth.Authorization // nil: the client's own
	scopes        []string
	audience      []string // of a grant of the client's own
	redeem        bool     // the authorization's generation moves on
	access        time.Duration
	id            time.Duration
	refresh       time.Duration // negative: for ever
	replayed      *oauth.Error  // the answer if another was faster
}

// grants are the grants there are.
var grants = map[string]func(*Endpoint, context.Context, *request) (*grant, error){
	"authorization_code": (*Endpoint).code,
	"refresh_token":      (*Endpoint).refresh,
	"client_credentials": (*Endpoint).credentials,
}

// Grants are the names of the grants, in alphabetical order.
func Grants() []string {
	names := make([]string, 0, len(grants))
	for name := range grants {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// answer is the success (RFC 6749, section 5.1).
type answer struct {
	AccessToken  string `json:"access_token"`
	ExpiresIn    int64  `json:"expires_in"`
	IDToken      string `json:"id_token,omitempty"`
	RefreshToken string `json:"refresh_token,omitempty"`
	Scope        string `json:"scope"`
	TokenType    string `json:"token_type"`
}

func (e *Endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		bad := *oauth.ErrInvalidRequest
		bad.Status = http.StatusMethodNotAllowed
		oauth.WriteError(w, bad.WithHint("The token endpoint takes POST requests only."), false)
		return
	}
	out, err := e.serve(w, r)
	if err != nil {
		if oauth.AsError(err).Status >= 500 {
			e.Settings.Log.Error("token request", "err", err, "cause", oauth.AsError(err).Cause)
		}
		clientauth.Challenge(w.Header(), r, err)
		oauth.WriteError(w, err, e.Settings.ExposeInternalError)
		return
	}
	oauth.WriteJSON(w, http.StatusOK, out)
}

func (e *Endpoint) serve(w http.ResponseWriter, r *http.Request) (*answer, error) {
	form, err := oauth.ParseForm(w, r, "audience")
	if err != nil {
		return nil, err
	}
	name := form.Get("grant_type")
	if name == "" {
		return nil, oauth.ErrInvalidRequest.WithHint("Parameter 'grant_type' is missing.")
	}
	client, err := e.Auth.Authenticate(r.Context(), r, form)
	if err != nil {
		return nil, err
	}
	prove, ok := grants[name]
	if !ok {
		return nil, oauth.ErrUnsupportedGrantType
	}
	if !client.AllowsGrant(name) {
		return nil, oauth.ErrUnauthorizedClient.WithHint("The client is not registered for the grant '" + name + "'.")
	}
	return e.issue(r.Context(), prove, &request{form, client})
}

// issue proves the grant, redeems it and makes the tokens.
func (e *Endpoint) issue(ctx context.Context, prove func(*Endpoint, context.Context, *request) (*grant, error), q *request) (*answer, error) {
	g, err := prove(e, ctx, q)
	if err != nil {
		return nil, err
	}
	if g.redeem {
		// In the grace period whoever loses the race gets what the winner
		// got: proving it once more tells.
		won, err := e.redeem(ctx, q, g)
		if err != nil {
			return nil, err
		}
		if !won {
			if g, err = prove(e, ctx, q); err != nil {
				return nil, err
			}
			if g.redeem {
				return nil, oauth.ErrTemporarilyUnavailable
			}
		}
		// What was redeemed cannot be redeemed again: a client that goes away
		// now must not keep its successor from seeing the tokens.
		ctx = context.WithoutCancel(ctx)
	}
	return e.mint(ctx, q.client, g)
}

func (e *Endpoint) mint(ctx context.Context, c *oauth.Client, g *grant) (*answer, error) {
	a := g.authorization
	var ticket *mint.Ticket
	if a == nil {
		ticket = e.Mint.ForClient(c, g.scopes, g.audience, g.access)
	} else {
		ticket = e.Mint.ForAuthorization(a, g.scopes, g.access)
	}
	access, err := e.Mint.AccessToken(ctx, ticket, c, a)
	if err != nil {
		return nil, err
	}
	out := &answer{
		AccessToken: access, ExpiresIn: int64(g.access / time.Second),
		Scope: strings.Join(g.scopes, " "), TokenType: "bearer",
	}
	if a == nil {
		return out, nil
	}
	if slices.Contains(g.scopes, "openid") {
		if out.IDToken, err = e.Mint.IDToken(ctx, c, a, access, g.id); err != nil {
			return nil, err
		}
	}
	if refreshable(c, a) {
		out.RefreshToken = e.Mint.RefreshToken(a.ID, a.Generation)
	}
	return out, nil
}

// refreshable says whether an authorization comes with refresh tokens: the
// user granted that, and the client may use them.
func refreshable(c *oauth.Client, a *oauth.Authorization) bool {
	return (slices.Contains(a.Scopes, "offline") || slices.Contains(a.Scopes, "offline_access")) && c.AllowsGrant("refresh_token")
}

// words splits a parameter at spaces and drops repetitions.
func words(values []string) []string {
	var out []string
	for _, v := range values {
		for _, w := range strings.Fields(v) {
			if !slices.Contains(out, w) {
				out = append(out, w)
			}
		}
	}
	return out
}

// printable is a value of the client's as an error may repeat it.
func printable(s string) string {
	if len(s) > 100 {
		s = s[:100]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '"' || r == '\\' { // RFC 6749, section 5.2
			return '?'
		}
		return r
	}, s)
}

// either is the first duration that is set.
func either(ds ...time.Duration) time.Duration {
	for _, d := range ds {
		if d != 0 {
			return d
		}
	}
	return 0
}
