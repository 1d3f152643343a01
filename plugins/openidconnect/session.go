package openidconnect

import (
	"bytes"
	"compress/flate"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"

	strict "github.com/go-jose/go-jose/v4/json"

	"gatehouse/gateway"
	"gatehouse/lib/fault"
	"gatehouse/lib/seal"
)

const (
	maxPlain     = 256 << 10 // of a session, inflated, in bytes
	deflateAbove = 1 << 10
	touchEvery   = 60              // seconds between two writes of an otherwise unchanged session
	keepRenewal  = 2 * time.Minute // requests that still carry the old cookie find the new session so long
	keepRefusal  = 10 * time.Second
	keepOutage   = 2 * time.Second
)

// session is a signed-in browser, as its cookie holds it. Immutable; times
// are seconds since 1970. It is never logged.
type session struct {
	ID       string          `json:"i"` // new at every sign-in
	Issuer   string          `json:"p"`
	Subject  string          `json:"s"`
	Access   string          `json:"a,omitempty"`
	Refresh  string          `json:"r,omitempty"`
	RawID    string          `json:"d,omitempty"`
	IDClaims json.RawMessage `json:"c,omitempty"` // when RawID is not kept
	User     json.RawMessage `json:"u,omitempty"`
	Scope    string          `json:"o,omitempty"`
	Expires  int64           `json:"e"`  // of the access token
	RenewAt  int64           `json:"n"`  // a little earlier
	Created  int64           `json:"t"`  // counts for absolute_timeout
	Rolled   int64           `json:"tr"` // counts for rolling_timeout
	Used     int64           `json:"tu"` // counts for idling_timeout

	// Worked out once.
	claims               []byte
	idHeader, userHeader string
	scopes               []string
	renewKey             string
}

// LogValue keeps tokens out of logs.
func (*session) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// finish works out what every request needs.
func (s *session) finish() *session {
	s.claims = s.IDClaims
	if _, rest, ok := strings.Cut(s.RawID, "."); ok {
		body, _, _ := strings.Cut(rest, ".")
		if b, err := base64.RawURLEncoding.DecodeString(body); err == nil {
			s.claims = compact(b)
		}
	}
	s.idHeader, s.userHeader = base64JSON(s.claims), base64JSON(s.User)
	s.scopes = strings.Fields(s.Scope)
	if s.Refresh != "" {
		s.renewKey = hashKey(s.Refresh)
	}
	return s
}

func hashKey(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return string(sum[:])
}

func (s *session) size() int {
	return 512 + len(s.Access) + len(s.Refresh) + 3*len(s.RawID) + 3*len(s.User) + 2*len(s.IDClaims)
}

// newSession makes a session of what the token endpoint answered. prior is
// the session that was refreshed, or nil at a sign-in.
func (p *relyingParty) newSession(t *tokens, issuer, subject string, claims []byte, user json.RawMessage, prior *session) *session {
	now := p.env.Now().Unix()
	s := &session{ID: rand.Text(), Issuer: issuer, Subject: subject, Created: now, Rolled: now, Used: now, Access: t.Access, Refresh: t.Refresh, User: user}
	if prior != nil {
		s.ID, s.Created, s.User = prior.ID, prior.Created, prior.User
		s.RawID, s.IDClaims, s.Scope = prior.RawID, prior.IDClaims, prior.Scope
		if s.Refresh == "" {
			s.Refresh = prior.Refresh
		}
	}
	if t.ID != "" {
		s.RawID, s.IDClaims = "", nil
		switch {
		case p.keep.RawIDToken:
			s.RawID = t.ID
		case p.keep.IDToken:
			s.IDClaims = compact(claims)
		}
	}
	if scope := grantedScope(t, claims); scope != "" {
		s.Scope = scope
	} else if prior == nil {
		s.Scope = p.Scope // RFC 6749, section 5.1: none named means as asked
	}
	life := int64(t.ExpiresIn)
	if life <= 0 {
		life = int64(p.ExpiresIn)
	}
	if life <= 0 {
		life = 3600
	}
	s.Expires = now + life
	s.RenewAt = s.Expires - max(1, min(int64(p.ExpiresLeeway), life/4))
	if !p.keep.AccessToken {
		s.Access, s.Refresh = "", ""
	}
	return s.finish()
}

// grantedScope finds what was granted: in the access token when it is a JWT,
// else in the answer, else in the ID token.
func grantedScope(t *tokens, idClaims []byte) string {
	if parts := strings.Split(t.Access, "."); len(parts) == 3 {
		if b, err := base64.RawURLEncoding.DecodeString(parts[1]); err == nil {
			if v, err := decodeAny(b); err == nil {
				if m, ok := v.(map[string]any); ok && m["scope"] != nil {
					return strings.Join(scopesOf(m), " ")
				}
			}
		}
	}
	if t.Scope != "" {
		return t.Scope
	}
	if v, err := decodeAny(idClaims); err == nil {
		if m, ok := v.(map[string]any); ok {
			return strings.Join(scopesOf(m), " ")
		}
	}
	return ""
}

