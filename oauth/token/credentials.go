package token

import (
	"context"

	"gatehouse/oauth"
)

// credentials is the client credentials grant (RFC 6749, section 4.4). The
// token says itself what it is good for: nothing is stored.
func (e *Endpoint) credentials(_ context.Context, q *request) (*grant, error) {
	if q.client.Public() {
		return nil, oauth.ErrInvalidGrant.WithHint("A public client cannot use the grant 'client_credentials'.")
	}
	scopes, audience := words(q.form["scope"]), words(q.form["audience"])
	if len(scopes) > maxScopes || len(audience) > maxAudience {
		return nil, oauth.ErrInvalidRequest.WithHint("There are too many scopes or audiences.")
	}
	for _, s := range scopes {
		if !q.client.AllowsScope(s, e.Settings.ExactScopes) {
			return nil, oauth.ErrInvalidScope.WithHint("The client is not allowed to request the scope '" + printable(s) + "'.")
		}
	}
	for _, a := range audience {
		if !q.client.AllowsAudience(a) {
			return nil, oauth.ErrInvalidRequest.WithHint("The client is not allowed to request the audience '" + printable(a) + "'.")
		}
	}
	return &grant{
		scopes: scopes, audience: audience,
		access: either(q.client.Lifespans.ClientCredentialsAccess, e.Settings.TTLAccessToken),
	}, nil
}

// Limits on what one token carries.
const (
	maxScopes   = 256
	maxAudience = 64
)
