// Package h1 is the grammar of HTTP/1.1 (RFC 9112), both directions: heads
// and chunked bodies. Every message has one reading, or it is an *Error.
//
// It does no I/O, keeps no bytes of its own and allocates nothing once its
// values are warm: a head is parsed out of a string of the caller, and its
// fields are parts of that string. It does not decide what a request means:
// paths, hosts to serve, and limits on bodies are the caller's.
//
// Start at Head.ReadRequest.
package h1

import "strings"

// Limits bounds a head. Zero fields take the default.
type Limits struct {
	Head   int // bytes of a head; 64 KiB
	Target int // bytes of a request target; 16 KiB
	Fields int // field lines; 200
}

func (l *Limits) head() int   { return or(l.Head, 64<<10) }
func (l *Limits) target() int { return or(l.Target, 16<<10) }
func (l *Limits) fields() int { return or(l.Fields, 200) }

func or(v, d int) int {
	if v > 0 {
		return v
	}
	return d
}

// Error is a message that cannot be read in exactly one way. The sentinels
// below are all there are.
type Error struct {
	Status int // what a server answers
	Text   string
}

func (e *Error) Error() string { return e.Text }

// What can be wrong with a message.
var (
	ErrLine      = &Error{400, "malformed start line"}
	ErrTarget    = &Error{400, "malformed request target"}
	ErrField     = &Error{400, "malformed header field"}
	ErrByte      = &Error{400, "a control character, or a line that does not end in CRLF"}
	ErrHost      = &Error{400, "missing, repeated, malformed or contradictory Host"}
	ErrLength    = &Error{400, "malformed or repeated Content-Length"}
	ErrFraming   = &Error{400, "contradictory framing"}
	ErrCoding    = &Error{501, "unknown transfer coding"}
	ErrMethod    = &Error{405, "method not allowed"}
	ErrLongLine  = &Error{414, "request target too long"}
	ErrExpect    = &Error{417, "unknown expectation"}
	ErrLarge     = &Error{431, "head too large"}
	ErrMany      = &Error{431, "too many header fields"}
	ErrVersion   = &Error{505, "unknown HTTP version"}
	ErrStatus    = &Error{502, "malformed status line"}
	ErrChunk     = &Error{400, "malformed chunk"}
	ErrChunkExt  = &Error{400, "chunk extensions too long"}
	ErrTrailer   = &Error{400, "malformed trailer field"}
	ErrTrailers  = &Error{400, "trailers too large"}
	ErrTruncated = &Error{400, "head without an end"}
)

// kind tells apart the fields that say something about the message itself.
type kind uint8

const (
	other kind = iota
	host
	connection
	transferEncoding
	contentLength
	upgrade
	te
	expect
	hop // belongs to this connection and says nothing to us
)

// Field is one field line. Value has no surrounding white space.
type Field struct{ Name, Value string }

// Head is a parsed head. It is reused from message to message; its strings are
// parts of what was parsed.
type Head struct {
	// Of a request.
	Method       string
	Target       string // as sent
	OriginTarget string // origin-form of Target: "/x?y", or "*"
	Authority    string // Host, or the authority of an absolute-form target
	Expect       bool   // the client waits for 100 Continue
	Trailers     bool   // TE: trailers

	// Of a response.
	Status int
	Reason string

	Minor int // of HTTP/1.x
	// Fields are the field lines in the order of the wire, without a request's
	// Host and without those that belong to this connection (RFC 9110, section
	// 7.6.1): by themselves, or because Connection names them. The caller may
	// take the slice and leave another in its place.
	Fields  []Field
	Length  int64 // Content-Length; -1: absent
	Chunked bool
	Close   bool   // the connection ends after this message
	Upgrade string // value of Upgrade when Connection names it

	connection []string // values of Connection
}

// SkipBlank counts the empty lines before a request line, at most two
// (RFC 9112, section 2.2).
func SkipBlank(b []byte) (n int) {
	for n < 4 && len(b) >= n+2 && b[n] == '\r' && b[n+1] == '\n' {
		n += 2
	}
	return n
}