// scopesOf reads the claim scope, a string of words or a list.
func scopesOf(claims map[string]any) []string {
	switch v := claims["scope"].(type) {
	case string:
		return strings.Fields(v)
	case []any:
		var out []string
		for _, e := range v {
			if s, ok := e.(string); ok {
				out = append(out, s)
			}
		}
		return out
	}
	return nil
}

func hasScopes(have, want []string) bool {
	for _, w := range want {
		if !slices.Contains(have, w) {
			return false
		}
	}
	return true
}

// open returns the session a request carries. nil: none, or one that has
// ended. seal.ErrOpen: the cookie is not one of ours, or was changed.
func (p *relyingParty) open(x *gateway.Exchange, j *jar) (*session, error) {
	value, present, whole := j.session()
	if !present {
		return nil, nil
	}
	if !whole {
		return nil, seal.ErrOpen
	}
	s, known := p.state.sessions.get(value)
	if !known {
		var err error
		if s, err = p.decodeSession(value); err != nil {
			return nil, seal.ErrOpen
		}
		p.state.sessions.put(strings.Clone(value), s, s.size(), p.env.Now().Add(time.Hour))
	}
	if p.timedOut(s) || p.hasEnded(s) {
		p.clearSession(x, j)
		return nil, nil
	}
	return s, nil
}

func (p *relyingParty) timedOut(s *session) bool {
	now, c := p.env.Now().Unix(), &p.Session
	return c.Absolute > 0 && now >= s.Created+int64(c.Absolute) ||
		c.Rolling > 0 && now >= s.Rolled+int64(c.Rolling) ||
		c.Idling > 0 && now >= s.Used+int64(c.Idling)
}

func (p *relyingParty) hasEnded(s *session) bool {
	_, ended := p.state.ended.get(s.ID)
	return ended
}

// end makes a session useless in this process, copies of its cookie included.
func (p *relyingParty) end(s *session) {
	life := seconds(p.Session.Absolute)
	if life == 0 {
		life = 30 * 24 * time.Hour
	}
	p.state.ended.put(s.ID, struct{}{}, 0, p.env.Now().Add(life))
}

// save puts a session into the browser. A session too large for cookies loses
// what the user information endpoint said before it is refused.
func (p *relyingParty) save(x *gateway.Exchange, j *jar, s *session) error {
	value, err := p.encodeSession(s)
	if err != nil {
		return err
	}
	if p.setChunks(x, j, value) {
		return nil
	}
	if len(s.User) > 0 {
		p.env.Log.Warn("session is too large for cookies: userinfo is left out", "owner", p.env.Owner)
		small := *s
		small.User = nil
		if value, err = p.encodeSession(&small); err != nil {
			return err
		}
		if p.setChunks(x, j, value) {
			return nil
		}
	}
	return errors.New("session is too large for cookies: see session_contents")
}

// encodeSession: JSON, deflated when long, sealed, base64url.
func (p *relyingParty) encodeSession(s *session) (string, error) {
	raw, err := json.Marshal(s)
	if err != nil {
		return "", err
	}
	plain := append([]byte{0}, raw...)
	if len(raw) > deflateAbove {
		var b bytes.Buffer
		b.WriteByte(1)
		w, err := flate.NewWriter(&b, flate.DefaultCompression)
		if err != nil {
			return "", err
		}
		if _, err := w.Write(raw); err != nil {
			return "", err
		}
		if err := w.Close(); err != nil {
			return "", err
		}
		plain = b.Bytes()
	}
	return base64.RawURLEncoding.EncodeToString(p.ring.Seal(nil, plain, []byte("session"))), nil
}

// decodeSession reads what encodeSession wrote and trusts nothing before the
// seal was checked.
func (p *relyingParty) decodeSession(value string) (*session, error) {
	box, err := base64.RawURLEncoding.Strict().DecodeString(value)
	if err != nil {
		return nil, err
	}
	plain, err := p.ring.Open(box, []byte("session"))
	if err != nil {
		return nil, err
	}
	if len(plain) == 0 {
		return nil, seal.ErrOpen
	}
	raw := plain[1:]
	if plain[0] == 1 {
		raw, err = io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(raw)), maxPlain+1))
		if err != nil || len(raw) > maxPlain {
			return nil, seal.ErrOpen
		}
	}
	s := &session{}
	if err := json.Unmarshal(raw, s); err != nil || s.ID == "" || s.Created == 0 {
		return nil, seal.ErrOpen
	}
	return s.finish(), nil
}

// renewal is how a refresh ended: a new session, or an error.
type renewal struct {
	session *session
	err     error
}

