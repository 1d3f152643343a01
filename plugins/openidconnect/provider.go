package openidconnect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	strict "github.com/go-jose/go-jose/v4/json"
	"golang.org/x/sync/singleflight"

	"gatehouse/gateway"
	"gatehouse/lib/fault"
	"gatehouse/lib/jwks"
)

// Limits on what a provider answers, in bytes, and the pace of asking again.
const (
	maxDiscovery = 256 << 10
	maxAnswer    = 128 << 10
	maxUserinfo  = 64 << 10

	pauseUnknown = 2 * time.Second  // after a failure, when nothing is known yet
	pauseKnown   = 30 * time.Second // after a failure, while an old document serves
)

// metadata is a provider's discovery document (OpenID Connect Discovery,
// section 3; RFC 8414). Immutable but for the cache of keys.
type metadata struct {
	Issuer        string   `json:"issuer"`
	Authorization string   `json:"authorization_endpoint"`
	Token         string   `json:"token_endpoint"`
	Userinfo      string   `json:"userinfo_endpoint"`
	JWKS          string   `json:"jwks_uri"`
	Introspection string   `json:"introspection_endpoint"`
	Revocation    string   `json:"revocation_endpoint"`
	EndSession    string   `json:"end_session_endpoint"`
	SigningAlgs   []string `json:"id_token_signing_alg_values_supported"`
	TokenAuth     []string `json:"token_endpoint_auth_methods_supported"`
	IssParameter  bool     `json:"authorization_response_iss_parameter_supported"`

	keys *jwks.Cache
}

// provider keeps the document and keys of one provider. Safe for concurrent use.
type provider struct {
	url     string
	ttl     time.Duration
	keysTTL time.Duration
	now     func() time.Time
	flight  singleflight.Group

	mu      sync.Mutex // guards what follows
	doc     *metadata
	fetched time.Time
	tried   time.Time
	failure error
	warned  bool
}

func newProvider(c *conf, now func() time.Time) *provider {
	return &provider{url: c.Discovery, ttl: seconds(c.DiscoveryExpiresIn), keysTTL: seconds(c.JWKExpiresIn), now: now}
}

// metadata returns the provider's document. A document that cannot be fetched
// again keeps serving; without any the error is fault.Unavailable.
func (p *relyingParty) metadata(ctx context.Context) (*metadata, error) {
	v := p.provider
	v.mu.Lock()
	doc, age, since, failure, seen := v.doc, v.now().Sub(v.fetched), v.now().Sub(v.tried), v.failure, v.tried
	v.mu.Unlock()
	switch {
	case doc != nil && (age < v.ttl || failure != nil && since < pauseKnown):
		return doc, nil
	case doc == nil && failure != nil && since < pauseUnknown:
		return nil, failure
	}
	shared := context.WithoutCancel(ctx)
	done := v.flight.DoChan("", func() (any, error) { return p.fetchMetadata(shared, seen) })
	select {
	case r := <-done:
		if r.Err == nil {
			return r.Val.(*metadata), nil
		}
		if doc != nil {
			return doc, nil
		}
		return nil, r.Err
	case <-ctx.Done():
		return nil, fault.Wrap(fault.Unavailable, "the client went away", ctx.Err())
	}
}

// fetchMetadata reads the document, unless somebody did since seen.
func (p *relyingParty) fetchMetadata(ctx context.Context, seen time.Time) (*metadata, error) {
	v := p.provider
	v.mu.Lock()
	doc, failure, tried := v.doc, v.failure, v.tried
	v.mu.Unlock()
	if tried != seen {
		return doc, failure
	}
	doc, err := p.readMetadata(ctx)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tried, v.failure = v.now(), err
	if err != nil {
		p.env.Log.Warn("cannot read the provider's metadata", slog.String("discovery", v.url), slog.String("owner", p.env.Owner), slog.Any("err", cause(err)))
		return nil, err
	}
	if v.doc != nil && v.doc.JWKS == doc.JWKS {
		doc.keys = v.doc.keys
	} else {
		doc.keys = &jwks.Cache{Now: v.now, TTL: v.keysTTL}
	}
	if !v.warned && !sameHost(doc.Issuer, v.url) {
		v.warned = true
		p.env.Log.Warn("provider names an issuer on another host than its metadata", slog.String("discovery", v.url), slog.String("issuer", doc.Issuer))
	}
	v.doc, v.fetched = doc, v.tried
	return doc, nil
}

