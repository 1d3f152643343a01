package pages

import (
	"net/http"

	"gatehouse/oauth"
)

// signOutView asks whether to end the session at the provider.
type signOutView struct {
	frame
	App   string // who asks for it; empty: the user came by themselves
	Email string // empty: not known
}

// showSignOut asks, so that a link from anywhere cannot sign people out. Only
// an application that was registered with skip_logout_consent, and proved that
// it asks, ends the session without a question (OpenID Connect RP-Initiated
// Logout 1.0, section 2).
func (s *site) showSignOut(v *visit, c *oauth.Challenge) {
	if c.Skip || (c.RPInitiated && c.Client != nil && c.Client.SkipLogoutConsent != nil && *c.Client.SkipLogoutConsent) {
		v.accept(c, oauth.Answer{})
		return
	}
	view := signOutView{frame: v.form("signout.title", c)}
	if c.Client != nil {
		view.App = appName(c)
	}
	if u, err := s.Users.Find(v.Context(), c.Subject); err == nil {
		view.Email = u.Email
	}
	v.render(http.StatusOK, "signout", &view)
}

func (s *site) signOut(v *visit, c *oauth.Challenge) {
	switch v.PostForm.Get("submit") {
	case "accept":
		v.accept(c, oauth.Answer{})
	case "reject":
		v.reject(c, errDenied)
	default:
		v.problem(http.StatusBadRequest, "invalid", "")
	}
}
