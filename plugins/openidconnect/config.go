package openidconnect

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"gatehouse/lib/jwks"
)

// config is the configuration of the plugin; README.md explains the fields.
// Field names and meanings are APISIX's.
type config struct {
	ClientID      string   `json:"client_id"`
	ClientSecret  string   `json:"client_secret"`
	Discovery     string   `json:"discovery"`
	Scope         string   `json:"scope"`
	SSLVerify     any      `json:"ssl_verify"` // bool, "yes" or "no"
	Timeout       int      `json:"timeout"`
	Realm         string   `json:"realm"`
	BearerOnly    bool     `json:"bearer_only"`
	Session       sessConf `json:"session"`
	UnauthAction  string   `json:"unauth_action"`
	ProxyOpts     proxyOpt `json:"proxy_opts"`
	KeepaliveFlag any      `json:"keepalive"` // connections are the gateway's own matter

	RedirectURI           string         `json:"redirect_uri"`
	LogoutPath            string         `json:"logout_path"`
	PostLogoutRedirectURI string         `json:"post_logout_redirect_uri"`
	AfterLogoutURI        string         `json:"redirect_after_logout_uri"`
	RevokeOnLogout        bool           `json:"revoke_tokens_on_logout"`
	AuthorizationParams   map[string]any `json:"authorization_params"`
	Prompt                string         `json:"prompt"`
	Display               string         `json:"display"`
	ResponseMode          string         `json:"response_mode"`
	UsePKCE               *bool          `json:"use_pkce"`
	UseNonce              *bool          `json:"use_nonce"` // no effect: always
	ForceReauthorize      bool           `json:"force_reauthorize"`
	RefreshInterval       *int           `json:"refresh_session_interval"`

	TokenAuth          string `json:"token_endpoint_auth_method"`
	RSAKey             string `json:"client_rsa_private_key"`
	RSAKeyID           string `json:"client_rsa_private_key_id"`
	AssertionExpiresIn int    `json:"client_jwt_assertion_expires_in"`
	AssertionAlg       string `json:"client_jwt_assertion_alg"`
	AssertionAudience  string `json:"client_jwt_assertion_audience"`

	RenewOnExpiry      bool `json:"renew_access_token_on_expiry"`
	ExpiresIn          int  `json:"access_token_expires_in"`
	ExpiresLeeway      int  `json:"access_token_expires_leeway"`
	IATSlack           int  `json:"iat_slack"`
	AcceptNone         bool `json:"accept_none_alg"`
	AcceptUnsupported  bool `json:"accept_unsupported_alg"` // no effect: never
	JWKExpiresIn       int  `json:"jwk_expires_in"`
	DiscoveryExpiresIn int  `json:"discovery_expires_in"`

	Introspection         string   `json:"introspection_endpoint"`
	IntrospectionAuth     string   `json:"introspection_endpoint_auth_method"`
	IntrospectionInterval int      `json:"introspection_interval"`
	IntrospectionExpiry   string   `json:"introspection_expiry_claim"`
	IntrospectionHeaders  []string `json:"introspection_addon_headers"`
	IntrospectionNoCache  bool     `json:"introspection_cache_ignore"`
	PublicKey             string   `json:"public_key"`
	UseJWKS               bool     `json:"use_jwks"`
	SigningAlg            string   `json:"token_signing_alg_values_expected"`
	VerificationNoCache   bool     `json:"jwt_verification_cache_ignore"`
	CacheSegment          string   `json:"cache_segment"`
	ClaimValidator        validate `json:"claim_validator"`
	ClaimSchema           any      `json:"claim_schema"`
	RequiredScopes        []string `json:"required_scopes"`
	SessionContents       *parts   `json:"session_contents"`
	SetAccessToken        bool     `json:"set_access_token_header"`
	SetIDToken            bool     `json:"set_id_token_header"`
	SetRawIDToken         bool     `json:"set_raw_id_token_header"`
	SetUserinfo           bool     `json:"set_userinfo_header"`
	SetRefreshToken       bool     `json:"set_refresh_token_header"`
	PAR                   enabled  `json:"par"`
	DPoP                  enabled  `json:"dpop"`
	Meta                  any      `json:"_meta"` // the gateway's

	AccessTokenInAuthorization bool `json:"access_token_in_authorization_header"`
}