func (p *relyingParty) readMetadata(ctx context.Context) (*metadata, error) {
	const what = "the provider's metadata cannot be read"
	a, err := p.call(ctx, gateway.Call{Method: "GET", URL: p.Discovery, MaxBody: maxDiscovery, Header: acceptJSON()})
	if err != nil {
		return nil, err
	}
	doc := &metadata{}
	if a.Status != 200 {
		return nil, fault.Wrap(fault.Unavailable, what, fmt.Errorf("status %d", a.Status))
	}
	if err := strict.Unmarshal(a.Body, doc); err != nil {
		return nil, fault.Wrap(fault.Unavailable, what, err)
	}
	if doc.Issuer == "" || doc.Authorization == "" && !p.BearerOnly || doc.Token == "" && !p.BearerOnly {
		return nil, fault.Wrap(fault.Unavailable, what, errors.New("issuer, authorization_endpoint or token_endpoint is missing"))
	}
	u, err := url.Parse(p.Discovery)
	plain := err == nil && u.Scheme == "http"
	for name, e := range map[string]string{
		"authorization_endpoint": doc.Authorization, "token_endpoint": doc.Token, "userinfo_endpoint": doc.Userinfo, "jwks_uri": doc.JWKS,
		"introspection_endpoint": doc.Introspection, "revocation_endpoint": doc.Revocation, "end_session_endpoint": doc.EndSession,
	} {
		if e != "" && !secureURL(e, plain) {
			return nil, fault.Wrap(fault.Unavailable, what, fmt.Errorf("%s is not an https URL", name))
		}
	}
	return doc, nil
}

func sameHost(a, b string) bool {
	x, err1 := url.Parse(a)
	y, err2 := url.Parse(b)
	return err1 == nil && err2 == nil && strings.EqualFold(x.Host, y.Host)
}

func acceptJSON() []gateway.Field {
	return []gateway.Field{{Name: "Accept", Value: "application/json"}}
}

