package interaction

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
	"gatehouse/oauth/session"
)

// Step is what a step of the flow leads to: another address for the browser,
// or the end.
type Step struct {
	Location      string               // "" at the end
	Authorization *oauth.Authorization // at the end
	// Request is set as soon as it is known: an *oauth.Error may then be told
	// to the client. Without it the error goes to the user.
	Request *Request
}

// errForbidden is told when the browser is not the one that began the flow.
var errForbidden = &oauth.Error{
	Code: "request_forbidden", Status: http.StatusForbidden,
	Description: "This browser did not begin the sign-in it tries to finish, or it refused a cookie.",
	Hint:        "Start again from the application, with cookies allowed.",
}

func spentVerifier(step string) *oauth.Error {
	return oauth.ErrAccessDenied.WithHint("The " + step + " verifier was used already. Start again from the application.")
}

// Begin puts the login question for a checked request. A signed-in browser is
// asked too, with skip: the login application decides. It writes nothing
// (apart from a request too large to seal).
func (d *Desk) Begin(ctx context.Context, w http.ResponseWriter, r *http.Request, q *Request, c *oauth.Client) (Step, error) {
	step := Step{Request: q}
	s, err := d.sessions.Current(ctx, r)
	if err != nil {
		return step, err
	}
	now := d.set.Now()
	f := newFlow(q, c, now, d.set.TTLInteraction)
	if s != nil {
		f.session, f.subject = s.ID, s.Subject
		f.skip = mayReuse(s, q, now)
	}
	if q.prompts("none") && !f.skip {
		return step, oauth.ErrLoginRequired
	}
	if d.set.LoginURL == "" {
		step.Location = d.set.PublicBase() + "/oauth2/fallbacks/login"
		return step, nil
	}
	f.tag = d.bind(w, r, stepLogin, q.ClientID)
	challenge, err := d.seal(ctx, loginChallenge, f)
	if err != nil {
		return step, tellClient(err)
	}
	step.Location = withParam(d.set.LoginURL, "login_challenge", challenge)
	return step, nil
}

// mayReuse says whether the session answers the login question.
func mayReuse(s *session.Session, q *Request, now time.Time) bool {
	if !s.Remember || q.prompts("login") || q.prompts("select_account") || q.prompts("create") || q.prompts("registration") {
		return false
	}
	if q.HasMaxAge && (q.MaxAge == 0 || now.Sub(s.AuthTime) > q.MaxAge) {
		return false
	}
	hint := q.hintSubject()
	return hint == "" || hint == s.Subject
}

// tellClient turns a refusal that comes from the request into an OAuth error.
func tellClient(err error) error {
	switch fault.KindOf(err) {
	case fault.Invalid:
		return oauth.ErrInvalidRequest.WithHint(err.Error()).Because(err)
	case fault.Unavailable:
		return oauth.ErrTemporarilyUnavailable.Because(err)
	}
	return err
}

func withParam(base, name, value string) string {
	sep := "?"
	if strings.Contains(base, "?") {
		sep = "&"
	}
	return base + sep + name + "=" + url.QueryEscape(value)
}

// redeemable opens a verifier and checks the browser.
func (d *Desk) redeemable(ctx context.Context, r *http.Request, p purpose, step, verifier string) (*flow, error) {
	f, _, err := d.open(ctx, p, verifier, nil)
	if err != nil {
		if fault.KindOf(err) == fault.NotFound {
			return nil, oauth.ErrAccessDenied.WithHint("The " + step + " verifier is invalid or has expired. Start again from the application.").Because(err)
		}
		return nil, err
	}
	if !d.bound(r, step, f) {
		return f, errForbidden
	}
	return f, nil
}

