package pages

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"gatehouse/lib/fault"
	"gatehouse/login"
	"gatehouse/oauth"
)

// consentView asks whether an application gets what it wants.
type consentView struct {
	frame
	App       string
	Initial   string
	Email     string
	Scopes    []scopeView
	ReturnsTo string // host the browser goes back to, if known
	Policy    string // the application's privacy policy and terms, if they are web addresses
	Terms     string
	Other     string // where another account can be chosen, if known
}

type scopeView struct {
	Name, Title, Detail string
	ID                  string // of the checkbox
}

// showConsent accepts at once what was remembered or needs no question.
func (s *site) showConsent(v *visit, c *oauth.Challenge) {
	u, ok := v.consenting(c)
	if !ok {
		return
	}
	if c.Skip || (c.Client != nil && c.Client.SkipConsent && !prompts(c, "consent")) {
		v.accept(c, s.grant(c, u, c.RequestedScopes))
		return
	}
	app := appName(c)
	view := consentView{
		frame: v.form("consent.title", c, app), App: app, Initial: initial(app), Email: u.Email,
		ReturnsTo: returnsTo(c), Other: otherAccount(c),
	}
	if c.Client != nil {
		view.Policy, view.Terms = webOnly(c.Client.PolicyURI), webOnly(c.Client.TOSURI)
	}
	for i, name := range unique(c.RequestedScopes) {
		view.Scopes = append(view.Scopes, v.scope(i, name))
	}
	v.render(http.StatusOK, "consent", &view)
}

// consent hands on what was ticked, and no more than what was asked for.
func (s *site) consent(v *visit, c *oauth.Challenge) {
	switch v.PostForm.Get("submit") {
	case "accept":
	case "reject":
		v.reject(c, errDenied)
		return
	default:
		v.problem(http.StatusBadRequest, "invalid", c.RequestURL)
		return
	}
	u, ok := v.consenting(c)
	if !ok {
		return
	}
	ticked := v.PostForm["grant_scope"]
	var scopes []string
	for _, name := range unique(c.RequestedScopes) {
		if slices.Contains(ticked, name) {
			scopes = append(scopes, name)
		}
	}
	a := s.grant(c, u, scopes)
	a.Remember = v.PostForm.Get("remember") != "" // for as long as it is not revoked
	v.accept(c, a)
}

// consenting returns the user who is asked. An account that was removed or
// disabled since it signed in consents to nothing.
func (v *visit) consenting(c *oauth.Challenge) (login.User, bool) {
	u, err := v.site.Users.Find(v.Context(), c.Subject)
	switch {
	case err != nil && fault.KindOf(err) != fault.NotFound:
		v.fail(err, c.RequestURL)
		return u, false
	case err != nil || u.Disabled:
		v.reject(c, errDenied)
		return u, false
	}
	return u, true
}

func (s *site) grant(c *oauth.Challenge, u login.User, scopes []string) oauth.Answer {
	return oauth.Answer{
		Scopes: scopes, Audience: c.RequestedAudience,
		IDTokenClaims: claims(u, scopes), HandledAt: s.Now(),
	}
}

// claims are what the granted scopes let an application know (OpenID Connect
// Core 1.0, section 5.4). Nothing is said about email_verified: nobody
// verified it. The preferred username must not give away an address that was
// not granted.
func claims(u login.User, scopes []string) map[string]any {
	m := map[string]any{}
	if slices.Contains(scopes, "email") {
		m["email"] = u.Email
	}
	if slices.Contains(scopes, "profile") {
		if u.Name != "" {
			m["name"] = u.Name
		}
		local, _, _ := strings.Cut(u.Email, "@")
		m["preferred_username"] = local
		if !u.UpdatedAt.IsZero() {
			m["updated_at"] = u.UpdatedAt.Unix()
		}
	}
	return m
}

// scope describes a scope in words; one that only the application
// understands goes by its name.
func (v *visit) scope(i int, name string) scopeView {
	view := scopeView{Name: name, ID: "scope-" + itoa(i)}
	key := name
	if name == "offline" {
		key = "offline_access"
	}
	switch key {
	case "openid", "profile", "email", "address", "phone", "offline_access":
		view.Title, view.Detail = v.text.T("scope."+key+".title"), v.text.T("scope."+key+".detail")
	default:
		view.Title, view.Detail = clean(name, 120), v.text.T("scope.other.detail")
	}
	return view
}

// returnsTo is the host of the redirect URI, to tell an application from one
// that borrowed its name.
func returnsTo(c *oauth.Challenge) string {
	u, err := url.Parse(c.RequestURL)
	if err != nil {
		return ""
	}
	to, err := url.Parse(u.Query().Get("redirect_uri"))
	if err != nil {
		return ""
	}
	return clean(to.Host, 100)
}

// otherAccount is the same request with a new sign-in demanded. A request that
// travels by reference or signed cannot be changed that way.
func otherAccount(c *oauth.Challenge) string {
	u, err := url.Parse(c.RequestURL)
	if err != nil || !webURL(c.RequestURL) {
		return ""
	}
	q := u.Query()
	if q.Get("client_id") == "" || q.Has("request") || q.Has("request_uri") {
		return ""
	}
	q.Set("prompt", "login")
	u.RawQuery = q.Encode()
	return u.String()
}

func unique(names []string) []string {
	var out []string
	for _, n := range names {
		if n != "" && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}
