package openidconnect

import (
	"gatehouse/gateway"
)

// maxIdentity bounds what is added to a request, in bytes: upstreams refuse
// requests with larger headers.
const maxIdentity = 48 << 10

// stripIdentity removes every field an upstream could take for ours: names
// compare without regard to case, and any character that CGI and its kin turn
// into an underscore counts as a hyphen (X_Userinfo is X-Userinfo to them).
func stripIdentity(h *gateway.Header) {
	h.DelFunc(func(f gateway.Field) bool {
		n := f.Name
		if len(n) < len("x-userinfo") || len(n) > len("x-refresh-token") || n[0]|0x20 != 'x' {
			return false
		}
		for _, name := range [...]string{"x-access-token", "x-id-token", "x-userinfo", "x-refresh-token", "x-raw-id-token"} {
			if aliasOf(n, name) {
				return true
			}
		}
		return false
	})
}

// aliasOf: name is lower case.
func aliasOf(n, name string) bool {
	if len(n) != len(name) {
		return false
	}
	for i := range len(n) {
		c := n[i]
		switch {
		case c >= 'A' && c <= 'Z':
			c |= 0x20
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9':
		default:
			c = '-'
		}
		if c != name[i] {
			return false
		}
	}
	return true
}

// identity is what the upstream is told; empty values are not sent.
type identity struct{ access, refresh, rawID, id, user string }

// setIdentity adds the configured fields. What would make the request too
// large is left out, in the order of the list, and logged.
func (p *relyingParty) setIdentity(h *gateway.Header, who identity) {
	room := maxIdentity
	for _, f := range [...]struct {
		on          bool
		name, value string
	}{
		{p.SetAccessToken && !p.AccessTokenInAuthorization, "X-Access-Token", who.access},
		{p.SetIDToken, "X-ID-Token", who.id},
		{p.SetUserinfo, "X-Userinfo", who.user},
		{p.SetRawIDToken, "X-Raw-ID-Token", who.rawID},
		{p.SetRefreshToken, "X-Refresh-Token", who.refresh},
	} {
		if !f.on || f.value == "" {
			continue
		}
		if len(f.value) > room {
			p.env.Log.Warn("identity header is left out: too large", "owner", p.env.Owner, "header", f.name, "bytes", len(f.value))
			continue
		}
		room -= len(f.value)
		h.Set(f.name, f.value)
	}
	if p.SetAccessToken && p.AccessTokenInAuthorization && who.access != "" {
		h.Set("Authorization", "Bearer "+who.access)
	}
}
