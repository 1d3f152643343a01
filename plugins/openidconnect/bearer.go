package openidconnect

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gatehouse/gateway"
	"gatehouse/lib/fault"
	"gatehouse/lib/jwks"
)

// introspectionCap is how long an introspection answer is used at most when
// introspection_interval does not say: a revoked token works no longer.
const introspectionCap = time.Minute

// checked is a bearer token that was found good. Immutable.
type checked struct {
	claims map[string]any
	user   string // for X-Userinfo
}

// bearer checks the token of a request. done is false when there is none and
// a session may do instead.
func (p *relyingParty) bearer(x *gateway.Exchange, given string) (reply *gateway.Reply, done bool) {
	token, reply := bearerToken(x, given)
	if reply != nil {
		return reply, true
	}
	if token == "" {
		if !p.BearerOnly {
			return nil, false
		}
		return p.unauthorized(nil), true
	}
	if !x.Req.Header.Has("Authorization") {
		return p.invalidToken(denied("no Authorization header found")), true
	}
	c, err := p.check(x, token)
	switch {
	case err == nil:
	case fault.KindOf(err) == fault.Unavailable:
		return &gateway.Reply{Status: 503, Err: cause(err), Header: []gateway.Field{
			{Name: "Retry-After", Value: "5"}, {Name: "Content-Type", Value: "text/plain; charset=utf-8"},
		}, Body: []byte("{\"error\":\"the token cannot be checked now: the sign-in service cannot be reached\"}\n")}, true
	case fault.KindOf(err) == fault.Denied:
		return p.invalidToken(err), true
	default:
		return &gateway.Reply{Status: 500, Err: err}, true
	}
	if reply := p.authorizeBearer(c); reply != nil {
		return reply, true
	}
	p.setIdentity(&x.Req.Header, identity{access: token, user: c.user})
	return nil, true
}

// bearerToken finds the token: in Authorization, else what came as
// X-Access-Token. Another scheme is no token.
func bearerToken(x *gateway.Exchange, given string) (string, *gateway.Reply) {
	n, value := 0, ""
	for v := range x.Req.Header.Values("Authorization") {
		n, value = n+1, v
	}
	if n == 0 {
		return given, nil
	}
	scheme, token, ok := strings.Cut(strings.TrimSpace(value), " ")
	if n > 1 || !ok {
		return "", &gateway.Reply{Status: 400}
	}
	if !strings.EqualFold(scheme, "Bearer") {
		return "", nil
	}
	return strings.TrimSpace(token), nil
}

// check verifies a token, or remembers that it did.
func (p *relyingParty) check(x *gateway.Exchange, token string) (*checked, error) {
	if len(token) > jwks.MaxToken {
		return nil, denied("token is too long")
	}
	local := p.bearerKey != nil || p.UseJWKS
	// With introspection_addon_headers the answer depends on the request too.
	cached := local && !p.VerificationNoCache || !local && !p.IntrospectionNoCache && len(p.IntrospectionHeaders) == 0
	if cached {
		if c, ok := p.tokens.get(token); ok {
			return c, nil
		}
	}
	now := p.env.Now()
	var c *checked
	var until time.Time
	var err error
	if local {
		c, until, err = p.checkJWT(x.Ctx, token)
	} else {
		c, until, err = p.checkRemote(x, token)
	}
	if err != nil {
		return nil, err
	}
	if cached && now.Before(until) {
		p.tokens.put(strings.Clone(token), c, 2*len(token)+4*len(c.user), until)
	}
	return c, nil
}

// checkJWT verifies a token by public_key or the provider's keys.
func (p *relyingParty) checkJWT(ctx context.Context, token string) (*checked, time.Time, error) {
	var none time.Time
	h, err := jwks.ParseHeader(token)
	if err != nil {
		return nil, none, err
	}
	if h.Type != "" && h.Type != "jwt" && h.Type != "at+jwt" {
		return nil, none, denied("token is not an access token")
	}
	algs := jwks.Asymmetric
	if p.SigningAlg != "" {
		algs = []string{p.SigningAlg}
	}
	issuers := p.ClaimValidator.Issuer.Valid
	var doc *metadata
	if len(issuers) == 0 || p.bearerKey == nil {
		if doc, err = p.metadata(ctx); err != nil {
			return nil, none, err
		}
		if len(issuers) == 0 {
			issuers = []string{doc.Issuer}
		}
	}
	var payload []byte
	switch {
	case p.bearerKey != nil:
		payload, err = jwks.VerifyKey(token, algs, p.bearerKey)
	case strings.HasPrefix(p.SigningAlg, "HS"):
		payload, err = jwks.VerifyKey(token, algs, []byte(p.ClientSecret))
	default:
		payload, err = doc.keys.Verify(ctx, p.fetchKeys(doc), token, algs)
	}
	if err != nil {
		return nil, none, err
	}
	claims, err := jwks.ParseClaims(payload)
	if err != nil {
		return nil, none, err
	}
	// An ID token says who signed in; it is not a key to anything.
	if claims.AccessTokenHash != "" || claims.CodeHash != "" {
		return nil, none, denied("token is not an access token")
	}
	if !slices.Contains(issuers, claims.Issuer) {
		return nil, none, denied("token is from another issuer")
	}
	if err := claims.InTime(p.env.Now(), seconds(p.IATSlack)); err != nil {
		return nil, none, err
	}
	c, err := newChecked(compact(payload))
	if err != nil {
		return nil, none, err
	}
	for _, kind := range []string{"ID", "Refresh", "Logout"} {
		if c.claims["typ"] == kind {
			return nil, none, denied("token is not an access token")
		}
	}
	if _, ok := c.claims["events"]; ok { // a logout token
		return nil, none, denied("token is not an access token")
	}
	return c, time.Unix(int64(claims.Expires), 0).Add(seconds(p.IATSlack)), nil
}

