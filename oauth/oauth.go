// Package oauth is the vocabulary of the OAuth 2.0 / OpenID Connect provider:
// clients, authorizations, errors, and the contract of the provider's memory.
//
// Start with Client and Authorization, then Store. The doors between the
// provider and the pages for humans are in challenge.go.
package oauth

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"time"
)

// RecordKind names a sort of stored record.
type RecordKind string

const (
	Clients        RecordKind = "client"        // key: client id
	Authorizations RecordKind = "authorization" // key: flow id; what a user granted, for its whole life
	Consents       RecordKind = "consent"       // key: ConsentKey(subject, client); remembered consent
	Sessions       RecordKind = "session"       // key: sid; the browser's session at the provider
	Flows          RecordKind = "flow"          // key: flow id + part; what does not fit into a challenge
	Used           RecordKind = "used"          // key: flow id + part; a marker: this was redeemed
	Revoked        RecordKind = "revoked"       // key: token id; a single access token that was revoked
	Epochs         RecordKind = "epoch"         // key: EpochKey; tokens issued before Data's time are dead
	Keys           RecordKind = "jwk"           // key: set + "/" + kid; sealed private keys
)

// Record is anything the provider must remember.
type Record struct {
	Kind RecordKind
	Key  string // never a secret; the hash of one
	// What List, Delete and Revoke find a record by. All optional.
	Client, Subject, Session, Family string
	Generation                       int64     // counts the writes; see Store.Put
	Expires                          time.Time // zero: never
	Data                             []byte
}

// Ref names one record.
type Ref struct {
	Kind RecordKind
	Key  string
}

// Query selects records; zero fields match anything. Kind must be set.
type Query struct {
	Kind                             RecordKind
	Client, Subject, Session, Family string
	After                            string // List: keys greater than this
	Limit                            int    // List: at most so many; 0: 500
}

// Store keeps records. Backends live in store/; all pass store/storetest,
// concurrency included. Expired records are never returned, whether Expire
// has removed them or not.
type Store interface {
	// Get returns the records found, in no particular order, in one statement.
	// What is missing is missing from the answer; that is no error.
	Get(ctx context.Context, refs ...Ref) ([]Record, error)
	// Put writes all or nothing, durably. Record.Generation is as read: 0 = must
	// not exist, n = must still be n, Overwrite = whatever is there; otherwise
	// fault.Conflict. It is stored as n+1 (1 for a new one). A record of a revoked
	// family is refused with fault.Denied, whatever its generation. What was
	// taken stays spent however often it is written.
	Put(ctx context.Context, rs ...Record) error
	// Take returns a single-use record and marks it spent, atomically. A
	// second Take fails with fault.Spent and still returns the record;
	// fault.NotFound if there is none.
	Take(ctx context.Context, k RecordKind, key string) (Record, error)
	// List returns records ordered by key.
	List(ctx context.Context, q Query) ([]Record, error)
	// Delete removes the records a query selects (After and Limit are not
	// looked at) and returns how many there were. A Query with nothing but a
	// Kind deletes nothing and fails with fault.Invalid; a single record is
	// deleted by Remove.
	Delete(ctx context.Context, q Query) (int, error)
	// Remove deletes single records; fault.NotFound when none was there.
	Remove(ctx context.Context, refs ...Ref) error
	// Revoke deletes a family until the given time (zero: for good): a Put that
	// arrives late, from a request already under way, fails with fault.Denied.
	Revoke(ctx context.Context, family string, until time.Time) error
	// Expire removes what expired before now, in batches, and returns how many.
	Expire(ctx context.Context, now time.Time) (int, error)
}

// Overwrite as Record.Generation lets Put replace whatever is stored.
const Overwrite int64 = -1

// Watcher is implemented by stores that can tell of changes others made.
type Watcher interface {
	// Watch calls changed for every record of the kind that was written or
	// removed, by whomever, until ctx ends. An empty key means anything may
	// have changed (a lost connection, for example); it is also the first call,
	// made when no later change can be missed. It returns early with an error
	// when it can no longer tell: read everything again, and watch again.
	Watch(ctx context.Context, k RecordKind, changed func(key string)) error
}