type sessConf struct {
	Secret   string `json:"secret"`
	Name     string `json:"cookie_name"`
	Path     string `json:"cookie_path"`
	Domain   string `json:"cookie_domain"`
	Secure   *bool  `json:"cookie_secure"`
	HTTPOnly bool   `json:"cookie_http_only"`
	SameSite string `json:"cookie_same_site"`
	Idling   int    `json:"idling_timeout"`
	Rolling  int    `json:"rolling_timeout"`
	Absolute int    `json:"absolute_timeout"`
	Cookie   struct {
		Lifetime int `json:"lifetime"`
	} `json:"cookie"`
	Storage string `json:"storage"`
	Redis   any    `json:"redis"`
}

type proxyOpt struct {
	HTTP      string `json:"http_proxy"`
	HTTPS     string `json:"https_proxy"`
	HTTPAuth  string `json:"http_proxy_authorization"`
	HTTPSAuth string `json:"https_proxy_authorization"`
	No        string `json:"no_proxy"`
}

type validate struct {
	Issuer struct {
		Valid []string `json:"valid_issuers"`
	} `json:"issuer"`
	Audience struct {
		Claim    string `json:"claim"`
		Required bool   `json:"required"`
		Match    bool   `json:"match_with_client_id"`
	} `json:"audience"`
}

// parts says what a session keeps; everything when not configured.
type parts struct {
	IDToken     bool `json:"id_token"`
	User        bool `json:"user"`
	RawIDToken  bool `json:"enc_id_token"`
	AccessToken bool `json:"access_token"`
}

type enabled struct {
	Enabled bool `json:"enabled"`
}

// UnmarshalJSON ignores the other fields: a feature that is off needs no check.
func (e *enabled) UnmarshalJSON(b []byte) error {
	type plain enabled
	return json.Unmarshal(b, (*plain)(e))
}

// conf is a checked configuration with what follows from it.
type conf struct {
	config
	verify         bool
	timeout        time.Duration
	keep           parts
	pkce           bool
	redirect       *url.URL // absolute redirect_uri; nil: a path or unset
	params         url.Values
	publicKey      any
	assertionKey   any
	compiledClaims *jsonschema.Schema
}

func (c *conf) checksBearer() bool {
	return c.BearerOnly || c.Introspection != "" || c.PublicKey != "" || c.UseJWKS
}

const (
	methodBasic      = "client_secret_basic"
	methodPost       = "client_secret_post"
	methodNone       = "none"
	methodPrivateKey = "private_key_jwt"
	methodSecretJWT  = "client_secret_jwt"
)

func defaults() config {
	return config{
		Scope: "openid", SSLVerify: true, Timeout: 3, Realm: "apisix", UnauthAction: "auth", LogoutPath: "/logout",
		Session: sessConf{
			Name: "session", Path: "/", HTTPOnly: true, SameSite: "Lax",
			Idling: 900, Rolling: 3600, Absolute: 86400, Storage: "cookie",
		},
		AssertionExpiresIn: 60, RenewOnExpiry: true, IATSlack: 120, ExpiresLeeway: 10, JWKExpiresIn: 3600, DiscoveryExpiresIn: 86400,
		IntrospectionAuth: methodBasic, IntrospectionExpiry: "exp",
		SetAccessToken: true, SetIDToken: true, SetUserinfo: true,
	}
}

// parseConfig reads a configuration and says what is wrong with it, naming
// the field.
func parseConfig(raw json.RawMessage) (*conf, error) {
	c := &conf{config: defaults()}
	c.ClaimValidator.Audience.Claim = "aud"
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&c.config); err != nil {
		return nil, fmt.Errorf("openid-connect: %w", err)
	}
	for _, check := range []func() error{
		c.checkUnsupported, c.checkClient, c.checkURLs, c.checkParams, c.checkSession, c.checkKeys, c.checkClaims,
	} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	c.timeout = seconds(c.Timeout)
	if c.Timeout >= 1000 && c.Timeout%1000 == 0 {
		c.timeout /= 1000 // once written in milliseconds
	}
	c.keep = parts{true, true, true, true}
	if c.SessionContents != nil {
		c.keep = *c.SessionContents
	}
	return c, nil
}