func newChecked(body []byte) (*checked, error) {
	v, err := decodeAny(body)
	claims, ok := v.(map[string]any)
	if err != nil || !ok {
		return nil, denied("token claims cannot be read")
	}
	return &checked{claims, base64JSON(body)}, nil
}

// checkRemote asks the provider, once for all that carry the same token.
func (p *relyingParty) checkRemote(x *gateway.Exchange, token string) (*checked, time.Time, error) {
	var none time.Time
	claims, body, err := p.introspectOnce(x, token)
	if err != nil {
		return nil, none, err
	}
	now := p.env.Now()
	most := now.Add(introspectionCap)
	if p.IntrospectionInterval > 0 {
		most = now.Add(seconds(p.IntrospectionInterval))
	}
	if exp, ok := claims[p.IntrospectionExpiry].(float64); ok {
		end := time.Unix(int64(min(max(exp, 0), 1<<40)), 0)
		if !now.Before(end) {
			return nil, none, denied("token has expired")
		}
		if end.Before(most) {
			most = end
		}
	}
	return &checked{claims, base64JSON(body)}, most, nil
}

// introspectOnce shares a call among requests that carry the same token, unless
// what is asked depends on the request.
func (p *relyingParty) introspectOnce(x *gateway.Exchange, token string) (map[string]any, []byte, error) {
	if len(p.IntrospectionHeaders) > 0 {
		return p.introspect(x.Ctx, x, token)
	}
	type answer struct {
		claims map[string]any
		body   []byte
	}
	token = strings.Clone(token)
	shared := context.WithoutCancel(x.Ctx)
	done := p.state.flight.DoChan("introspect "+p.policy+token, func() (any, error) {
		claims, body, err := p.introspect(shared, nil, token)
		return answer{claims, body}, err
	})
	select {
	case r := <-done:
		if r.Err != nil {
			return nil, nil, r.Err
		}
		a := r.Val.(answer)
		return a.claims, a.body, nil
	case <-x.Ctx.Done():
		return nil, nil, fault.Wrap(fault.Unavailable, "the client went away", x.Ctx.Err())
	}
}

// authorizeBearer applies required_scopes, claim_validator.audience and
// claim_schema to a good token, in this order.
func (p *relyingParty) authorizeBearer(c *checked) *gateway.Reply {
	if len(p.RequiredScopes) > 0 && !hasScopes(scopesOf(c.claims), p.RequiredScopes) {
		return p.missingScopes()
	}
	rule := p.ClaimValidator.Audience
	aud := c.claims[rule.Claim]
	if (rule.Required || rule.Match) && aud == nil {
		return forbidden("required audience claim not present")
	}
	if rule.Match && !includes(aud, p.ClientID) {
		return forbidden("mismatched audience")
	}
	if p.claimSchema != nil {
		if err := p.claimSchema.Validate(c.claims); err != nil {
			return p.invalidToken(fault.Wrap(fault.Denied, "claims do not fit the schema", errors.New(err.Error())))
		}
	}
	return nil
}

func includes(aud any, id string) bool {
	switch v := aud.(type) {
	case string:
		return v == id
	case []any:
		return slices.Contains(v, any(id))
	}
	return false
}

// policy names what a verdict on a token depends on, for the cache of verdicts.
func policy(c *conf) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q %v %q %v %q %d %d %q %q %v %q %q", c.Discovery, c.ClientID, c.ClientSecret, c.PublicKey, c.UseJWKS,
		c.SigningAlg, c.ClaimValidator, c.Introspection, c.IntrospectionInterval, c.IATSlack, c.IntrospectionExpiry, c.CacheSegment, c.verify,
		c.IntrospectionHeaders, c.IntrospectionAuth))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