// ConsentKey is the key of a remembered consent.
func ConsentKey(subject, client string) string { return pairKey(subject, client) }

// EpochKey is the key of a revocation epoch. With both it holds for the
// subject's tokens at that client, with one for all of that subject or client.
func EpochKey(subject, client string) string { return pairKey(subject, client) }

func pairKey(a, b string) string {
	h := sha256.New()
	h.Write([]byte(a))
	h.Write([]byte{0})
	h.Write([]byte(b))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// Error is an OAuth error response (RFC 6749, sections 4.1.2.1 and 5.2).
type Error struct {
	Code        string // "invalid_grant"
	Description string // shown to the client developer, never a secret
	Hint        string // what to do next; appended to the description
	Status      int    // HTTP status where the error is answered directly
	Cause       error  // logged only
}

func (e *Error) Error() string {
	if e.Description == "" {
		return e.Code
	}
	return e.Code + ": " + e.Text()
}

// Text is the description with its hint, as error_description carries it.
func (e *Error) Text() string {
	if e.Hint == "" {
		return e.Description
	}
	return e.Description + " " + e.Hint
}

func (e *Error) Unwrap() error { return e.Cause }

// Because returns a copy with a private cause.
func (e *Error) Because(err error) *Error { c := *e; c.Cause = err; return &c }

// WithHint returns a copy with a hint.
func (e *Error) WithHint(hint string) *Error { c := *e; c.Hint = hint; return &c }

// The errors of the protocol, with descriptions of ours. Use Because and WithHint.
var (
	ErrInvalidRequest          = &Error{Code: "invalid_request", Description: "The request lacks a required parameter, repeats one, or is malformed.", Status: 400}
	ErrUnauthorizedClient      = &Error{Code: "unauthorized_client", Description: "The client is not allowed to do this.", Status: 400}
	ErrAccessDenied            = &Error{Code: "access_denied", Description: "The user or the server denied the request.", Status: 403}
	ErrUnsupportedResponseType = &Error{Code: "unsupported_response_type", Description: "The server does not support this response type.", Status: 400}
	ErrInvalidScope            = &Error{Code: "invalid_scope", Description: "A requested scope is unknown, malformed, or not allowed to this client.", Status: 400}
	ErrServerError             = &Error{Code: "server_error", Description: "The server met an unexpected condition.", Status: 500}
	ErrTemporarilyUnavailable  = &Error{Code: "temporarily_unavailable", Description: "The server is overloaded or under maintenance. Try again later.", Status: 503}
	ErrInvalidClient           = &Error{Code: "invalid_client", Description: "Client authentication failed.", Status: 401}
	ErrInvalidGrant            = &Error{Code: "invalid_grant", Description: "The code or token is invalid, expired, revoked, or was issued to another client or redirect URI.", Status: 400}
	ErrUnsupportedGrantType    = &Error{Code: "unsupported_grant_type", Description: "The server does not support this grant type.", Status: 400}
	ErrInvalidToken            = &Error{Code: "invalid_token", Description: "The access token is invalid, expired or revoked.", Status: 401}
	ErrInteractionRequired     = &Error{Code: "interaction_required", Description: "The server needs to ask the user.", Status: 400}
	ErrLoginRequired           = &Error{Code: "login_required", Description: "The user must sign in.", Status: 400}
	ErrConsentRequired         = &Error{Code: "consent_required", Description: "The user must consent.", Status: 400}
	ErrRequestNotSupported     = &Error{Code: "request_not_supported", Description: "The server does not support the request parameter.", Status: 400}
	ErrRequestURINotSupported  = &Error{Code: "request_uri_not_supported", Description: "The server does not support the request_uri parameter.", Status: 400}
	ErrInvalidClientMetadata   = &Error{Code: "invalid_client_metadata", Description: "A field of the client's metadata has an invalid value.", Status: 400}
	ErrInvalidRedirectURI      = &Error{Code: "invalid_redirect_uri", Description: "A redirect URI is invalid.", Status: 400}
)
