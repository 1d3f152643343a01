package endpoint

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
	"gatehouse/oauth/mint"
	"gatehouse/oauth/token"
)

// Info is what introspection says of a token that is good (RFC 7662, section
// 2.2; field names and order as Hydra's).
type Info struct {
	Active    bool           `json:"active"`
	Scope     string         `json:"scope,omitempty"`
	ClientID  string         `json:"client_id"`
	Subject   string         `json:"sub"`
	Expires   int64          `json:"exp,omitempty"` // Unix seconds; 0: never
	Issued    int64          `json:"iat"`
	NotBefore int64          `json:"nbf"`
	Audience  []string       `json:"aud"`
	Issuer    string         `json:"iss"`
	TokenType string         `json:"token_type"` // "Bearer"
	TokenUse  string         `json:"token_use"`  // "access_token" or "refresh_token"
	Ext       map[string]any `json:"ext,omitempty"`

	// Scopes is Scope, taken apart. Not to be changed.
	Scopes []string `json:"-"`
	// Authorization is nil for a token a client got for itself.
	Authorization *oauth.Authorization `json:"-"`
}

// Introspector says what tokens are good for. All fields must be set. It is
// safe for concurrent use.
type Introspector struct {
	Settings *oauth.Settings
	Mint     *mint.Mint
	Living   *token.Living
	Clients  oauth.ClientFinder
}

// NewIntrospector returns an Introspector. It should share its Living with the
// token endpoint: what one has seen the other need not look up.
func NewIntrospector(s *oauth.Settings, m *mint.Mint, l *token.Living, clients oauth.ClientFinder) *Introspector {
	return &Introspector{s, m, l, clients}
}

// Introspect says whether an access or refresh token is good, and what for.
// It opens the token and asks the store, in one statement, for all that could
// have ended it. A bad token is no error; the store failing is.
func (i *Introspector) Introspect(ctx context.Context, raw string) (bool, *Info, error) {
	info, err := i.open(ctx, raw)
	switch fault.KindOf(err) {
	case fault.Invalid, fault.NotFound:
		return false, nil, nil
	}
	if err != nil {
		return false, nil, err
	}
	return true, info, nil
}

func (i *Introspector) open(ctx context.Context, raw string) (*Info, error) {
	if strings.HasPrefix(raw, mint.RefreshPrefix) {
		return i.refresh(ctx, raw)
	}
	info, _, err := i.access(ctx, raw)
	return info, err
}

// access fails with fault.Invalid or fault.NotFound for a token that is
// not good.
func (i *Introspector) access(ctx context.Context, raw string) (*Info, *mint.Ticket, error) {
	t, err := i.Mint.OpenAccess(ctx, raw)
	if err != nil {
		return nil, nil, err
	}
	info := &Info{
		Active: true, Issuer: i.Settings.Issuer, TokenType: "Bearer", TokenUse: "access_token",
		Issued: t.Issued.Unix(), NotBefore: t.Issued.Unix(), Expires: t.Expires.Unix(),
	}
	if t.Authorization == "" {
		if _, err := i.Clients.Client(ctx, t.Client); err != nil {
			return nil, nil, err
		}
		if err := i.Living.Token(ctx, t.ID, t.Client, t.Issued); err != nil {
			return nil, nil, err
		}
		info.ClientID, info.Subject = t.Client, t.Client
		info.Scopes, info.Audience = t.Scopes, t.Audience
	} else {
		a, err := i.Living.Authorization(ctx, t.Authorization, t.Issued)
		if err != nil {
			return nil, nil, err
		}
		if a.Generation != t.Generation { // refreshed since
			return nil, nil, mint.ErrToken
		}
		if _, err := i.Clients.Client(ctx, a.ClientID); err != nil {
			return nil, nil, err
		}
		info.of(a)
		info.Scopes = t.ScopesOf(a.Scopes)
	}
	info.finish()
	return info, t, nil
}

func (i *Introspector) refresh(ctx context.Context, raw string) (*Info, error) {
	id, generation, err := i.Mint.OpenRefresh(raw)
	if err != nil {
		return nil, err
	}
	a, err := i.Living.Refreshable(ctx, id)
	if err != nil {
		return nil, err
	}
	if a.Generation != generation || (!a.RefreshExpires.IsZero() && !i.Settings.Now().Before(a.RefreshExpires)) {
		return nil, mint.ErrToken
	}
	c, err := i.Clients.Client(ctx, a.ClientID)
	if err != nil {
		return nil, err
	}
	if !c.AllowsGrant("refresh_token") {
		return nil, mint.ErrToken
	}
	info := &Info{
		Active: true, Issuer: i.Settings.Issuer, TokenType: "Bearer", TokenUse: "refresh_token",
		Issued: a.IssuedAt.Unix(), NotBefore: a.IssuedAt.Unix(), Scopes: a.Scopes,
	}
	if !a.RefreshExpires.IsZero() {
		info.Expires = a.RefreshExpires.Unix()
	}
	info.of(a)
	info.finish()
	return info, nil
}

func (i *Info) of(a *oauth.Authorization) {
	i.Authorization = a
	i.ClientID, i.Subject, i.Audience, i.Ext = a.ClientID, a.Subject, a.Audience, a.AccessTokenClaims
}

func (i *Info) finish() {
	i.Scope = strings.Join(i.Scopes, " ")
	if i.Audience == nil {
		i.Audience = []string{}
	}
}

// introspection serves POST /admin/oauth2/introspect. The form's token is
// the token, its scope, if there is one, what the token must be good for.
func (e *Endpoints) introspection(w http.ResponseWriter, r *http.Request) {
	form, err := oauth.ParseForm(w, r)
	if err != nil {
		e.fail(w, r, err)
		return
	}
	ok, info, err := e.Introspector.Introspect(r.Context(), form.Get("token"))
	if err != nil {
		e.fail(w, r, err)
		return
	}
	if ok {
		has := &oauth.Client{Scope: info.Scope}
		ok = !slices.ContainsFunc(strings.Fields(form.Get("scope")), func(s string) bool {
			return !has.AllowsScope(s, e.Settings.ExactScopes)
		})
	}
	if !ok { // RFC 7662, section 2.2: nothing more is told
		oauth.WriteJSON(w, http.StatusOK, struct {
			Active bool `json:"active"`
		}{})
		return
	}
	oauth.WriteJSON(w, http.StatusOK, info)
}
