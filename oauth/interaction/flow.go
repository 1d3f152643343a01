package interaction

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"

	"gatehouse/oauth"
)

// flow is one authorization request on its way through login and consent. It
// is never stored: it travels in the challenges and verifiers, and grows with
// every step.
type flow struct {
	id      [16]byte
	started time.Time // second precision
	expires time.Time // of what carries it
	request Request
	ref     redirectRef
	client  *oauth.Client // set by resolve

	// The question of the moment: the browser it was put to, whether the
	// answer is known already, and by which session.
	tag     [tagSize]byte
	skip    bool
	session string // sid; "" before the first login of a browser
	subject string // known when session is

	login   *loggedIn
	consent *oauth.Answer // in an accepted consent verifier
	answer  *oauth.Answer // in an accepted login verifier
	reject  *oauth.Error  // in a rejected verifier
}

// loggedIn is what the login step established.
type loggedIn struct {
	subject  string
	session  string
	authTime time.Time
	acr      string
	amr      []string
	context  json.RawMessage
}

func newFlow(q *Request, c *oauth.Client, now time.Time, ttl time.Duration) *flow {
	f := &flow{request: *q, client: c, started: now.Truncate(time.Second), expires: now.Add(ttl).Truncate(time.Second)}
	rand.Read(f.id[:])
	return f
}

// key is the flow's id as it is written and stored.
func (f *flow) key() string { return hex.EncodeToString(f.id[:]) }

// sid is the id of the session a login in this flow belongs to: the one the
// browser has, or a new one, the same for every answer to the flow.
func (f *flow) sid() string {
	if f.session != "" {
		return f.session
	}
	return f.freshSID()
}

func (f *flow) freshSID() string {
	sum := sha256.Sum256(append([]byte("session of "), f.id[:]...))
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80 // a UUID, version 8
	return formatUUID(sum[:16])
}

const flowVersion = 1

func (f *flow) encode() ([]byte, error) {
	w := &writer{b: make([]byte, 0, 512)}
	w.byte(flowVersion)
	w.raw(f.id[:])
	w.uint(uint64(f.expires.Unix()))
	w.uint(uint64(max(0, f.expires.Unix()-f.started.Unix())))
	w.uint(bits(f.skip, f.session != "", f.login != nil, f.answer != nil, f.consent != nil, f.reject != nil))
	w.raw(f.tag[:])
	f.request.encode(w, f.client)
	if f.session != "" {
		uuid(w, f.session)
		w.str(f.subject)
	}
	if l := f.login; l != nil {
		uuid(w, l.session)
		w.str(l.subject)
		w.uint(uint64(l.authTime.Unix()))
		w.str(l.acr)
		w.strs(l.amr)
		w.bytes(l.context)
	}
	for _, a := range []*oauth.Answer{f.answer, f.consent} {
		if a == nil {
			continue
		}
		if err := encodeAnswer(w, a, &f.request); err != nil {
			return nil, err
		}
	}
	if e := f.reject; e != nil {
		w.str(e.Code)
		w.str(e.Description)
		w.str(e.Hint)
	}
	return w.b, nil
}

func decodeFlow(b []byte) (*flow, error) {
	r := &reader{b: b}
	if r.byte() != flowVersion {
		return nil, errDecode
	}
	f := &flow{}
	copy(f.id[:], r.raw(16))
	expires, age := r.uint(), r.uint()
	if expires > 1<<40 || age > expires {
		return nil, errDecode
	}
	f.expires, f.started = time.Unix(int64(expires), 0), time.Unix(int64(expires-age), 0)
	flags := r.uint()
	copy(f.tag[:], r.raw(tagSize))
	f.ref = f.request.decode(r)
	f.skip = flags&1 != 0
	if flags&2 != 0 {
		f.session, f.subject = readUUID(r), r.str()
	}
	if flags&4 != 0 {
		l := &loggedIn{session: readUUID(r), subject: r.str()}
		at := r.uint()
		if at > 1<<40 {
			r.bad = true
		}
		l.authTime = time.Unix(int64(at), 0)
		l.acr, l.amr = r.str(), r.strs()
		if c := r.bytes(); len(c) > 0 {
			l.context = c
		}
		f.login = l
	}
	if flags&8 != 0 {
		f.answer = decodeAnswer(r, &f.request)
	}
	if flags&16 != 0 {
		f.consent = decodeAnswer(r, &f.request)
	}
	if flags&32 != 0 {
		f.reject = &oauth.Error{Code: r.str(), Description: r.str(), Hint: r.str()}
	}
	return f, r.end()
}

