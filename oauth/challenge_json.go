package oauth

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"gatehouse/lib/fault"
)

// SpentError says that a challenge was answered and redeemed. RedirectTo is
// the request that began the flow: a browser that comes back with an old
// challenge starts again there. The admin API answers it with 410.
type SpentError struct {
	RedirectTo string
}

func (e *SpentError) Error() string { return "the challenge was used already" }

// Unwrap makes fault.KindOf find fault.Spent.
func (e *SpentError) Unwrap() error { return fault.New(fault.Spent, e.Error()) }

// MaxAnswer is the most an application may send as an answer, in bytes.
const MaxAnswer = 64 << 10

// loginWire, consentWire and logoutWire are the bodies of
// GET …/requests/{login,consent,logout}, field by field in Hydra's order.
type loginWire struct {
	Challenge         string          `json:"challenge"`
	RequestedScope    []string        `json:"requested_scope"`
	RequestedAudience []string        `json:"requested_access_token_audience"`
	Skip              bool            `json:"skip"`
	Subject           string          `json:"subject"`
	OIDC              OIDCContext     `json:"oidc_context"`
	Client            json.RawMessage `json:"client"`
	RequestURL        string          `json:"request_url"`
	SessionID         string          `json:"session_id"`
}

type consentWire struct {
	Challenge         string          `json:"challenge"`
	ConsentRequestID  string          `json:"consent_request_id"`
	RequestedScope    []string        `json:"requested_scope"`
	RequestedAudience []string        `json:"requested_access_token_audience"`
	Skip              bool            `json:"skip"`
	Subject           string          `json:"subject"`
	OIDC              OIDCContext     `json:"oidc_context"`
	Client            json.RawMessage `json:"client"`
	RequestURL        string          `json:"request_url"`
	LoginChallenge    string          `json:"login_challenge"`
	LoginSessionID    string          `json:"login_session_id"`
	ACR               string          `json:"acr"`
	AMR               []string        `json:"amr"`
	Context           json.RawMessage `json:"context"`
}

type logoutWire struct {
	Challenge   string          `json:"challenge"`
	Subject     string          `json:"subject"`
	SessionID   string          `json:"sid"`
	RequestURL  string          `json:"request_url"`
	RPInitiated bool            `json:"rp_initiated"`
	ExpiresAt   time.Time       `json:"expires_at"`
	RequestedAt time.Time       `json:"requested_at"`
	Client      json.RawMessage `json:"client"`
}

// Wire encodes a challenge as the admin API shows it. The client is shown
// without its secret.
func (c *Challenge) Wire() ([]byte, error) {
	client := json.RawMessage("null")
	if c.Client != nil {
		var err error
		if client, err = json.Marshal(c.Client.Wire("")); err != nil {
			return nil, err
		}
	}
	switch c.Kind {
	case AskLogin:
		return json.Marshal(loginWire{
			Challenge: c.ID, RequestedScope: list(c.RequestedScopes), RequestedAudience: list(c.RequestedAudience),
			Skip: c.Skip, Subject: c.Subject, OIDC: c.OIDC, Client: client, RequestURL: c.RequestURL, SessionID: c.SessionID,
		})
	case AskConsent:
		return json.Marshal(consentWire{
			Challenge: c.ID, ConsentRequestID: c.ConsentRequestID,
			RequestedScope: list(c.RequestedScopes), RequestedAudience: list(c.RequestedAudience),
			Skip: c.Skip, Subject: c.Subject, OIDC: c.OIDC, Client: client, RequestURL: c.RequestURL,
			LoginChallenge: c.LoginChallenge, LoginSessionID: c.SessionID, ACR: c.ACR, AMR: list(c.AMR), Context: orNull(c.Context),
		})
	case AskLogout:
		return json.Marshal(logoutWire{
			Challenge: c.ID, Subject: c.Subject, SessionID: c.SessionID, RequestURL: c.RequestURL,
			RPInitiated: c.RPInitiated, ExpiresAt: c.Expires.UTC(), RequestedAt: c.RequestedAt.UTC(), Client: client,
		})
	}
	return nil, errors.New("unknown kind of challenge")
}

