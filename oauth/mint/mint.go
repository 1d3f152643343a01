// Package mint makes and opens what the provider hands out: codes, access
// tokens, refresh tokens, ID tokens.
//
// It stores nothing and looks nothing up. A token it opens is genuine and not
// expired; whether it was revoked or used before is for the caller to find
// out, by the authorization and generation it names. opaque.go holds the
// sealed tokens, jwt.go the signed ones, ticket.go what both carry.
package mint

import (
	"cmp"
	"context"
	"strings"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/lib/seal"
	"gatehouse/oauth"
)

// What tokens begin with, as Hydra's do.
const (
	CodePrefix    = "ory_ac_"
	AccessPrefix  = "ory_at_"
	RefreshPrefix = "ory_rt_"
)

// Signer signs and verifies compact JWS with the provider's keys.
type Signer interface {
	Sign(ctx context.Context, set, alg, typ string, claims []byte) (string, error)
	// Verify fails with fault.Invalid for a token it did not sign.
	Verify(ctx context.Context, set, raw string, types ...string) (claims []byte, err error)
}

// The key sets tokens are signed with.
const (
	idTokenSet     = "hydra.openid.id-token"
	accessTokenSet = "hydra.jwt.access-token"
)

// Mint makes and opens tokens. It is safe for concurrent use.
type Mint struct {
	settings *oauth.Settings
	signer   Signer
	now      func() time.Time

	codes, access, refresh *seal.Ring
}

// New returns a Mint. It fails when the settings hold no usable secret.
func New(s *oauth.Settings, signer Signer) (*Mint, error) {
	m := &Mint{settings: s, signer: signer, now: s.Now}
	if m.now == nil {
		m.now = time.Now
	}
	for _, r := range []struct {
		ring    **seal.Ring
		purpose string
	}{{&m.codes, "authorization code"}, {&m.access, "access token"}, {&m.refresh, "refresh token"}} {
		ring, err := seal.New(s.Secrets, r.purpose)
		if err != nil {
			return nil, err
		}
		*r.ring = ring
	}
	return m, nil
}

// Alg is the algorithm ID tokens of a client are signed with.
func (m *Mint) Alg(c *oauth.Client) string {
	return cmp.Or(c.IDTokenSignedResponseAlg, m.settings.SigningAlg, "RS256")
}

// ErrToken says that a token is not one of ours, was changed, or expired.
var ErrToken = fault.New(fault.Invalid, "the token is malformed, expired or was not issued here")

// stripped cuts a prefix off and refuses what is too long to be ours.
func stripped(raw, prefix string, max int) (string, bool) {
	if len(raw) > max {
		return "", false
	}
	return strings.CutPrefix(raw, prefix)
}
