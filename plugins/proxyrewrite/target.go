package proxyrewrite

import (
	"bytes"
	"errors"
	"strings"

	"gatehouse/gateway"
)

// maxTarget bounds a request target we write, in bytes.
const maxTarget = 32 << 10

// retarget writes the request target from a template: before and after are
// the parts of the client's path around what the template replaces, caught
// finds its captures and may be nil.
//
// What comes from the client is encoded for the place it lands in, so that it
// can open neither a query nor a fragment, nor split the message. A path that
// gets dot segments this way fails: they would climb out of where the template
// put them.
func retarget(x *gateway.Exchange, t *gateway.Template, caught func(string) (string, bool), before, after string) error {
	last := "" // the variable that escape is given the value of
	carried := false
	lookup := func(name string) (string, bool) {
		last = name
		if caught != nil {
			if v, ok := caught(name); ok {
				last = ""
				return v, true
			}
		}
		return x.Var(name)
	}
	escape := func(dst []byte, v string) []byte {
		inQuery := bytes.IndexByte(dst, '?') >= 0
		switch last {
		case "args", "query_string":
			if inQuery {
				carried = true
				return append(dst, v...)
			}
		case "request_uri", "real_request_uri":
			if !inQuery {
				carried = true
				path, query, has := strings.Cut(v, "?")
				if last == "request_uri" {
					dst = appendEscaped(dst, path, inPath)
				} else {
					dst = append(dst, path...)
				}
				if has {
					dst = append(append(dst, '?'), query...)
				}
				return dst
			}
		}
		return appendValue(dst, v)
	}

	out := appendEscaped(nil, before, inPath)
	out = t.Append(out, lookup, escape)
	out = appendValue(out, after)
	rawPath, rawQuery, _ := strings.Cut(string(out), "?")
	path, query := appendKept(nil, rawPath), appendQuery(nil, rawQuery)
	if len(path) == 0 || path[0] != '/' {
		path = append([]byte("/"), path...)
	}
	_, plain := t.Plain()
	if !(plain && before == "" && after == "") && hasDotSegment(string(path)) {
		return errors.New("proxy-rewrite: the rewritten path has dot segments")
	}
	if args := x.Req.Query; args != "" && !carried {
		if len(query) > 0 {
			query = append(query, '&')
		}
		query = appendQuery(query, args)
	}
	target := string(path)
	if len(query) > 0 {
		target += "?" + string(query)
	}
	if len(target) > maxTarget {
		return errors.New("proxy-rewrite: the rewritten target is too long")
	}
	x.Out.Target = target
	return nil
}

// appendValue encodes a value for the place where dst ends: path or query.
func appendValue(dst []byte, v string) []byte {
	if bytes.IndexByte(dst, '?') >= 0 {
		return appendEscaped(dst, v, inQuery)
	}
	return appendEscaped(dst, v, inPath)
}

// inPath are the bytes that stand for themselves in a path, besides letters
// and digits (RFC 3986, section 3.3, and "/"); inQuery those in the value of a
// parameter.
const (
	inPath  = "-._~!$&'()*+,;=:@/"
	inQuery = "-._~!$'()*,:@/"
)

// appendEscaped percent-encodes what is neither letter, digit nor in plain.
func appendEscaped(dst []byte, v, plain string) []byte {
	const digits = "0123456789ABCDEF"
	for i := 0; i < len(v); i++ {
		c := v[i]
		if alphanumeric(c) || strings.IndexByte(plain, c) >= 0 {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', digits[c>>4], digits[c&15])
		}
	}
	return dst
}

// appendKept keeps what is encoded already and encodes what must not stand in
// a path.
func appendKept(dst []byte, v string) []byte {
	return appendEscaped(dst, v, inPath+"%[]")
}

// appendQuery keeps a query as it was written, for the sake of signatures over
// it, and encodes only what would end it or the request line.
func appendQuery(dst []byte, v string) []byte {
	for i := 0; i < len(v); i++ {
		if c := v[i]; c <= ' ' || c == 0x7f || c == '#' {
			dst = appendEscaped(dst, v[i:i+1], "")
		} else {
			dst = append(dst, c)
		}
	}
	return dst
}

func alphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
}

// hasDotSegment looks for "." and "..", encoded dots too.
func hasDotSegment(path string) bool {
	for s := range strings.SplitSeq(path, "/") {
		if len(s) > 6 {
			continue
		}
		switch strings.ReplaceAll(strings.ReplaceAll(s, "%2e", "."), "%2E", ".") {
		case ".", "..":
			return true
		}
	}
	return false
}
