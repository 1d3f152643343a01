package engine

import (
	"errors"
	"strings"
)

// errTarget answers 400: the request target cannot be understood in one way.
var errTarget = errors.New("invalid request target")

// normalize cuts an origin-form target into the path everything decides on and
// the raw query. The path is percent-decoded once, "//" merged, "." and ".."
// resolved after decoding, so that "%2e%2e" and "%2F" mean what they decode to
// (nginx does the same). plain says that the path as sent and the decoded path
// name the same resource for any server: no dot segment, no "//", no encoded
// slash. Whatever is not plain must go upstream re-encoded, or a decision made
// here would be about another resource than the upstream serves.
//
// Refused: no leading slash, invalid escapes, NUL, "#", control characters,
// and ".." above the root.
func normalize(target string) (path, query string, plain bool, err error) {
	raw := target
	if i := strings.IndexByte(target, '?'); i >= 0 {
		raw, query = target[:i], target[i+1:]
	}
	if raw == "" || raw[0] != '/' || strings.IndexByte(target, '#') >= 0 {
		return "", "", false, errTarget
	}
	for i := 0; i < len(target); i++ {
		// A backslash stands in no target (RFC 3986), and some servers take it
		// for a slash.
		if c := target[i]; c <= ' ' || c == 0x7f || c == '\\' && i < len(raw) {
			return "", "", false, errTarget
		}
	}
	plain = true
	path = raw
	if strings.IndexByte(raw, '%') >= 0 {
		var b strings.Builder
		b.Grow(len(raw))
		for i := 0; i < len(raw); i++ {
			c := raw[i]
			if c == '%' {
				if i+2 >= len(raw) || !isHex(raw[i+1]) || !isHex(raw[i+2]) {
					return "", "", false, errTarget
				}
				if c = unhex(raw[i+1])<<4 | unhex(raw[i+2]); c == 0 {
					return "", "", false, errTarget
				}
				if c == '/' {
					plain = false
				}
				i += 2
			}
			b.WriteByte(c)
		}
		path = b.String()
	}
	if !strings.Contains(path, "//") && !strings.Contains(path, "/.") {
		return path, query, plain, nil
	}
	out := make([]byte, 0, len(path))
	for rest := path; rest != ""; {
		rest = rest[1:] // the slash
		seg := rest
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			seg, rest = rest[:i], rest[i:]
		} else {
			rest = ""
		}
		last := rest == ""
		switch seg {
		case "":
			if plain = plain && last; last {
				out = append(out, '/')
			}
		case ".":
			if plain = false; last {
				out = append(out, '/')
			}
		case "..":
			if plain = false; len(out) == 0 {
				return "", "", false, errTarget
			}
			out = out[:strings.LastIndexByte(string(out), '/')]
			if last {
				out = append(out, '/')
			}
		default:
			out = append(append(out, '/'), seg...)
		}
	}
	return string(out), query, plain, nil
}

// encode writes a decoded path as it travels in a request target.
func encode(path, query string) string {
	var b strings.Builder
	b.Grow(len(path) + len(query) + 1)
	for i := 0; i < len(path); i++ {
		if c := path[i]; isPathChar(c) {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte("0123456789ABCDEF"[c>>4])
			b.WriteByte("0123456789ABCDEF"[c&15])
		}
	}
	if query != "" {
		b.WriteByte('?')
		b.WriteString(query)
	}
	return b.String()
}

func isPathChar(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~!$&'()*+,;=:@/", c) >= 0
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f'
}

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c | 0x20 - 'a' + 10
}

// splitHost checks an authority and returns the host in lower case without
// port, brackets kept, and without a trailing dot. User information, an empty
// host and anything that is no name or address is refused.
func splitHost(authority string) (host string, ok bool) {
	host = authority
	if strings.HasPrefix(host, "[") {
		i := strings.IndexByte(host, ']')
		if i < 3 {
			return "", false
		}
		for _, c := range []byte(host[1:i]) {
			if !isHex(c) && c != ':' && c != '.' {
				return "", false
			}
		}
		if !validPort(host[i+1:]) {
			return "", false
		}
		return strings.ToLower(host[:i+1]), true
	}
	if i := strings.IndexByte(host, ':'); i >= 0 {
		if !validPort(host[i:]) {
			return "", false
		}
		host = host[:i]
	}
	host = strings.TrimSuffix(host, ".")
	if host == "" || len(host) > 255 {
		return "", false
	}
	for i := 0; i < len(host); i++ {
		c := host[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~') {
			return "", false
		}
		if c == '.' && i > 0 && host[i-1] == '.' {
			return "", false
		}
	}
	if host[0] == '.' {
		return "", false
	}
	return strings.ToLower(host), true
}

// validPort accepts "" and ":" followed by up to five digits.
func validPort(s string) bool {
	if s == "" {
		return true
	}
	if s[0] != ':' || len(s) > 6 {
		return false
	}
	for _, c := range []byte(s[1:]) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}
