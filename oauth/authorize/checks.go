package authorize

import (
	"context"
	"encoding/base64"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
	"gatehouse/oauth/interaction"
)

// request is an authorization request on its way through the checks.
type request struct {
	interaction.Request
	client  *oauth.Client
	params  url.Values
	trusted bool // the redirect URI has been checked, and so has the response mode
}

func (q *request) target() *target {
	if !q.trusted {
		return nil
	}
	return &target{q.RedirectURI, q.ResponseMode, q.State}
}

// checks is the whole policy of the endpoint, in order. Rows above "trust"
// tell the user what is wrong, rows below it the client.
var checks = []struct {
	name string
	run  func(e *Endpoint, ctx context.Context, q *request) error
}{
	{"repetition of what is trusted", (*Endpoint).once},
	{"client", (*Endpoint).checkClient},
	{"redirect_uri", (*Endpoint).checkRedirectURI},
	{"response_mode", (*Endpoint).checkResponseMode},
	{"trust", (*Endpoint).trust},
	{"repetition", (*Endpoint).checkRepetition},
	{"size", (*Endpoint).checkSize},
	{"state", (*Endpoint).checkState},
	{"request objects", (*Endpoint).checkRequestObjects},
	{"response_type", (*Endpoint).checkResponseType},
	{"grant type", (*Endpoint).checkGrantType},
	{"scope", (*Endpoint).checkScope},
	{"audience", (*Endpoint).checkAudience},
	{"nonce", (*Endpoint).checkNonce},
	{"PKCE", (*Endpoint).checkPKCE},
	{"prompt", (*Endpoint).checkPrompt},
	{"max_age", (*Endpoint).checkMaxAge},
	{"how to ask", (*Endpoint).checkHowToAsk},
	{"id_token_hint", (*Endpoint).checkIDTokenHint},
}

// check runs the table. The request is returned with an error too: it says
// whom to tell.
func (e *Endpoint) check(ctx context.Context, params url.Values) (*request, error) {
	q := &request{params: params}
	for _, c := range checks {
		if err := c.run(e, ctx, q); err != nil {
			return q, err
		}
	}
	return q, nil
}

func invalid(hint string) *oauth.Error { return oauth.ErrInvalidRequest.WithHint(hint) }

func (e *Endpoint) once(_ context.Context, q *request) error {
	for _, name := range []string{"client_id", "redirect_uri", "response_mode", "state"} {
		if len(q.params[name]) > 1 {
			return invalid("Parameter '" + name + "' is repeated.")
		}
	}
	return nil
}

func (e *Endpoint) checkClient(ctx context.Context, q *request) error {
	id := q.params.Get("client_id")
	unknown := oauth.ErrInvalidClient.WithHint("The requested client does not exist.")
	if id == "" || len(id) > 255 {
		return unknown
	}
	c, err := e.Clients.Client(ctx, id)
	if err != nil {
		if fault.KindOf(err) == fault.NotFound {
			return unknown.Because(err)
		}
		return err
	}
	q.client, q.ClientID = c, c.ID
	return nil
}

// checkRedirectURI wants one of the client's redirect URIs, exactly. It may be
// left out when the client has only one, but not with OpenID Connect.
func (e *Endpoint) checkRedirectURI(_ context.Context, q *request) error {
	uri := q.params.Get("redirect_uri")
	if uri == "" {
		if slices.Contains(strings.Fields(q.params.Get("scope")), "openid") {
			return invalid("Parameter 'redirect_uri' is required with the scope 'openid'.")
		}
		if len(q.client.RedirectURIs) != 1 || !interaction.UsableRedirect(q.client.RedirectURIs[0]) {
			return invalid("Parameter 'redirect_uri' is required: the client has not registered exactly one.")
		}
		q.RedirectURI, q.RedirectOmitted = q.client.RedirectURIs[0], true
		return nil
	}
	if !slices.ContainsFunc(q.client.RedirectURIs, func(have string) bool { return interaction.MatchRedirect(have, uri) }) {
		return invalid("Parameter 'redirect_uri' does not match any of the client's registered redirect URIs.")
	}
	q.RedirectURI = uri
	return nil
}

var errResponseMode = &oauth.Error{Code: "unsupported_response_mode", Description: "The server does not support this response mode.", Status: 400}

