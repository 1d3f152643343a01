package gateway

import "gatehouse/lib/h1"

// W3C Trace Context: a request may carry the id of the trace it belongs to.
// The gateway passes on what is well formed and makes none of its own.

// Bounds of tracestate (Trace Context, sections 3.3.1.1 and 3.3.1.5): what is
// larger need not be passed on, and is not.
const (
	maxTraceState   = 512 // characters of all its fields together
	maxTraceMembers = 32
	maxTraceKey     = 256
	maxTraceValue   = 256
)

// ParseTraceParent reads a traceparent field (Trace Context, section 3.2).
// Both ids are in lower case hex, as they came.
func ParseTraceParent(v string) (traceID, parentID string, ok bool) {
	const size = len("00-") + 32 + len("-") + 16 + len("-00")
	if len(v) < size || len(v) > maxTraceState || v[2] != '-' || v[35] != '-' || v[52] != '-' {
		return "", "", false
	}
	version := v[:2]
	if !lowerHex(version) || version == "ff" || version == "00" && len(v) > size || len(v) > size && v[size] != '-' {
		return "", "", false
	}
	traceID, parentID = v[3:35], v[36:52]
	if !lowerHex(traceID) || !lowerHex(parentID) || !lowerHex(v[53:55]) || allZero(traceID) || allZero(parentID) {
		return "", "", false
	}
	return traceID, parentID, true
}

func lowerHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func allZero(s string) bool {
	for i := range len(s) {
		if s[i] != '0' {
			return false
		}
	}
	return true
}

// TraceParent returns the ids of the traceparent field, false when there is
// none, more than one, or one that is not well formed.
func (r *Request) TraceParent() (traceID, parentID string, ok bool) {
	v, found := "", false
	for i := range r.Header.fields {
		if f := &r.Header.fields[i]; len(f.Name) == len("traceparent") && h1.EqualFold(f.Name, "traceparent") {
			if found {
				return "", "", false
			}
			v, found = f.Value, true
		}
	}
	return ParseTraceParent(v)
}

// CheckTrace removes a trace context that is not well formed: traceparent when
// it is malformed or comes twice, tracestate without a good traceparent, and
// tracestate when it is malformed or too large (Trace Context, section 4.3).
func (r *Request) CheckTrace() {
	_, _, parent := r.TraceParent()
	if !parent {
		r.Header.Del("traceparent")
	}
	if !parent || !r.goodTraceState() {
		r.Header.Del("tracestate")
	}
}

// goodTraceState checks the list that all tracestate fields make together.
func (r *Request) goodTraceState() bool {
	var keys [maxTraceMembers]string
	n, size := 0, 0
	for v := range r.Header.Values("tracestate") {
		if size += len(v) + 1; size > maxTraceState+1 {
			return false
		}
		for rest, more := v, true; more; {
			var m string
			m, rest, more = cutByte(rest, ',')
			if m = trimBlank(m); m == "" {
				continue // empty members are allowed
			}
			key, value, ok := cutByte(m, '=')
			if !ok || n == maxTraceMembers || !traceKey(key) || !traceValue(value) {
				return false
			}
			for _, k := range keys[:n] {
				if k == key {
					return false
				}
			}
			keys[n] = key
			n++
		}
	}
	return true
}

func cutByte(s string, c byte) (before, after string, found bool) {
	for i := range len(s) {
		if s[i] == c {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

func trimBlank(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// traceKey is section 3.3.1.3.1, both forms: "vendor" and "tenant@vendor".
func traceKey(s string) bool {
	if s == "" || len(s) > maxTraceKey {
		return false
	}
	at := false
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case c == '@' && i > 0 && i < len(s)-1 && !at:
			at = true
		case i > 0 && (c == '_' || c == '-' || c == '*' || c == '/'):
		default:
			return false
		}
	}
	return true
}

// traceValue is section 3.3.1.3.2; the caller has trimmed blanks.
func traceValue(s string) bool {
	if s == "" || len(s) > maxTraceValue {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c > 0x7e || c == ',' || c == '=' {
			return false
		}
	}
	return true
}
