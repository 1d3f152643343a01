package endpoint

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"

	"gatehouse/oauth/keys"
	"gatehouse/oauth/token"
)

// maxAge is how long others may keep the documents, in seconds. It is shorter
// than the time a key is published before it signs.
const maxAge = "300"

// document is what the provider says of itself (OpenID Connect Discovery 1.0,
// section 3; RFC 8414): what it does, and nothing else.
type document struct {
	Issuer                string   `json:"issuer"`
	AuthorizationEndpoint string   `json:"authorization_endpoint"`
	TokenEndpoint         string   `json:"token_endpoint"`
	JWKSURI               string   `json:"jwks_uri"`
	SubjectTypes          []string `json:"subject_types_supported"`
	ResponseTypes         []string `json:"response_types_supported"`
	Claims                []string `json:"claims_supported"`
	GrantTypes            []string `json:"grant_types_supported"`
	ResponseModes         []string `json:"response_modes_supported"`
	UserinfoEndpoint      string   `json:"userinfo_endpoint"`
	Scopes                []string `json:"scopes_supported"`
	TokenAuthMethods      []string `json:"token_endpoint_auth_methods_supported"`
	RevocationAuthMethods []string `json:"revocation_endpoint_auth_methods_supported"`
	UserinfoAlgs          []string `json:"userinfo_signing_alg_values_supported"`
	IDTokenAlgs           []string `json:"id_token_signing_alg_values_supported"`
	RequestParameter      bool     `json:"request_parameter_supported"`
	RequestURIParameter   bool     `json:"request_uri_parameter_supported"`
	RequireRequestURI     bool     `json:"require_request_uri_registration"`
	ClaimsParameter       bool     `json:"claims_parameter_supported"`
	RevocationEndpoint    string   `json:"revocation_endpoint"`
	EndSessionEndpoint    string   `json:"end_session_endpoint"`
	CodeChallengeMethods  []string `json:"code_challenge_methods_supported"`
	IssuerInTheResponse   bool     `json:"authorization_response_iss_parameter_supported"`
	BackchannelLogout     bool     `json:"backchannel_logout_supported"`
	BackchannelSession    bool     `json:"backchannel_logout_session_supported"`
	FrontchannelLogout    bool     `json:"frontchannel_logout_supported"`
	FrontchannelSession   bool     `json:"frontchannel_logout_session_supported"`
	PromptValues          []string `json:"prompt_values_supported"`
}

// discovery serves /.well-known/openid-configuration and
// /.well-known/oauth-authorization-server.
func (e *Endpoints) discovery(w http.ResponseWriter, r *http.Request) {
	auth := []string{"client_secret_post", "client_secret_basic", "none"}
	body, err := json.Marshal(document{
		Issuer:                e.Settings.Issuer,
		AuthorizationEndpoint: e.url("/oauth2/auth"),
		TokenEndpoint:         e.url("/oauth2/token"),
		JWKSURI:               e.url("/.well-known/jwks.json"),
		UserinfoEndpoint:      e.url("/userinfo"),
		RevocationEndpoint:    e.url("/oauth2/revoke"),
		EndSessionEndpoint:    e.url("/oauth2/sessions/logout"),
		SubjectTypes:          []string{"public"},
		ResponseTypes:         []string{"code"},
		ResponseModes:         []string{"query", "fragment", "form_post"},
		GrantTypes:            token.Grants(),
		Claims:                []string{"sub", "iss", "aud", "exp", "iat", "auth_time", "nonce", "acr", "amr", "sid", "at_hash"},
		Scopes:                []string{"offline_access", "offline", "openid"},
		TokenAuthMethods:      auth,
		RevocationAuthMethods: auth,
		UserinfoAlgs:          append([]string{"none"}, keys.Algs()...),
		IDTokenAlgs:           keys.Algs(),
		CodeChallengeMethods:  []string{"S256", "plain"},
		IssuerInTheResponse:   true,
		PromptValues:          []string{"none", "login", "consent"},
	})
	if err != nil {
		e.fail(w, r, err)
		return
	}
	cacheable(w, r, body)
}

// jwks serves /.well-known/jwks.json.
func (e *Endpoints) jwks(w http.ResponseWriter, r *http.Request) {
	body, err := e.Keys.JWKS(r.Context())
	if err != nil {
		e.fail(w, r, err)
		return
	}
	cacheable(w, r, body)
}

// cacheable answers with a public JSON document.
func cacheable(w http.ResponseWriter, r *http.Request, body []byte) {
	sum := sha256.Sum256(body)
	tag := `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`
	h := w.Header()
	h.Set("Cache-Control", "public, max-age="+maxAge)
	h.Set("ETag", tag)
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.Write(body)
}
