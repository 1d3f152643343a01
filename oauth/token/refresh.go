package token

import (
	"context"
	"slices"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
)

// refresh is the refresh token grant (RFC 6749, section 6). A refresh token is
// good once; the next one comes with the answer. One that comes again ends the
// authorization (RFC 9700, section 4.14.2), except that within the grace
// period the token just before the present one gets the same successor again.
func (e *Endpoint) refresh(ctx context.Context, q *request) (*grant, error) {
	raw := q.form.Get("refresh_token")
	if raw == "" {
		return nil, oauth.ErrInvalidRequest.WithHint("Parameter 'refresh_token' is missing.")
	}
	id, generation, err := e.Mint.OpenRefresh(raw)
	if err != nil {
		return nil, oauth.ErrInvalidGrant.WithHint("The refresh token is malformed or not valid.").Because(err)
	}
	a, err := e.Living.Refreshable(ctx, id)
	if fault.KindOf(err) == fault.NotFound {
		return nil, oauth.ErrInvalidGrant.WithHint("The refresh token is malformed or not valid.").Because(err)
	}
	if err != nil {
		return nil, err
	}
	now := e.Settings.Now()
	used := oauth.ErrInvalidGrant.WithHint("The refresh token was already used.")
	switch {
	case a.ClientID != q.client.ID:
		return nil, oauth.ErrInvalidGrant.WithHint("The refresh token was issued to another client.")
	case !refreshable(q.client, a):
		return nil, oauth.ErrInvalidGrant.WithHint("The user did not grant offline access.")
	case generation > a.Generation: // the store forgot: an older copy was restored
		return nil, oauth.ErrInvalidGrant.WithHint("The refresh token is malformed or not valid.")
	}
	retry := generation == a.Generation-1 && now.Before(a.IssuedAt.Add(e.Settings.RefreshGrace))
	if generation < a.Generation && !retry {
		return nil, e.replay(ctx, a, used)
	}
	if !a.RefreshExpires.IsZero() && !now.Before(a.RefreshExpires) {
		return nil, oauth.ErrInvalidGrant.WithHint("The refresh token has expired.")
	}
	scopes := a.Scopes
	if want := words(q.form["scope"]); len(want) > 0 {
		for _, s := range want {
			if !slices.Contains(a.Scopes, s) {
				return nil, oauth.ErrInvalidScope.WithHint("The scope '" + printable(s) + "' was not granted.")
			}
		}
		scopes = slices.DeleteFunc(slices.Clone(a.Scopes), func(s string) bool { return !slices.Contains(want, s) })
	}
	for _, s := range scopes { // the client may have lost some since
		if !q.client.AllowsScope(s, e.Settings.ExactScopes) {
			return nil, oauth.ErrInvalidScope.WithHint("The client is not allowed to request the scope '" + printable(s) + "' any more.")
		}
	}
	l := q.client.Lifespans
	return &grant{
		authorization: a, scopes: scopes, redeem: !retry, replayed: used,
		access:  either(l.RefreshAccess, e.Settings.TTLAccessToken),
		id:      either(l.RefreshID, e.Settings.TTLIDToken),
		refresh: either(l.RefreshRefresh, e.Settings.TTLRefreshToken),
	}, nil
}
