package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
)

// hydraConsent is one entry of the list of consent sessions.
type hydraConsent struct {
	ConsentRequestID string   `json:"consent_request_id"`
	Scopes           []string `json:"grant_scope"`
	Audience         []string `json:"grant_access_token_audience"`
	Session          struct {
		AccessToken map[string]any `json:"access_token"`
		IDToken     map[string]any `json:"id_token"`
	} `json:"session"`
	Remember    bool            `json:"remember"`
	RememberFor int64           `json:"remember_for"`
	HandledAt   time.Time       `json:"handled_at"`
	Context     json.RawMessage `json:"context"`
	Request     json.RawMessage `json:"consent_request"`
}

func (s *hydraServer) listConsents(w http.ResponseWriter, r *http.Request) error {
	const list = "/admin/oauth2/auth/sessions/consent"
	q := r.URL.Query()
	subject, sid := q.Get("subject"), q.Get("login_session_id")
	if subject == "" {
		return hydraInvalid("Query parameter 'subject' is not defined but should have been.")
	}
	p, err := s.page(q, list)
	if err != nil {
		return err
	}
	rs, err := s.Store.List(r.Context(), oauth.Query{Kind: oauth.Authorizations, Subject: subject, Session: sid, After: p.after, Limit: p.size + 1})
	if err != nil {
		return err
	}
	next := ""
	if len(rs) > p.size {
		rs = rs[:p.size]
		next = rs[p.size-1].Key
	}
	out := make([]hydraConsent, 0, len(rs))
	for _, rec := range rs {
		a, err := oauth.OpenAuthorization(rec)
		if err != nil {
			return fmt.Errorf("decoding authorization %s: %w", rec.Key, err)
		}
		c, err := s.consent(r.Context(), a)
		if err != nil {
			return err
		}
		out = append(out, c)
	}
	if len(out) > 0 || p.after != "" {
		s.link(w, list, p, url.Values{"subject": {subject}, "login_session_id": {sid}}, next)
	}
	hydraAnswer(w, http.StatusOK, out)
	return nil
}

func (s *hydraServer) consent(ctx context.Context, a *oauth.Authorization) (hydraConsent, error) {
	client, err := s.Clients.Client(ctx, a.ClientID)
	if err != nil && fault.KindOf(err) != fault.NotFound {
		return hydraConsent{}, err
	}
	request, err := (&oauth.Challenge{
		Kind: oauth.AskConsent, ConsentRequestID: a.ConsentRequestID, Client: client, RequestURL: s.requestURL(a),
		RequestedScopes: a.RequestedScopes, RequestedAudience: a.RequestedAudience, Skip: a.Skip, Subject: a.Subject,
		OIDC: a.OIDC, LoginChallenge: a.LoginChallenge, SessionID: a.SessionID, ACR: a.ACR, AMR: a.AMR, Context: a.Context,
	}).Wire()
	if err != nil {
		return hydraConsent{}, err
	}
	c := hydraConsent{
		ConsentRequestID: a.ConsentRequestID, Scopes: hydraList(a.Scopes), Audience: hydraList(a.Audience), Remember: a.Remember,
		RememberFor: int64(a.RememberFor / time.Second), HandledAt: a.HandledAt, Context: a.Context, Request: request,
	}
	if c.Session.AccessToken = a.AccessTokenClaims; c.Session.AccessToken == nil {
		c.Session.AccessToken = map[string]any{}
	}
	if c.Session.IDToken = a.IDTokenClaims; c.Session.IDToken == nil {
		c.Session.IDToken = map[string]any{}
	}
	return c, nil
}

func hydraList(ss []string) []string {
	if ss == nil {
		return []string{}
	}
	return ss
}

// requestURL is the request that was granted, as far as it was kept: state and
// PKCE challenge are nobody's business any more.
func (s *hydraServer) requestURL(a *oauth.Authorization) string {
	v := url.Values{"client_id": {a.ClientID}, "response_type": {"code"}}
	for k, val := range map[string]string{
		"redirect_uri": a.RedirectURI, "scope": strings.Join(a.RequestedScopes, " "), "audience": strings.Join(a.RequestedAudience, " "),
		"login_hint": a.OIDC.LoginHint, "display": a.OIDC.Display, "acr_values": strings.Join(a.OIDC.ACRValues, " "), "ui_locales": strings.Join(a.OIDC.UILocales, " "),
	} {
		if val != "" {
			v.Set(k, val)
		}
	}
	return s.PublicBase + "/oauth2/auth?" + v.Encode()
}

// hydraTombstone is how long a revoked authorization stays refused. It must
// outlive every answer that could bring it back (ttl.login_consent_request).
const hydraTombstone = 31 * 24 * time.Hour

// deleteConsents takes back what was granted, and what was remembered.
func (s *hydraServer) deleteConsents(w http.ResponseWriter, r *http.Request) error {
	q, ctx := r.URL.Query(), r.Context()
	subject, client, id, all := q.Get("subject"), q.Get("client"), q.Get("consent_request_id"), q.Get("all") == "true"
	var err error
	switch {
	case id != "" && subject == "" && client == "" && !all:
		err = s.deleteConsent(ctx, id)
	case id == "" && subject != "" && (client != "") != all:
		// What is remembered goes first, so that no new flow is granted by it.
		if _, err = s.Store.Delete(ctx, oauth.Query{Kind: oauth.Consents, Subject: subject, Client: client}); err != nil {
			break
		}
		err = s.revoke(ctx, oauth.Query{Kind: oauth.Authorizations, Subject: subject, Client: client})
	default:
		return hydraInvalid("Invalid combination of query parameters.")
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *hydraServer) deleteConsent(ctx context.Context, id string) error {
	rs, err := s.Store.Get(ctx, oauth.Ref{Kind: oauth.Authorizations, Key: id})
	if err != nil || len(rs) == 0 {
		return err
	}
	err = s.Store.Remove(ctx, oauth.Ref{Kind: oauth.Consents, Key: oauth.ConsentKey(rs[0].Subject, rs[0].Client)})
	if err != nil && fault.KindOf(err) != fault.NotFound {
		return err
	}
	return s.Store.Revoke(ctx, id, s.Now().Add(hydraTombstone))
}

// revoke revokes every family a query finds.
func (s *hydraServer) revoke(ctx context.Context, q oauth.Query) error {
	q.Limit = hydraPage
	for {
		rs, err := s.Store.List(ctx, q)
		if err != nil {
			return err
		}
		for _, r := range rs {
			if err := s.Store.Revoke(ctx, r.Family, s.Now().Add(hydraTombstone)); err != nil {
				return err
			}
			q.After = r.Key
		}
		if len(rs) < q.Limit {
			return nil
		}
	}
}

// deleteLogins ends browser sessions. What was granted in them goes on, as
// with Hydra; DELETE …/sessions/consent takes that back.
func (s *hydraServer) deleteLogins(w http.ResponseWriter, r *http.Request) error {
	subject, sid := r.URL.Query().Get("subject"), r.URL.Query().Get("sid")
	var err error
	switch {
	case sid != "":
		if err = s.Store.Remove(r.Context(), oauth.Ref{Kind: oauth.Sessions, Key: sid}); err != nil && fault.KindOf(err) == fault.NotFound {
			err = nil
		}
	case subject != "":
		_, err = s.Store.Delete(r.Context(), oauth.Query{Kind: oauth.Sessions, Subject: subject})
	default:
		return hydraInvalid("Either 'subject' or 'sid' query parameters need to be defined.")
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