func (c *conf) checkUnsupported() error {
	for _, f := range []struct {
		set  bool
		name string
	}{
		{c.PAR.Enabled, "par"},
		{c.DPoP.Enabled, "dpop"},
		{c.AcceptNone, "accept_none_alg"},
		{c.ForceReauthorize, "force_reauthorize"},
		{c.RefreshInterval != nil, "refresh_session_interval"},
		{c.ProxyOpts.HTTPAuth != "", "proxy_opts.http_proxy_authorization"},
		{c.ProxyOpts.HTTPSAuth != "", "proxy_opts.https_proxy_authorization"},
		{c.Session.Storage != "cookie", "session.storage " + c.Session.Storage},
		{c.ResponseMode != "" && c.ResponseMode != "query", "response_mode " + c.ResponseMode},
	} {
		if f.set {
			return fmt.Errorf("%s is not supported", f.name)
		}
	}
	return nil
}

func (c *conf) checkClient() error {
	switch v := c.SSLVerify.(type) {
	case bool:
		c.verify = v
	case string:
		if v != "yes" && v != "no" {
			return errors.New(`ssl_verify must be true or false`)
		}
		c.verify = v == "yes"
	default:
		return errors.New(`ssl_verify must be true or false`)
	}
	if c.ClientID == "" {
		return errors.New(`property "client_id" is required`)
	}
	if c.Discovery == "" {
		return errors.New(`property "discovery" is required`)
	}
	c.pkce = c.UsePKCE == nil || *c.UsePKCE
	public := c.UsePKCE != nil && *c.UsePKCE || c.TokenAuth == methodPrivateKey || c.TokenAuth == methodNone
	if c.BearerOnly {
		public = c.PublicKey != "" || c.UseJWKS || c.IntrospectionAuth == methodPrivateKey
	}
	if c.ClientSecret == "" && !public {
		return errors.New(`property "client_secret" is required`)
	}
	for field, m := range map[string]string{"token_endpoint_auth_method": c.TokenAuth, "introspection_endpoint_auth_method": c.IntrospectionAuth} {
		switch m {
		case "", methodBasic, methodPost, methodSecretJWT, methodPrivateKey:
		case methodNone:
			if c.UsePKCE != nil && !*c.UsePKCE && !c.BearerOnly {
				return fmt.Errorf("%s none needs use_pkce", field)
			}
		default:
			return fmt.Errorf("%s %q is not supported", field, m)
		}
	}
	if c.TokenAuth == methodSecretJWT && c.ClientSecret == "" {
		return errors.New("token_endpoint_auth_method client_secret_jwt needs client_secret")
	}
	return nil
}

func (c *conf) checkURLs() error {
	for _, f := range []struct {
		name, value string
		path        bool // may be a path
	}{
		{"discovery", c.Discovery, false},
		{"introspection_endpoint", c.Introspection, false},
		{"redirect_uri", c.RedirectURI, true},
		{"post_logout_redirect_uri", c.PostLogoutRedirectURI, true},
		{"redirect_after_logout_uri", c.AfterLogoutURI, true},
		{"proxy_opts.http_proxy", c.ProxyOpts.HTTP, false},
		{"proxy_opts.https_proxy", c.ProxyOpts.HTTPS, false},
	} {
		if f.value == "" {
			continue
		}
		u, err := url.Parse(f.value)
		switch {
		case err != nil:
			return fmt.Errorf("%s is not a URL", f.name)
		case f.path && strings.HasPrefix(f.value, "/") && localTarget(f.value) == f.value:
		case u.Scheme != "https" && u.Scheme != "http" || u.Host == "":
			return fmt.Errorf("%s must be an http or https URL", f.name)
		case u.User != nil:
			return fmt.Errorf("%s must not contain a user or password", f.name)
		case u.Fragment != "":
			return fmt.Errorf("%s must not have a fragment", f.name)
		case f.name == "redirect_uri":
			c.redirect = u
			if u.Path == "" {
				return errors.New("redirect_uri must have a path")
			}
		}
	}
	if !strings.HasPrefix(c.LogoutPath, "/") {
		return errors.New("logout_path must begin with /")
	}
	return nil
}

// reserved are parameters that make a sign-in safe; authorization_params must
// not replace them.
var reserved = []string{"response_type", "response_mode", "client_id", "redirect_uri", "state", "nonce", "code_challenge", "code_challenge_method", "scope", "request", "request_uri"}

func (c *conf) checkParams() error {
	c.params = url.Values{}
	for name, v := range c.AuthorizationParams {
		if slices.Contains(reserved, name) {
			return fmt.Errorf("authorization_params must not contain %s", name)
		}
		switch v := v.(type) {
		case float64:
			c.params.Set(name, strconv.FormatFloat(v, 'f', -1, 64))
		case string, bool:
			c.params.Set(name, fmt.Sprint(v))
		default:
			return fmt.Errorf("authorization_params.%s must be a string, a number or a boolean", name)
		}
	}
	for name, v := range map[string]string{"prompt": c.Prompt, "display": c.Display} {
		if v != "" {
			c.params.Set(name, v)
		}
	}
	return nil
}

