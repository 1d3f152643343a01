package accesslog

import "strings"

const redacted = "[redacted]"

// secrets are the names of query parameters and header fields whose values
// are never written. Names compare without regard to case, "-" as "_".
type secrets map[string]struct{}

// always are fields that are credentials, whatever the operator lists.
var always = []string{"authorization", "proxy_authorization", "cookie", "set_cookie"}

func newSecrets(names []string) secrets {
	s := secrets{}
	for _, n := range append(names, always...) {
		if n = plainName(strings.TrimSpace(n)); n != "" {
			s[n] = struct{}{}
		}
	}
	return s
}

func plainName(n string) string { return strings.ReplaceAll(strings.ToLower(n), "-", "_") }

// maxSecretName bounds the names that are compared; longer ones are no secret.
const maxSecretName = 64

// has says whether a name is one of the secrets. The name may be encoded as in
// a query, and have an index as PHP reads it: token[]=.
func (s secrets) has(name string) bool {
	var room [maxSecretName]byte
	n := 0
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c == '%' && i+2 < len(name) {
			if h, l := unhex(name[i+1]), unhex(name[i+2]); h < 16 && l < 16 {
				c = h<<4 | l
				i += 2
			}
		}
		switch {
		case 'A' <= c && c <= 'Z':
			c |= 0x20
		case c == '-':
			c = '_'
		case c == '[' && n > 0:
			_, ok := s[string(room[:n])]
			return ok
		}
		if n == len(room) {
			return false
		}
		room[n] = c
		n++
	}
	_, ok := s[string(room[:n])]
	return ok
}

func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10
	}
	return 16
}

// query appends a raw query without the values of secrets.
func (s secrets) query(dst []byte, q string, esc escaper) []byte {
	if len(q) > maxValue {
		return append(s.query(dst, q[:maxValue], esc), "..."...)
	}
	for q != "" {
		end := strings.IndexAny(q, "&;#")
		pair := q
		if end >= 0 {
			pair = q[:end]
		}
		if eq := strings.IndexByte(pair, '='); eq >= 0 && s.has(pair[:eq]) {
			dst = append(esc(dst, pair[:eq+1]), redacted...)
		} else {
			dst = esc(dst, pair)
		}
		if end < 0 {
			break
		}
		dst = append(dst, q[end])
		q = q[end+1:]
	}
	return dst
}

// target appends a path or URL with its query without the values of secrets.
func (s secrets) target(dst []byte, t string, esc escaper) []byte {
	i := strings.IndexAny(t, "?#")
	if i < 0 {
		return esc.bounded(dst, t)
	}
	return s.query(append(esc.bounded(dst, t[:i]), t[i]), t[i+1:], esc)
}
