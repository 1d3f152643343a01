package engine

import (
	"errors"
	"strconv"
	"strings"

	"gatehouse/gateway"
)

// requestHead is the head of an HTTP/1 request as it stood on the wire, checked.
type requestHead struct {
	method    string
	target    string // origin-form
	proto     string
	authority string
	header    gateway.Header // without Host
	length    int64          // of the body; -1: chunked
	close     bool           // the connection ends after this request
	expect    bool           // the client waits for 100 Continue
	upgrade   string         // lower case; "" unless Connection says upgrade
	size      int64          // bytes
	fail      int            // the status that refuses it; 0: good
}

var errField = errors.New("invalid header field")

// parseFields reads field lines, each ended by CRLF. lax accepts a lone LF:
// answers of an upstream only. Folded lines, space around the name, and
// control characters are refused (RFC 9112, section 5).
func parseFields(lines string, h *gateway.Header, max int, lax bool) error {
	for n := 0; lines != ""; n++ {
		i := strings.IndexByte(lines, '\n')
		if i < 0 || n >= max {
			return errField
		}
		line := lines[:i]
		lines = lines[i+1:]
		if strings.HasSuffix(line, "\r") {
			line = line[:len(line)-1]
		} else if !lax {
			return errField
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || !isToken(name) {
			return errField
		}
		value = strings.Trim(value, " \t")
		for i := 0; i < len(value); i++ {
			if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
				return errField
			}
		}
		h.Add(name, value)
	}
	return nil
}

// parseRequest reads a whole head, its last empty line included. It never
// fails: what is wrong stands in fail.
func parseRequest(head string, maxURI, maxFields int) *requestHead {
	q := &requestHead{size: int64(len(head))}
	q.fail = q.parse(head, maxURI, maxFields)
	return q
}

func (q *requestHead) parse(head string, maxURI, maxFields int) (fail int) {
	line, fields, ok := strings.Cut(head, "\r\n")
	if !ok {
		return 400
	}
	method, rest, ok1 := strings.Cut(line, " ")
	target, proto, ok2 := strings.Cut(rest, " ")
	if !ok1 || !ok2 || !isToken(method) {
		return 400
	}
	if len(target) > maxURI {
		return 414
	}
	switch proto {
	case "HTTP/1.1", "HTTP/1.0":
	default:
		if strings.HasPrefix(proto, "HTTP/") && len(proto) == 8 {
			return 505
		}
		return 400
	}
	if method == "CONNECT" || method == "TRACE" {
		return 405
	}
	q.method, q.proto = method, proto
	fields = strings.TrimSuffix(fields, "\r\n")
	if strings.Count(fields, "\n") > maxFields {
		return 431
	}
	if parseFields(fields, &q.header, maxFields, false) != nil {
		return 400
	}
	return q.frame(target)
}

// frame decides where the request goes and where its body ends, in one way
// only (RFC 9112, sections 3.2 and 6).
func (q *requestHead) frame(target string) (fail int) {
	var host, lengths, codings int
	var length, coding string
	var keep, upgrade bool
	for _, f := range q.header.Fields() {
		switch {
		case strings.EqualFold(f.Name, "Host"):
			host++
			q.authority = f.Value
		case strings.EqualFold(f.Name, "Content-Length"):
			lengths++
			length = f.Value
		case strings.EqualFold(f.Name, "Transfer-Encoding"):
			codings++
			coding = f.Value
		case strings.EqualFold(f.Name, "Connection"):
			for t := range strings.SplitSeq(f.Value, ",") {
				switch t = strings.Trim(t, " \t"); {
				case strings.EqualFold(t, "close"):
					q.close = true
				case strings.EqualFold(t, "keep-alive"):
					keep = true
				case strings.EqualFold(t, "upgrade"):
					upgrade = true
				}
			}
		case strings.EqualFold(f.Name, "Expect"):
			if !strings.EqualFold(f.Value, "100-continue") {
				return 417
			}
			q.expect = q.proto == "HTTP/1.1"
		case strings.EqualFold(f.Name, "Upgrade"):
			q.upgrade = strings.ToLower(f.Value)
		}
	}
	if !upgrade {
		q.upgrade = ""
	}
	if q.proto == "HTTP/1.0" && !keep {
		q.close = true
	}
	if host > 1 || host == 0 && q.proto == "HTTP/1.1" {
		return 400
	}
	q.header.Del("Host")
	named, ok := splitHost(q.authority)
	if host == 1 && !ok {
		return 400
	}
	if scheme, rest, abs := strings.Cut(target, "://"); abs && target[0] != '/' {
		if !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https") {
			return 400
		}
		i := strings.IndexAny(rest, "/?#")
		if i < 0 {
			i, rest = len(rest), rest+"/"
		}
		authority := rest[:i]
		if h, ok := splitHost(authority); !ok || host == 1 && (h != named || !samePort(scheme, authority, q.authority)) {
			return 400
		}
		q.authority = authority
		if target = rest[i:]; target[0] == '?' {
			target = "/" + target
		}
	}
	q.target = target
	switch {
	case codings > 0 && (lengths > 0 || codings > 1 || q.proto == "HTTP/1.0"):
		return 400
	case codings == 1 && !strings.EqualFold(coding, "chunked"):
		return 400
	case codings == 1:
		q.length = -1
	case lengths > 1:
		return 400
	case lengths == 1:
		if q.length, ok = parseLength(length); !ok {
			return 400
		}
	}
	return 0
}

