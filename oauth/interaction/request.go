package interaction

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatehouse/oauth"
)

// Request is an authorization request whose every field has been checked
// against the client (oauth/authorize does).
type Request struct {
	ClientID        string
	RedirectURI     string // where the answer goes
	RedirectOmitted bool   // the request had none, the client has only this one
	ResponseMode    string // "query", "fragment", "form_post"
	Scopes          []string
	Audience        []string
	State           string
	Nonce           string

	CodeChallenge       string // "": none
	CodeChallengeMethod string // "S256", "plain"

	Prompt    []string // known values only
	HasMaxAge bool
	MaxAge    time.Duration

	ACRValues   []string
	UILocales   []string
	Display     string
	LoginHint   string
	IDTokenHint string // verified; "": none
}

// prompts are the known values of prompt; the position is the bit in a
// sealed request.
var prompts = []string{"none", "login", "consent", "select_account", "create", "registration"}

// Prompts returns the values of prompt that are understood.
func Prompts() []string { return slices.Clone(prompts) }

var responseModes = []string{"query", "fragment", "form_post"}

func (q *Request) prompts(p string) bool { return slices.Contains(q.Prompt, p) }

// hintClaims returns the claims of the ID token the client sent as a hint. It
// was verified before it was sealed.
func (q *Request) hintClaims() map[string]any {
	parts := strings.Split(q.IDTokenHint, ".")
	if len(parts) != 3 {
		return nil
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil
	}
	var claims map[string]any
	if json.Unmarshal(body, &claims) != nil {
		return nil
	}
	return claims
}

func (q *Request) hintSubject() string {
	s, _ := q.hintClaims()["sub"].(string)
	return s
}

func (q *Request) oidc() oauth.OIDCContext {
	return oauth.OIDCContext{
		ACRValues: q.ACRValues, Display: q.Display, IDTokenHintClaims: q.hintClaims(),
		LoginHint: q.LoginHint, UILocales: q.UILocales,
	}
}

// values are the request's parameters.
func (q *Request) values() url.Values {
	v := url.Values{"client_id": {q.ClientID}, "response_type": {"code"}}
	set := func(k, s string) {
		if s != "" {
			v.Set(k, s)
		}
	}
	if !q.RedirectOmitted {
		v.Set("redirect_uri", q.RedirectURI)
	}
	if q.ResponseMode != "query" {
		set("response_mode", q.ResponseMode)
	}
	set("scope", strings.Join(q.Scopes, " "))
	set("audience", strings.Join(q.Audience, " "))
	set("state", q.State)
	set("nonce", q.Nonce)
	set("code_challenge", q.CodeChallenge)
	set("code_challenge_method", q.CodeChallengeMethod)
	set("prompt", strings.Join(q.Prompt, " "))
	if q.HasMaxAge {
		v.Set("max_age", strconv.FormatInt(int64(q.MaxAge/time.Second), 10))
	}
	set("acr_values", strings.Join(q.ACRValues, " "))
	set("ui_locales", strings.Join(q.UILocales, " "))
	set("display", q.Display)
	set("login_hint", q.LoginHint)
	set("id_token_hint", q.IDTokenHint)
	return v
}

// checksum tells a client's redirect URIs apart when one has been exchanged
// since the request was sealed.
func checksum(uri string) uint32 {
	h := uint32(2166136261) // FNV-1a: the value is sealed, only accidents matter
	for i := range len(uri) {
		h = (h ^ uint32(uri[i])) * 16777619
	}
	return h
}

