package h1

import "strconv"

// table is a set of bytes.
type table [256]bool

func charset(s string, from, to int) (t table) {
	for c := from; c <= to; c++ {
		t[c] = true
	}
	for i := range len(s) {
		t[s[i]] = true
	}
	return t
}

var (
	// isToken is tchar of RFC 9110, section 5.6.2.
	isToken = charset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", 1, 0)
	// isTarget is what may stand in a request target: no space, no control
	// character, no fragment. Bytes beyond ASCII are let through, as servers
	// do; whoever reads the path decides about them.
	isTarget = targetSet()
)

func targetSet() table {
	t := charset("", 0x21, 0xff)
	t[0x7f], t['#'] = false, false
	return t
}

// scanValue returns the index of the first control character but TAB at or
// after i, or len(s). It looks at eight bytes at a time.
func scanValue(s string, i int) int {
	const lo, hi = 0x0101010101010101, 0x8080808080808080
	for {
		for i+8 <= len(s) {
			x := uint64(s[i]) | uint64(s[i+1])<<8 | uint64(s[i+2])<<16 | uint64(s[i+3])<<24 |
				uint64(s[i+4])<<32 | uint64(s[i+5])<<40 | uint64(s[i+6])<<48 | uint64(s[i+7])<<56
			y := x ^ 0x7f7f7f7f7f7f7f7f
			if ((x-lo*0x20)&^x|(y-lo)&^y)&hi != 0 {
				break
			}
			i += 8
		}
		for i < len(s) && (s[i] >= 0x20 && s[i] != 0x7f || s[i] == '\t') {
			if i++; i&7 == 0 && i+8 <= len(s) {
				break
			}
		}
		if i >= len(s) || s[i] < 0x20 && s[i] != '\t' || s[i] == 0x7f {
			return min(i, len(s))
		}
	}
}

// EqualFold compares ASCII without regard to case; anything else must be equal.
func EqualFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := 0; i < len(a); i++ {
		x, y := a[i], b[i]
		if x != y && (x|0x20 != y|0x20 || x|0x20 < 'a' || x|0x20 > 'z') {
			return false
		}
	}
	return true
}

// classify finds the fields an engine must know.
func classify(n string) Kind {
	switch len(n) {
	case 2:
		if EqualFold(n, "TE") {
			return TE
		}
	case 4:
		if EqualFold(n, "Host") {
			return Host
		}
	case 6:
		if EqualFold(n, "Expect") {
			return Expect
		}
	case 7:
		if EqualFold(n, "Upgrade") {
			return Upgrade
		}
		if EqualFold(n, "Trailer") {
			return Trailer
		}
	case 10:
		if EqualFold(n, "Connection") {
			return Connection
		}
		if EqualFold(n, "Keep-Alive") {
			return KeepAlive
		}
	case 14:
		if EqualFold(n, "Content-Length") {
			return ContentLength
		}
		if EqualFold(n, "HTTP2-Settings") {
			return HTTP2Settings
		}
	case 16:
		if EqualFold(n, "Proxy-Connection") {
			return ProxyConnection
		}
	case 17:
		if EqualFold(n, "Transfer-Encoding") {
			return TransferEncoding
		}
	case 18:
		if EqualFold(n, "Proxy-Authenticate") {
			return ProxyAuthenticate
		}
	case 19:
		if EqualFold(n, "Proxy-Authorization") {
			return ProxyAuthorization
		}
	}
	return Other
}

// ParseLength accepts digits only: no sign, no space, no list.
func ParseLength(s string) (int64, bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	var n int64
	for i := 0; i < len(s); i++ {
		if !digit(s[i]) {
			return 0, false
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}

// IsToken says whether s is a token (RFC 9110, section 5.6.2).
func IsToken(s string) bool {
	for i := 0; i < len(s); i++ {
		if !isToken[s[i]] {
			return false
		}
	}
	return s != ""
}

// ValidValue says whether s can be a field value.
func ValidValue(s string) bool { return scanValue(s, 0) == len(s) }

// AppendChunkSize writes the line before a chunk of n bytes.
func AppendChunkSize(dst []byte, n int) []byte {
	return append(strconv.AppendInt(dst, int64(n), 16), '\r', '\n')
}