func (e *Endpoint) checkResponseMode(_ context.Context, q *request) error {
	switch mode := q.params.Get("response_mode"); mode {
	case "":
		q.ResponseMode = "query"
	case "query", "fragment", "form_post":
		q.ResponseMode = mode
	default:
		return errResponseMode
	}
	return nil
}

func (e *Endpoint) trust(_ context.Context, q *request) error {
	q.trusted = true
	if s := q.params.Get("state"); len(s) <= maxState && utf8.ValidString(s) {
		q.State = s
	}
	return nil
}

// checkRepetition: no parameter may come twice (RFC 6749, section 3.1).
// resource is the one a later specification allows to (RFC 8707).
func (e *Endpoint) checkRepetition(_ context.Context, q *request) error {
	for name, vs := range q.params {
		if len(vs) > 1 && name != "resource" {
			return invalid("A parameter is repeated.")
		}
	}
	return nil
}

const maxState, maxNonce, maxHint, maxList = 2048, 1024, 8192, 4096

// limits of parameters, in bytes. The request as a whole must also fit into
// what oauth/interaction carries.
var limits = map[string]int{
	"state": maxState, "nonce": maxNonce, "scope": maxList, "audience": maxList, "id_token_hint": maxHint,
	"login_hint": 1024, "acr_values": 1024, "ui_locales": 256, "display": 16, "prompt": 128, "max_age": 16,
	"code_challenge": 128, "code_challenge_method": 16, "response_type": 64,
}

func (e *Endpoint) checkSize(_ context.Context, q *request) error {
	for name, limit := range limits {
		v := q.params.Get(name)
		if len(v) > limit {
			return invalid("Parameter '" + name + "' is too long.")
		}
		if !utf8.ValidString(v) {
			return invalid("Parameter '" + name + "' is not valid UTF-8.")
		}
	}
	return nil
}

var errState = &oauth.Error{Code: "invalid_state", Description: "The state is missing or too short to be hard to guess.", Hint: "Parameter 'state' must have at least 8 characters.", Status: 400}

func (e *Endpoint) checkState(_ context.Context, q *request) error {
	if len(q.State) < 8 {
		return errState
	}
	return nil
}

var errRegistration = &oauth.Error{Code: "registration_not_supported", Description: "The server does not support the registration parameter.", Status: 400}

// checkRequestObjects: OpenID Connect Core 1.0, section 3.1.2.6. Parameters
// that change the meaning of a request are refused, not ignored.
func (e *Endpoint) checkRequestObjects(_ context.Context, q *request) error {
	switch {
	case q.params.Has("request"):
		return oauth.ErrRequestNotSupported
	case q.params.Has("request_uri"):
		return oauth.ErrRequestURINotSupported
	case q.params.Has("registration"):
		return errRegistration
	}
	return nil
}

func (e *Endpoint) checkResponseType(_ context.Context, q *request) error {
	switch q.params.Get("response_type") {
	case "code":
		if rt := q.client.ResponseTypes; len(rt) > 0 && !slices.Contains(rt, "code") {
			return oauth.ErrUnsupportedResponseType.WithHint("The client is not allowed to request the response type 'code'.")
		}
		return nil
	case "":
		return oauth.ErrUnsupportedResponseType.WithHint("Parameter 'response_type' is missing.")
	}
	return oauth.ErrUnsupportedResponseType.WithHint("Only 'code' is supported.")
}

func (e *Endpoint) checkGrantType(_ context.Context, q *request) error {
	if !q.client.AllowsGrant("authorization_code") {
		return oauth.ErrUnauthorizedClient.WithHint("The client may not use the grant type 'authorization_code'.")
	}
	return nil
}

func (e *Endpoint) checkScope(_ context.Context, q *request) error {
	for _, s := range strings.Fields(q.params.Get("scope")) {
		if !q.client.AllowsScope(s, e.Settings.ExactScopes) {
			return oauth.ErrInvalidScope.WithHint("The client is not allowed to request the scope '" + printable(s) + "'.")
		}
		if !slices.Contains(q.Scopes, s) {
			q.Scopes = append(q.Scopes, s)
		}
	}
	return nil
}