// ReadRequest reads the request head at the start of b and returns its length,
// its empty line included, or 0 when more must come. seen is how many bytes of
// b an earlier call has looked at: all calls together are linear in the head.
// What can stand in no head is an error at once, without waiting for its end.
func (h *Head) ReadRequest(b string, seen int, l *Limits) (n int, err error) {
	if seen == 0 { // nearly always the whole head is there
		if n, err = h.parseRequest(b, l); err == nil && n <= l.head() {
			return n, nil
		}
	}
	if n, err = scan(b, seen, l); n > 0 {
		return h.parseRequest(b[:n], l)
	}
	return 0, err
}

// ReadResponse is the same for a response.
func (h *Head) ReadResponse(b string, seen int, l *Limits) (n int, err error) {
	if seen == 0 {
		if n, err = h.parseResponse(b, l); err == nil && n <= l.head() {
			return n, nil
		}
	}
	if n, err = scan(b, seen, l); n > 0 {
		return h.parseResponse(b[:n], l)
	}
	return 0, err
}

// MayBeResponse says whether what has come so far may be the start of a
// response.
func MayBeResponse(b string) bool {
	const start = "HTTP/1."
	n := min(len(b), len(start))
	return b[:n] == start[:n]
}

// scan finds the end of a head.
func scan(b string, seen int, l *Limits) (n int, err error) {
	from := max(seen-3, 0)
	if i := strings.Index(b[from:], "\r\n\r\n"); i >= 0 {
		if n = from + i + 4; n > l.head() {
			return 0, tooLarge(b, l)
		}
		return n, nil
	}
	if err := check(b, max(seen-1, 0)); err != nil {
		return 0, err
	}
	if len(b) > l.target()+64 && strings.IndexByte(b, '\n') < 0 {
		return 0, ErrLongLine
	}
	if len(b) >= l.head() {
		return 0, tooLarge(b, l)
	}
	return 0, nil
}

func tooLarge(b string, l *Limits) error {
	if i := strings.IndexByte(b, '\n'); i < 0 || i > l.target()+64 {
		return ErrLongLine
	}
	return ErrLarge
}

// check refuses what no head has: NUL, a bare CR or a bare LF.
func check(b string, from int) error {
	for i := from; i < len(b); i++ {
		switch b[i] {
		case 0:
			return ErrByte
		case '\n':
			if i == 0 || b[i-1] != '\r' {
				return ErrByte
			}
		case '\r':
			if i+1 < len(b) && b[i+1] != '\n' {
				return ErrByte
			}
		}
	}
	return nil
}

func (h *Head) reset() {
	clear(h.Fields)
	clear(h.connection)
	*h = Head{Fields: h.Fields[:0], connection: h.connection[:0], Length: -1}
}

// parseRequest parses the request head at the start of b. An error may mean
// that b is not all of it.
func (h *Head) parseRequest(b string, l *Limits) (n int, err error) {
	h.reset()
	i := 0
	for i < len(b) && isToken[b[i]] {
		i++
	}
	if i == 0 || i == len(b) || b[i] != ' ' {
		return 0, ErrLine
	}
	h.Method = b[:i]
	i++
	start := i
	for i < len(b) && isTarget[b[i]] {
		i++
	}
	h.Target = b[start:i]
	if len(h.Target) > l.target() {
		return 0, ErrLongLine
	}
	const proto = " HTTP/1."
	if len(b)-i < len(proto)+3 || i == start {
		return 0, ErrLine
	}
	if b[i:i+len(proto)] != proto || b[i+len(proto)+1] != '\r' || b[i+len(proto)+2] != '\n' || b[i+len(proto)] > '1' || b[i+len(proto)] < '0' {
		return 0, version(b[i:])
	}
	h.Minor = int(b[i+len(proto)] - '0')
	if h.Method == "CONNECT" || h.Method == "TRACE" {
		return 0, ErrMethod
	}
	f := framing{request: true}
	if n, err = h.parseFields(b, i+len(proto)+3, l, &f); err != nil {
		return 0, err
	}
	if err = h.frameRequest(&f); err != nil {
		return 0, err
	}
	return n, nil
}

