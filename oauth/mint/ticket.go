package mint

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"math"
	"slices"
	"time"
)

// Ticket is what a code or an access token carries.
type Ticket struct {
	// A token of an authorization names it and the generation it is good for.
	Authorization string
	Generation    int64
	// narrowed, if set, has one bit per scope of the authorization: the token
	// has those whose bit is set.
	narrowed []byte

	// A token of a client alone (client_credentials) says itself what it is
	// good for. ID is what a Revoked record of it is filed under.
	ID       string
	Client   string
	Scopes   []string
	Audience []string

	Issued  time.Time // to the microsecond
	Expires time.Time
}

// ScopesOf are the scopes the token has, of those its authorization has.
func (t *Ticket) ScopesOf(granted []string) []string {
	if t.narrowed == nil {
		return granted
	}
	var out []string
	for i, s := range granted {
		if i/8 < len(t.narrowed) && t.narrowed[i/8]&(1<<(i%8)) != 0 {
			out = append(out, s)
		}
	}
	return out
}

// narrow is the mask of a subset of the granted scopes; nil when it is all.
func narrow(granted, scopes []string) []byte {
	mask, all := make([]byte, (len(granted)+7)/8), true
	for i, s := range granted {
		if slices.Contains(scopes, s) {
			mask[i/8] |= 1 << (i % 8)
		} else {
			all = false
		}
	}
	if all {
		return nil
	}
	return mask
}

// The first byte of an encoded ticket: its kind and flags.
const (
	kindAuthorization = 1
	kindClient        = 2
	kindMask          = 0x0f
	flagNarrowed      = 0x80
	flagNoAudience    = 0x40 // of a signed token: the aud claim is a default
)

// Limits when opening: what a token cannot have.
const (
	maxScopes   = 512
	maxAudience = 256
	maxString   = 4096
)

// era is subtracted from times to keep them short.
var era = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

// writer builds compact binary.
type writer []byte

func (w *writer) uint(n uint64)   { *w = binary.AppendUvarint(*w, n) }
func (w *writer) bytes(b []byte)  { w.uint(uint64(len(b))); *w = append(*w, b...) }
func (w *writer) string(s string) { w.uint(uint64(len(s))); *w = append(*w, s...) }

func (w *writer) times(issued, expires time.Time) {
	w.uint(uint64(max(0, issued.Sub(era).Microseconds())))
	w.uint(uint64(max(0, int64(expires.Sub(issued)/time.Second))))
}

// Forms of an id: most are 16 bytes in one of three spellings.
const (
	idText = iota
	idHex  // 32 lower-case hex digits
	idUUID // 8-4-4-4-12 lower-case hex digits
)

func (w *writer) id(s string) {
	if b, err := hex.DecodeString(s); err == nil && len(b) == 16 && hex.EncodeToString(b) == s {
		*w = append(append(*w, idHex), b...)
		return
	}
	if len(s) == 36 && s[8] == '-' && s[13] == '-' && s[18] == '-' && s[23] == '-' {
		b, err := hex.DecodeString(s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:])
		if err == nil && uuidText(b) == s {
			*w = append(append(*w, idUUID), b...)
			return
		}
	}
	*w = append(*w, idText)
	w.string(s)
}

func uuidText(b []byte) string {
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// reader takes compact binary apart. After the first mistake it returns zeros
// and failed is set.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) fail() { r.failed, r.b = true, nil }

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail()
		return 0
	}
	b := r.b[0]
	r.b = r.b[1:]
	return b
}

func (r *reader) uint() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *reader) take(n uint64) []byte {
	if n > uint64(len(r.b)) || n > maxString {
		r.fail()
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) string() string { return string(r.take(r.uint())) }

func (r *reader) id() string {
	switch r.byte() {
	case idHex:
		return hex.EncodeToString(r.take(16))
	case idUUID:
		if b := r.take(16); len(b) == 16 {
			return uuidText(b)
		}
		return ""
	case idText:
		return r.string()
	}
	r.fail()
	return ""
}

func (r *reader) times() (issued, expires time.Time) {
	us, s := r.uint(), r.uint()
	if us > math.MaxInt64/1000 || s > uint64(math.MaxInt64/time.Second)/2 {
		r.fail()
		return
	}
	issued = era.Add(time.Duration(us) * time.Microsecond)
	return issued, issued.Add(time.Duration(s) * time.Second)
}

func (r *reader) strings(most uint64) []string {
	n := r.uint()
	if n > most {
		r.fail()
		return nil
	}
	var out []string
	for range n {
		if r.failed {
			return nil
		}
		out = append(out, r.string())
	}
	return out
}

// encode is the compact form; decode reads it.
func (t *Ticket) encode(dst []byte) []byte {
	w := writer(dst)
	if t.Authorization != "" {
		kind := byte(kindAuthorization)
		if t.narrowed != nil {
			kind |= flagNarrowed
		}
		w = append(w, kind)
		w.id(t.Authorization)
		w.uint(uint64(t.Generation))
		w.times(t.Issued, t.Expires)
		if t.narrowed != nil {
			w.bytes(t.narrowed)
		}
		return w
	}
	w = append(w, kindClient)
	w.string(t.ID)
	w.id(t.Client)
	w.times(t.Issued, t.Expires)
	for _, list := range [][]string{t.Scopes, t.Audience} {
		w.uint(uint64(len(list)))
		for _, s := range list {
			w.string(s)
		}
	}
	return w
}

func decode(b []byte) (*Ticket, bool) {
	r := reader{b: b}
	t := &Ticket{}
	kind := r.byte()
	switch kind &^ flagNarrowed {
	case kindAuthorization:
		t.Authorization = r.id()
		gen := r.uint()
		if t.Authorization == "" || gen > math.MaxInt64 {
			r.fail()
		}
		t.Generation = int64(gen)
		t.Issued, t.Expires = r.times()
		if kind&flagNarrowed != 0 {
			t.narrowed = append([]byte{}, r.take(r.uint())...)
		}
	case kindClient:
		t.ID = r.string()
		t.Client = r.id()
		t.Issued, t.Expires = r.times()
		t.Scopes = r.strings(maxScopes)
		t.Audience = r.strings(maxAudience)
	default:
		return nil, false
	}
	if r.failed || len(r.b) != 0 {
		return nil, false
	}
	return t, true
}

func text(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// untext accepts one spelling of each value alone.
func untext(s string) ([]byte, bool) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return b, err == nil
}