// RedeemLogin takes the answer to the login question and puts the consent
// question. One write: the marker, with the session if it is a new login.
func (d *Desk) RedeemLogin(ctx context.Context, w http.ResponseWriter, r *http.Request, verifier string) (Step, error) {
	f, err := d.redeemable(ctx, r, loginVerifier, stepLogin, verifier)
	if f == nil {
		return Step{}, err
	}
	step := Step{Request: &f.request}
	if err != nil {
		return step, err
	}
	mark := marker(f.key(), stepLogin, f.expires)
	restart := d.requestURL(&f.request)
	if f.reject != nil {
		return step, d.refuse(ctx, mark, stepLogin, f.reject)
	}
	if f.answer == nil {
		return step, oauth.ErrAccessDenied
	}
	a := *f.answer

	refs := append(used(f.key(), stepLogin), oauth.Ref{Kind: oauth.Consents, Key: oauth.ConsentKey(a.Subject, f.client.ID)})
	ticket, hasTicket := d.sessions.Ticket(r)
	if hasTicket {
		refs = append(refs, oauth.Ref{Kind: oauth.Sessions, Key: ticket.ID})
	}
	rs, err := d.store.Get(ctx, refs...)
	if err != nil {
		return step, fmt.Errorf("reading the state of a login: %w", err)
	}
	if isUsed(rs, f.key(), stepLogin) {
		return step, spentVerifier(stepLogin)
	}
	if hint := f.request.hintSubject(); hint != "" && hint != a.Subject {
		return step, d.refuse(ctx, mark, stepLogin, oauth.ErrLoginRequired.WithHint("Another user signed in than the one id_token_hint names."))
	}
	var old *session.Session
	if hasTicket {
		if rec, ok := find(rs, oauth.Sessions, ticket.ID); ok {
			old, _ = d.sessions.Open(ticket, rec)
		}
	}

	now := d.set.Now()
	var cookie *http.Cookie
	var writes []oauth.Record
	s := old
	switch {
	case f.skip && (old == nil || old.ID != f.session || old.Subject != a.Subject):
		// The session ended while the question was open: ask again, for real.
		if f.request.prompts("none") {
			return step, d.refuse(ctx, mark, stepLogin, oauth.ErrLoginRequired.WithHint("The session has ended."))
		}
		if err := d.refuse(ctx, mark, stepLogin, nil); err != nil {
			return step, err
		}
		step.Location = restart
		return step, nil
	case f.skip && a.ExtendSession:
		var rec oauth.Record
		if rec, cookie, err = d.sessions.Extend(old, ticket, now, a); err != nil {
			return step, err
		}
		writes = append(writes, rec)
	case !f.skip:
		id := f.freshSID()
		if old != nil && old.Subject == a.Subject {
			id = old.ID
		}
		var rec oauth.Record
		if s, rec, cookie, err = d.sessions.Begin(id, now, a); err != nil {
			return step, err
		}
		writes = append(writes, rec)
	}
	if err := d.refuse(ctx, mark, stepLogin, nil, writes...); err != nil {
		return step, err
	}
	if old != nil && s.ID != old.ID { // another user took over the browser
		if err := d.sessions.End(ctx, old.ID); err != nil {
			return step, err
		}
	}
	if cookie != nil {
		http.SetCookie(w, cookie)
	}

	f.login = &loggedIn{subject: s.Subject, session: s.ID, authTime: s.AuthTime, acr: s.ACR, amr: s.AMR, context: a.Context}
	if f.skip && a.ACR != "" {
		f.login.acr = a.ACR
	}
	if f.skip && len(a.AMR) > 0 {
		f.login.amr = a.AMR
	}
	granted, _ := openRemembered(rs, a.Subject, f.client.ID)
	return d.askConsent(ctx, w, r, f, granted)
}

// refuse marks the step as redeemed, together with other records, and returns
// why nothing more happens; nil when it goes on.
func (d *Desk) refuse(ctx context.Context, mark oauth.Record, step string, why *oauth.Error, more ...oauth.Record) error {
	if err := d.mark(ctx, mark, "", more...); err != nil {
		if fault.KindOf(err) == fault.Spent {
			return spentVerifier(step).Because(err)
		}
		return fmt.Errorf("marking the %s as redeemed: %w", step, err)
	}
	if why != nil {
		return why
	}
	return nil
}

