package token

import (
	"context"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
)

// redeem moves the authorization's generation on, by one compare-and-set: of
// several requests with one code or refresh token exactly one succeeds. Any
// other is a replay, and the authorization ends (RFC 6749, section 4.1.2; RFC
// 9700, section 4.14.2), unless a grace period says it may be a retry: then
// won is false and there is no error.
func (e *Endpoint) redeem(ctx context.Context, q *request, g *grant) (won bool, err error) {
	now := e.Settings.Now()
	a := *g.authorization
	a.IssuedAt, a.RefreshExpires = now.UTC(), time.Time{}
	last := now.Add(g.access)
	forEver := false
	if refreshable(q.client, &a) {
		if forEver = g.refresh < 0; !forEver {
			a.RefreshExpires = now.Add(g.refresh).UTC()
			last = later(last, a.RefreshExpires)
		}
	}
	// The record outlives its tokens, and what was to outlive it already.
	if forEver || a.Expires.IsZero() {
		a.Expires = time.Time{}
	} else {
		a.Expires = later(a.Expires, last.Add(time.Minute)).UTC()
	}
	rec, err := a.Record()
	if err != nil {
		return false, err
	}
	switch err := e.Store.Put(ctx, rec); {
	case err == nil:
		a.Generation++
		g.authorization = &a
		return true, nil
	case fault.KindOf(err) == fault.Denied: // revoked meanwhile
		return false, g.replayed.Because(err)
	case fault.KindOf(err) != fault.Conflict:
		return false, err
	}
	if e.Settings.RefreshGrace > 0 && q.form.Get("grant_type") == "refresh_token" {
		return false, nil
	}
	return false, e.replay(ctx, g.authorization, g.replayed)
}

// replay ends an authorization whose code or refresh token came a second
// time: one of the two who have it is a thief.
func (e *Endpoint) replay(ctx context.Context, a *oauth.Authorization, answer *oauth.Error) error {
	e.Settings.Log.Warn("a code or refresh token was used twice, its authorization ends",
		"client_id", a.ClientID, "authorization", a.ID)
	if err := e.Living.Revoke(ctx, a.ID); err != nil {
		return err
	}
	return answer
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
