package mint

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"gatehouse/oauth"
)

// accessClaims are the claims of a signed access token (RFC 9068, section
// 2.2; scp and ext as Hydra has them). Its jti is the ticket of an opaque one,
// so that it can be revoked alike.
type accessClaims struct {
	Audience []string       `json:"aud"`
	ClientID string         `json:"client_id"`
	Expires  int64          `json:"exp"`
	Ext      map[string]any `json:"ext,omitempty"`
	Issued   int64          `json:"iat"`
	Issuer   string         `json:"iss"`
	ID       string         `json:"jti"`
	Before   int64          `json:"nbf"`
	Scope    string         `json:"scope"`
	Scopes   []string       `json:"scp"`
	Subject  string         `json:"sub"`
	AuthTime int64          `json:"auth_time,omitempty"`
	ACR      string         `json:"acr,omitempty"`
	AMR      []string       `json:"amr,omitempty"`
}

// jtiSalt makes two signed tokens of one microsecond differ.
const jtiSalt = 6

// Signed makes the signed access token of a ticket. The authorization is nil
// for a token of a client alone.
func (m *Mint) Signed(ctx context.Context, t *Ticket, c *oauth.Client, a *oauth.Authorization) (string, error) {
	claims := accessClaims{
		Audience: t.Audience, ClientID: c.ID, Subject: c.ID, Issuer: m.settings.Issuer, Scopes: t.Scopes,
		Issued: t.Issued.Unix(), Before: t.Issued.Unix(), Expires: t.Expires.Unix(),
	}
	if a != nil {
		claims.Subject, claims.Audience, claims.Scopes = a.Subject, a.Audience, t.ScopesOf(a.Scopes)
		claims.Ext, claims.ACR, claims.AMR = a.AccessTokenClaims, a.ACR, a.AMR
		if !a.AuthTime.IsZero() {
			claims.AuthTime = a.AuthTime.Unix()
		}
		claims.ID = text(m.salted(t.encode(nil)))
	} else {
		claims.ID = text(clientJTI(t))
	}
	if len(claims.Audience) == 0 { // RFC 9068, section 2.2: there must be one
		claims.Audience = []string{m.settings.Issuer}
	}
	if claims.Scopes == nil {
		claims.Scopes = []string{}
	}
	claims.Scope = strings.Join(claims.Scopes, " ")
	body, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	return m.signer.Sign(ctx, accessTokenSet, m.settings.SigningAlg, "at+jwt", body)
}

func (m *Mint) salted(b []byte) []byte {
	salt := make([]byte, jtiSalt)
	rand.Read(salt)
	return append(b, salt...)
}

// clientJTI is the ticket without what the claims say.
func clientJTI(t *Ticket) []byte {
	kind := byte(kindClient)
	if len(t.Audience) == 0 {
		kind |= flagNoAudience
	}
	w := writer{kind}
	w.string(t.ID)
	w.times(t.Issued, t.Expires)
	return w
}

// openSigned opens a signed access token that has not expired.
func (m *Mint) openSigned(ctx context.Context, raw string) (*Ticket, error) {
	body, err := m.signer.Verify(ctx, accessTokenSet, raw, "at+jwt")
	if err != nil {
		return nil, err
	}
	var claims accessClaims
	if json.Unmarshal(body, &claims) != nil || claims.Issuer != m.settings.Issuer {
		return nil, ErrToken
	}
	b, ok := untext(claims.ID)
	if !ok || len(b) == 0 {
		return nil, ErrToken
	}
	var t *Ticket
	switch b[0] & kindMask {
	case kindAuthorization:
		if len(b) < jtiSalt {
			return nil, ErrToken
		}
		if t, ok = decode(b[:len(b)-jtiSalt]); !ok {
			return nil, ErrToken
		}
	case kindClient:
		r := reader{b: b[1:]}
		t = &Ticket{ID: r.string(), Client: claims.ClientID, Scopes: claims.Scopes}
		t.Issued, t.Expires = r.times()
		if r.failed || len(r.b) != 0 {
			return nil, ErrToken
		}
		if b[0]&flagNoAudience == 0 {
			t.Audience = claims.Audience
		}
	default:
		return nil, ErrToken
	}
	if !m.now().Before(t.Expires) {
		return nil, ErrToken
	}
	return t, nil
}

