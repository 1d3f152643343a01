// Package openidconnect guards a route with an OpenID Connect provider: it
// signs browsers in (authorization code flow with PKCE), keeps their session
// in a sealed cookie and tells the upstream who is there; or it checks bearer
// tokens by introspection or by the provider's keys.
//
// The package trusts no particular provider and knows none of this house's.
// It keeps nothing on a server: a session lives in the browser's cookies and
// ends in every process when it times out, but by logout only in the process
// that saw it. It finds no consumer.
//
// Start reading at Rewrite; login.go begins a sign-in, callback.go ends it.
package openidconnect

import (
	"crypto/sha256"
	"crypto/subtle"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"gatehouse/gateway"
	"gatehouse/lib/fault"
	"gatehouse/lib/seal"
)

const pluginName = "openid-connect"

//go:embed schema.json
var schemaJSON []byte

// Plugin is the entry for the list of plugins.
var Plugin = gateway.Plugin{
	Name:     pluginName,
	Priority: 2599,
	Version:  0.3,
	Schema:   func() json.RawMessage { return schemaJSON },
	Check:    func(raw json.RawMessage) error { _, err := parseConfig(raw); return err },
	New:      func(raw json.RawMessage, env *gateway.Env) (any, error) { return build(raw, env) },
}

// relyingParty is the plugin on one route. Immutable; state that outlasts it
// is in provider and state.
type relyingParty struct {
	conf
	env         *gateway.Env
	ring        *seal.Ring // seals sessions and attempts of this client at this provider
	bearerKey   any        // public_key
	claimSchema *jsonschema.Schema
	provider    *provider
	state       *state
	tokens      *bounded[*checked] // bearer tokens found good, by token
	policy      string             // what a verdict on a token depends on
	challenge   string             // WWW-Authenticate without an error
}

var _ gateway.Rewriter = (*relyingParty)(nil)

func build(raw json.RawMessage, env *gateway.Env) (*relyingParty, error) {
	c, err := parseConfig(raw)
	if err != nil {
		return nil, err
	}
	p := &relyingParty{conf: *c, env: env, bearerKey: c.publicKey, claimSchema: c.compiledClaims}
	p.challenge = `Bearer realm="` + quoted(c.Realm) + `"`
	secret := []byte(c.Session.Secret)
	if len(secret) == 0 {
		secret = env.SessionSecret
	}
	if !c.BearerOnly {
		// Client and provider are part of the purpose: the cookie of one
		// application does not open at another that shares the secret.
		p.ring, err = seal.New([][]byte{secret}, fmt.Sprintf("openid-connect session %q %q", c.ClientID, c.Discovery))
		if err != nil {
			return nil, fmt.Errorf("session.secret: %w", err)
		}
	}
	p.provider = gateway.Kept(env.Keep, fmt.Sprintf("openid-connect provider %q %v %v %d %d", c.Discovery, c.verify, c.ProxyOpts, c.DiscoveryExpiresIn, c.JWKExpiresIn), func() *provider {
		return newProvider(c, env.Now)
	})
	// Routes that share client and secrets share a login, so they share this.
	id := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q", c.Discovery, c.ClientID, c.ClientSecret, secret))
	p.state = gateway.Kept(env.Keep, "openid-connect state "+base64.RawURLEncoding.EncodeToString(id[:]), func() *state {
		return newState(env.Now)
	})
	p.policy = policy(c)
	p.tokens = gateway.Kept(env.Keep, "openid-connect tokens "+p.policy, func() *bounded[*checked] {
		return newBounded[*checked](tokenMemory, env.Now)
	})
	return p, nil
}

