package openidconnect

import (
	"errors"
	"html"
	"net/url"
	"strconv"
	"time"

	"gatehouse/gateway"
	"gatehouse/lib/fault"
)

const maxCallbackQuery = 8 << 10

// callback takes the provider's answer to a sign-in. Only an answer to an
// attempt that this browser began, not used before, leads to a session.
func (p *relyingParty) callback(x *gateway.Exchange, j *jar) *gateway.Reply {
	if x.Req.Method != "GET" || len(x.Req.Query) > maxCallbackQuery {
		return p.page(x, 400, badAnswer, errors.New("not a GET or too long"))
	}
	q, err := url.ParseQuery(x.Req.Query)
	if err != nil {
		return p.page(x, 400, badAnswer, err)
	}
	for _, name := range []string{"state", "code", "error", "iss"} {
		if len(q[name]) > 1 {
			return p.page(x, 400, badAnswer, errors.New("parameter given twice: "+name))
		}
	}
	a, err := p.findAttempt(j, q.Get("state"))
	if err != nil {
		return p.page(x, 400, unknownAttempt, errors.New("no sign-in with this state was begun in this browser"))
	}
	p.dropAttempt(x, p.attemptName(a.State))
	now := p.env.Now()
	retry := a.Target
	if now.Unix() >= a.Born+int64(attemptLife/time.Second) {
		return p.page(x, 400, expiredAttempt.to(retry), errors.New("sign-in took too long"))
	}
	if !p.state.spent.first(a.State, struct{}{}, now.Add(attemptLife)) {
		return p.page(x, 400, unknownAttempt.to(retry), errors.New("state was used before"))
	}
	doc, err := p.metadata(x.Ctx)
	if err != nil {
		return p.unavailableAt(x, err, retry)
	}
	// RFC 9207: another provider's answer must not be taken for this one's.
	if iss, given := q["iss"]; given && iss[0] != doc.Issuer || !given && doc.IssParameter {
		return p.page(x, 400, badAnswer.to(retry), errors.New("answer names another issuer"))
	}
	if id := q.Get("client_id"); id != "" && id != p.ClientID {
		return p.page(x, 400, badAnswer.to(retry), errors.New("answer names another client"))
	}
	if code := q.Get("error"); code != "" {
		return p.refusedSignIn(x, code, retry)
	}
	if q.Get("code") == "" {
		return p.page(x, 400, badAnswer.to(retry), errors.New("answer has no code"))
	}
	s, err := p.redeem(x, doc, a, q.Get("code"))
	if err == nil {
		err = p.save(x, j, s)
	}
	var r *refused
	switch {
	case errors.As(err, &r) && (r.code == "invalid_grant"):
		return p.page(x, 400, expiredAttempt.to(retry), err)
	case fault.KindOf(err) == fault.Unavailable:
		return p.unavailableAt(x, err, retry)
	case fault.KindOf(err) == fault.Denied:
		return p.page(x, 400, badAnswer.to(retry), cause(err))
	case err != nil:
		return p.failure(x, err)
	}
	if p.Session.SameSite == "Strict" {
		// A redirect would still count as coming from the provider's site and
		// the browser would hold the new cookie back.
		return p.page(x, 200, signedIn.to(a.Target), nil)
	}
	return redirectTo(a.Target)
}

// redeem exchanges the code and makes the session.
func (p *relyingParty) redeem(x *gateway.Exchange, doc *metadata, a *attempt, code string) (*session, error) {
	form := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {a.Redirect}}
	if a.Verifier != "" {
		form.Set("code_verifier", a.Verifier)
	}
	t, err := p.askTokens(x.Ctx, doc, form)
	if err != nil {
		return nil, err
	}
	if t.ID == "" {
		return nil, denied("the provider sent no ID token")
	}
	c, err := p.verifyIDToken(x.Ctx, doc, t.ID, t.Access, a.Nonce)
	if err != nil {
		return nil, err
	}
	// OpenID Connect Core, section 3.1.2.1: who asked for a fresh sign-in
	// must see that it was one.
	if most, err := strconv.ParseInt(p.params.Get("max_age"), 10, 64); err == nil {
		if p.env.Now().Unix() > int64(c.AuthTime)+most+int64(p.IATSlack) {
			return nil, denied("the sign-in is older than max_age")
		}
	}
	user := p.userinfo(x.Ctx, doc, t.Access, c.Subject)
	return p.newSession(t, c.Issuer, c.Subject, c.Raw, user, nil), nil
}

