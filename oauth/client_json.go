package oauth

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"gatehouse/lib/fault"
)

// Limits on a client as others send it.
const (
	MaxClientJSON = 128 << 10 // bytes of the whole document
	maxList       = 256       // entries of a list
	maxText       = 4096      // bytes of a text
	maxDocument   = 64 << 10  // bytes of jwks and metadata
	maxLifespan   = 100 * 365 * 24 * time.Hour
)

// clientWire is a client on the wire, field by field in Hydra's order.
type clientWire struct {
	ID                          string          `json:"client_id"`
	Name                        string          `json:"client_name"`
	Secret                      string          `json:"client_secret,omitempty"`
	RedirectURIs                []string        `json:"redirect_uris"`
	GrantTypes                  []string        `json:"grant_types"`
	ResponseTypes               []string        `json:"response_types"`
	Scope                       string          `json:"scope"`
	Audience                    []string        `json:"audience"`
	Owner                       string          `json:"owner"`
	PolicyURI                   string          `json:"policy_uri"`
	AllowedCORSOrigins          []string        `json:"allowed_cors_origins"`
	TOSURI                      string          `json:"tos_uri"`
	URI                         string          `json:"client_uri"`
	LogoURI                     string          `json:"logo_uri"`
	Contacts                    []string        `json:"contacts"`
	SecretExpiresAt             int64           `json:"client_secret_expires_at"` // always 0
	SubjectType                 string          `json:"subject_type"`
	JWKSURI                     string          `json:"jwks_uri,omitempty"`
	JWKS                        json.RawMessage `json:"jwks"`
	TokenEndpointAuthMethod     string          `json:"token_endpoint_auth_method"`
	IDTokenSignedResponseAlg    string          `json:"id_token_signed_response_alg,omitempty"`
	UserinfoSignedResponseAlg   string          `json:"userinfo_signed_response_alg"`
	CreatedAt                   time.Time       `json:"created_at"`
	UpdatedAt                   time.Time       `json:"updated_at"`
	FrontchannelLogoutURI       string          `json:"frontchannel_logout_uri,omitempty"`
	FrontchannelSessionRequired bool            `json:"frontchannel_logout_session_required,omitempty"`
	PostLogoutRedirectURIs      []string        `json:"post_logout_redirect_uris,omitempty"`
	BackchannelLogoutURI        string          `json:"backchannel_logout_uri,omitempty"`
	BackchannelSessionRequired  bool            `json:"backchannel_logout_session_required,omitempty"`
	Metadata                    json.RawMessage `json:"metadata"`
	AccessTokenStrategy         string          `json:"access_token_strategy,omitempty"`
	SkipConsent                 bool            `json:"skip_consent"`
	SkipLogoutConsent           *bool           `json:"skip_logout_consent"`
	lifespansWire
}

// lifespansWire are the lifespans, flat as on the wire. Those of grants that
// do not exist here are read, checked and forgotten.
type lifespansWire struct {
	CodeAccess              *lifespan `json:"authorization_code_grant_access_token_lifespan"`
	CodeID                  *lifespan `json:"authorization_code_grant_id_token_lifespan"`
	CodeRefresh             *lifespan `json:"authorization_code_grant_refresh_token_lifespan"`
	ClientCredentialsAccess *lifespan `json:"client_credentials_grant_access_token_lifespan"`
	ImplicitAccess          *lifespan `json:"implicit_grant_access_token_lifespan"`
	ImplicitID              *lifespan `json:"implicit_grant_id_token_lifespan"`
	JWTBearerAccess         *lifespan `json:"jwt_bearer_grant_access_token_lifespan"`
	RefreshID               *lifespan `json:"refresh_token_grant_id_token_lifespan"`
	RefreshAccess           *lifespan `json:"refresh_token_grant_access_token_lifespan"`
	RefreshRefresh          *lifespan `json:"refresh_token_grant_refresh_token_lifespan"`
	DeviceID                *lifespan `json:"device_authorization_grant_id_token_lifespan"`
	DeviceAccess            *lifespan `json:"device_authorization_grant_access_token_lifespan"`
	DeviceRefresh           *lifespan `json:"device_authorization_grant_refresh_token_lifespan"`
}

// lifespan is a duration as Go writes it: "1h30m0s".
type lifespan time.Duration