// AccessToken makes the access token of a ticket in the form the client, or
// else the provider, wants. The authorization is nil for a token of a client
// alone.
func (m *Mint) AccessToken(ctx context.Context, t *Ticket, c *oauth.Client, a *oauth.Authorization) (string, error) {
	if c.AccessTokenStrategy == "jwt" || (c.AccessTokenStrategy == "" && m.settings.JWTAccessTokens) {
		return m.Signed(ctx, t, c, a)
	}
	return m.Opaque(t)
}

// OpenAccess opens an access token of either form that has not expired. It
// fails with fault.Invalid when it is none.
func (m *Mint) OpenAccess(ctx context.Context, raw string) (*Ticket, error) {
	if strings.HasPrefix(raw, AccessPrefix) {
		return m.openOpaque(raw)
	}
	if strings.Count(raw, ".") != 2 {
		return nil, ErrToken
	}
	return m.openSigned(ctx, raw)
}

// reserved are the claims of an ID token that no consent can set.
var reserved = []string{
	"acr", "amr", "at_hash", "aud", "auth_time", "azp", "c_hash", "exp", "iat", "iss", "jti", "nbf", "nonce", "rat",
	"s_hash", "sid", "sub",
}

// IDToken makes an ID token for an authorization (OpenID Connect Core 1.0,
// section 2). The access token, if there is one, is named by its at_hash.
func (m *Mint) IDToken(ctx context.Context, c *oauth.Client, a *oauth.Authorization, access string, ttl time.Duration) (string, error) {
	alg := m.Alg(c)
	claims := UserClaims(a)
	now := m.now()
	claims["iss"], claims["aud"], claims["jti"] = m.settings.Issuer, []string{c.ID}, uuid.NewString()
	claims["iat"], claims["exp"] = now.Unix(), now.Add(ttl).Unix()
	if access != "" {
		claims["at_hash"] = tokenHash(alg, access)
	}
	if a.Nonce != "" {
		claims["nonce"] = a.Nonce
	}
	if a.SessionID != "" {
		claims["sid"] = a.SessionID
	}
	body, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	return m.signer.Sign(ctx, idTokenSet, alg, "JWT", body)
}

// UserClaims are what an ID token and the userinfo endpoint both say of an
// authorization: what the consent added, and how the user signed in.
func UserClaims(a *oauth.Authorization) map[string]any {
	claims := make(map[string]any, len(a.IDTokenClaims)+12)
	maps.Copy(claims, a.IDTokenClaims)
	for _, name := range reserved {
		delete(claims, name)
	}
	claims["sub"] = a.Subject
	if a.ACR != "" {
		claims["acr"] = a.ACR
	}
	if len(a.AMR) > 0 {
		claims["amr"] = slices.Clone(a.AMR)
	}
	if !a.AuthTime.IsZero() {
		claims["auth_time"] = a.AuthTime.Unix()
	}
	if !a.RequestedAt.IsZero() {
		claims["rat"] = a.RequestedAt.Unix()
	}
	return claims
}

// SignUserinfo signs the userinfo answer for a client that wants it signed.
func (m *Mint) SignUserinfo(ctx context.Context, c *oauth.Client, claims map[string]any) (string, error) {
	body, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	return m.signer.Sign(ctx, idTokenSet, c.UserinfoSignedResponseAlg, "JWT", body)
}

// tokenHash is the left half of the hash that goes with an algorithm (OpenID
// Connect Core 1.0, section 3.1.3.6). Ed25519 goes with SHA-512.
func tokenHash(alg, token string) string {
	if alg == "EdDSA" {
		sum := sha512.Sum512([]byte(token))
		return text(sum[:32])
	}
	sum := sha256.Sum256([]byte(token))
	return text(sum[:16])
}

// VerifyIDTokenHint returns the claims of an ID token that was issued here,
// expired or not. It fails with fault.Invalid.
func (m *Mint) VerifyIDTokenHint(ctx context.Context, raw string) (map[string]any, error) {
	body, err := m.signer.Verify(ctx, idTokenSet, raw, "JWT")
	if err != nil {
		return nil, err
	}
	var claims map[string]any
	if err := json.Unmarshal(body, &claims); err != nil {
		return nil, ErrToken
	}
	// A signed userinfo answer has no exp: it proves no sign-in.
	if _, ok := claims["exp"]; !ok || claims["iss"] != m.settings.Issuer {
		return nil, ErrToken
	}
	return claims, nil
}
