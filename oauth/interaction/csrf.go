package interaction

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"net/http"
	"strconv"
	"strings"

	"gatehouse/oauth/session"
)

// A question is bound to a browser by a random value in a cookie; the sealed
// flow carries the start of its hash. One cookie serves all flows of a client
// in a browser, so parallel tabs do not disturb each other, and a verifier
// from another browser (a login forced upon a victim) finds no cookie that fits.

const (
	tagSize    = 12
	bindingLen = 22 // 16 bytes in base64
	// A browser that has begun flows with more clients than this forgets the oldest.
	maxBindings = 12
)

// bindingName is the cookie for a step and client.
func (d *Desk) bindingName(step, client string) string {
	sum := sha256.Sum256([]byte(client))
	return d.bindingPrefix(step) + strconv.FormatUint(uint64(binary.BigEndian.Uint32(sum[:])), 10)
}

func (d *Desk) bindingPrefix(step string) string {
	return session.Name(d.set, "ory_hydra_"+step+"_csrf") + "_"
}

// bind sets or renews the cookie and returns the tag for the flow.
func (d *Desk) bind(w http.ResponseWriter, r *http.Request, step, client string) (tag [tagSize]byte) {
	name := d.bindingName(step, client)
	var value string
	if c, err := r.Cookie(name); err == nil && validBinding(c.Value) {
		value = c.Value
	} else {
		var b [16]byte
		rand.Read(b[:])
		value = base64.RawURLEncoding.EncodeToString(b[:])
	}
	http.SetCookie(w, session.Cookie(d.set, name, value, d.set.TTLInteraction))
	var others []string
	for _, c := range r.Cookies() { // browsers send the oldest first (RFC 6265, section 5.4)
		if c.Name != name && strings.HasPrefix(c.Name, d.bindingPrefix(step)) && len(c.Name) < 64 {
			others = append(others, c.Name)
		}
	}
	for len(others) >= maxBindings {
		http.SetCookie(w, session.Cookie(d.set, others[0], "", -1))
		others = others[1:]
	}
	return tagOf(value)
}

// bound says whether the request comes from the browser the flow belongs to.
func (d *Desk) bound(r *http.Request, step string, f *flow) bool {
	for _, c := range r.CookiesNamed(d.bindingName(step, f.request.ClientID)) {
		tag := tagOf(c.Value)
		if validBinding(c.Value) && subtle.ConstantTimeCompare(tag[:], f.tag[:]) == 1 {
			return true
		}
	}
	return false
}

func validBinding(v string) bool {
	if len(v) != bindingLen {
		return false
	}
	_, err := base64.RawURLEncoding.DecodeString(v)
	return err == nil
}

func tagOf(v string) (tag [tagSize]byte) {
	sum := sha256.Sum256([]byte(v))
	copy(tag[:], sum[:])
	return tag
}