// renewed returns the session to use now: after a refresh when its access
// token is about to end, and written back when it was not for a while. nil:
// it has ended. fault.Unavailable: it needs the provider, which is not there.
func (p *relyingParty) renewed(x *gateway.Exchange, j *jar, s *session) (*session, error) {
	found := s
	for range 4 { // the cookie may be some refreshes behind
		r, ok := p.state.renewals.get(s.renewKey)
		if s.renewKey == "" || !ok || r.session == nil || r.session.renewKey == s.renewKey {
			break
		}
		s = r.session
	}
	now := p.env.Now().Unix()
	// A session that keeps no access token does not end with it. One from
	// before session_contents was changed still holds one, or lacks it.
	holds := p.keep.AccessToken || s.Access != ""
	if holds && now >= s.RenewAt && p.RenewOnExpiry {
		next, err := p.refresh(x.Ctx, s)
		switch {
		case err == nil:
			s = next
		case fault.KindOf(err) == fault.Unavailable && now < s.Expires:
			// The token is still good; the next request tries again.
		case fault.KindOf(err) == fault.Unavailable:
			return nil, err
		default:
			p.clearSession(x, j)
			return nil, nil
		}
		if p.hasEnded(s) {
			p.clearSession(x, j)
			return nil, nil
		}
	}
	if s != found {
		return s, p.save(x, j, s)
	}
	return s, p.touch(x, j, s)
}

// touch writes the time of use back, not more often than the shortest timeout
// needs.
func (p *relyingParty) touch(x *gateway.Exchange, j *jar, s *session) error {
	now := p.env.Now().Unix()
	every := int64(touchEvery)
	if p.Session.Idling > 0 {
		every = min(every, max(1, int64(p.Session.Idling)/4))
	}
	roll := p.Session.Rolling > 0 && now-s.Rolled > int64(p.Session.Rolling)*3/4
	if !roll && (p.Session.Idling == 0 || now-s.Used < every) {
		return nil
	}
	next := *s
	next.Used = now
	if roll {
		next.Rolled = now
	}
	return p.save(x, j, &next)
}

// refresh uses the refresh token once, whoever and how many ask. Errors are
// fault.Denied (sign in again) or fault.Unavailable.
func (p *relyingParty) refresh(ctx context.Context, s *session) (*session, error) {
	if s.Refresh == "" {
		if p.env.Now().Unix() < s.Expires-1 {
			return s, nil // good to its end
		}
		return nil, denied("access token has expired")
	}
	shared := context.WithoutCancel(ctx)
	done := p.state.flight.DoChan(s.renewKey, func() (any, error) {
		if r, ok := p.state.renewals.get(s.renewKey); ok {
			return r.session, r.err
		}
		r, keep := renewal{}, keepRenewal
		r.session, r.err = p.useRefreshToken(shared, s)
		size := 0
		switch {
		case r.err == nil:
			size = r.session.size()
		case fault.KindOf(r.err) == fault.Unavailable:
			keep = keepOutage
		default:
			keep = keepRefusal
		}
		if r.err == nil && r.session.renewKey == s.renewKey {
			// The provider does not rotate: the same token is used again
			// when the new access token ends.
			keep = max(0, min(keep, time.Duration(r.session.RenewAt-p.env.Now().Unix())*time.Second))
		}
		p.state.renewals.put(s.renewKey, r, size, p.env.Now().Add(keep))
		return r.session, r.err
	})
	select {
	case r := <-done:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*session), nil
	case <-ctx.Done():
		return nil, fault.Wrap(fault.Unavailable, "the client went away", ctx.Err())
	}
}

func (p *relyingParty) useRefreshToken(ctx context.Context, s *session) (*session, error) {
	doc, err := p.metadata(ctx)
	if err != nil {
		return nil, err
	}
	t, err := p.askTokens(ctx, doc, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {s.Refresh}})
	var r *refused
	switch {
	case errors.As(err, &r):
		p.env.Log.Debug("refresh was refused", "owner", p.env.Owner, "err", err)
		return nil, fault.Wrap(fault.Denied, "the provider ended the session", err)
	case err != nil:
		return nil, err
	}
	var claims []byte
	if t.ID != "" {
		c, err := p.verifyIDToken(ctx, doc, t.ID, t.Access, "")
		switch {
		case fault.KindOf(err) == fault.Unavailable:
			// The refresh token is spent: what came for it must not be lost.
			// The session keeps the ID token that was verified.
			t.ID = ""
		case err != nil:
			return nil, err
		case c.Subject != s.Subject || c.Issuer != s.Issuer:
			return nil, denied("refresh answered with the ID token of another user")
		default:
			claims = c.Raw
		}
	}
	return p.newSession(t, s.Issuer, s.Subject, claims, nil, s), nil
}

func compact(raw []byte) json.RawMessage {
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil {
		return nil
	}
	return b.Bytes()
}

func base64JSON(raw []byte) string {
	if len(raw) == 0 {
		return ""
	}
	return base64.StdEncoding.EncodeToString(raw)
}

// decodeAny reads JSON and refuses names given twice.
func decodeAny(raw []byte) (any, error) {
	if len(raw) == 0 {
		return nil, fmt.Errorf("nothing to read")
	}
	var v any
	err := strict.Unmarshal(raw, &v)
	return v, err
}
