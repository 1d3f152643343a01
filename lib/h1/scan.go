package h1

import (
	"math/bits"
	"strconv"
)

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
	for i+8 <= len(s) {
		b := s[i : i+8]
		x := uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 |
			uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
		del := x ^ 0x7f*lo
		found := ((x-0x20*lo)&^x | (del-lo)&^del) & hi
		if found == 0 {
			i += 8
			continue
		}
		i += bits.TrailingZeros64(found) >> 3 // exact: what a borrow marks in vain stands behind it
		if s[i] != '\t' {
			return i
		}
		i++
	}
	for i < len(s) && (s[i] >= 0x20 && s[i] != 0x7f || s[i] == '\t') {
		i++
	}
	return i
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
func classify(n string) kind {
	var name string
	k := hop
	switch n[0] | 0x20 {
	case 'c':
		switch len(n) {
		case 10:
			name, k = "Connection", connection
		case 14:
			name, k = "Content-Length", contentLength
		}
	case 'e':
		name, k = "Expect", expect
	case 'h':
		if name, k = "Host", host; len(n) == 14 {
			name, k = "HTTP2-Settings", hop
		}
	case 'k':
		name = "Keep-Alive"
	case 'p':
		if name = "Proxy-Connection"; len(n) == 19 {
			name = "Proxy-Authorization"
		}
	case 't':
		switch len(n) {
		case 2:
			name, k = "TE", te
		case 7:
			name = "Trailer"
		case 17:
			name, k = "Transfer-Encoding", transferEncoding
		}
	case 'u':
		name, k = "Upgrade", upgrade
	}
	if len(n) == len(name) && EqualFold(n, name) {
		return k
	}
	return other
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