// encode appends the request. The redirect URI is written as its place among
// the client's, unless it is a loopback URI with a port of its own.
func (q *Request) encode(w *writer, c *oauth.Client) {
	id, isUUID := parseUUID(q.ClientID)
	place := slices.Index(c.RedirectURIs, q.RedirectURI)
	challenge, err := base64.RawURLEncoding.Strict().DecodeString(q.CodeChallenge)
	packed := err == nil && q.CodeChallengeMethod == "S256" && len(challenge) == 32
	var extra writer
	extra.strs(q.ACRValues)
	extra.strs(q.UILocales)
	extra.str(q.Display)
	extra.str(q.LoginHint)
	extra.str(q.IDTokenHint)
	extras := len(extra.b) > 5 // five empty ones

	w.uint(bits(q.RedirectOmitted, isUUID, place >= 0, packed, q.CodeChallenge != "", q.HasMaxAge, extras))
	pr := make([]bool, len(prompts))
	for i, p := range prompts {
		pr[i] = q.prompts(p)
	}
	w.uint(bits(pr...))
	w.byte(byte(max(0, slices.Index(responseModes, q.ResponseMode))))
	if isUUID {
		w.raw(id[:])
	} else {
		w.str(q.ClientID)
	}
	if place >= 0 {
		w.uint(uint64(place))
		w.uint(uint64(checksum(q.RedirectURI)))
	} else {
		w.str(q.RedirectURI)
	}
	w.str(strings.Join(q.Scopes, " "))
	w.strs(q.Audience)
	w.str(q.State)
	w.str(q.Nonce)
	if packed {
		w.raw(challenge)
	} else if q.CodeChallenge != "" {
		w.str(q.CodeChallenge)
		w.str(q.CodeChallengeMethod)
	}
	if q.HasMaxAge {
		w.uint(uint64(q.MaxAge / time.Second))
	}
	if extras {
		w.raw(extra.b)
	}
}

// redirectRef is a redirect URI before the client is known.
type redirectRef struct {
	byPlace bool
	place   uint64
	sum     uint32
	literal string
}

// resolve returns the redirect URI; false when the client no longer has it.
func (ref redirectRef) resolve(c *oauth.Client) (string, bool) {
	if !ref.byPlace {
		return ref.literal, slices.ContainsFunc(c.RedirectURIs, func(have string) bool { return MatchRedirect(have, ref.literal) })
	}
	if ref.place < uint64(len(c.RedirectURIs)) {
		if uri := c.RedirectURIs[ref.place]; checksum(uri) == ref.sum {
			return uri, true
		}
	}
	for _, uri := range c.RedirectURIs { // it moved
		if checksum(uri) == ref.sum {
			return uri, true
		}
	}
	return "", false
}

func (q *Request) decode(r *reader) redirectRef {
	flags := r.uint()
	pr := r.uint()
	mode := int(r.byte())
	if mode >= len(responseModes) || pr >= 1<<len(prompts) {
		r.bad = true
		return redirectRef{}
	}
	q.RedirectOmitted, q.HasMaxAge, q.ResponseMode = flags&1 != 0, flags&32 != 0, responseModes[mode]
	for i, p := range prompts {
		if pr&(1<<i) != 0 {
			q.Prompt = append(q.Prompt, p)
		}
	}
	if flags&2 != 0 {
		q.ClientID = formatUUID(r.raw(16))
	} else {
		q.ClientID = r.str()
	}
	ref := redirectRef{byPlace: flags&4 != 0}
	if ref.byPlace {
		ref.place, ref.sum = r.uint(), uint32(r.uint())
	} else {
		ref.literal = r.str()
	}
	if s := r.str(); s != "" {
		q.Scopes = strings.Fields(s)
	}
	q.Audience = r.strs()
	q.State, q.Nonce = r.str(), r.str()
	switch {
	case flags&8 != 0:
		q.CodeChallenge, q.CodeChallengeMethod = base64.RawURLEncoding.EncodeToString(r.raw(32)), "S256"
	case flags&16 != 0:
		q.CodeChallenge, q.CodeChallengeMethod = r.str(), r.str()
	}
	if q.HasMaxAge {
		s := r.uint()
		if s > uint64(MaxMaxAge/time.Second) {
			r.bad = true
		}
		q.MaxAge = time.Duration(s) * time.Second
	}
	if flags&64 != 0 {
		q.ACRValues, q.UILocales = r.strs(), r.strs()
		q.Display, q.LoginHint, q.IDTokenHint = r.str(), r.str(), r.str()
	}
	return ref
}

// MaxMaxAge is the largest max_age that is understood.
const MaxMaxAge = 10 * 365 * 24 * time.Hour

func bits(bs ...bool) uint64 {
	var v uint64
	for i, b := range bs {
		if b {
			v |= 1 << i
		}
	}
	return v
}
