package endpoint

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
	"gatehouse/oauth/mint"
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

// Introspect says whether an access or refresh token is good, and what for.
// It opens the token and asks the store, in one statement, for all that could
// have ended it. A bad token is no error; the store failing is.
func (e *Endpoints) Introspect(ctx context.Context, raw string) (bool, *Info, error) {
	info, err := e.introspect(ctx, raw)
	switch fault.KindOf(err) {
	case fault.Invalid, fault.NotFound:
		return false, nil, nil
	}
	if err != nil {
		return false, nil, err
	}
	return true, info, nil
}

func (e *Endpoints) introspect(ctx context.Context, raw string) (*Info, error) {
	if strings.HasPrefix(raw, mint.RefreshPrefix) {
		return e.refreshInfo(ctx, raw)
	}
	info, _, err := e.accessInfo(ctx, raw)
	return info, err
}

// accessInfo fails with fault.Invalid or fault.NotFound for a token that is
// not good.
func (e *Endpoints) accessInfo(ctx context.Context, raw string) (*Info, *mint.Ticket, error) {
	t, err := e.Mint.OpenAccess(ctx, raw)
	if err != nil {
		return nil, nil, err
	}
	info := &Info{
		Active: true, Issuer: e.Settings.Issuer, TokenType: "Bearer", TokenUse: "access_token",
		Issued: t.Issued.Unix(), NotBefore: t.Issued.Unix(), Expires: t.Expires.Unix(),
	}
	if t.Authorization == "" {
		if _, err := e.Clients.Client(ctx, t.Client); err != nil {
			return nil, nil, err
		}
		if err := e.Living.Token(ctx, t.ID, t.Client, t.Issued); err != nil {
			return nil, nil, err
		}
		info.ClientID, info.Subject = t.Client, t.Client
		info.Scopes, info.Audience = t.Scopes, t.Audience
	} else {
		a, err := e.Living.Authorization(ctx, t.Authorization, t.Issued)
		if err != nil {
			return nil, nil, err
		}
		if a.Generation != t.Generation { // refreshed since
			return nil, nil, mint.ErrToken
		}
		if _, err := e.Clients.Client(ctx, a.ClientID); err != nil {
			return nil, nil, err
		}
		info.of(a)
		info.Scopes = t.ScopesOf(a.Scopes)
	}
	info.finish()
	return info, t, nil
}

func (e *Endpoints) refreshInfo(ctx context.Context, raw string) (*Info, error) {
	id, generation, err := e.Mint.OpenRefresh(raw)
	if err != nil {
		return nil, err
	}
	a, err := e.Living.Refreshable(ctx, id)
	if err != nil {
		return nil, err
	}
	if a.Generation != generation || (!a.RefreshExpires.IsZero() && !e.Settings.Now().Before(a.RefreshExpires)) {
		return nil, mint.ErrToken
	}
	c, err := e.Clients.Client(ctx, a.ClientID)
	if err != nil {
		return nil, err
	}
	if !c.AllowsGrant("refresh_token") {
		return nil, mint.ErrToken
	}
	info := &Info{
		Active: true, Issuer: e.Settings.Issuer, TokenType: "Bearer", TokenUse: "refresh_token",
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

// ServeIntrospect serves POST /admin/oauth2/introspect. The form's token is
// the token, its scope, if there is one, what the token must be good for.
func (e *Endpoints) ServeIntrospect(w http.ResponseWriter, r *http.Request) {
	form, err := oauth.ParseForm(w, r)
	if err != nil {
		e.fail(w, r, err)
		return
	}
	ok, info, err := e.Introspect(r.Context(), form.Get("token"))
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

// RevokeClient ends all tokens that were issued to a client until now.
func (e *Endpoints) RevokeClient(ctx context.Context, client string) error {
	return e.Store.Put(ctx, oauth.Epoch("", client, e.Settings.Now(), time.Time{}))
}
