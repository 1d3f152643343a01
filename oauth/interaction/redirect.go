package interaction

import (
	"encoding/hex"
	"net/url"
	"strings"
)

// MatchRedirect says whether a requested redirect URI is the registered one.
// They must be equal, character by character; only a loopback address over
// plain HTTP may have any port (RFC 8252, section 7.3). "localhost" is a name
// like others (section 8.3) and has no such freedom.
func MatchRedirect(registered, requested string) bool {
	if !UsableRedirect(requested) {
		return false
	}
	if registered == requested {
		return true
	}
	have, err := url.Parse(registered)
	if err != nil || !isLoopback(have) {
		return false
	}
	want, err := url.Parse(requested)
	if err != nil || !isLoopback(want) || want.User != nil || have.User != nil {
		return false
	}
	// Put the registered port into the requested URI: nothing else may differ,
	// not even in spelling.
	return strings.Replace(requested, "http://"+want.Host, "http://"+have.Host, 1) == registered && want.Hostname() == have.Hostname()
}

// UsableRedirect says whether a browser can be sent to a URI: absolute, no
// fragment, no scheme that runs code or reads files, no credentials.
func UsableRedirect(uri string) bool {
	if uri == "" || len(uri) > 2048 || strings.ContainsFunc(uri, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\\' }) {
		return false
	}
	u, err := url.Parse(uri)
	if err != nil || u.Scheme == "" || u.Fragment != "" || strings.Contains(uri, "#") || u.User != nil {
		return false
	}
	switch strings.ToLower(u.Scheme) {
	case "http", "https":
		return u.Host != ""
	case "javascript", "data", "vbscript", "file", "blob", "about", "view-source", "ws", "wss":
		return false
	}
	return true
}

func isLoopback(u *url.URL) bool {
	h := u.Hostname()
	return u.Scheme == "http" && (h == "127.0.0.1" || h == "::1")
}

// safeFromImpersonation says whether nobody else can receive what is sent to
// a redirect URI. A public client elsewhere must ask the user each time
// (RFC 8252, section 8.6; RFC 6819, section 5.2.3.2).
func safeFromImpersonation(uri string) bool {
	u, err := url.Parse(uri)
	return err == nil && (u.Scheme == "https" || isLoopback(u) || u.Scheme == "http" && u.Hostname() == "localhost")
}

// parseUUID packs a lower-case UUID; anything else is kept as it is.
func parseUUID(s string) (id [16]byte, ok bool) {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return id, false
	}
	b, err := hex.DecodeString(s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:])
	if err != nil || formatUUID(b) != s {
		return id, false
	}
	copy(id[:], b)
	return id, true
}

func formatUUID(b []byte) string {
	if len(b) != 16 {
		return ""
	}
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