func (e *Endpoint) checkAudience(_ context.Context, q *request) error {
	for _, a := range strings.Fields(q.params.Get("audience")) {
		if !q.client.AllowsAudience(a) {
			return invalid("The client is not allowed to request the audience '" + printable(a) + "'.")
		}
		if !slices.Contains(q.Audience, a) {
			q.Audience = append(q.Audience, a)
		}
	}
	return nil
}

func (e *Endpoint) checkNonce(_ context.Context, q *request) error {
	q.Nonce = q.params.Get("nonce")
	return nil
}

// checkPKCE: RFC 7636; RFC 9700, section 2.1.1. A public client must use it,
// and with S256.
func (e *Endpoint) checkPKCE(_ context.Context, q *request) error {
	challenge, method := q.params.Get("code_challenge"), q.params.Get("code_challenge_method")
	public := q.client.Public()
	if challenge == "" {
		switch {
		case method != "":
			return invalid("Parameter 'code_challenge_method' needs 'code_challenge' beside it.")
		case public:
			return invalid("Clients without a secret must use PKCE: parameter 'code_challenge' is missing.")
		case e.Settings.PKCEEnforced:
			return invalid("The server requires PKCE: parameter 'code_challenge' is missing.")
		}
		return nil
	}
	switch method {
	case "S256":
		if b, err := base64.RawURLEncoding.Strict().DecodeString(challenge); err != nil || len(b) != 32 {
			return invalid("Parameter 'code_challenge' is not a SHA-256 in base64url without padding.")
		}
	case "", "plain":
		if public {
			return invalid("Clients without a secret must use the code_challenge_method 'S256'.")
		}
		if len(challenge) < 43 || len(challenge) > 128 || strings.ContainsFunc(challenge, notUnreserved) {
			return invalid("Parameter 'code_challenge' must be 43 to 128 letters, digits or any of '-._~'.")
		}
		method = "plain"
	default:
		return invalid("Parameter 'code_challenge_method' must be 'S256' or 'plain'.")
	}
	q.CodeChallenge, q.CodeChallengeMethod = challenge, method
	return nil
}

func notUnreserved(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._~", r))
}

func (e *Endpoint) checkPrompt(_ context.Context, q *request) error {
	known := interaction.Prompts()
	for _, p := range strings.Fields(q.params.Get("prompt")) {
		if !slices.Contains(known, p) {
			return invalid("Parameter 'prompt' has an unknown value.")
		}
		if !slices.Contains(q.Prompt, p) {
			q.Prompt = append(q.Prompt, p)
		}
	}
	if slices.Contains(q.Prompt, "none") && len(q.Prompt) > 1 {
		return invalid("The prompt 'none' excludes every other.")
	}
	return nil
}

func (e *Endpoint) checkMaxAge(_ context.Context, q *request) error {
	s := q.params.Get("max_age")
	if s == "" {
		return nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return invalid("Parameter 'max_age' must be a number of seconds.")
	}
	q.HasMaxAge, q.MaxAge = true, min(time.Duration(n)*time.Second, interaction.MaxMaxAge)
	return nil
}

func (e *Endpoint) checkHowToAsk(_ context.Context, q *request) error {
	q.Display = q.params.Get("display")
	switch q.Display {
	case "", "page", "popup", "touch", "wap":
	default:
		return invalid("Parameter 'display' must be 'page', 'popup', 'touch' or 'wap'.")
	}
	q.LoginHint = q.params.Get("login_hint")
	q.ACRValues = strings.Fields(q.params.Get("acr_values"))
	q.UILocales = strings.Fields(q.params.Get("ui_locales"))
	return nil
}

func (e *Endpoint) checkIDTokenHint(ctx context.Context, q *request) error {
	hint := q.params.Get("id_token_hint")
	if hint == "" {
		return nil
	}
	if _, err := e.Hints.VerifyIDTokenHint(ctx, hint); err != nil {
		return invalid("Parameter 'id_token_hint' is not an ID token of this server.").Because(err)
	}
	q.IDTokenHint = hint
	return nil
}

// printable makes a value from outside fit for an error description
// (RFC 6749, appendix A.8).
func printable(s string) string {
	if len(s) > 100 {
		s = s[:100]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '"' || r == '\\' {
			return '?'
		}
		return r
	}, s)
}