// encodeAnswer writes an answer; granted scopes and audience as places among
// the requested ones.
func encodeAnswer(w *writer, a *oauth.Answer, q *Request) error {
	claims := make([][]byte, 2)
	for i, m := range []map[string]any{a.IDTokenClaims, a.AccessTokenClaims} {
		if len(m) == 0 {
			continue
		}
		var err error
		if claims[i], err = json.Marshal(m); err != nil {
			return err
		}
	}
	w.uint(bits(a.Remember, a.ExtendSession))
	w.uint(uint64(a.RememberFor / time.Second))
	w.str(a.Subject)
	w.str(a.ACR)
	w.strs(a.AMR)
	w.str(a.IDPSessionID)
	w.bytes(a.Context)
	places(w, a.Scopes, q.Scopes)
	places(w, a.Audience, q.Audience)
	w.bytes(claims[0])
	w.bytes(claims[1])
	if a.HandledAt.IsZero() {
		w.uint(0)
	} else {
		w.uint(uint64(max(0, a.HandledAt.UnixMilli())))
	}
	return nil
}

func decodeAnswer(r *reader, q *Request) *oauth.Answer {
	a := &oauth.Answer{}
	flags := r.uint()
	a.Remember, a.ExtendSession = flags&1 != 0, flags&2 != 0
	seconds := r.uint()
	if seconds > 1<<33 {
		r.bad = true
		seconds = 0
	}
	a.RememberFor = time.Duration(seconds) * time.Second
	a.Subject, a.ACR, a.AMR, a.IDPSessionID = r.str(), r.str(), r.strs(), r.str()
	if c := r.bytes(); len(c) > 0 {
		a.Context = c
	}
	a.Scopes, a.Audience = readPlaces(r, q.Scopes), readPlaces(r, q.Audience)
	for _, m := range []*map[string]any{&a.IDTokenClaims, &a.AccessTokenClaims} {
		if b := r.bytes(); len(b) > 0 && json.Unmarshal(b, m) != nil {
			r.bad = true
		}
	}
	if ms := r.uint(); ms > 1<<50 {
		r.bad = true
	} else if ms > 0 {
		a.HandledAt = time.UnixMilli(int64(ms)).UTC()
	}
	return a
}

// places writes which of the offered values were chosen, one bit each.
func places(w *writer, chosen, offered []string) {
	b := make([]byte, (len(offered)+7)/8)
	for i, o := range offered {
		for _, c := range chosen {
			if c == o {
				b[i/8] |= 1 << (i % 8)
			}
		}
	}
	w.raw(b)
}

func readPlaces(r *reader, offered []string) []string {
	b := r.raw((len(offered) + 7) / 8)
	if r.bad {
		return nil
	}
	var out []string
	for i, o := range offered {
		if b[i/8]&(1<<(i%8)) != 0 {
			out = append(out, o)
		}
	}
	return out
}

// uuid writes a session id, packed when it is a UUID as ours are.
func uuid(w *writer, s string) {
	if id, ok := parseUUID(s); ok {
		w.byte(1)
		w.raw(id[:])
		return
	}
	w.byte(0)
	w.str(s)
}

func readUUID(r *reader) string {
	if r.byte() == 1 {
		return formatUUID(r.raw(16))
	}
	return r.str()
}
