package oauth

import (
	"context"
	"encoding/json"
	"time"
)

// ChallengeKind names what is asked of a human.
type ChallengeKind string

const (
	AskLogin   ChallengeKind = "login"
	AskConsent ChallengeKind = "consent"
	AskLogout  ChallengeKind = "logout"
)

// Challenge is one open question to a human. Which fields are set depends on
// its kind.
type Challenge struct {
	Kind       ChallengeKind
	ID         string // the sealed challenge itself
	Client     *Client
	RequestURL string // the request that began the flow

	// Login and consent.
	RequestedScopes   []string
	RequestedAudience []string
	Skip              bool   // answered before and remembered: need not be asked again
	Subject           string // login: known from the session when Skip; logout: who signs out
	SessionID         string // sid
	OIDC              OIDCContext

	// Consent.
	ConsentRequestID string
	LoginChallenge   string
	ACR              string
	AMR              []string
	Context          json.RawMessage // what the login application handed on

	// Logout.
	RPInitiated bool
	RequestedAt time.Time
	Expires     time.Time
}

// OIDCContext is what the client said about how the user should be asked
// (OpenID Connect Core 1.0, section 3.1.2.1).
type OIDCContext struct {
	ACRValues         []string       `json:"acr_values,omitempty"`
	Display           string         `json:"display,omitempty"`
	IDTokenHintClaims map[string]any `json:"id_token_hint_claims,omitempty"`
	LoginHint         string         `json:"login_hint,omitempty"`
	UILocales         []string       `json:"ui_locales,omitempty"`
}

// Answer is what came back. Login uses Subject to Context; consent the rest
// and Remember, RememberFor, Context.
type Answer struct {
	Subject                string
	ACR                    string
	AMR                    []string
	Remember               bool
	RememberFor            time.Duration // 0: as long as the browser or for ever
	ExtendSession          bool
	ForceSubjectIdentifier string
	IDPSessionID           string
	Context                json.RawMessage

	Scopes            []string
	Audience          []string
	IDTokenClaims     map[string]any
	AccessTokenClaims map[string]any
	HandledAt         time.Time
}

// Desk is the handshake with whoever shows pages to the human: the built-in
// login room, or another application over the admin API. Both use these calls.
//
// Errors: fault.NotFound for a challenge that is unknown, tampered with or
// expired, fault.Spent for one that was used (both come with a text fit for
// the caller), fault.Invalid for an answer that does not fit the question.
type Desk interface {
	Open(ctx context.Context, k ChallengeKind, challenge string) (*Challenge, error)
	// Accept returns where the browser goes next.
	Accept(ctx context.Context, k ChallengeKind, challenge string, a Answer) (redirect string, err error)
	// Reject returns where the browser goes next; empty for a logout.
	Reject(ctx context.Context, k ChallengeKind, challenge string, reason *Error) (redirect string, err error)
}