// Rewrite lets the request pass with the identity of who sent it, or answers
// in the upstream's place.
func (p *relyingParty) Rewrite(x *gateway.Exchange) *gateway.Reply {
	given := x.Req.Header.Get("X-Access-Token")
	// First of all, and whatever comes after: nobody says from outside who
	// they are, and our cookies do not travel on.
	stripIdentity(&x.Req.Header)
	jar := p.takeCookies(&x.Req.Header)

	if p.checksBearer() {
		reply, done := p.bearer(x, given)
		if done {
			return reply
		}
	}
	if p.AccessTokenInAuthorization {
		x.Req.Header.Del("Authorization") // only a token of ours travels in it
	}
	switch x.Req.Path {
	case p.redirectPath(x):
		return p.callback(x, jar)
	case p.LogoutPath:
		return p.logout(x, jar)
	}
	s, err := p.open(x, jar)
	if err == nil && s != nil {
		s, err = p.renewed(x, jar, s)
	}
	switch {
	case fault.KindOf(err) == fault.Unavailable:
		return p.unavailable(x, err)
	case errors.Is(err, seal.ErrOpen):
		p.clearSession(x, jar)
		if p.UnauthAction == "pass" {
			// What was presented did not verify; that is not "nothing presented".
			return p.unauthorized(nil)
		}
	case err != nil:
		return p.failure(x, err)
	}
	if s == nil {
		return p.unauthenticated(x, jar)
	}
	if reply := p.authorize(s); reply != nil {
		return reply
	}
	p.setIdentity(&x.Req.Header, identity{
		access: s.Access, refresh: s.Refresh, rawID: s.RawID, id: s.idHeader, user: s.userHeader,
	})
	return nil
}

// unauthenticated does what unauth_action says for a request without a session.
func (p *relyingParty) unauthenticated(x *gateway.Exchange, jar *jar) *gateway.Reply {
	switch p.UnauthAction {
	case "pass":
		return nil
	case "deny":
		return p.unauthorized(nil)
	}
	return p.login(x, jar)
}

// authorize applies claim_schema and required_scopes to a session.
func (p *relyingParty) authorize(s *session) *gateway.Reply {
	if p.claimSchema != nil {
		view := map[string]any{}
		for name, raw := range map[string][]byte{"user": s.User, "id_token": s.claims} {
			if v, err := decodeAny(raw); err == nil {
				view[name] = v
			}
		}
		if s.Access != "" {
			view["access_token"] = s.Access
		}
		if err := p.claimSchema.Validate(view); err != nil {
			return p.invalidToken(fault.Wrap(fault.Denied, "claims do not fit the schema", err))
		}
	}
	if len(p.RequiredScopes) > 0 {
		if !hasScopes(s.scopes, p.RequiredScopes) {
			return p.missingScopes()
		}
	}
	return nil
}

func (p *relyingParty) missingScopes() *gateway.Reply {
	return forbidden("required scopes " + strings.Join(p.RequiredScopes, ", ") + " not present")
}

func forbidden(why string) *gateway.Reply {
	b, err := json.Marshal(map[string]string{"error": why})
	if err != nil {
		return &gateway.Reply{Status: 500, Err: err}
	}
	return &gateway.Reply{Status: 403, Header: []gateway.Field{{Name: "Content-Type", Value: "text/plain; charset=utf-8"}}, Body: b}
}

func (p *relyingParty) unauthorized(err error) *gateway.Reply {
	return &gateway.Reply{Status: 401, Header: []gateway.Field{{Name: "WWW-Authenticate", Value: p.challenge}}, Err: err}
}

// invalidToken is the answer of RFC 6750, section 3.1. Only the safe text of
// a fault is told.
func (p *relyingParty) invalidToken(err error) *gateway.Reply {
	why := "token is not valid"
	if fault.KindOf(err) == fault.Denied {
		why = err.Error()
	}
	return &gateway.Reply{Status: 401, Err: cause(err), Header: []gateway.Field{
		{Name: "WWW-Authenticate", Value: p.challenge + `, error="invalid_token", error_description="` + quoted(why) + `"`},
	}}
}

// cause brings the private cause of a fault into the log beside its text.
func cause(err error) error {
	if inner := errors.Unwrap(err); inner != nil {
		return fmt.Errorf("%v: %w", err, inner)
	}
	return err
}

// quoted makes s fit between the quotes of a header parameter.
func quoted(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '"' || r == '\\' {
			return '\''
		}
		return r
	}, s)
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

func seconds(n int) time.Duration { return time.Duration(n) * time.Second }
