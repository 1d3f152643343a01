package mint

import (
	"crypto/rand"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
)

// Lengths no token of ours exceeds, in bytes.
const (
	maxCode    = 1024
	maxAccess  = 12 << 10
	maxRefresh = 1024
)

// refreshMAC is the length of the MAC in a refresh token.
const refreshMAC = 24

// idSize is the length of a token's own id.
const idSize = 12

// Code makes an authorization code for an authorization that was just stored:
// good once, for ttl.auth_code.
func (m *Mint) Code(a *oauth.Authorization) (string, error) {
	now := m.now()
	t := Ticket{Authorization: a.ID, Generation: 1, Issued: now, Expires: now.Add(m.settings.TTLCode)}
	return CodePrefix + text(m.codes.Seal(nil, t.encode(nil), nil)), nil
}

// OpenCode opens a code that has not expired. It fails with ErrToken.
func (m *Mint) OpenCode(raw string) (*Ticket, error) {
	body, ok := stripped(raw, CodePrefix, maxCode)
	if !ok {
		return nil, ErrToken
	}
	b, ok := untext(body)
	if !ok {
		return nil, ErrToken
	}
	plain, err := m.codes.Open(b, nil)
	if err != nil {
		return nil, ErrToken
	}
	t, ok := decode(plain)
	if !ok || t.Authorization == "" || !m.now().Before(t.Expires) {
		return nil, ErrToken
	}
	return t, nil
}

// ForAuthorization is the ticket of an access token of an authorization, at
// its present generation. Scopes must be a subset of those granted.
func (m *Mint) ForAuthorization(a *oauth.Authorization, scopes []string, ttl time.Duration) *Ticket {
	now := m.now()
	return &Ticket{
		Authorization: a.ID, Generation: a.Generation, narrowed: narrow(a.Scopes, scopes),
		Issued: now, Expires: now.Add(ttl),
	}
}

// ForClient is the ticket of an access token that a client gets for itself.
func (m *Mint) ForClient(c *oauth.Client, scopes, audience []string, ttl time.Duration) *Ticket {
	now := m.now()
	return &Ticket{ID: newID(), Client: c.ID, Scopes: scopes, Audience: audience, Issued: now, Expires: now.Add(ttl)}
}

func newID() string {
	b := make([]byte, idSize)
	rand.Read(b) // never fails
	return text(b)
}

// Opaque makes the sealed access token of a ticket.
func (m *Mint) Opaque(t *Ticket) (string, error) {
	raw := AccessPrefix + text(m.access.Seal(nil, t.encode(make([]byte, 0, 128)), nil))
	if len(raw) > maxAccess {
		return "", fault.New(fault.Invalid, "the requested scopes and audience are too long for a token")
	}
	return raw, nil
}

// openOpaque opens a sealed access token that has not expired.
func (m *Mint) openOpaque(raw string) (*Ticket, error) {
	body, ok := stripped(raw, AccessPrefix, maxAccess)
	if !ok {
		return nil, ErrToken
	}
	b, ok := untext(body)
	if !ok {
		return nil, ErrToken
	}
	plain, err := m.access.Open(b, nil)
	if err != nil {
		return nil, ErrToken
	}
	t, ok := decode(plain)
	if !ok || !m.now().Before(t.Expires) {
		return nil, ErrToken
	}
	return t, nil
}

// RefreshToken is the refresh token of an authorization at a generation. It
// is the same every time. It does not know when it expires: the authorization
// does.
func (m *Mint) RefreshToken(id string, generation int64) string {
	w := writer(make([]byte, 0, 64))
	w.id(id)
	w.uint(uint64(generation))
	return RefreshPrefix + text(append(w, m.refresh.MAC(w)[:refreshMAC]...))
}

// OpenRefresh says which authorization and generation a genuine refresh token
// names. It fails with ErrToken.
func (m *Mint) OpenRefresh(raw string) (id string, generation int64, err error) {
	body, ok := stripped(raw, RefreshPrefix, maxRefresh)
	if !ok {
		return "", 0, ErrToken
	}
	b, ok := untext(body)
	if !ok || len(b) <= refreshMAC {
		return "", 0, ErrToken
	}
	msg, sum := b[:len(b)-refreshMAC], b[len(b)-refreshMAC:]
	if !m.refresh.Verify(msg, sum) {
		return "", 0, ErrToken
	}
	r := reader{b: msg}
	id, gen := r.id(), r.uint()
	if r.failed || len(r.b) != 0 || id == "" || gen > 1<<62 {
		return "", 0, ErrToken
	}
	return id, int64(gen), nil
}
