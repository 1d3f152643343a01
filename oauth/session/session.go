// Package session keeps the browser's session at the provider: who signed in
// here, when and how, so that the next client need not ask again.
//
// A session is one record (oauth.Sessions) and one cookie. The cookie is
// sealed and holds the session's id and a secret that changes with every
// login; the id alone, which clients see as "sid", opens nothing. No cookie is
// set before somebody has signed in. Logout lives here too (logout.go); the
// questions to the human are asked in oauth/interaction.
package session

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/lib/seal"
	"gatehouse/oauth"
)

// Session is what the provider knows of a signed-in browser.
type Session struct {
	ID           string    `json:"-"` // "sid"
	Subject      string    `json:"-"`
	AuthTime     time.Time `json:"auth_time"`
	ACR          string    `json:"acr,omitempty"`
	AMR          []string  `json:"amr,omitempty"`
	Remember     bool      `json:"remember,omitempty"` // without it the next client asks again
	IDPSessionID string    `json:"idp_sid,omitempty"`
	SecretHash   []byte    `json:"secret"` // SHA-256 of the cookie's secret
	Expires      time.Time `json:"-"`
	generation   int64
}

// Keeper opens, begins and ends sessions.
type Keeper struct {
	set   *oauth.Settings
	store oauth.Store
	ring  *seal.Ring
}

// New returns a keeper. It fails when the settings hold no usable secret.
func New(set *oauth.Settings, store oauth.Store) (*Keeper, error) {
	ring, err := seal.New(set.Secrets, "session cookie")
	if err != nil {
		return nil, fmt.Errorf("deriving the key of session cookies: %w", err)
	}
	return &Keeper{set: set, store: store, ring: ring}, nil
}

// Ticket is what an authentic session cookie says. The session may be gone.
type Ticket struct {
	ID     string
	secret []byte
}

const (
	secretSize = 16
	maxCookie  = 512 // a longer one is not ours
)

// CookieName is the name of the session cookie.
func (k *Keeper) CookieName() string { return Name(k.set, "ory_hydra_session") }

// Name is a cookie's name with the suffix for plain HTTP.
func Name(set *oauth.Settings, name string) string {
	if set.Dev {
		return name + "_dev"
	}
	return name
}

// Cookie returns a cookie with every attribute the settings decide; the
// provider makes no cookie any other way. A zero maxAge ends with the
// browser, a negative one deletes.
func Cookie(set *oauth.Settings, name, value string, maxAge time.Duration) *http.Cookie {
	c := &http.Cookie{
		Name: name, Value: value, Path: "/", Domain: set.CookieDomain,
		Secure: !set.Dev, HttpOnly: true, SameSite: set.CookieSameSite,
	}
	if c.SameSite == 0 {
		c.SameSite = http.SameSiteLaxMode
	}
	switch {
	case maxAge < 0:
		c.MaxAge, c.Expires = -1, time.Unix(1, 0)
	case maxAge > 0:
		c.MaxAge, c.Expires = int(maxAge/time.Second), set.Now().Add(maxAge)
	}
	return c
}

// Ticket reads the request's session cookie. False: none, or not ours.
func (k *Keeper) Ticket(r *http.Request) (Ticket, bool) {
	for _, c := range r.CookiesNamed(k.CookieName()) {
		if len(c.Value) > maxCookie {
			continue
		}
		box, err := base64.RawURLEncoding.DecodeString(c.Value)
		if err != nil {
			continue
		}
		plain, err := k.ring.Open(box, nil)
		if err != nil || len(plain) <= secretSize {
			continue
		}
		return Ticket{ID: string(plain[secretSize:]), secret: plain[:secretSize]}, true
	}
	return Ticket{}, false
}

// Open returns the session of a record the ticket fits.
func (k *Keeper) Open(t Ticket, r oauth.Record) (*Session, bool) {
	s := &Session{}
	if r.Kind != oauth.Sessions || r.Key != t.ID || json.Unmarshal(r.Data, s) != nil {
		return nil, false
	}
	sum := sha256.Sum256(t.secret)
	if subtle.ConstantTimeCompare(sum[:], s.SecretHash) != 1 {
		return nil, false
	}
	s.ID, s.Subject, s.Expires, s.generation = r.Key, r.Subject, r.Expires, r.Generation
	return s, true
}