func samePort(scheme, a, b string) bool {
	return portOf(scheme, a) == portOf(scheme, b)
}

func portOf(scheme, authority string) string {
	if i := strings.LastIndexByte(authority, ':'); i >= 0 && !strings.HasSuffix(authority, "]") && i+1 < len(authority) {
		return authority[i+1:]
	}
	if strings.EqualFold(scheme, "https") {
		return "443"
	}
	return "80"
}

// parseLength accepts digits only: no sign, no space, no list.
func parseLength(s string) (int64, bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

func isToken(s string) bool {
	if s == "" {
		return false
	}
	for i := 0; i < len(s); i++ {
		if !isTokenChar(s[i]) {
			return false
		}
	}
	return true
}

func isTokenChar(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c > ' ' && c < 0x7f && strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// chunkScan follows a chunked body byte by byte and finds its end. It is as
// strict as the grammar (RFC 9112, section 7.1): CRLF only, hexadecimal sizes
// of at most 15 digits, short extensions, short trailers.
type chunkScan struct {
	state byte
	left  int64 // of the chunk's data
	count int   // digits of a size, or bytes of an extension or of the trailers
	empty bool  // the trailer line has no byte yet
}

const (
	chunkSize = iota
	chunkExt
	chunkSizeLF
	chunkData
	chunkDataCR
	chunkDataLF
	chunkTrailer
	chunkTrailerLF
	chunkDone

	maxChunkExt = 1024
	maxTrailer  = 16 << 10
)

var errChunk = errors.New("invalid chunked body")

// scan takes the next bytes and says how many of them belong to the body.
func (s *chunkScan) scan(p []byte) (n int, err error) {
	for n < len(p) && s.state != chunkDone {
		c := p[n]
		switch s.state {
		case chunkSize:
			switch {
			case isHex(c):
				if s.count++; s.count > 15 {
					return n, errChunk
				}
				s.left = s.left<<4 | int64(unhex(c))
			case s.count == 0:
				return n, errChunk
			case c == ';':
				s.state, s.count = chunkExt, 0
			case c == '\r':
				s.state = chunkSizeLF
			default:
				return n, errChunk
			}
		case chunkExt:
			switch s.count++; {
			case c == '\r':
				s.state = chunkSizeLF
			case s.count > maxChunkExt || c < ' ' && c != '\t' || c == 0x7f:
				return n, errChunk
			}
		case chunkSizeLF:
			if c != '\n' {
				return n, errChunk
			}
			s.count = 0
			if s.state = chunkData; s.left == 0 {
				s.state, s.empty = chunkTrailer, true
			}
		case chunkData:
			k := min(int64(len(p)-n), s.left)
			if s.left -= k; s.left == 0 {
				s.state = chunkDataCR
			}
			n += int(k)
			continue
		case chunkDataCR:
			if c != '\r' {
				return n, errChunk
			}
			s.state = chunkDataLF
		case chunkDataLF:
			if c != '\n' {
				return n, errChunk
			}
			s.state, s.count = chunkSize, 0
		case chunkTrailer:
			switch s.count++; {
			case s.count > maxTrailer:
				return n, errChunk
			case c == '\r':
				s.state = chunkTrailerLF
			case c < ' ' && c != '\t' || c == 0x7f:
				return n, errChunk
			default:
				s.empty = false
			}
		case chunkTrailerLF:
			if c != '\n' {
				return n, errChunk
			}
			if s.state = chunkTrailer; s.empty {
				s.state = chunkDone
			}
			s.empty = true
		}
		n++
	}
	return n, nil
}
