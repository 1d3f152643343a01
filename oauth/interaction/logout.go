package interaction

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net/url"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
	"gatehouse/oauth/session"
)

// logout is an open question whether to sign out.
type logout struct {
	id               [16]byte
	started, expires time.Time
	session.LogoutRequest
	client *oauth.Client
}

const logoutVersion = 1

func (l *logout) key() string { return hex.EncodeToString(l.id[:]) }

func (l *logout) encode() []byte {
	w := &writer{}
	w.byte(logoutVersion)
	w.raw(l.id[:])
	w.uint(uint64(l.expires.Unix()))
	w.uint(uint64(max(0, l.expires.Unix()-l.started.Unix())))
	w.uint(bits(l.RPInitiated))
	uuid(w, l.SessionID)
	w.str(l.Subject)
	uuid(w, l.ClientID)
	w.str(l.RedirectURI)
	w.str(l.State)
	return w.b
}

func decodeLogout(b []byte) (*logout, error) {
	r := &reader{b: b}
	if r.byte() != logoutVersion {
		return nil, errDecode
	}
	l := &logout{}
	copy(l.id[:], r.raw(16))
	expires, age := r.uint(), r.uint()
	if expires > 1<<40 || age > expires {
		return nil, errDecode
	}
	l.expires, l.started = time.Unix(int64(expires), 0), time.Unix(int64(expires-age), 0)
	l.RPInitiated = r.uint()&1 != 0
	l.SessionID, l.Subject = readUUID(r), r.str()
	l.ClientID, l.RedirectURI, l.State = readUUID(r), r.str(), r.str()
	return l, r.end()
}

// AskLogout seals the question whether to sign out. The request must have
// been checked (oauth/session does); it writes nothing unless it is large.
func (d *Desk) AskLogout(ctx context.Context, q session.LogoutRequest) (string, error) {
	l := d.newLogout(q)
	return d.sealed(ctx, logoutChallenge, l.id, l.encode(), l.expires)
}

func (d *Desk) newLogout(q session.LogoutRequest) *logout {
	now := d.set.Now()
	l := &logout{LogoutRequest: q, started: now.Truncate(time.Second), expires: now.Add(d.set.TTLInteraction).Truncate(time.Second)}
	rand.Read(l.id[:])
	return l
}

// RedeemLogout takes a verifier, once; fault.NotFound, fault.Spent.
func (d *Desk) RedeemLogout(ctx context.Context, verifier string) (session.LogoutRequest, error) {
	l, err := d.openLogout(ctx, logoutVerifier, verifier)
	if err != nil {
		return session.LogoutRequest{}, err
	}
	return l.LogoutRequest, d.mark(ctx, marker(l.key(), stepLogout, l.expires), d.logoutURL(l))
}

// openLogout opens a challenge or verifier that was not used yet. A client
// that is gone meanwhile does not keep its user signed in.
func (d *Desk) openLogout(ctx context.Context, p purpose, s string) (*logout, error) {
	b, rs, err := d.unsealed(ctx, p, s, func(id string) []oauth.Ref { return used(id, stepLogout) })
	if err != nil {
		return nil, err
	}
	l, err := decodeLogout(b)
	if err != nil || !d.set.Now().Before(l.expires) {
		return nil, errUnknown
	}
	if isUsed(rs, l.key(), stepLogout) {
		return nil, &oauth.SpentError{RedirectTo: d.logoutURL(l)}
	}
	if l.ClientID != "" {
		if l.client, err = d.clients.Client(ctx, l.ClientID); err != nil && fault.KindOf(err) != fault.NotFound {
			return nil, err
		}
	}
	return l, nil
}

func (l *logout) challenge(id, requestURL string) *oauth.Challenge {
	return &oauth.Challenge{
		Kind: oauth.AskLogout, ID: id, Client: l.client, RequestURL: requestURL, Subject: l.Subject, SessionID: l.SessionID,
		RPInitiated: l.RPInitiated, RequestedAt: l.started, Expires: l.expires,
	}
}

// logoutURL is the request that asked for the logout, without the ID token.
func (d *Desk) logoutURL(l *logout) string {
	v := url.Values{}
	for k, s := range map[string]string{"client_id": l.ClientID, "post_logout_redirect_uri": l.RedirectURI, "state": l.State} {
		if s != "" {
			v.Set(k, s)
		}
	}
	u := d.set.PublicBase() + "/oauth2/sessions/logout"
	if len(v) > 0 {
		u += "?" + v.Encode()
	}
	return u
}
