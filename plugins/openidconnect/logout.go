package openidconnect

import (
	"net/url"
	"strings"

	"gatehouse/gateway"
)

const maxHint = 6 << 10 // bytes of an ID token that still fit in a URL

// logout ends the session here, and at the provider when it has an endpoint
// for that (OpenID Connect RP-Initiated Logout 1.0). It needs no token against
// forged requests: cookies of SameSite Lax do not come along with what another
// site embeds, and a top-level link to it does no more than sign out.
func (p *relyingParty) logout(x *gateway.Exchange, j *jar) *gateway.Reply {
	s, err := p.open(x, j)
	p.clearSession(x, j)
	for _, a := range j.attempts {
		p.dropAttempt(x, a.name)
	}
	if err == nil && s != nil {
		if r, ok := p.state.renewals.get(s.renewKey); ok && s.renewKey != "" && r.session != nil {
			s = r.session
		}
		p.end(s)
	}
	doc, err := p.metadata(x.Ctx)
	if err != nil {
		r := p.unavailableAt(x, err, "/")
		return r
	}
	if s != nil && p.RevokeOnLogout {
		p.revoke(x.Ctx, doc, s)
	}
	after := p.absolute(x, p.PostLogoutRedirectURI)
	if doc.EndSession == "" {
		if after == "" {
			after = p.absolute(x, p.AfterLogoutURI)
		}
		if after == "" {
			return p.page(x, 200, signedOut, nil)
		}
		return redirectTo(after)
	}
	if p.AfterLogoutURI != "" {
		return redirectTo(p.absolute(x, p.AfterLogoutURI))
	}
	to, err := url.Parse(doc.EndSession)
	if err != nil {
		return p.failure(x, err)
	}
	q := to.Query()
	q.Set("client_id", p.ClientID)
	if s != nil && s.RawID != "" && len(s.RawID) <= maxHint {
		q.Set("id_token_hint", s.RawID)
	}
	if after != "" {
		q.Set("post_logout_redirect_uri", after)
	}
	to.RawQuery = q.Encode()
	return redirectTo(to.String())
}

// absolute turns a configured path into a URL of this host.
func (p *relyingParty) absolute(x *gateway.Exchange, uri string) string {
	if !strings.HasPrefix(uri, "/") {
		return uri
	}
	origin, ok := p.origin(x)
	if !ok {
		return localTarget(uri)
	}
	return origin + uri
}