// ParseChallenge decodes what Wire encodes, and what Hydra's admin API
// answers. Unknown fields are ignored.
func ParseChallenge(k ChallengeKind, body []byte) (*Challenge, error) {
	c := &Challenge{Kind: k}
	var client json.RawMessage
	switch k {
	case AskLogin:
		var w loginWire
		if err := json.Unmarshal(body, &w); err != nil {
			return nil, fault.Wrap(fault.Invalid, "the login request is not valid JSON", err)
		}
		c.ID, c.RequestedScopes, c.RequestedAudience, c.Skip, c.Subject = w.Challenge, w.RequestedScope, w.RequestedAudience, w.Skip, w.Subject
		c.OIDC, c.RequestURL, c.SessionID, client = w.OIDC, w.RequestURL, w.SessionID, w.Client
	case AskConsent:
		var w consentWire
		if err := json.Unmarshal(body, &w); err != nil {
			return nil, fault.Wrap(fault.Invalid, "the consent request is not valid JSON", err)
		}
		c.ID, c.RequestedScopes, c.RequestedAudience, c.Skip, c.Subject = w.Challenge, w.RequestedScope, w.RequestedAudience, w.Skip, w.Subject
		c.OIDC, c.RequestURL, c.SessionID, client = w.OIDC, w.RequestURL, w.LoginSessionID, w.Client
		c.ConsentRequestID, c.LoginChallenge, c.ACR, c.AMR, c.Context = w.ConsentRequestID, w.LoginChallenge, w.ACR, w.AMR, w.Context
	case AskLogout:
		var w logoutWire
		if err := json.Unmarshal(body, &w); err != nil {
			return nil, fault.Wrap(fault.Invalid, "the logout request is not valid JSON", err)
		}
		c.ID, c.Subject, c.SessionID, c.RequestURL = w.Challenge, w.Subject, w.SessionID, w.RequestURL
		c.RPInitiated, c.Expires, c.RequestedAt, client = w.RPInitiated, w.ExpiresAt, w.RequestedAt, w.Client
	default:
		return nil, errors.New("unknown kind of challenge")
	}
	if len(client) > 0 && string(client) != "null" {
		c.Client = &Client{}
		if err := json.Unmarshal(client, c.Client); err != nil {
			return nil, fault.Wrap(fault.Invalid, "the client in the request is not valid JSON", err)
		}
	}
	return c, nil
}

// loginAnswer and consentAnswer are the bodies of
// PUT …/requests/{login,consent}/accept. Times are seconds.
type loginAnswer struct {
	Subject                string          `json:"subject"`
	Remember               bool            `json:"remember"`
	RememberFor            int64           `json:"remember_for"`
	ExtendSession          bool            `json:"extend_session_lifespan,omitempty"`
	ACR                    string          `json:"acr,omitempty"`
	AMR                    []string        `json:"amr,omitempty"`
	ForceSubjectIdentifier string          `json:"force_subject_identifier,omitempty"`
	IDPSessionID           string          `json:"identity_provider_session_id,omitempty"`
	Context                json.RawMessage `json:"context,omitempty"`
}

type consentAnswer struct {
	Scopes      []string        `json:"grant_scope"`
	Audience    []string        `json:"grant_access_token_audience"`
	Remember    bool            `json:"remember"`
	RememberFor int64           `json:"remember_for"`
	Session     consentSession  `json:"session"`
	Context     json.RawMessage `json:"context,omitempty"`
	HandledAt   time.Time       `json:"handled_at,omitzero"`
}

type consentSession struct {
	AccessToken map[string]any `json:"access_token,omitempty"`
	IDToken     map[string]any `json:"id_token,omitempty"`
}

// maxRemember bounds remember_for so that it cannot overflow a Duration.
const maxRemember = 100 * 365 * 24 * time.Hour

// Wire encodes an answer to a login or consent question.
func (a *Answer) Wire(k ChallengeKind) ([]byte, error) {
	switch k {
	case AskLogin:
		return json.Marshal(loginAnswer{
			Subject: a.Subject, Remember: a.Remember, RememberFor: int64(a.RememberFor / time.Second), ExtendSession: a.ExtendSession,
			ACR: a.ACR, AMR: a.AMR, ForceSubjectIdentifier: a.ForceSubjectIdentifier, IDPSessionID: a.IDPSessionID, Context: a.Context,
		})
	case AskConsent:
		return json.Marshal(consentAnswer{
			Scopes: list(a.Scopes), Audience: list(a.Audience), Remember: a.Remember, RememberFor: int64(a.RememberFor / time.Second),
			Session: consentSession{a.AccessTokenClaims, a.IDTokenClaims}, Context: a.Context, HandledAt: a.HandledAt,
		})
	case AskLogout:
		return []byte("{}"), nil
	}
	return nil, errors.New("unknown kind of challenge")
}

