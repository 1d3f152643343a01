package accesslog

import (
	"unicode"
	"unicode/utf8"
)

// escaper appends a value from outside. What it appends holds printable
// characters only, and nothing that ends a quoted text.
type escaper func(dst []byte, v string) []byte

const digits = "0123456789ABCDEF"

// harmless are the bytes that stand for themselves in both escapes.
var harmless = func() (t [256]bool) {
	for c := 0x20; c < 0x7f; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// escapeText is nginx's "default": quote, backslash and every byte that is no
// printable ASCII are written \xHH.
func escapeText(dst []byte, v string) []byte {
	from := 0
	for i := 0; i < len(v); i++ {
		c := v[i]
		if harmless[c] {
			continue
		}
		dst = append(append(dst, v[from:i]...), '\\', 'x', digits[c>>4], digits[c&15])
		from = i + 1
	}
	return append(dst, v[from:]...)
}

// escapeJSON makes the inside of a JSON string. Characters that do not show
// themselves (controls, line separators, marks that turn the direction of
// text) are written \uHHHH, what is no UTF-8 as \uFFFD.
func escapeJSON(dst []byte, v string) []byte {
	from := 0
	for i := 0; i < len(v); {
		c := v[i]
		if harmless[c] {
			i++
			continue
		}
		size := 1
		r := rune(c)
		if c >= utf8.RuneSelf {
			r, size = utf8.DecodeRuneInString(v[i:])
			if (r != utf8.RuneError || size > 1) && unicode.IsPrint(r) {
				i += size
				continue
			}
		}
		dst = append(dst, v[from:i]...)
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case r > 0xffff:
			r -= 0x10000
			dst = appendUnit(appendUnit(dst, 0xd800|r>>10), 0xdc00|r&0x3ff)
		default:
			dst = appendUnit(dst, r)
		}
		i += size
		from = i
	}
	return append(dst, v[from:]...)
}

func appendUnit(dst []byte, u rune) []byte {
	return append(dst, '\\', 'u', digits[u>>12&15], digits[u>>8&15], digits[u>>4&15], digits[u&15])
}

// maxValue bounds one value; the rest is cut off and said to be.
const maxValue = 4 << 10

// bounded is an escaper that cuts long values.
func (e escaper) bounded(dst []byte, v string) []byte {
	if len(v) <= maxValue {
		return e(dst, v)
	}
	n := maxValue
	for n > maxValue-utf8.UTFMax && !utf8.RuneStart(v[n]) {
		n--
	}
	return append(e(dst, v[:n]), "..."...)
}
