package openidconnect

import (
	"strconv"
	"strings"

	"gatehouse/gateway"
)

const (
	maxChunks = 9
	// maxCookie bounds one Set-Cookie line, in bytes; browsers drop what is
	// larger than 4096 (RFC 6265, section 6.1).
	maxCookie   = 4096
	maxAttempts = 8 // sign-ins of one browser at a time
	attemptMark = "_state_"
)

// jar is what a request's cookies hold for this plugin. Its strings live as
// long as the exchange.
type jar struct {
	chunks   [maxChunks]string // the session's parts, by number
	attempts []attemptCookie   // in the order sent
}

type attemptCookie struct{ name, value string }

// takeCookies reads our cookies and removes them from the request: they are
// the gateway's, no upstream gets to see them.
func (p *relyingParty) takeCookies(h *gateway.Header) *jar {
	j := &jar{}
	ours := false
	var rest strings.Builder
	for line := range h.Values("Cookie") {
		for pair := range strings.SplitSeq(line, ";") {
			pair = strings.Trim(pair, " \t")
			if pair == "" {
				continue
			}
			name, value, _ := strings.Cut(pair, "=")
			if j.take(p.Session.Name, strings.TrimRight(name, " \t"), strings.TrimLeft(value, " \t")) {
				ours = true
				continue
			}
			if rest.Len() > 0 {
				rest.WriteString("; ")
			}
			rest.WriteString(pair)
		}
	}
	switch {
	case !ours:
	case rest.Len() == 0:
		h.Del("Cookie")
	default:
		h.Set("Cookie", rest.String())
	}
	return j
}

// take keeps a cookie when it is ours. Of two with the same name the first
// counts: browsers send the more specific one first.
func (j *jar) take(prefix, name, value string) bool {
	value = strings.TrimPrefix(value, gateway.OwnCookie)
	tail, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return false
	}
	if tail == "" {
		if j.chunks[0] == "" {
			j.chunks[0] = value
		}
		return true
	}
	if id, ok := strings.CutPrefix(tail, attemptMark); ok {
		if len(j.attempts) < 4*maxAttempts && len(id) <= 64 {
			j.attempts = append(j.attempts, attemptCookie{name, value})
		}
		return true
	}
	if isChunk(tail) {
		if n := tail[1] - '1'; j.chunks[n] == "" {
			j.chunks[n] = value
		}
		return true
	}
	return false
}

// session joins the parts of the session cookie. The first begins with their
// number, so that left-over parts of an older, larger session do no harm.
func (j *jar) session() (value string, present, whole bool) {
	first := j.chunks[0]
	if first == "" {
		return "", false, false
	}
	n := int(first[0] - '0')
	if n < 1 || n > maxChunks {
		return "", true, false
	}
	if n == 1 {
		return first[1:], true, len(first) <= maxCookie
	}
	var b strings.Builder
	for i, c := range j.chunks[:n] {
		if c == "" || len(c) > maxCookie {
			return "", true, false
		}
		if i == 0 {
			c = c[1:]
		}
		b.WriteString(c)
	}
	return b.String(), true, true
}

// isChunk: "_2" to "_9".
func isChunk(tail string) bool {
	return len(tail) == 2 && tail[0] == '_' && tail[1] >= '2' && tail[1] <= '0'+maxChunks
}

func chunkName(name string, i int) string {
	if i == 0 {
		return name
	}
	return name + "_" + strconv.Itoa(i+1)
}

// attributes are those of every cookie of the session.
func (p *relyingParty) attributes(x *gateway.Exchange, sameSite string) string {
	a := "; Path=" + p.Session.Path
	if p.Session.Domain != "" {
		a += "; Domain=" + p.Session.Domain
	}
	if p.Session.HTTPOnly {
		a += "; HttpOnly"
	}
	secure := p.scheme(x) == "https" || p.redirect != nil && p.redirect.Scheme == "https"
	if p.Session.Secure != nil {
		secure = *p.Session.Secure
	}
	if secure || sameSite == "None" {
		a += "; Secure"
	}
	if sameSite != "Default" {
		a += "; SameSite=" + sameSite
	}
	return a
}

// setChunks puts a sealed session into the answer, in as many cookies as it
// needs, and removes those it no longer needs. It is false when there would
// be too many.
func (p *relyingParty) setChunks(x *gateway.Exchange, j *jar, value string) bool {
	attr := p.attributes(x, p.Session.SameSite)
	room := maxCookie - len(attr) - len(p.Session.Name) - len("_2=") - 1 - len(gateway.OwnCookie)
	n := (len(value) + room - 1) / room
	if room < 256 || n > maxChunks {
		return false
	}
	p.forgetAnswer(x)
	for i := range max(n, maxChunks) {
		name := chunkName(p.Session.Name, i)
		switch {
		case i < n:
			part := value[:min(room, len(value))]
			value = value[len(part):]
			if i == 0 {
				part = strconv.Itoa(n) + part
			}
			x.Answer.Add("Set-Cookie", name+"="+gateway.OwnCookie+part+attr)
		case j.chunks[i] != "":
			x.Answer.Add("Set-Cookie", name+"="+attr+"; Max-Age=0")
		}
	}
	return true
}

// clearSession removes every part of the session the browser sent.
func (p *relyingParty) clearSession(x *gateway.Exchange, j *jar) {
	p.forgetAnswer(x)
	attr := p.attributes(x, p.Session.SameSite)
	for i, c := range j.chunks {
		if c != "" {
			x.Answer.Add("Set-Cookie", chunkName(p.Session.Name, i)+"="+attr+"; Max-Age=0")
		}
	}
}

// forgetAnswer takes back session cookies this request has set before, so
// that the last word counts.
func (p *relyingParty) forgetAnswer(x *gateway.Exchange) {
	x.Answer.DelFunc(func(f gateway.Field) bool {
		if !strings.EqualFold(f.Name, "Set-Cookie") {
			return false
		}
		name, _, _ := strings.Cut(f.Value, "=")
		tail, ok := strings.CutPrefix(name, p.Session.Name)
		return ok && (tail == "" || isChunk(tail))
	})
}

// attemptSite is the SameSite of an attempt's cookie. It must come along when
// the provider sends the browser back, so it cannot be Strict.
func (p *relyingParty) attemptSite() string {
	if p.Session.SameSite == "Strict" || p.Session.SameSite == "Default" {
		return "Lax"
	}
	return p.Session.SameSite
}

func cookieNameByte(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.'
}
