package oauth

import (
	"context"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Client is a registered client (RFC 7591; field names as Hydra's admin API
// has them). Clients handed out by ClientFinder are shared: never change one.
type Client struct {
	ID            string   `json:"client_id"`
	Name          string   `json:"client_name"`
	RedirectURIs  []string `json:"redirect_uris"`
	GrantTypes    []string `json:"grant_types"`
	ResponseTypes []string `json:"response_types"`
	Scope         string   `json:"scope"` // space-separated
	Audience      []string `json:"audience"`
	Owner         string   `json:"owner"`

	PolicyURI          string   `json:"policy_uri"`
	AllowedCORSOrigins []string `json:"allowed_cors_origins"`
	TOSURI             string   `json:"tos_uri"`
	URI                string   `json:"client_uri"`
	LogoURI            string   `json:"logo_uri"`
	Contacts           []string `json:"contacts"`

	SubjectType                 string          `json:"subject_type"` // "public"
	JWKSURI                     string          `json:"jwks_uri,omitempty"`
	JWKS                        json.RawMessage `json:"jwks,omitempty"`
	TokenEndpointAuthMethod     string          `json:"token_endpoint_auth_method"` // client_secret_basic, client_secret_post, none
	IDTokenSignedResponseAlg    string          `json:"id_token_signed_response_alg,omitempty"`
	UserinfoSignedResponseAlg   string          `json:"userinfo_signed_response_alg"` // "none"
	PostLogoutRedirectURIs      []string        `json:"post_logout_redirect_uris,omitempty"`
	FrontchannelLogoutURI       string          `json:"frontchannel_logout_uri,omitempty"`
	BackchannelLogoutURI        string          `json:"backchannel_logout_uri,omitempty"`
	FrontchannelSessionRequired bool            `json:"frontchannel_logout_session_required,omitempty"`
	BackchannelSessionRequired  bool            `json:"backchannel_logout_session_required,omitempty"`
	Metadata                    json.RawMessage `json:"metadata,omitempty"`
	AccessTokenStrategy         string          `json:"access_token_strategy,omitempty"` // "", "opaque", "jwt"
	SkipConsent                 bool            `json:"skip_consent"`
	SkipLogoutConsent           *bool           `json:"skip_logout_consent"`
	Lifespans                   Lifespans       `json:"lifespans,omitzero"` // stored nested, flat on the wire
	CreatedAt                   time.Time       `json:"created_at"`
	UpdatedAt                   time.Time       `json:"updated_at"`

	// SecretHash is "sha256:<hex>" of a generated secret, or a PHC string
	// (argon2id; pbkdf2 and bcrypt accepted) of a chosen one. Empty: public.
	// Stored, never in an API answer.
	SecretHash string `json:"secret_hash,omitempty"`
	// RotatedSecretHashes still authenticate after a rotation until deleted.
	RotatedSecretHashes []string `json:"rotated_secret_hashes,omitempty"`
	// Generation is the record's generation when the client was read.
	Generation int64 `json:"-"`
}

// Lifespans override the provider's ttl.* for one client. Zero: not set.
type Lifespans struct {
	CodeAccess, CodeID, CodeRefresh          time.Duration
	ClientCredentialsAccess                  time.Duration
	RefreshAccess, RefreshID, RefreshRefresh time.Duration
}

// Public says whether the client has no way to prove itself.
func (c *Client) Public() bool { return c.TokenEndpointAuthMethod == "none" }

// AllowsGrant says whether the client may use a grant type. A client that
// names none has authorization_code (RFC 7591, section 2).
func (c *Client) AllowsGrant(grant string) bool {
	if len(c.GrantTypes) == 0 {
		return grant == "authorization_code"
	}
	return slices.Contains(c.GrantTypes, grant)
}

// AllowsScope says whether the client may be granted a scope. "a.*" in the
// client's scope allows "a.b" and "a.b.c" but not "a"; with exact it allows
// only itself.
func (c *Client) AllowsScope(scope string, exact bool) bool {
	for _, have := range strings.Fields(c.Scope) {
		if have == scope {
			return true
		}
		if exact {
			continue
		}
		hs, ss := strings.Split(have, "."), strings.Split(scope, ".")
		if matchScope(hs, ss) {
			return true
		}
	}
	return false
}

// matchScope compares segment by segment; "*" stands for one segment, or for
// one or more at the end.
func matchScope(have, want []string) bool {
	for i, h := range have {
		switch {
		case i >= len(want):
			return false
		case h == "*" && i == len(have)-1:
			return want[i] != ""
		case h != "*" && h != want[i], h == "*" && want[i] == "":
			return false
		}
	}
	return len(have) == len(want)
}

// AllowsAudience says whether the client may ask for an audience: one of its
// own, or an address below one of them.
func (c *Client) AllowsAudience(audience string) bool {
	return slices.ContainsFunc(c.Audience, func(have string) bool { return have == audience || below(have, audience) })
}

// below says whether a URL has the origin of another and a path below its.
// Spellings that servers read in different ways are below nothing.
func below(have, want string) bool {
	h, err := url.Parse(have)
	if err != nil || h.Host == "" || h.User != nil || h.RawQuery != "" || h.Fragment != "" {
		return false
	}
	w, err := url.Parse(want)
	if err != nil || w.Scheme != h.Scheme || w.Host != h.Host || w.User != nil || w.RawQuery != "" || w.Fragment != "" {
		return false
	}
	base, path := strings.TrimRight(h.EscapedPath(), "/"), w.EscapedPath()
	if strings.Contains(path, "..") || strings.Contains(path, "%") || strings.Contains(path, "//") {
		return false
	}
	return path == base || strings.HasPrefix(path, base+"/")
}

// ClientFinder finds registered clients, from a cache that is at most a second
// behind the store.
type ClientFinder interface {
	// Client fails with fault.NotFound.
	Client(ctx context.Context, id string) (*Client, error)
}