func (l lifespan) MarshalText() ([]byte, error) { return []byte(time.Duration(l).String()), nil }

func (l *lifespan) UnmarshalText(text []byte) error {
	d, err := time.ParseDuration(string(text))
	if err != nil || d < 0 || d > maxLifespan {
		return fault.New(fault.Invalid, fmt.Sprintf("%.40q is not a lifespan such as \"1h30m\"", text))
	}
	*l = lifespan(d)
	return nil
}

// Wire is the client as API answers show it. The secret is shown when it was
// just made or set, otherwise it is empty and left out. Hashes never show.
func (c *Client) Wire(secret string) any {
	span := func(d time.Duration) *lifespan {
		if d == 0 {
			return nil
		}
		l := lifespan(d)
		return &l
	}
	w := &clientWire{
		ID: c.ID, Name: c.Name, Secret: secret,
		RedirectURIs: filled(c.RedirectURIs), GrantTypes: filled(c.GrantTypes), ResponseTypes: filled(c.ResponseTypes),
		Scope: c.Scope, Audience: filled(c.Audience), Owner: c.Owner, PolicyURI: c.PolicyURI,
		AllowedCORSOrigins: filled(c.AllowedCORSOrigins), TOSURI: c.TOSURI, URI: c.URI, LogoURI: c.LogoURI,
		Contacts: filled(c.Contacts), SubjectType: c.SubjectType, JWKSURI: c.JWKSURI, JWKS: document(c.JWKS),
		TokenEndpointAuthMethod: c.TokenEndpointAuthMethod, IDTokenSignedResponseAlg: c.IDTokenSignedResponseAlg,
		UserinfoSignedResponseAlg: c.UserinfoSignedResponseAlg, CreatedAt: c.CreatedAt, UpdatedAt: c.UpdatedAt,
		FrontchannelLogoutURI: c.FrontchannelLogoutURI, FrontchannelSessionRequired: c.FrontchannelSessionRequired,
		PostLogoutRedirectURIs: c.PostLogoutRedirectURIs,
		BackchannelLogoutURI:   c.BackchannelLogoutURI, BackchannelSessionRequired: c.BackchannelSessionRequired,
		Metadata: document(c.Metadata), AccessTokenStrategy: c.AccessTokenStrategy,
		SkipConsent: c.SkipConsent, SkipLogoutConsent: c.SkipLogoutConsent,
	}
	l := c.Lifespans
	w.lifespansWire = lifespansWire{
		CodeAccess: span(l.CodeAccess), CodeID: span(l.CodeID), CodeRefresh: span(l.CodeRefresh),
		ClientCredentialsAccess: span(l.ClientCredentialsAccess),
		RefreshAccess:           span(l.RefreshAccess), RefreshID: span(l.RefreshID), RefreshRefresh: span(l.RefreshRefresh),
	}
	return w
}

// ParseClient reads a client as others send it, and the secret it chose ("":
// none). Unknown fields are ignored (RFC 7591, section 2), so are those the
// server alone decides (times). Syntax and sizes are checked here, meaning
// when it is registered. It fails with fault.Invalid.
func ParseClient(data []byte) (c *Client, secret string, err error) {
	if len(data) > MaxClientJSON {
		return nil, "", fault.New(fault.Invalid, "the client is too large")
	}
	var w clientWire
	if err := decode(data, &w); err != nil {
		return nil, "", err
	}
	if err := w.fits(); err != nil {
		return nil, "", err
	}
	c = &Client{
		ID: w.ID, Name: w.Name, RedirectURIs: w.RedirectURIs, GrantTypes: w.GrantTypes, ResponseTypes: w.ResponseTypes,
		Scope: w.Scope, Audience: w.Audience, Owner: w.Owner, PolicyURI: w.PolicyURI,
		AllowedCORSOrigins: w.AllowedCORSOrigins, TOSURI: w.TOSURI, URI: w.URI, LogoURI: w.LogoURI, Contacts: w.Contacts,
		SubjectType: w.SubjectType, JWKSURI: w.JWKSURI, JWKS: unlessEmpty(w.JWKS),
		TokenEndpointAuthMethod: w.TokenEndpointAuthMethod, IDTokenSignedResponseAlg: w.IDTokenSignedResponseAlg,
		UserinfoSignedResponseAlg: w.UserinfoSignedResponseAlg,
		FrontchannelLogoutURI:     w.FrontchannelLogoutURI, FrontchannelSessionRequired: w.FrontchannelSessionRequired,
		PostLogoutRedirectURIs: w.PostLogoutRedirectURIs,
		BackchannelLogoutURI:   w.BackchannelLogoutURI, BackchannelSessionRequired: w.BackchannelSessionRequired,
		Metadata: unlessEmpty(w.Metadata), AccessTokenStrategy: w.AccessTokenStrategy,
		SkipConsent: w.SkipConsent, SkipLogoutConsent: w.SkipLogoutConsent,
		Lifespans: w.lifespans(),
	}
	return c, w.Secret, nil
}

