package interaction

import (
	"context"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
)

// Open implements oauth.Desk. It reads once, by key.
func (d *Desk) Open(ctx context.Context, k oauth.ChallengeKind, challenge string) (*oauth.Challenge, error) {
	if k == oauth.AskLogout {
		l, err := d.openLogout(ctx, logoutChallenge, challenge)
		if err != nil {
			return nil, err
		}
		return l.challenge(challenge, d.logoutURL(l)), nil
	}
	f, err := d.question(ctx, k, challenge)
	if err != nil {
		return nil, err
	}
	c := &oauth.Challenge{
		Kind: k, ID: challenge, Client: f.client, RequestURL: d.requestURL(&f.request),
		RequestedScopes: f.request.Scopes, RequestedAudience: f.request.Audience,
		Skip: f.skip, OIDC: f.request.oidc(), RequestedAt: f.started, Expires: f.expires,
	}
	if k == oauth.AskLogin {
		c.SessionID = f.sid()
		if f.skip {
			c.Subject = f.subject
		}
		return c, nil
	}
	c.Subject, c.SessionID, c.ACR, c.AMR, c.Context = f.login.subject, f.login.session, f.login.acr, f.login.amr, f.login.context
	c.ConsentRequestID, c.LoginChallenge = f.key(), f.key()
	return c, nil
}

// question opens a login or consent challenge that was not used yet.
func (d *Desk) question(ctx context.Context, k oauth.ChallengeKind, challenge string) (*flow, error) {
	p, step := loginChallenge, stepLogin
	switch k {
	case oauth.AskLogin:
	case oauth.AskConsent:
		p, step = consentChallenge, stepConsent
	default:
		return nil, errUnknown
	}
	f, rs, err := d.open(ctx, p, challenge, func(id string) []oauth.Ref { return used(id, step) })
	if err != nil {
		return nil, err
	}
	if isUsed(rs, f.key(), step) {
		return nil, &oauth.SpentError{RedirectTo: d.requestURL(&f.request)}
	}
	if k == oauth.AskConsent && f.login == nil {
		return nil, errUnknown
	}
	return f, nil
}

// Accept implements oauth.Desk. Several answers to one challenge are fine
// until one of them is redeemed.
func (d *Desk) Accept(ctx context.Context, k oauth.ChallengeKind, challenge string, a oauth.Answer) (string, error) {
	switch k {
	case oauth.AskLogin:
		f, err := d.question(ctx, k, challenge)
		if err != nil {
			return "", err
		}
		return d.acceptLogin(ctx, f, a)
	case oauth.AskConsent:
		f, err := d.question(ctx, k, challenge)
		if err != nil {
			return "", err
		}
		return d.acceptConsent(ctx, f, a)
	case oauth.AskLogout:
		l, err := d.openLogout(ctx, logoutChallenge, challenge)
		if err != nil {
			return "", err
		}
		v, err := d.sealed(ctx, logoutVerifier, l.id, l.encode(), l.expires)
		if err != nil {
			return "", err
		}
		return d.set.PublicBase() + "/oauth2/sessions/logout?logout_verifier=" + v, nil
	}
	return "", errUnknown
}

func (d *Desk) acceptLogin(ctx context.Context, f *flow, a oauth.Answer) (string, error) {
	if err := checkLogin(a); err != nil {
		return "", err
	}
	if f.skip && a.Subject != f.subject {
		// Somebody else than the session says: that takes a real login.
		if f.request.prompts("none") {
			f.reject = oauth.ErrLoginRequired.WithHint("Another user signed in than the one of the session.")
			return d.verifierURL(ctx, loginVerifier, "login_verifier", f)
		}
		q := f.request
		q.Prompt = []string{"login"}
		return d.requestURL(&q), nil
	}
	f.answer = &oauth.Answer{
		Subject: a.Subject, ACR: a.ACR, AMR: a.AMR, Remember: a.Remember, RememberFor: a.RememberFor,
		ExtendSession: a.ExtendSession, IDPSessionID: a.IDPSessionID, Context: a.Context, HandledAt: d.set.Now(),
	}
	return d.verifierURL(ctx, loginVerifier, "login_verifier", f)
}

