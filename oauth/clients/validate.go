package clients

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"gatehouse/oauth"
)

const (
	maxID     = 255
	minSecret = 6
)

// What a client may name. Some are not served here yet: a client of another
// server can be registered with them all the same, asking for them fails.
var (
	authMethods = []string{"client_secret_basic", "client_secret_post", "none"}
	grantTypes  = []string{
		"authorization_code", "refresh_token", "client_credentials", "implicit",
		"urn:ietf:params:oauth:grant-type:device_code",
		"urn:ietf:params:oauth:grant-type:jwt-bearer",
		"urn:ietf:params:oauth:grant-type:token-exchange",
	}
	responseTypes = []string{"code", "token", "id_token"}
	// Browsers run or open these locally, they never belong to a client.
	badSchemes = []string{"javascript", "data", "vbscript", "file", "about", "blob", "view-source", "filesystem", "ws", "wss"}
)

func badMetadata(hint string) error { return oauth.ErrInvalidClientMetadata.WithHint(hint) }
func badRedirect(hint string) error { return oauth.ErrInvalidRedirectURI.WithHint(hint) }

// validate says whether a client is one to register (RFC 7591, section 2;
// OpenID Connect Dynamic Client Registration 1.0, section 2).
func (r *Registry) validate(c *oauth.Client) error {
	if len(c.ID) > maxID || strings.ContainsFunc(c.ID, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return badMetadata("client_id has up to 255 visible ASCII characters")
	}
	for _, f := range []struct {
		name, value string
		known       []string
	}{
		{"token_endpoint_auth_method", c.TokenEndpointAuthMethod, authMethods},
		{"subject_type", c.SubjectType, []string{"public"}},
		{"userinfo_signed_response_alg", c.UserinfoSignedResponseAlg, append([]string{"none"}, r.cfg.SigningAlgs...)},
		{"id_token_signed_response_alg", c.IDTokenSignedResponseAlg, append([]string{""}, r.cfg.SigningAlgs...)},
		{"access_token_strategy", c.AccessTokenStrategy, []string{"", "opaque", "jwt"}},
	} {
		if !slices.Contains(f.known, f.value) {
			return badMetadata(f.name + " " + quote(f.value) + " is not supported, known are " + strings.TrimPrefix(strings.Join(f.known, ", "), ", "))
		}
	}
	for _, g := range c.GrantTypes {
		if !slices.Contains(grantTypes, g) {
			return badMetadata("grant type " + quote(g) + " is unknown")
		}
	}
	for _, t := range c.ResponseTypes {
		words := strings.Fields(t)
		if len(words) == 0 || slices.ContainsFunc(words, func(w string) bool { return !slices.Contains(responseTypes, w) }) {
			return badMetadata("response type " + quote(t) + " is unknown")
		}
	}
	if strings.ContainsFunc(c.Scope, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) {
		return badMetadata("scope has a character that is not allowed")
	}
	for _, a := range c.Audience {
		if a == "" || strings.ContainsFunc(a, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return badMetadata("an audience has visible ASCII characters and no spaces")
		}
	}
	if err := validateURIs(c); err != nil {
		return err
	}
	return validateKeys(c)
}

func validateURIs(c *oauth.Client) error {
	for _, raw := range c.RedirectURIs {
		if err := redirectURI(raw); err != nil {
			return err
		}
	}
	for name, raw := range map[string]string{
		"policy_uri": c.PolicyURI, "tos_uri": c.TOSURI, "client_uri": c.URI, "logo_uri": c.LogoURI, "jwks_uri": c.JWKSURI,
		"frontchannel_logout_uri": c.FrontchannelLogoutURI, "backchannel_logout_uri": c.BackchannelLogoutURI,
	} {
		if raw == "" {
			continue
		}
		if u, err := url.Parse(raw); err != nil || !web(u) || u.Fragment != "" || u.User != nil || unclean(raw) {
			return badMetadata(name + " must be an http or https URL")
		}
	}
	for _, raw := range c.PostLogoutRedirectURIs {
		u, err := url.Parse(raw)
		if err != nil || redirectURI(raw) != nil || !slices.ContainsFunc(c.RedirectURIs, func(other string) bool {
			o, err := url.Parse(other)
			return err == nil && o.Scheme == u.Scheme && o.Host == u.Host
		}) {
			return badMetadata("post_logout_redirect_uri " + quote(raw) + " must match the domain, port, scheme of at least one of the registered redirect URIs but did not")
		}
	}
	for _, raw := range c.AllowedCORSOrigins {
		u, err := url.Parse(raw)
		if err != nil || !web(u) || u.User != nil || (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "" || unclean(raw) {
			return badMetadata("origin " + quote(raw) + " must be http:// or https:// and a host")
		}
	}
	return nil
}

// redirectURI says whether a URI is one a browser can be sent to safely:
// absolute, no fragment (RFC 6749, section 3.1.2), no credentials, no wildcard
// in the host, and no scheme that a browser runs itself.
func redirectURI(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil || unclean(raw):
		return badRedirect(quote(raw) + " is not a URI.")
	case strings.Contains(raw, "#"):
		return badRedirect("Redirect URIs must not contain fragments (#).")
	case !u.IsAbs():
		return badRedirect(quote(raw) + " is not absolute.")
	case slices.Contains(badSchemes, strings.ToLower(u.Scheme)):
		return badRedirect("The scheme of " + quote(raw) + " is not allowed.")
	case (u.Scheme == "http" || u.Scheme == "https") && !web(u):
		return badRedirect(quote(raw) + " has no host.")
	case u.User != nil:
		return badRedirect("Redirect URIs must not contain credentials.")
	case strings.Contains(u.Host, "*"):
		return badRedirect("Redirect URIs must not contain wildcards.")
	}
	return nil
}

func web(u *url.URL) bool {
	return (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" && u.Opaque == ""
}

// unclean says whether a URI has characters that clients and browsers read in
// different ways.
func unclean(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\\' || r == '"' || r == '<' || r == '>' })
}

// validateKeys says whether the client's public keys are readable, and public.
func validateKeys(c *oauth.Client) error {
	if len(c.JWKS) == 0 {
		return nil
	}
	if c.JWKSURI != "" {
		return badMetadata("Fields jwks and jwks_uri can not both be set, you must choose one.")
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(c.JWKS, &set); err != nil {
		return badMetadata("jwks is not a JSON Web Key Set")
	}
	for _, k := range set.Keys {
		if !k.Valid() || !k.IsPublic() {
			return badMetadata("jwks must hold public keys alone")
		}
	}
	return nil
}

func quote(s string) string {
	if len(s) > 100 {
		s = s[:100] + "…"
	}
	return "'" + s + "'"
}
