package oauth

import (
	"encoding/json"
	"time"
)

// Authorization is what a user granted to a client: one record for its whole
// life, inserted when the consent is redeemed, and the listed consent session.
//
// It is stored as Record{Kind: Authorizations, Key: ID, Client, Subject,
// Session, Family: ID}; its generation is the record's. A new one has 1, the
// redemption of the code moves it to 2, each refresh one further. A code is
// good for generation 1, a refresh token or access token for the generation it
// names. Anything else found is a replay: the family is revoked.
type Authorization struct {
	ID         string `json:"-"` // the flow id
	Generation int64  `json:"-"`

	ClientID  string `json:"client_id"`
	Subject   string `json:"subject"`
	SessionID string `json:"sid,omitempty"`

	Scopes            []string `json:"scopes,omitempty"` // granted
	Audience          []string `json:"audience,omitempty"`
	RequestedScopes   []string `json:"requested_scopes,omitempty"`
	RequestedAudience []string `json:"requested_audience,omitempty"`

	// What the token request must match.
	RedirectURI         string `json:"redirect_uri,omitempty"` // as in the authorization request; "" when it had none
	CodeChallenge       string `json:"code_challenge,omitempty"`
	CodeChallengeMethod string `json:"code_challenge_method,omitempty"` // "S256" or "plain"

	// What the ID token says.
	Nonce       string    `json:"nonce,omitempty"`
	AuthTime    time.Time `json:"auth_time,omitzero"`
	RequestedAt time.Time `json:"requested_at,omitzero"`
	ACR         string    `json:"acr,omitempty"`
	AMR         []string  `json:"amr,omitempty"`

	IDTokenClaims     map[string]any `json:"id_token_claims,omitempty"`
	AccessTokenClaims map[string]any `json:"access_token_claims,omitempty"`

	// What the consent session list shows.
	ConsentRequestID string          `json:"consent_request_id,omitempty"`
	LoginChallenge   string          `json:"login_challenge,omitempty"`
	Context          json.RawMessage `json:"context,omitempty"`
	Remember         bool            `json:"remember,omitempty"`
	RememberFor      time.Duration   `json:"remember_for,omitempty"`
	Skip             bool            `json:"skip,omitempty"`
	HandledAt        time.Time       `json:"handled_at,omitzero"`
	OIDC             OIDCContext     `json:"oidc_context,omitzero"`

	// Set whenever tokens are issued: when that was, and until when the
	// newest refresh token is good (zero: for ever, if there is one at all).
	IssuedAt       time.Time `json:"issued_at,omitzero"`
	RefreshExpires time.Time `json:"refresh_expires,omitzero"`

	Expires time.Time `json:"-"` // of the record
}

// Record encodes the authorization for the store.
func (a *Authorization) Record() (Record, error) {
	data, err := json.Marshal(a)
	return Record{
		Kind: Authorizations, Key: a.ID, Client: a.ClientID, Subject: a.Subject, Session: a.SessionID,
		Family: a.ID, Generation: a.Generation, Expires: a.Expires, Data: data,
	}, err
}

// OpenAuthorization decodes a stored authorization.
func OpenAuthorization(r Record) (*Authorization, error) {
	a := &Authorization{}
	if err := json.Unmarshal(r.Data, a); err != nil {
		return nil, err
	}
	a.ID, a.Generation, a.Expires = r.Key, r.Generation, r.Expires
	return a, nil
}
