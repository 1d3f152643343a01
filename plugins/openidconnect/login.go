package openidconnect

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"gatehouse/gateway"
	"gatehouse/lib/seal"
)

const (
	attemptLife  = 30 * time.Minute
	attemptID    = 20   // bytes of state that name the cookie
	maxTarget    = 1024 // bytes of a URL that is remembered
	maxAuthority = 260
	callbackPath = "/.apisix/redirect"
)

// attempt is one sign-in on its way: sealed in a cookie of its own, so that
// every tab has one, and used once.
type attempt struct {
	State    string `json:"s"`
	Nonce    string `json:"n"`
	Verifier string `json:"v,omitempty"` // RFC 7636
	Redirect string `json:"r"`
	Target   string `json:"t"` // where to go afterwards: a path of this host
	Born     int64  `json:"b"`
}

// login sends the browser to the provider.
func (p *relyingParty) login(x *gateway.Exchange, j *jar) *gateway.Reply {
	doc, err := p.metadata(x.Ctx)
	if err != nil {
		return p.unavailable(x, err)
	}
	if doc.Authorization == "" || doc.Token == "" {
		return p.failure(x, errors.New("the provider has no authorization or token endpoint"))
	}
	redirect, ok := p.redirectURI(x)
	if !ok {
		return p.page(x, 400, pageText{Title: "This address cannot be used", Body: "The host name of the request is not valid."}, nil)
	}
	now := p.env.Now()
	a := attempt{
		// The time in front makes names sort by age without opening them.
		State: fmt.Sprintf("%08x", uint32(now.Unix())) + random(27),
		Nonce: random(24), Redirect: redirect, Target: rememberedTarget(x), Born: now.Unix(),
	}
	q := url.Values{}
	if p.pkce {
		a.Verifier = random(32)
		sum := sha256.Sum256([]byte(a.Verifier))
		q.Set("code_challenge", base64.RawURLEncoding.EncodeToString(sum[:]))
		q.Set("code_challenge_method", "S256")
	}
	to, err := url.Parse(doc.Authorization)
	if err != nil {
		return p.failure(x, err)
	}
	for name, values := range to.Query() { // RFC 6749, section 3.1: what it has stays
		q[name] = values
	}
	for name, values := range p.params {
		q[name] = values
	}
	q.Set("response_type", "code")
	q.Set("client_id", p.ClientID)
	q.Set("redirect_uri", redirect)
	q.Set("scope", p.Scope)
	q.Set("state", a.State)
	q.Set("nonce", a.Nonce)
	to.RawQuery = q.Encode()
	if err := p.setAttempt(x, j, a); err != nil {
		return p.failure(x, err)
	}
	return redirectTo(to.String())
}

func redirectTo(where string) *gateway.Reply {
	return &gateway.Reply{Status: 302, Header: []gateway.Field{
		{Name: "Location", Value: where},
		{Name: "Cache-Control", Value: "no-cache, no-store, max-age=0"},
		{Name: "Referrer-Policy", Value: "no-referrer"},
		{Name: "Content-Type", Value: "text/html; charset=utf-8"},
	}, Body: []byte("<!doctype html><title>Redirecting</title>\n")}
}