// call asks the provider. A provider that cannot be reached, or says it is not
// able to answer now, is fault.Unavailable.
func (p *relyingParty) call(ctx context.Context, c gateway.Call) (*gateway.CallAnswer, error) {
	c.Timeout, c.Insecure, c.ProxyURL = p.timeout, !p.verify, p.proxyFor(c.URL)
	if c.MaxBody == 0 {
		c.MaxBody = maxAnswer
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	a, err := p.env.Caller.Call(ctx, c)
	const what = "the sign-in service cannot be reached"
	switch {
	case err != nil:
		return nil, fault.Wrap(fault.Unavailable, what, err)
	case a.Status >= 500 || a.Status == 429:
		return nil, fault.Wrap(fault.Unavailable, what, fmt.Errorf("status %d", a.Status))
	case len(a.Body) > c.MaxBody:
		return nil, fault.Wrap(fault.Unavailable, what, errors.New("answer is too large"))
	}
	return a, nil
}

// proxyFor returns the proxy for a URL, as proxy_opts says; "": none.
func (p *relyingParty) proxyFor(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	host := u.Hostname()
	for _, no := range strings.FieldsFunc(p.ProxyOpts.No, func(r rune) bool { return r == ',' || r == ' ' }) {
		no = strings.TrimPrefix(no, ".")
		if no == "*" || strings.EqualFold(host, no) || strings.HasSuffix(strings.ToLower(host), "."+strings.ToLower(no)) {
			return ""
		}
	}
	if u.Scheme == "http" {
		return p.ProxyOpts.HTTP
	}
	return p.ProxyOpts.HTTPS
}

func (p *relyingParty) fetchKeys(doc *metadata) jwks.Fetch {
	return func(ctx context.Context) ([]byte, error) {
		if doc.JWKS == "" {
			return nil, errors.New("the provider publishes no jwks_uri")
		}
		a, err := p.call(ctx, gateway.Call{Method: "GET", URL: doc.JWKS, MaxBody: jwks.MaxSet, Header: acceptJSON()})
		if err != nil {
			return nil, cause(err)
		}
		if a.Status != 200 {
			return nil, fmt.Errorf("status %d", a.Status)
		}
		return a.Body, nil
	}
}

// idTokenAlgs are the algorithms an ID token may be signed with: the
// configured one, or the asymmetric ones the provider advertises, or RS256.
func (p *relyingParty) idTokenAlgs(doc *metadata) []string {
	if p.SigningAlg != "" {
		return []string{p.SigningAlg}
	}
	var algs []string
	for _, a := range doc.SigningAlgs {
		if slices.Contains(jwks.Asymmetric, a) {
			algs = append(algs, a)
		}
	}
	if len(algs) == 0 {
		return []string{"RS256"}
	}
	return algs
}

// verifyIDToken checks an ID token as OpenID Connect Core, section 3.1.3.7,
// asks. After a refresh nonce is "" and not demanded (section 12.2). Errors
// are fault.Denied or fault.Unavailable.
func (p *relyingParty) verifyIDToken(ctx context.Context, doc *metadata, raw, access, nonce string) (*jwks.Claims, error) {
	h, err := jwks.ParseHeader(raw)
	if err != nil {
		return nil, err
	}
	if h.Type != "" && h.Type != "jwt" {
		return nil, denied("token is not an ID token")
	}
	var payload []byte
	if strings.HasPrefix(p.SigningAlg, "HS") {
		payload, err = jwks.VerifyKey(raw, []string{p.SigningAlg}, []byte(p.ClientSecret))
	} else {
		payload, err = doc.keys.Verify(ctx, p.fetchKeys(doc), raw, p.idTokenAlgs(doc))
	}
	if err != nil {
		return nil, err
	}
	c, err := jwks.ParseClaims(payload)
	if err != nil {
		return nil, err
	}
	switch {
	case c.Issuer != doc.Issuer:
		return nil, denied("ID token is from another issuer")
	case c.Subject == "":
		return nil, denied("ID token names no subject")
	case !slices.Contains(c.Audience, p.ClientID):
		return nil, denied("ID token is for another client")
	case c.AuthorizedParty != "" && c.AuthorizedParty != p.ClientID, c.AuthorizedParty == "" && len(c.Audience) > 1:
		return nil, denied("ID token was issued to another client")
	case c.IssuedAt == 0:
		return nil, denied("ID token has no time of issue")
	case nonce != "" && !equal(c.Nonce, nonce):
		return nil, denied("ID token belongs to another sign-in")
	case c.AccessTokenHash != "" && !jwks.HashMatches(h.Algorithm, c.AccessTokenHash, access):
		return nil, denied("ID token belongs to another access token")
	}
	return c, c.InTime(p.env.Now(), seconds(p.IATSlack))
}

func denied(why string) error { return fault.New(fault.Denied, why) }

// tokens is a successful answer of the token endpoint (RFC 6749, section 5.1).
type tokens struct {
	Access    string  `json:"access_token"`
	Type      string  `json:"token_type"`
	Refresh   string  `json:"refresh_token"`
	ID        string  `json:"id_token"`
	Scope     string  `json:"scope"`
	ExpiresIn numeric `json:"expires_in"`
}

// numeric is a number that some providers send as a string.
type numeric int64

// UnmarshalJSON accepts both.
func (n *numeric) UnmarshalJSON(b []byte) error {
	var f float64
	if err := json.Unmarshal([]byte(strings.Trim(string(b), `"`)), &f); err != nil {
		return nil // as if absent: the configured lifetime counts
	}
	*n = numeric(min(max(f, 0), 1<<31))
	return nil
}

// refused is an error answer of a provider's endpoint, RFC 6749, section 5.2.
type refused struct {
	status int
	code   string // "invalid_grant"; "" when the answer had none
}

func (r *refused) Error() string {
	return fmt.Sprintf("provider refused: status %d, %s", r.status, r.code)
}

// askTokens posts to the token endpoint. Errors are *refused or
// fault.Unavailable.
func (p *relyingParty) askTokens(ctx context.Context, doc *metadata, form url.Values) (*tokens, error) {
	a, err := p.post(ctx, doc, doc.Token, p.tokenAuth(doc), form, nil)
	if err != nil {
		return nil, err
	}
	if a.Status != 200 {
		return nil, refusal(a)
	}
	var t tokens
	if err := strict.Unmarshal(a.Body, &t); err != nil {
		return nil, &refused{a.Status, "unreadable_answer"}
	}
	if t.Access == "" || !strings.EqualFold(t.Type, "Bearer") && t.Type != "" {
		return nil, &refused{a.Status, "no_bearer_token"}
	}
	if len(t.Access) > jwks.MaxToken || len(t.Refresh) > jwks.MaxToken || len(t.ID) > jwks.MaxToken {
		return nil, &refused{a.Status, "token_too_long"}
	}
	return &t, nil
}

func refusal(a *gateway.CallAnswer) error {
	var e struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(a.Body, &e) != nil || !plainCode(e.Error) {
		e.Error = ""
	}
	return &refused{a.Status, e.Error}
}

// plainCode says whether an error code of a provider is one word of the kind
// RFCs define, fit for a page and a log.
func plainCode(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz_") == ""
}

// tokenAuth is how this client proves itself at the token endpoint: as
// configured, or client_secret_basic unless the provider offers only others.
func (p *relyingParty) tokenAuth(doc *metadata) string {
	switch {
	case p.TokenAuth != "":
		return p.TokenAuth
	case p.ClientSecret == "":
		return methodNone
	case len(doc.TokenAuth) > 0 && !slices.Contains(doc.TokenAuth, methodBasic) && slices.Contains(doc.TokenAuth, methodPost):
		return methodPost
	}
	return methodBasic
}