// Current returns the session of the request, or nil.
func (k *Keeper) Current(ctx context.Context, r *http.Request) (*Session, error) {
	t, ok := k.Ticket(r)
	if !ok {
		return nil, nil
	}
	rs, err := k.store.Get(ctx, oauth.Ref{Kind: oauth.Sessions, Key: t.ID})
	if err != nil {
		return nil, fmt.Errorf("reading the session: %w", err)
	}
	for _, rec := range rs {
		if s, ok := k.Open(t, rec); ok {
			return s, nil
		}
	}
	return nil, nil
}

// Begin makes the session of a new login: the record to store and the cookie
// to set once it is stored. The same id with another secret makes the cookie
// of before worthless, which is what a new login by the same user wants.
func (k *Keeper) Begin(id string, at time.Time, a oauth.Answer) (*Session, oauth.Record, *http.Cookie, error) {
	s := &Session{
		ID: id, Subject: a.Subject, AuthTime: at, ACR: a.ACR, AMR: a.AMR, Remember: a.Remember,
		IDPSessionID: a.IDPSessionID, Expires: at.Add(k.lifetime(a)),
	}
	secret := make([]byte, secretSize)
	rand.Read(secret)
	sum := sha256.Sum256(secret)
	s.SecretHash = sum[:]
	rec, err := s.record()
	rec.Generation = oauth.Overwrite
	return s, rec, k.cookie(s, secret, a), err
}

// Extend makes a session that was not begun anew last as long as one that
// was. The ticket is the one it was opened with.
func (k *Keeper) Extend(s *Session, t Ticket, now time.Time, a oauth.Answer) (oauth.Record, *http.Cookie, error) {
	longer := *s
	longer.Expires = now.Add(k.lifetime(a))
	rec, err := longer.record()
	rec.Generation = s.generation
	a.Remember = s.Remember
	return rec, k.cookie(&longer, t.secret, a), err
}

func (k *Keeper) lifetime(a oauth.Answer) time.Duration {
	if a.RememberFor > 0 {
		return a.RememberFor
	}
	return k.set.TTLSession
}

func (s *Session) record() (oauth.Record, error) {
	data, err := json.Marshal(s)
	return oauth.Record{Kind: oauth.Sessions, Key: s.ID, Subject: s.Subject, Session: s.ID, Expires: s.Expires, Data: data}, err
}

func (k *Keeper) cookie(s *Session, secret []byte, a oauth.Answer) *http.Cookie {
	box := k.ring.Seal(nil, append(slices.Clone(secret), s.ID...), nil)
	age := time.Duration(0)
	if a.Remember {
		age = k.lifetime(a)
	}
	return Cookie(k.set, k.CookieName(), base64.RawURLEncoding.EncodeToString(box), age)
}

// Clear deletes the session cookie.
func (k *Keeper) Clear(w http.ResponseWriter) {
	http.SetCookie(w, Cookie(k.set, k.CookieName(), "", -1))
}

// End ends a session and every authorization of it that was not granted
// offline access. A session that is gone already is no error.
//
// The session goes first: an authorization that is stored later finds it gone
// and ends itself (oauth/interaction), one that was stored before is found.
func (k *Keeper) End(ctx context.Context, id string) error {
	if err := k.store.Remove(ctx, oauth.Ref{Kind: oauth.Sessions, Key: id}); err != nil && fault.KindOf(err) != fault.NotFound {
		return fmt.Errorf("removing the session: %w", err)
	}
	const page = 100
	for after := ""; ; {
		rs, err := k.store.List(ctx, oauth.Query{Kind: oauth.Authorizations, Session: id, After: after, Limit: page})
		if err != nil {
			return fmt.Errorf("listing the session's authorizations: %w", err)
		}
		for _, r := range rs {
			after = r.Key
			a, err := oauth.OpenAuthorization(r)
			if err != nil {
				return fmt.Errorf("decoding authorization %s: %w", r.Key, err)
			}
			if Offline(a.Scopes) {
				continue
			}
			if err := k.store.Revoke(ctx, r.Family, Tombstone(k.set)); err != nil {
				return fmt.Errorf("revoking authorization %s: %w", r.Key, err)
			}
		}
		if len(rs) < page {
			return nil
		}
	}
}

// Offline says whether the scopes outlive the session.
func Offline(scopes []string) bool {
	return slices.Contains(scopes, "offline_access") || slices.Contains(scopes, "offline")
}

// Tombstone is until when a revoked authorization must stay refused: as long
// as a sealed answer could bring it back.
func Tombstone(set *oauth.Settings) time.Time {
	return set.Now().Add(set.TTLInteraction + set.TTLCode + time.Hour)
}