// remembered is what a user allowed a client for the next times as well.
type remembered struct {
	Scopes   []string  `json:"scopes,omitempty"`
	Audience []string  `json:"audience,omitempty"`
	At       time.Time `json:"at"`
}

func openRemembered(rs []oauth.Record, subject, client string) (m remembered, ok bool) {
	rec, ok := find(rs, oauth.Consents, oauth.ConsentKey(subject, client))
	if !ok || rec.Subject != subject || rec.Client != client || json.Unmarshal(rec.Data, &m) != nil {
		return remembered{}, false
	}
	return m, true
}

func (m remembered) covers(q *Request) bool {
	return within(q.Scopes, m.Scopes) && within(q.Audience, m.Audience)
}

// with returns what is remembered after another answer: what was asked again
// counts as answered now, the rest stays.
func (m remembered) with(q *Request, a *oauth.Answer, at time.Time) remembered {
	merge := func(before, asked, granted []string) []string {
		out := slices.DeleteFunc(slices.Clone(before), func(s string) bool { return slices.Contains(asked, s) })
		return append(out, granted...)
	}
	return remembered{merge(m.Scopes, q.Scopes, a.Scopes), merge(m.Audience, q.Audience, a.Audience), at}
}

func within(some, all []string) bool {
	return !slices.ContainsFunc(some, func(s string) bool { return !slices.Contains(all, s) })
}

// askConsent puts the consent question. It is put even when the answer is
// known (skip): the application fills in the claims.
func (d *Desk) askConsent(ctx context.Context, w http.ResponseWriter, r *http.Request, f *flow, known remembered) (Step, error) {
	q := &f.request
	step := Step{Request: q}
	f.answer = nil
	f.expires = d.set.Now().Add(d.set.TTLInteraction).Truncate(time.Second)
	f.skip = false
	if !q.prompts("consent") {
		impersonable := f.client.Public() && !safeFromImpersonation(q.RedirectURI)
		f.skip = f.client.SkipConsent || !known.At.IsZero() && known.covers(q) && !impersonable
	}
	if q.prompts("none") && !f.skip {
		return step, oauth.ErrConsentRequired
	}
	if d.set.ConsentURL == "" {
		step.Location = d.set.PublicBase() + "/oauth2/fallbacks/consent"
		return step, nil
	}
	f.tag = d.bind(w, r, stepConsent, q.ClientID)
	challenge, err := d.seal(ctx, consentChallenge, f)
	if err != nil {
		return step, tellClient(err)
	}
	step.Location = withParam(d.set.ConsentURL, "consent_challenge", challenge)
	return step, nil
}