func random(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

// setAttempt adds the cookie of an attempt and drops the oldest ones when a
// browser collects too many.
func (p *relyingParty) setAttempt(x *gateway.Exchange, j *jar, a attempt) error {
	raw, err := json.Marshal(a)
	if err != nil {
		return err
	}
	attr := p.attributes(x, p.attemptSite())
	slices.SortFunc(j.attempts, func(a, b attemptCookie) int { return strings.Compare(a.name, b.name) })
	for len(j.attempts) >= maxAttempts {
		p.dropAttempt(x, j.attempts[0].name)
		j.attempts = j.attempts[1:]
	}
	name := p.attemptName(a.State)
	box := p.ring.Seal(nil, raw, []byte(name))
	x.Answer.Add("Set-Cookie", fmt.Sprintf("%s=%s%s%s; Max-Age=%d", name, gateway.OwnCookie, base64.RawURLEncoding.EncodeToString(box), attr, int(attemptLife/time.Second)))
	return nil
}

func (p *relyingParty) dropAttempt(x *gateway.Exchange, name string) {
	if strings.IndexFunc(name, func(r rune) bool { return !cookieNameByte(r) }) >= 0 {
		return
	}
	x.Answer.Add("Set-Cookie", name+"="+p.attributes(x, p.attemptSite())+"; Max-Age=0")
}

func (p *relyingParty) attemptName(state string) string {
	return p.Session.Name + attemptMark + state[:attemptID]
}

// findAttempt opens the attempt a state belongs to. It fails when this
// browser did not begin it.
func (p *relyingParty) findAttempt(j *jar, state string) (*attempt, error) {
	if len(state) < attemptID || len(state) > 128 {
		return nil, seal.ErrOpen
	}
	name := p.attemptName(state)
	for _, c := range j.attempts {
		if c.name != name {
			continue
		}
		box, err := base64.RawURLEncoding.Strict().DecodeString(c.value)
		if err != nil {
			return nil, seal.ErrOpen
		}
		raw, err := p.ring.Open(box, []byte(name))
		if err != nil {
			return nil, err
		}
		var a attempt
		if err := json.Unmarshal(raw, &a); err != nil || !equal(a.State, state) {
			return nil, seal.ErrOpen
		}
		return &a, nil
	}
	return nil, seal.ErrOpen
}

// rememberedTarget is where the browser goes after the sign-in.
func rememberedTarget(x *gateway.Exchange) string {
	t := localTarget(x.Req.Target)
	if len(t) > maxTarget {
		t, _, _ = strings.Cut(t, "?")
	}
	if len(t) > maxTarget {
		return "/"
	}
	return t
}

// localTarget makes sure that a redirect to t stays on this host: one slash
// in front, no backslash (browsers read it as a slash), nothing invisible.
func localTarget(t string) string {
	if strings.IndexFunc(t, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '\\' }) >= 0 || !strings.HasPrefix(t, "/") {
		return "/"
	}
	return "/" + strings.TrimLeft(t, "/")
}

// redirectPath is the path on which the provider's answers arrive; "": none
// that this request could be.
func (p *relyingParty) redirectPath(x *gateway.Exchange) string {
	switch {
	case p.redirect != nil:
		return p.redirect.Path
	case p.RedirectURI != "":
		path, _, _ := strings.Cut(p.RedirectURI, "?")
		return path
	case strings.HasSuffix(x.Req.Path, callbackPath):
		return x.Req.Path
	}
	return ""
}

// redirectURI is the absolute URI the provider shall answer to.
func (p *relyingParty) redirectURI(x *gateway.Exchange) (string, bool) {
	if p.redirect != nil {
		return p.RedirectURI, true
	}
	path := p.RedirectURI
	if path == "" {
		at := x.Req.Path
		if !strings.HasSuffix(at, callbackPath) {
			at = strings.TrimSuffix(at, "/") + callbackPath
		}
		path = (&url.URL{Path: at}).EscapedPath()
	}
	origin, ok := p.origin(x)
	return origin + path, ok
}

// origin is scheme, host and port as the browser sees them.
func (p *relyingParty) origin(x *gateway.Exchange) (string, bool) {
	h := x.Req.Authority
	ok := h != "" && len(h) <= maxAuthority && strings.IndexFunc(h, func(r rune) bool {
		return !cookieNameByte(r) && r != ':' && r != '[' && r != ']'
	}) < 0
	return p.scheme(x) + "://" + h, ok
}

// scheme is that of the connection. A proxy in front counts when the gateway
// trusts it, which shows in that it believed its word about the client.
func (p *relyingParty) scheme(x *gateway.Exchange) string {
	if c := x.Req.Client; c.IsValid() && c.Unmap() != x.Req.Peer.Addr().Unmap() {
		if v := x.Req.Header.Get("X-Forwarded-Proto"); v == "https" || v == "http" {
			return v
		}
	}
	return x.Req.Scheme
}
