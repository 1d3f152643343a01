package pages

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
)

// signInView is the sign-in form.
type signInView struct {
	frame
	App      string
	Email    string
	Remember bool
	Error    string // shown above the form
}

// showSignIn accepts at once when the provider knows the user from a session
// and the account may still sign in; otherwise it shows the form.
func (s *site) showSignIn(v *visit, c *oauth.Challenge) {
	if c.Skip {
		u, err := s.Users.Find(v.Context(), c.Subject)
		switch {
		case err == nil && !u.Disabled:
			v.accept(c, oauth.Answer{Subject: c.Subject})
			return
		case err != nil && fault.KindOf(err) != fault.NotFound:
			v.fail(err, c.RequestURL)
			return
		case prompts(c, "none"):
			v.reject(c, oauth.ErrLoginRequired)
			return
		}
		// The account is gone or disabled: somebody else may sign in. The
		// provider wants a flow of its own for that, so begin it before a
		// password is typed in vain.
		if to := otherAccount(c); to != "" {
			v.redirect(to)
			return
		}
	}
	hint := c.OIDC.LoginHint
	if !strings.Contains(hint, "@") {
		hint = ""
	}
	v.signInForm(http.StatusOK, c, signInView{Email: hint})
}

func (v *visit) signInForm(status int, c *oauth.Challenge, form signInView) {
	form.frame = v.form("signin.title", c)
	form.App = appName(c)
	form.Email = clean(form.Email, maxEcho)
	v.render(status, "signin", &form)
}

// signIn checks email and password. Whatever is wrong with them, the answer is
// the same; fault.Unavailable becomes 429 when the caller has to slow down and
// 503 when we cannot keep up.
func (s *site) signIn(v *visit, c *oauth.Challenge) {
	if v.PostForm.Get("submit") == "reject" {
		v.reject(c, errDenied)
		return
	}
	form := signInView{Email: v.PostForm.Get("email"), Remember: v.PostForm.Get("remember") != ""}
	password := v.PostForm.Get("password")
	if strings.TrimSpace(form.Email) == "" || password == "" {
		form.Error = v.text.T("signin.incomplete")
		v.signInForm(http.StatusBadRequest, c, form)
		return
	}
	u, err := s.Users.VerifyFrom(v.Context(), s.ClientAddr(v.Request), form.Email, password)
	switch fault.KindOf(err) {
	case fault.Denied:
		form.Error = v.text.T("signin.wrong")
		v.signInForm(http.StatusUnauthorized, c, form)
		return
	case fault.Unavailable:
		status, wait := retry(err)
		v.w.Header().Set("Retry-After", seconds(wait))
		form.Error = v.text.T("signin.busy")
		if status == http.StatusTooManyRequests {
			form.Error = v.text.T("signin.slow", seconds(wait))
		}
		v.signInForm(status, c, form)
		return
	}
	if err != nil {
		v.fail(err, c.RequestURL)
		return
	}
	a := oauth.Answer{Subject: u.ID, Remember: form.Remember, ACR: "0", AMR: []string{"pwd"}} // RFC 8176, section 2
	if form.Remember {
		a.RememberFor = s.RememberFor
	}
	v.accept(c, a)
}

// retry tells a caller who must slow down (429) from an overload (503).
func retry(err error) (status int, wait time.Duration) {
	var w interface{ RetryAfter() time.Duration }
	if errors.As(err, &w) {
		return http.StatusTooManyRequests, w.RetryAfter()
	}
	return http.StatusServiceUnavailable, 5 * time.Second
}