// refusedSignIn shows an error answer (RFC 6749, section 4.1.2.1; OpenID
// Connect Core, section 3.1.2.6). The provider's own words are not shown: they
// could be anybody's.
func (p *relyingParty) refusedSignIn(x *gateway.Exchange, code, retry string) *gateway.Reply {
	if !plainCode(code) {
		code = "unknown"
	}
	t, status := pageText{Title: "Sign-in did not succeed", Body: "The sign-in service ended the sign-in with an error."}, 400
	switch code {
	case "access_denied":
		status, t.Title, t.Body = 403, "Access was not allowed", "You, or the sign-in service, did not allow this application to sign you in."
	case "temporarily_unavailable", "server_error":
		status, t.Title, t.Body = 503, "The sign-in service is not available", "It could not complete the sign-in. Please try again in a moment."
	case "login_required", "interaction_required", "consent_required", "account_selection_required":
		t.Body = "The sign-in service needs you to sign in again."
	}
	t.Code = code
	return p.page(x, status, t.to(retry), errors.New("provider answered with an error: "+code))
}

// pageText is what a page of this plugin says.
type pageText struct {
	Title, Body string
	Code        string // an error code, shown small
	Target      string // the link to go on; "" : to the start page
	Link        string
	Go          bool // go on without being asked
}

func (t pageText) to(target string) pageText { t.Target = target; return t }

var (
	unknownAttempt = pageText{Title: "This sign-in cannot be continued", Body: "It was not begun in this browser, was already used, or cookies are blocked. Please start again."}
	expiredAttempt = pageText{Title: "This sign-in has expired", Body: "It took too long, or was already completed. Please start again."}
	badAnswer      = pageText{Title: "Sign-in did not succeed", Body: "The answer of the sign-in service was not valid, so it was not accepted. Please start again."}
	signedIn       = pageText{Title: "You are signed in", Body: "One moment.", Link: "Continue", Go: true}
	signedOut      = pageText{Title: "You are signed out", Body: "Your session here has ended.", Link: "Sign in again"}
)

const pageStyle = `:root{color-scheme:light dark}body{font:1rem/1.6 system-ui,sans-serif;margin:0;padding:12vh 1.5rem;background:Canvas;color:CanvasText}` +
	`main{max-width:34rem;margin:auto}h1{font-size:1.6rem;line-height:1.25;margin:0 0 1rem}a{display:inline-block;margin-top:1rem}small{display:block;margin-top:2rem;opacity:.75}`

// page answers with a page a human can read. err is for the log only; nothing
// of the request is shown but a path of this host and an error code of
// letters, both escaped.
func (p *relyingParty) page(_ *gateway.Exchange, status int, t pageText, err error) *gateway.Reply {
	target, link, head, tail := localTarget(t.Target), t.Link, "", ""
	if link == "" {
		link = "Try again"
	}
	if t.Go {
		head = `<meta http-equiv="refresh" content="0;url=` + html.EscapeString(target) + `">`
	}
	if t.Code != "" {
		tail = "<small>Error code: " + html.EscapeString(t.Code) + "</small>"
	}
	body := `<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">` + head +
		`<title>` + html.EscapeString(t.Title) + `</title><style>` + pageStyle + `</style></head><body><main><h1>` + html.EscapeString(t.Title) + `</h1><p>` +
		html.EscapeString(t.Body) + `</p><a href="` + html.EscapeString(target) + `">` + html.EscapeString(link) + `</a>` + tail + "</main></body></html>\n"
	return &gateway.Reply{Status: status, Err: err, Body: []byte(body), Header: []gateway.Field{
		{Name: "Content-Type", Value: "text/html; charset=utf-8"},
		{Name: "Cache-Control", Value: "no-cache, no-store, max-age=0"},
		{Name: "Content-Security-Policy", Value: "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"},
		{Name: "X-Content-Type-Options", Value: "nosniff"},
		{Name: "Referrer-Policy", Value: "no-referrer"},
	}}
}

// unavailable answers when the provider is needed and not there.
func (p *relyingParty) unavailable(x *gateway.Exchange, err error) *gateway.Reply {
	return p.unavailableAt(x, err, rememberedTarget(x))
}

func (p *relyingParty) unavailableAt(x *gateway.Exchange, err error, retry string) *gateway.Reply {
	r := p.page(x, 503, pageText{
		Title: "The sign-in service is not available", Body: "It cannot be reached at the moment. Please try again in a few seconds.", Target: retry,
	}, cause(err))
	r.Header = append(r.Header, gateway.Field{Name: "Retry-After", Value: "5"})
	return r
}

// failure answers when it is our fault, or the configuration's.
func (p *relyingParty) failure(x *gateway.Exchange, err error) *gateway.Reply {
	return p.page(x, 500, pageText{Title: "Sign-in is not possible", Body: "Something is wrong with the set-up of this application. Its operator finds the reason in the log."}, err)
}
