package endpoint

import (
	"context"
	"net/http"
	"strings"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
	"gatehouse/oauth/clientauth"
	"gatehouse/oauth/mint"
)

// revoke serves POST /oauth2/revoke (RFC 7009). Revoking any token of an
// authorization ends the authorization. A token that is unknown or dead
// already is no error; one of another client is, and lives on.
func (e *Endpoints) revoke(w http.ResponseWriter, r *http.Request) {
	if err := e.serveRevoke(w, r); err != nil {
		clientauth.Challenge(w.Header(), r, err)
		e.fail(w, r, err)
		return
	}
	oauth.NoStore(w.Header())
	w.WriteHeader(http.StatusOK)
}

func (e *Endpoints) serveRevoke(w http.ResponseWriter, r *http.Request) error {
	form, err := oauth.ParseForm(w, r)
	if err != nil {
		return err
	}
	c, err := e.Auth.Authenticate(r.Context(), r, form)
	if err != nil {
		return err
	}
	raw := form.Get("token")
	if raw == "" {
		return oauth.ErrInvalidRequest.WithHint("Parameter 'token' is missing.")
	}
	err = e.end(r.Context(), c, raw)
	switch fault.KindOf(err) {
	case fault.Invalid, fault.NotFound:
		return nil
	}
	return err
}

// end ends a token. It fails with fault.Invalid for what is no token, with
// fault.NotFound for one that ended already.
func (e *Endpoints) end(ctx context.Context, c *oauth.Client, raw string) error {
	var id string
	var issued time.Time
	if strings.HasPrefix(raw, mint.RefreshPrefix) {
		var err error
		if id, _, err = e.Mint.OpenRefresh(raw); err != nil {
			return err
		}
		issued = e.Settings.Now()
	} else {
		t, err := e.Mint.OpenAccess(ctx, raw)
		if err != nil {
			return err
		}
		if t.Authorization == "" {
			if t.Client != c.ID {
				return errForeign
			}
			return e.Introspector.Living.RevokeToken(ctx, t.ID, t.Client, t.Expires)
		}
		id, issued = t.Authorization, t.Issued
	}
	a, err := e.Introspector.Living.Authorization(ctx, id, issued)
	if err != nil {
		return err
	}
	if a.ClientID != c.ID {
		return errForeign
	}
	return e.Introspector.Living.Revoke(ctx, id)
}

var errForeign = oauth.ErrUnauthorizedClient.WithHint("The token was issued to another client.")