// ParseLifespans reads the body of PUT …/lifespans. What is absent or null is
// not set. It fails with fault.Invalid.
func ParseLifespans(data []byte) (Lifespans, error) {
	var w lifespansWire
	if len(data) > maxText {
		return Lifespans{}, fault.New(fault.Invalid, "the lifespans are too large")
	}
	if err := decode(data, &w); err != nil {
		return Lifespans{}, err
	}
	return w.lifespans(), nil
}

func (w *lifespansWire) lifespans() Lifespans {
	span := func(l *lifespan) time.Duration {
		if l == nil {
			return 0
		}
		return time.Duration(*l)
	}
	return Lifespans{
		CodeAccess: span(w.CodeAccess), CodeID: span(w.CodeID), CodeRefresh: span(w.CodeRefresh),
		ClientCredentialsAccess: span(w.ClientCredentialsAccess),
		RefreshAccess:           span(w.RefreshAccess), RefreshID: span(w.RefreshID), RefreshRefresh: span(w.RefreshRefresh),
	}
}

func (w *clientWire) fits() error {
	for name, s := range map[string]string{
		"client_id": w.ID, "client_name": w.Name, "client_secret": w.Secret, "scope": w.Scope, "owner": w.Owner,
		"policy_uri": w.PolicyURI, "tos_uri": w.TOSURI, "client_uri": w.URI, "logo_uri": w.LogoURI,
		"jwks_uri": w.JWKSURI, "frontchannel_logout_uri": w.FrontchannelLogoutURI, "backchannel_logout_uri": w.BackchannelLogoutURI,
	} {
		if len(s) > maxText {
			return fault.New(fault.Invalid, name+" is too long")
		}
	}
	for name, ss := range map[string][]string{
		"redirect_uris": w.RedirectURIs, "grant_types": w.GrantTypes, "response_types": w.ResponseTypes,
		"audience": w.Audience, "allowed_cors_origins": w.AllowedCORSOrigins, "contacts": w.Contacts,
		"post_logout_redirect_uris": w.PostLogoutRedirectURIs,
	} {
		if len(ss) > maxList {
			return fault.New(fault.Invalid, name+" has too many entries")
		}
		for _, s := range ss {
			if len(s) > maxText {
				return fault.New(fault.Invalid, name+" has an entry that is too long")
			}
		}
	}
	for name, m := range map[string]json.RawMessage{"jwks": w.JWKS, "metadata": w.Metadata} {
		if len(m) > maxDocument {
			return fault.New(fault.Invalid, name+" is too large")
		}
		if t := bytes.TrimSpace(m); len(t) > 0 && t[0] != '{' && string(t) != "null" {
			return fault.New(fault.Invalid, name+" must be an object")
		}
	}
	return nil
}

// decode reads one JSON document with nothing behind it.
func decode(data []byte, v any) error {
	if err := json.Unmarshal(data, v); err != nil {
		return fault.Wrap(fault.Invalid, "Unable to decode the request body: "+err.Error(), err)
	}
	return nil
}

// document makes an absent object an empty one, as the wire has it.
func document(m json.RawMessage) json.RawMessage {
	if len(m) == 0 {
		return json.RawMessage("{}")
	}
	return m
}

func unlessEmpty(m json.RawMessage) json.RawMessage {
	switch t := bytes.TrimSpace(m); string(t) {
	case "", "null", "{}":
		return nil
	default:
		return t
	}
}

func filled(ss []string) []string {
	if ss == nil {
		return []string{}
	}
	return ss
}