// ParseAnswer decodes the body of an accept call. A logout has none that
// matters. Unknown fields are ignored; errors are fault.Invalid.
func ParseAnswer(k ChallengeKind, body []byte) (Answer, error) {
	var a Answer
	var seconds int64
	switch k {
	case AskLogin:
		var w loginAnswer
		if err := json.Unmarshal(body, &w); err != nil {
			return a, fault.Wrap(fault.Invalid, "Unable to decode the request body: "+err.Error(), err)
		}
		a = Answer{
			Subject: w.Subject, Remember: w.Remember, ExtendSession: w.ExtendSession, ACR: w.ACR, AMR: w.AMR,
			ForceSubjectIdentifier: w.ForceSubjectIdentifier, IDPSessionID: w.IDPSessionID, Context: w.Context,
		}
		seconds = w.RememberFor
	case AskConsent:
		var w consentAnswer
		if err := json.Unmarshal(body, &w); err != nil {
			return a, fault.Wrap(fault.Invalid, "Unable to decode the request body: "+err.Error(), err)
		}
		a = Answer{
			Scopes: w.Scopes, Audience: w.Audience, Remember: w.Remember, Context: w.Context, HandledAt: w.HandledAt,
			AccessTokenClaims: w.Session.AccessToken, IDTokenClaims: w.Session.IDToken,
		}
		seconds = w.RememberFor
	case AskLogout:
		return a, nil
	default:
		return a, errors.New("unknown kind of challenge")
	}
	if seconds < 0 || seconds > int64(maxRemember/time.Second) {
		return a, fault.New(fault.Invalid, "Field 'remember_for' must be a number of seconds, not negative and at most a hundred years.")
	}
	if string(a.Context) == "null" {
		a.Context = nil
	}
	a.RememberFor = time.Duration(seconds) * time.Second
	return a, nil
}

// rejectWire is the body of PUT …/requests/{login,consent}/reject.
type rejectWire struct {
	Code        string `json:"error"`
	Description string `json:"error_description"`
	Hint        string `json:"error_hint,omitempty"`
	Debug       string `json:"error_debug,omitempty"`
	Status      int    `json:"status_code,omitempty"`
}

// RejectWire encodes the reason of a rejection.
func (e *Error) RejectWire() ([]byte, error) {
	return json.Marshal(rejectWire{Code: e.Code, Description: e.Description, Hint: e.Hint, Status: e.Status})
}

// ParseReject decodes the body of a reject call. An empty one is
// access_denied; errors are fault.Invalid.
func ParseReject(body []byte) (*Error, error) {
	var w rejectWire
	if len(body) > 0 {
		if err := json.Unmarshal(body, &w); err != nil {
			return nil, fault.Wrap(fault.Invalid, "Unable to decode the request body: "+err.Error(), err)
		}
	}
	e := &Error{Code: w.Code, Description: w.Description, Hint: w.Hint, Status: w.Status}
	if e.Code == "" {
		e.Code = ErrAccessDenied.Code
	}
	if e.Description == "" && e.Hint == "" {
		e.Description = ErrAccessDenied.Description
	}
	if e.Status < 400 || e.Status > 599 {
		e.Status = http.StatusForbidden
	}
	return e, nil
}

// redirectWire is the answer to accept and reject, and the body of a 410.
type redirectWire struct {
	RedirectTo string `json:"redirect_to"`
}

// RedirectWire encodes where the browser goes next.
func RedirectWire(to string) ([]byte, error) { return json.Marshal(redirectWire{to}) }

// ParseRedirect decodes what RedirectWire encodes.
func ParseRedirect(body []byte) (string, error) {
	var w redirectWire
	if err := json.Unmarshal(body, &w); err != nil {
		return "", fault.Wrap(fault.Invalid, "the answer is not valid JSON", err)
	}
	return w.RedirectTo, nil
}

// list makes an absent list an empty one, as the wire has it.
func list(ss []string) []string {
	if ss == nil {
		return []string{}
	}
	return ss
}

func orNull(m json.RawMessage) json.RawMessage {
	if len(m) == 0 {
		return json.RawMessage("null")
	}
	return m
}
