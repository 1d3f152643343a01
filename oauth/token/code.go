package token

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"strings"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
)

// code is the authorization code grant (RFC 6749, section 4.1.3; PKCE: RFC
// 7636, section 4.6). Whoever cannot prove that the code is theirs gets
// nothing and spoils nothing: only a full proof spends the code, or reveals a
// replay.
func (e *Endpoint) code(ctx context.Context, q *request) (*grant, error) {
	raw := q.form.Get("code")
	if raw == "" {
		return nil, oauth.ErrInvalidRequest.WithHint("Parameter 'code' is missing.")
	}
	t, err := e.Mint.OpenCode(raw)
	if err != nil {
		return nil, oauth.ErrInvalidGrant.Because(err)
	}
	a, err := e.Living.Authorization(ctx, t.Authorization, t.Issued)
	if fault.KindOf(err) == fault.NotFound {
		return nil, oauth.ErrInvalidGrant.WithHint("The authorization code is not active any more.").Because(err)
	}
	if err != nil {
		return nil, err
	}
	if a.ClientID != q.client.ID {
		return nil, oauth.ErrInvalidGrant.WithHint("The code was issued to another client.")
	}
	if a.RedirectURI != "" && a.RedirectURI != q.form.Get("redirect_uri") {
		return nil, oauth.ErrInvalidGrant.WithHint("The redirect_uri differs from that of the authorization request.")
	}
	if err := provePKCE(q.client, a, q.form.Get("code_verifier")); err != nil {
		return nil, err
	}
	used := oauth.ErrInvalidGrant.WithHint("The authorization code was used already.")
	if a.Generation != t.Generation {
		return nil, e.replay(ctx, a, used)
	}
	l := q.client.Lifespans
	return &grant{
		authorization: a, scopes: a.Scopes, redeem: true, replayed: used,
		access:  either(l.CodeAccess, e.Settings.TTLAccessToken),
		id:      either(l.CodeID, e.Settings.TTLIDToken),
		refresh: either(l.CodeRefresh, e.Settings.TTLRefreshToken),
	}, nil
}

// provePKCE checks the verifier against the challenge of the authorization
// request. A verifier without a challenge is refused too: somebody took the
// challenge away on the way (RFC 9700, section 2.1.1).
func provePKCE(c *oauth.Client, a *oauth.Authorization, verifier string) error {
	if a.CodeChallenge == "" {
		if verifier != "" || c.Public() {
			return oauth.ErrInvalidGrant.WithHint("The authorization request had no code_challenge.")
		}
		return nil
	}
	if verifier == "" {
		return oauth.ErrInvalidGrant.WithHint("Parameter 'code_verifier' is missing.")
	}
	if len(verifier) < 43 || len(verifier) > 128 || strings.Trim(verifier, unreserved) != "" {
		return oauth.ErrInvalidGrant.WithHint("The code_verifier must have between 43 and 128 characters A-Z a-z 0-9 - . _ ~.")
	}
	have := verifier
	switch a.CodeChallengeMethod {
	case "S256":
		sum := sha256.Sum256([]byte(verifier))
		have = base64.RawURLEncoding.EncodeToString(sum[:])
	case "plain", "":
	default:
		return oauth.ErrInvalidGrant.WithHint("The code_challenge_method is unknown.")
	}
	if subtle.ConstantTimeCompare([]byte(have), []byte(a.CodeChallenge)) != 1 {
		return oauth.ErrInvalidGrant.WithHint("The code_verifier does not fit the code_challenge.")
	}
	return nil
}

// unreserved are the characters of a verifier (RFC 7636, section 4.1).
const unreserved = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