// RedeemConsent takes the answer to the consent question and stores the
// authorization: one write, which only the first of several can do.
func (d *Desk) RedeemConsent(ctx context.Context, w http.ResponseWriter, r *http.Request, verifier string) (Step, error) {
	f, err := d.redeemable(ctx, r, consentVerifier, stepConsent, verifier)
	if f == nil {
		return Step{}, err
	}
	step := Step{Request: &f.request}
	if err != nil {
		return step, err
	}
	if f.login == nil || f.consent == nil && f.reject == nil {
		return step, oauth.ErrAccessDenied
	}
	session := oauth.Ref{Kind: oauth.Sessions, Key: f.login.session}
	rs, err := d.store.Get(ctx, append(used(f.key(), stepConsent), session,
		oauth.Ref{Kind: oauth.Consents, Key: oauth.ConsentKey(f.login.subject, f.client.ID)})...)
	if err != nil {
		return step, fmt.Errorf("reading the state of a consent: %w", err)
	}
	if isUsed(rs, f.key(), stepConsent) {
		return step, spentVerifier(stepConsent)
	}
	if f.reject != nil {
		err := d.refuse(ctx, marker(f.key(), stepConsent, f.expires), stepConsent, f.reject)
		// An acceptance of the same question that is redeemed right now must not
		// outlive the rejection.
		if rerr := d.store.Revoke(ctx, f.key(), d.tombstone()); rerr != nil {
			return step, fmt.Errorf("revoking a rejected authorization: %w", rerr)
		}
		return step, err
	}
	ended := oauth.ErrLoginRequired.WithHint("The session has ended.")
	if rec, ok := find(rs, oauth.Sessions, session.Key); !ok || rec.Subject != f.login.subject {
		return step, d.refuse(ctx, marker(f.key(), stepConsent, f.expires), stepConsent, ended)
	}

	a := f.authorization(d.set.Now(), d.set.TTLCode)
	rec, err := a.Record()
	if err != nil {
		return step, fmt.Errorf("encoding authorization %s: %w", a.ID, err)
	}
	writes := []oauth.Record{rec}
	if f.consent.Remember && !f.skip {
		known, _ := openRemembered(rs, f.login.subject, f.client.ID)
		rec, err := known.with(&f.request, f.consent, d.set.Now()).record(f, d.set.Now())
		if err != nil {
			return step, fmt.Errorf("encoding a remembered consent: %w", err)
		}
		writes = append(writes, rec)
	}
	if err := d.store.Put(ctx, writes...); err != nil {
		if k := fault.KindOf(err); k == fault.Conflict || k == fault.Denied {
			return step, spentVerifier(stepConsent).Because(err)
		}
		return step, fmt.Errorf("storing authorization %s: %w", a.ID, err)
	}
	// A logout at the same time may have looked for authorizations before this
	// one was there; then the session is gone now.
	rs, err = d.store.Get(ctx, session)
	if err != nil {
		return step, fmt.Errorf("reading the session: %w", err)
	}
	if len(rs) == 0 {
		if err := d.store.Revoke(ctx, a.ID, d.tombstone()); err != nil {
			return step, fmt.Errorf("revoking authorization %s: %w", a.ID, err)
		}
		return step, ended
	}
	a.Generation = 1
	step.Authorization = a
	return step, nil
}

// tombstone is until when a revoked authorization stays refused.
func (d *Desk) tombstone() time.Time { return session.Tombstone(d.set) }

func (m remembered) record(f *flow, now time.Time) (oauth.Record, error) {
	data, err := json.Marshal(m)
	rec := oauth.Record{
		Kind: oauth.Consents, Key: oauth.ConsentKey(f.login.subject, f.client.ID),
		Client: f.client.ID, Subject: f.login.subject, Generation: oauth.Overwrite, Data: data,
	}
	if f.consent.RememberFor > 0 {
		rec.Expires = now.Add(f.consent.RememberFor)
	}
	return rec, err
}

// authorization is what the user granted. Its record is the marker of the
// consent step, so it lives at least as long as the verifier.
func (f *flow) authorization(now time.Time, ttl time.Duration) *oauth.Authorization {
	q, a := &f.request, f.consent
	expires := now.Add(ttl)
	if f.expires.After(expires) {
		expires = f.expires
	}
	uri := q.RedirectURI
	if q.RedirectOmitted {
		uri = ""
	}
	return &oauth.Authorization{
		ID: f.key(), ClientID: q.ClientID, Subject: f.login.subject, SessionID: f.login.session,
		Scopes: a.Scopes, Audience: a.Audience, RequestedScopes: q.Scopes, RequestedAudience: q.Audience,
		RedirectURI: uri, CodeChallenge: q.CodeChallenge, CodeChallengeMethod: q.CodeChallengeMethod,
		Nonce: q.Nonce, AuthTime: f.login.authTime.UTC(), RequestedAt: f.started.UTC(), ACR: f.login.acr, AMR: f.login.amr,
		IDTokenClaims: a.IDTokenClaims, AccessTokenClaims: a.AccessTokenClaims,
		ConsentRequestID: f.key(), LoginChallenge: f.key(), Context: a.Context,
		Remember: a.Remember, RememberFor: a.RememberFor, Skip: f.skip, HandledAt: a.HandledAt.UTC(),
		OIDC: q.oidc(), Expires: expires.Add(time.Minute),
	}
}
