package engine

import (
	"strings"

	"golang.org/x/net/http2/hpack"

	"gatehouse/gateway"
	"gatehouse/lib/h1"
)

// headBlock collects the fields of one header block, strictly (RFC 9113,
// section 8).
type headBlock struct {
	id      uint32
	ended   bool // no body follows
	selfish bool // the stream depends on itself
	limits  *Limits
	bytes   int // as received
	parts   int
	size    int // as decoded
	fail    int // the status that refuses it; 0: good
	bad     bool
	regular bool // a field was seen: no pseudo-header may follow

	method, scheme, authority, path string
	hasAuthority                    bool
	host                            string
	crumbs                          []string // of Cookie
	hosts                           int
	length                          int64 // -1: none
	expect                          bool
	fields                          []gateway.Field
	count                           int // of fields, those kept elsewhere too
}

func (b *headBlock) begin(id uint32, ended bool, l *Limits) {
	clear(b.fields)
	clear(b.crumbs)
	*b = headBlock{id: id, ended: ended, limits: l, length: -1, fields: b.fields[:0], crumbs: b.crumbs[:0]}
}

// emit is called for each field, in order.
func (b *headBlock) emit(f hpack.HeaderField) {
	if b.bad || b.fail != 0 {
		return
	}
	if b.size += int(f.Size()); b.size > b.limits.Head {
		b.fail = 431
		return
	}
	if !h1.ValidValue(f.Value) || f.Value != strings.Trim(f.Value, " \t") {
		b.bad = true
		return
	}
	if strings.HasPrefix(f.Name, ":") {
		b.pseudo(f)
		return
	}
	b.regular = true
	if b.count++; b.count > b.limits.Fields {
		b.fail = 431
		return
	}
	if !lowerToken(f.Name) {
		b.bad = true
		return
	}
	switch f.Name {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "http2-settings":
		b.bad = true
	case "te":
		b.bad = f.Value != "trailers"
	case "host":
		b.hosts++
		b.host = f.Value
	case "content-length":
		n, ok := h1.ParseLength(f.Value)
		if !ok || b.length >= 0 {
			b.bad = true
		}
		b.length = n
	case "cookie": // crumbs make one field (section 8.2.3)
		b.crumbs = append(b.crumbs, f.Value)
	case "expect":
		if !strings.EqualFold(f.Value, "100-continue") {
			b.fail = 417
		}
		b.expect = true
	default:
		b.fields = append(b.fields, gateway.Field{Name: f.Name, Value: f.Value})
	}
}

func (b *headBlock) pseudo(f hpack.HeaderField) {
	to := &b.method
	switch f.Name {
	case ":method":
	case ":scheme":
		to = &b.scheme
	case ":path":
		to = &b.path
	case ":authority":
		if b.hasAuthority || b.regular {
			b.bad = true
		}
		b.hasAuthority, b.authority = true, f.Value
		return
	default:
		b.bad = true
		return
	}
	if b.regular || *to != "" || f.Value == "" {
		b.bad = true
	}
	*to = f.Value
}

func lowerToken(s string) bool {
	for i := range len(s) {
		if s[i] >= 'A' && s[i] <= 'Z' {
			return false
		}
	}
	return h1.IsToken(s)
}

// request fills an exchange; false: the head is malformed.
func (b *headBlock) request(q *gateway.Request) bool {
	if b.bad || b.hosts > 1 {
		return false
	}
	if b.fail != 0 { // enough to answer with
		q.Method = "GET"
		return true
	}
	if b.method == "CONNECT" || b.method == "TRACE" {
		b.fail = 405
		q.Method = b.method
		return true
	}
	if b.method == "" || b.path == "" || !h1.EqualFold(b.scheme, "http") && !h1.EqualFold(b.scheme, "https") || !h1.IsToken(b.method) {
		return false
	}
	if b.hasAuthority && b.hosts == 1 && !h1.EqualFold(b.authority, b.host) {
		return false
	}
	if !b.hasAuthority {
		b.authority = b.host
	}
	if b.ended && b.length > 0 {
		return false
	}
	if len(b.path) > b.limits.URI {
		b.fail = 414
	}
	q.Method, q.Authority, q.Target = b.method, b.authority, b.path
	for _, f := range b.fields {
		q.Header.Append(f.Name, f.Value)
	}
	if len(b.crumbs) > 0 {
		q.Header.Append("cookie", strings.Join(b.crumbs, "; "))
	}
	q.Length = b.length
	if b.ended {
		q.Length = 0
	}
	return true
}