// version tells a version we do not speak from a line that is none.
func version(rest string) error {
	if len(rest) >= 11 && rest[:6] == " HTTP/" && digit(rest[6]) && rest[7] == '.' && digit(rest[8]) && rest[9:11] == "\r\n" {
		return ErrVersion
	}
	return ErrLine
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// parseResponse is the same for a response.
func (h *Head) parseResponse(b string, l *Limits) (n int, err error) {
	h.reset()
	if len(b) < 14 || b[:7] != "HTTP/1." || b[8] != ' ' || b[7] < '0' || b[7] > '1' {
		return 0, ErrStatus
	}
	h.Minor = int(b[7] - '0')
	if b[9] < '1' || b[9] > '5' || !digit(b[10]) || !digit(b[11]) {
		return 0, ErrStatus
	}
	h.Status = int(b[9]-'0')*100 + int(b[10]-'0')*10 + int(b[11]-'0')
	i := scanValue(b, 12)
	if i+1 >= len(b) || b[i] != '\r' || b[i+1] != '\n' || i > 12 && b[12] != ' ' {
		return 0, ErrStatus
	}
	if i > 13 {
		h.Reason = b[13:i]
	}
	var f framing
	if n, err = h.parseFields(b, i+2, l, &f); err != nil {
		return 0, err
	}
	if err = h.frameResponse(&f); err != nil {
		return 0, err
	}
	return n, nil
}

// framing is what the fields say of the message's ends.
type framing struct {
	request              bool
	hosts                int
	lengths, codings     int
	close, keep, upgrade bool
	host, upgradeTo      string
}

// parseFields reads field lines from s[i:] up to and including the empty one,
// and returns where that ends.
func (h *Head) parseFields(s string, i int, l *Limits, f *framing) (n int, err error) {
	limit := l.fields()
	fields := h.Fields
	for count := 0; ; count++ {
		if i+1 >= len(s) {
			return 0, ErrTruncated
		}
		if s[i] == '\r' {
			if s[i+1] != '\n' {
				return 0, ErrByte
			}
			break
		}
		if count == limit {
			return 0, ErrMany
		}
		start := i
		for i < len(s) && isToken[s[i]] {
			i++
		}
		if i == start || i == len(s) || s[i] != ':' {
			return 0, ErrField
		}
		name := s[start:i]
		i++
		for i < len(s) && (s[i] == ' ' || s[i] == '\t') {
			i++
		}
		v := i
		i = scanValue(s, i)
		if i+1 >= len(s) {
			return 0, ErrTruncated
		}
		if s[i] != '\r' || s[i+1] != '\n' {
			return 0, ErrByte
		}
		e := i
		for e > v && (s[e-1] == ' ' || s[e-1] == '\t') {
			e--
		}
		i += 2
		if k := classify(name); k != other {
			keep, err := h.known(k, s[v:e], f)
			if err != nil {
				return 0, err
			}
			if !keep {
				continue
			}
		}
		fields = append(fields, Field{Name: name, Value: s[v:e]})
	}
	h.Fields = fields
	if len(h.connection) > 0 {
		h.nominate(f)
	}
	return i + 2, nil
}

// known takes in a field that the engine must understand. keep says that it is
// for others too.
func (h *Head) known(k kind, v string, f *framing) (keep bool, err error) {
	switch k {
	case host:
		if !f.request {
			return true, nil
		}
		f.hosts++
		f.host = v
	case contentLength:
		n, ok := ParseLength(v)
		if !ok || f.lengths > 0 && (f.request || n != h.Length) {
			return false, ErrLength
		}
		h.Length = n
		f.lengths++
	case transferEncoding:
		f.codings++
		if f.codings > 1 {
			return false, ErrFraming
		}
		if !EqualFold(v, "chunked") {
			if !ValidCodings(v) || strings.Contains(strings.ToLower(v), "chunked") {
				return false, ErrFraming
			}
			return false, ErrCoding
		}
		h.Chunked = true
	case connection:
		switch {
		case EqualFold(v, "keep-alive"):
			f.keep = true
		case EqualFold(v, "close"):
			f.close = true
		default:
			h.connection = append(h.connection, v)
		}
	case te:
		for t := range strings.SplitSeq(v, ",") {
			h.Trailers = h.Trailers || EqualFold(strings.Trim(t, " \t"), "trailers")
		}
	case upgrade:
		f.upgradeTo = v
	case expect:
		if !f.request {
			return true, nil
		}
		if !EqualFold(v, "100-continue") {
			return false, ErrExpect
		}
		h.Expect = h.Minor == 1
	}
	return false, nil
}

// ValidCodings says whether a Transfer-Encoding is a list of tokens at all.
func ValidCodings(v string) bool {
	for t := range strings.SplitSeq(v, ",") {
		if !IsToken(strings.Trim(t, " \t")) {
			return false
		}
	}
	return true
}

// nominate follows the Connection fields: what they say of the connection, and
// the fields they name as its own.
func (h *Head) nominate(f *framing) {
	for _, rest := range h.connection {
		for rest != "" {
			var t string
			t, rest, _ = strings.Cut(rest, ",")
			t = strings.Trim(t, " \t")
			switch {
			case EqualFold(t, "close"):
				f.close = true
			case EqualFold(t, "keep-alive"):
				f.keep = true
			case EqualFold(t, "upgrade"):
				f.upgrade = true
			case t != "" && !f.protected(t):
				h.drop(t)
			}
		}
	}
}

// drop takes a field out.
func (h *Head) drop(name string) {
	kept := h.Fields[:0]
	for _, f := range h.Fields {
		if !EqualFold(f.Name, name) {
			kept = append(kept, f)
		}
	}
	clear(h.Fields[len(kept):])
	h.Fields = kept
}

// protected are fields a client must not take from its request by naming them
// in Connection: other parties decide by them.
func (f *framing) protected(name string) bool {
	if !f.request {
		return false
	}
	for _, p := range [...]string{"Host", "Content-Length", "Cookie", "Authorization", "Forwarded", "X-Real-IP"} {
		if EqualFold(name, p) {
			return true
		}
	}
	for _, p := range [...]string{"X-Forwarded-", "X-Consumer-"} {
		if len(name) > len(p) && EqualFold(name[:len(p)], p) {
			return true
		}
	}
	return false
}

// frameRequest decides where the request goes and where its body ends, in one
// way only (RFC 9112, sections 3.2 and 6).
func (h *Head) frameRequest(f *framing) error {
	if f.hosts > 1 || f.hosts == 0 && h.Minor == 1 {
		return ErrHost
	}
	if f.codings > 0 && (f.lengths > 0 || h.Minor == 0) {
		return ErrFraming
	}
	h.persistence(f)
	h.Authority, h.OriginTarget = f.host, h.Target
	if h.Target[0] == '/' {
		return nil
	}
	if h.Target == "*" {
		if h.Method != "OPTIONS" {
			return ErrTarget
		}
		return nil
	}
	return h.absolute(f)
}

// absolute reads a target of absolute-form, whose authority must not
// contradict Host.
func (h *Head) absolute(f *framing) error {
	scheme, rest, ok := strings.Cut(h.Target, "://")
	secure := EqualFold(scheme, "https")
	if !ok || !secure && !EqualFold(scheme, "http") {
		return ErrTarget
	}
	i := strings.IndexAny(rest, "/?#")
	if i < 0 {
		i = len(rest)
	}
	authority := rest[:i]
	if authority == "" || strings.IndexByte(authority, '@') >= 0 || f.hosts == 1 && !sameAuthority(authority, f.host, secure) {
		return ErrHost
	}
	h.Authority = authority
	switch {
	case i == len(rest):
		h.OriginTarget = "/"
	case rest[i] == '/':
		h.OriginTarget = rest[i:]
	case rest[i] == '?':
		h.OriginTarget = "/" + rest[i:]
	default:
		return ErrTarget
	}
	return nil
}

func sameAuthority(a, b string, secure bool) bool {
	an, ap := splitPort(a, secure)
	bn, bp := splitPort(b, secure)
	return EqualFold(strings.TrimSuffix(an, "."), strings.TrimSuffix(bn, ".")) && ap == bp
}

func splitPort(a string, secure bool) (name, port string) {
	if i := strings.LastIndexByte(a, ':'); i >= 0 && !strings.HasSuffix(a, "]") {
		if name, port = a[:i], a[i+1:]; port != "" {
			return name, port
		}
		a = name
	}
	if secure {
		return a, "443"
	}
	return a, "80"
}

// frameResponse is the same for a response; whether it has a body the method
// of the request decides too.
func (h *Head) frameResponse(f *framing) error {
	if f.codings > 0 && (f.lengths > 0 || h.Minor == 0) {
		return ErrFraming
	}
	h.persistence(f)
	return nil
}

func (h *Head) persistence(f *framing) {
	h.Close = f.close || h.Minor == 0 && !f.keep
	if f.upgrade && h.Minor == 1 { // RFC 9110, section 7.8
		h.Upgrade = f.upgradeTo
	}
}