func (c *conf) checkSession() error {
	s := &c.Session
	if s.Secret != "" && len(s.Secret) < 16 {
		return errors.New("session.secret must be at least 16 characters long")
	}
	if s.Name == "" || len(s.Name) > 64 || strings.IndexFunc(s.Name, func(r rune) bool { return !cookieNameByte(r) }) >= 0 {
		return errors.New("session.cookie_name must be 1 to 64 letters, digits, '-', '_' or '.'")
	}
	for field, v := range map[string]string{"cookie_path": s.Path, "cookie_domain": s.Domain} {
		if len(v) > 256 || strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ';' || r == ',' }) {
			return fmt.Errorf("session.%s cannot stand in a cookie", field)
		}
	}
	if !strings.HasPrefix(s.Path, "/") {
		return errors.New("session.cookie_path must begin with /")
	}
	if s.SameSite == "None" && s.Secure != nil && !*s.Secure {
		return errors.New("session.cookie_same_site None needs cookie_secure: browsers drop such a cookie")
	}
	if s.Cookie.Lifetime > 0 {
		s.Absolute = s.Cookie.Lifetime
	}
	return nil
}

func (c *conf) checkKeys() error {
	var err error
	if c.PublicKey != "" {
		if c.publicKey, err = jwks.ParsePublicKey(c.PublicKey); err != nil {
			return fmt.Errorf("public_key: %w", err)
		}
	}
	if strings.HasPrefix(c.SigningAlg, "HS") && len(c.ClientSecret) < 32 {
		return errors.New("token_signing_alg_values_expected HS* needs a client_secret of at least 32 characters")
	}
	signs := c.TokenAuth == methodPrivateKey || c.IntrospectionAuth == methodPrivateKey
	hashes := c.TokenAuth == methodSecretJWT || c.IntrospectionAuth == methodSecretJWT
	switch {
	case signs && hashes:
		return errors.New("private_key_jwt and client_secret_jwt cannot be used together")
	case signs:
		if c.AssertionAlg == "" {
			c.AssertionAlg = "RS256"
		}
		if c.assertionKey, err = parsePrivateKey(c.RSAKey); err != nil {
			return fmt.Errorf("client_rsa_private_key: %w", err)
		}
	case hashes:
		if c.AssertionAlg == "" {
			c.AssertionAlg = "HS256"
		}
		c.assertionKey = []byte(c.ClientSecret)
	default:
		return nil
	}
	if _, err := jwks.Sign(c.AssertionAlg, c.RSAKeyID, c.assertionKey, []byte("{}")); err != nil {
		return fmt.Errorf("client_jwt_assertion_alg %s does not fit the key: %w", c.AssertionAlg, err)
	}
	return nil
}

func parsePrivateKey(text string) (any, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("not a PEM block")
	}
	switch block.Type {
	case "RSA PRIVATE KEY":
		return x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		return x509.ParseECPrivateKey(block.Bytes)
	case "PRIVATE KEY":
		return x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	return nil, errors.New("not a private key")
}

func (c *conf) checkClaims() error {
	if c.ClaimSchema == nil {
		return nil
	}
	raw, err := json.Marshal(c.ClaimSchema)
	if err != nil {
		return err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return fmt.Errorf("claim_schema: %w", err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(noLoader{})
	if err := compiler.AddResource("claim_schema.json", doc); err != nil {
		return fmt.Errorf("claim_schema: %w", err)
	}
	if c.compiledClaims, err = compiler.Compile("claim_schema.json"); err != nil {
		return fmt.Errorf("claim_schema: %w", err)
	}
	return nil
}

// noLoader keeps a schema from reading files of this machine.
type noLoader struct{}

// Load refuses.
func (noLoader) Load(ref string) (any, error) {
	return nil, errors.New("references outside are not allowed")
}

// secureURL says whether an address of a provider may carry secrets: https,
// or http to this machine, or http when the provider was configured so.
func secureURL(raw string, plain bool) bool {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.User != nil {
		return false
	}
	return u.Scheme == "https" || u.Scheme == "http" && (plain || loopback(u.Hostname()))
}

func loopback(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.IsLoopback()
	}
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}