func (d *Desk) acceptConsent(ctx context.Context, f *flow, a oauth.Answer) (string, error) {
	if len(a.Context) > 0 && !json.Valid(a.Context) {
		return "", fault.New(fault.Invalid, "Field 'context' must be JSON.")
	}
	for _, s := range a.Scopes {
		if !slices.Contains(f.request.Scopes, s) {
			return "", fault.New(fault.Invalid, "Field 'grant_scope' contains '"+clean(s, 100)+"', which was not requested.")
		}
	}
	for _, s := range a.Audience {
		if !slices.Contains(f.request.Audience, s) {
			return "", fault.New(fault.Invalid, "Field 'grant_access_token_audience' contains '"+clean(s, 100)+"', which was not requested.")
		}
	}
	if a.HandledAt.IsZero() {
		a.HandledAt = d.set.Now()
	}
	f.consent = &oauth.Answer{
		Scopes: a.Scopes, Audience: a.Audience, Remember: a.Remember, RememberFor: a.RememberFor,
		IDTokenClaims: a.IDTokenClaims, AccessTokenClaims: a.AccessTokenClaims, Context: a.Context, HandledAt: a.HandledAt,
	}
	return d.verifierURL(ctx, consentVerifier, "consent_verifier", f)
}

const maxSubject = 512

func checkLogin(a oauth.Answer) error {
	switch {
	case a.Subject == "":
		return fault.New(fault.Invalid, "Field 'subject' must not be empty.")
	case len(a.Subject) > maxSubject || !utf8.ValidString(a.Subject) || clean(a.Subject, maxSubject) != a.Subject:
		return fault.New(fault.Invalid, "Field 'subject' must be at most 512 bytes of text without control characters.")
	case len(a.ACR) > 256 || len(a.AMR) > 32 || len(a.IDPSessionID) > 1024:
		return fault.New(fault.Invalid, "Field 'acr', 'amr' or 'identity_provider_session_id' is too long.")
	case len(a.Context) > 0 && !json.Valid(a.Context):
		return fault.New(fault.Invalid, "Field 'context' must be JSON.")
	}
	return nil
}

// Reject implements oauth.Desk. Rejecting a logout uses the challenge up at
// once and leads nowhere.
func (d *Desk) Reject(ctx context.Context, k oauth.ChallengeKind, challenge string, reason *oauth.Error) (string, error) {
	if k == oauth.AskLogout {
		l, err := d.openLogout(ctx, logoutChallenge, challenge)
		if err != nil {
			return "", err
		}
		return "", d.mark(ctx, marker(l.key(), stepLogout, l.expires), d.logoutURL(l))
	}
	f, err := d.question(ctx, k, challenge)
	if err != nil {
		return "", err
	}
	if reason == nil {
		reason = oauth.ErrAccessDenied
	}
	code := clean(reason.Code, 100)
	if code == "" || strings.ContainsAny(code, "\"\\") {
		code = oauth.ErrAccessDenied.Code
	}
	f.reject = &oauth.Error{Code: code, Description: clean(reason.Description, 500), Hint: clean(reason.Hint, 500)}
	if k == oauth.AskLogin {
		return d.verifierURL(ctx, loginVerifier, "login_verifier", f)
	}
	return d.verifierURL(ctx, consentVerifier, "consent_verifier", f)
}

// mark stores a marker, or says that it was there.
func (d *Desk) mark(ctx context.Context, m oauth.Record, restart string, more ...oauth.Record) error {
	err := d.store.Put(ctx, append([]oauth.Record{m}, more...)...)
	if err != nil && fault.KindOf(err) == fault.Conflict {
		return &oauth.SpentError{RedirectTo: restart}
	}
	return err
}

// clean drops control characters and cuts to n bytes between characters.
func clean(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return -1
		}
		return r
	}, s)
	if len(s) > n {
		for n > 0 && !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n]
	}
	return s
}

// maxURL is the longest URL that repeats the whole request beside a verifier.
const maxURL = 2000

func (d *Desk) requestURL(q *Request) string {
	return d.set.PublicBase() + "/oauth2/auth?" + q.values().Encode()
}

// verifierURL is the request with the sealed answer added. The answer alone
// decides; the rest is there for applications that look at it, and left out
// when it is long.
func (d *Desk) verifierURL(ctx context.Context, p purpose, param string, f *flow) (string, error) {
	v, err := d.seal(ctx, p, f)
	if err != nil {
		return "", err
	}
	vs := f.request.values()
	vs.Set(param, v)
	if u := d.set.PublicBase() + "/oauth2/auth?" + vs.Encode(); len(u) <= maxURL {
		return u, nil
	}
	return d.set.PublicBase() + "/oauth2/auth?" + url.Values{"client_id": {f.request.ClientID}, param: {v}}.Encode(), nil
}
