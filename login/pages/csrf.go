package pages

import (
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"strings"

	"gatehouse/oauth"
)

// A form is genuine when its token is the MAC of the page, the challenge and a
// random value in a cookie of the same browser. The value is signed as well,
// so that nobody can plant one that we did not make; on HTTPS the __Host-
// prefix keeps neighbours on other subdomains from planting any.

func (s *site) cookieName() string {
	if s.Secure {
		return "__Host-gatehouse_form"
	}
	return "gatehouse_form"
}

// formToken returns the token for a form and sets the cookie unless the
// browser has one. The cookie is shared by all tabs, the token is not.
func (v *visit) formToken(k oauth.ChallengeKind, challenge string) string {
	s := v.site
	value, ok := s.formCookie(v.Request)
	if !ok {
		value = s.newCookie()
		http.SetCookie(v.w, &http.Cookie{
			Name: s.cookieName(), Value: value, Path: "/",
			HttpOnly: true, Secure: s.Secure, SameSite: http.SameSiteLaxMode,
		})
	}
	return encode(s.ring.MAC(tokenMessage(k, value, challenge)))
}

// genuine says whether a form came from this browser's own page.
func (s *site) genuine(r *http.Request, k oauth.ChallengeKind, challenge, token string) bool {
	value, ok := s.formCookie(r)
	if !ok {
		return false
	}
	sum, err := base64.RawURLEncoding.Strict().DecodeString(token)
	return err == nil && s.ring.Verify(tokenMessage(k, value, challenge), sum)
}

func (s *site) newCookie() string {
	b := make([]byte, 16)
	rand.Read(b)
	id := encode(b)
	return id + "." + encode(s.ring.MAC([]byte("cookie\x00" + id))[:16])
}

// formCookie returns the cookie's value if we made it. Several cookies of the
// name may come; one of ours is enough.
func (s *site) formCookie(r *http.Request) (string, bool) {
	for _, c := range r.CookiesNamed(s.cookieName()) {
		id, mac, _ := strings.Cut(c.Value, ".")
		sum, err := base64.RawURLEncoding.Strict().DecodeString(mac)
		if err == nil && s.ring.Verify([]byte("cookie\x00"+id), sum) {
			return c.Value, true
		}
	}
	return "", false
}

func tokenMessage(k oauth.ChallengeKind, cookie, challenge string) []byte {
	return []byte("token\x00" + string(k) + "\x00" + cookie + "\x00" + challenge)
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
