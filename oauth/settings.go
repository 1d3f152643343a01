package oauth

import (
	"cmp"
	"log/slog"
	"net/http"
	"strings"
	"time"
)

// Settings are the provider's decisions, made once at start by daemon from the
// configuration file (names there in brackets). Immutable.
type Settings struct {
	Issuer    string // [urls.self.issuer] as configured, trailing slash included
	PublicURL string // [urls.self.public] base of the public endpoints; default the issuer

	LoginURL              string // [urls.login]
	ConsentURL            string // [urls.consent]
	LogoutURL             string // [urls.logout] "": our own page
	ErrorURL              string // [urls.error] "": our own page
	PostLogoutRedirectURL string // [urls.post_logout_redirect] "": our own page

	// Secrets [secrets.system]: the first seals, all open. At least one of 16 bytes.
	Secrets [][]byte

	TTLInteraction  time.Duration // [ttl.login_consent_request] 30m
	TTLSession      time.Duration // [ttl.authentication_session] 720h
	TTLAccessToken  time.Duration // [ttl.access_token] 1h
	TTLRefreshToken time.Duration // [ttl.refresh_token] 720h; negative: never expires
	TTLIDToken      time.Duration // [ttl.id_token] 1h
	TTLCode         time.Duration // [ttl.auth_code] 10m

	ExactScopes         bool          // [strategies.scope] "exact" instead of "wildcard"
	JWTAccessTokens     bool          // [strategies.access_token] "jwt" instead of "opaque"
	PKCEEnforced        bool          // [oauth2.pkce.enforced] for confidential clients too; public ones always need it
	RefreshGrace        time.Duration // [oauth2.grant.refresh_token.rotation_grace_period] 0
	ExposeInternalError bool          // [oauth2.expose_internal_errors]
	SigningAlg          string        // [strategies.id_token_alg] RS256 (2048 bits), ES256, EdDSA, PS256

	Dev            bool          // [dev] plain HTTP; cookies get the suffix _dev and no Secure
	CookieSameSite http.SameSite // [serve.cookies.same_site_mode] Lax
	CookieDomain   string        // [serve.cookies.domain]

	Log *slog.Logger
	Now func() time.Time // time.Now outside tests
}

// PublicBase is the base of the public endpoints without a trailing slash.
func (s *Settings) PublicBase() string {
	return strings.TrimRight(cmp.Or(s.PublicURL, s.Issuer), "/")
}
