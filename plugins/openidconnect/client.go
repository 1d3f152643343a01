package openidconnect

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strings"

	strict "github.com/go-jose/go-jose/v4/json"

	"gatehouse/gateway"
	"gatehouse/lib/jwks"
)

// post sends a form to an endpoint of the provider and proves who asks.
func (p *relyingParty) post(ctx context.Context, doc *metadata, endpoint, method string, form url.Values, more []gateway.Field) (*gateway.CallAnswer, error) {
	header := append(acceptJSON(), gateway.Field{Name: "Content-Type", Value: "application/x-www-form-urlencoded"})
	header = append(header, more...)
	switch method {
	case methodBasic:
		// RFC 6749, section 2.3.1: both are form-encoded before base64.
		pair := url.QueryEscape(p.ClientID) + ":" + url.QueryEscape(p.ClientSecret)
		header = append(header, gateway.Field{Name: "Authorization", Value: "Basic " + base64.StdEncoding.EncodeToString([]byte(pair))})
	case methodPost:
		form.Set("client_id", p.ClientID)
		form.Set("client_secret", p.ClientSecret)
	case methodPrivateKey, methodSecretJWT:
		assertion, err := p.assertion(doc)
		if err != nil {
			return nil, err
		}
		form.Set("client_id", p.ClientID)
		form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		form.Set("client_assertion", assertion)
	default:
		form.Set("client_id", p.ClientID)
	}
	return p.call(ctx, gateway.Call{Method: "POST", URL: endpoint, Header: header, Body: []byte(form.Encode())})
}

// assertion makes a fresh proof of the client (RFC 7523, section 3).
func (p *relyingParty) assertion(doc *metadata) (string, error) {
	audience := p.AssertionAudience
	if audience == "" {
		audience = doc.Token
	}
	now := p.env.Now().Unix()
	claims, err := json.Marshal(map[string]any{
		"iss": p.ClientID, "sub": p.ClientID, "aud": audience, "jti": rand.Text(),
		"iat": now, "exp": now + int64(p.AssertionExpiresIn),
	})
	if err != nil {
		return "", err
	}
	return jwks.Sign(p.AssertionAlg, p.RSAKeyID, p.assertionKey, claims)
}

// userinfo asks who the user is. An answer about somebody else, and any
// failure, is no answer: the session then lives without it (OpenID Connect
// Core, section 5.3.4).
func (p *relyingParty) userinfo(ctx context.Context, doc *metadata, access, subject string) json.RawMessage {
	if doc.Userinfo == "" || !p.keep.User || !p.SetUserinfo && p.claimSchema == nil {
		return nil
	}
	a, err := p.call(ctx, gateway.Call{Method: "GET", URL: doc.Userinfo, MaxBody: maxUserinfo, Header: append(acceptJSON(),
		gateway.Field{Name: "Authorization", Value: "Bearer " + access})})
	if err == nil && a.Status != 200 {
		err = refusal(a)
	}
	var claims map[string]strict.RawMessage
	if err == nil {
		err = strict.Unmarshal(a.Body, &claims)
	}
	var who string
	if err == nil {
		if err = strict.Unmarshal(claims["sub"], &who); err == nil && who != subject {
			err = denied("userinfo is about another subject")
		}
	}
	if err != nil {
		p.env.Log.Warn("userinfo is left out", "owner", p.env.Owner, "err", cause(err))
		return nil
	}
	return compact(a.Body)
}

// introspect asks the provider about a token (RFC 7662). x is needed only for
// introspection_addon_headers. Errors are
// fault.Denied, fault.Unavailable or internal.
func (p *relyingParty) introspect(ctx context.Context, x *gateway.Exchange, token string) (map[string]any, []byte, error) {
	endpoint, doc := p.Introspection, &metadata{}
	if endpoint == "" || p.IntrospectionAuth == methodPrivateKey || p.IntrospectionAuth == methodSecretJWT {
		var err error
		if doc, err = p.metadata(ctx); err != nil {
			return nil, nil, err
		}
		if endpoint == "" {
			endpoint = doc.Introspection
		}
	}
	if endpoint == "" {
		return nil, nil, &refused{0, "no_introspection_endpoint"}
	}
	var more []gateway.Field
	for _, name := range p.IntrospectionHeaders {
		if v := x.Req.Header.Get(name); v != "" && !strings.EqualFold(name, "Authorization") && !strings.EqualFold(name, "Content-Type") {
			more = append(more, gateway.Field{Name: name, Value: v})
		}
	}
	a, err := p.post(ctx, doc, endpoint, p.IntrospectionAuth, url.Values{"token": {token}, "token_type_hint": {"access_token"}}, more)
	if err != nil {
		return nil, nil, err
	}
	if a.Status != 200 {
		return nil, nil, refusal(a)
	}
	body := compact(a.Body)
	v, err := decodeAny(body)
	claims, ok := v.(map[string]any)
	if err != nil || !ok {
		return nil, nil, &refused{a.Status, "unreadable_answer"}
	}
	if active, ok := claims["active"].(bool); !ok || !active {
		return nil, nil, denied("invalid token")
	}
	return claims, body, nil
}

// revoke ends a session's tokens at the provider (RFC 7009). Failures are
// logged: the user is signed out here all the same.
func (p *relyingParty) revoke(ctx context.Context, doc *metadata, s *session) {
	if doc.Revocation == "" {
		return
	}
	for hint, token := range map[string]string{"refresh_token": s.Refresh, "access_token": s.Access} {
		if token == "" {
			continue
		}
		a, err := p.post(ctx, doc, doc.Revocation, p.tokenAuth(doc), url.Values{"token": {token}, "token_type_hint": {hint}}, nil)
		if err == nil && a.Status != 200 {
			err = refusal(a)
		}
		if err != nil {
			p.env.Log.Warn("cannot revoke a token at logout", "owner", p.env.Owner, "token", hint, "err", cause(err))
		}
	}
}
