package pages

import (
	"errors"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"gatehouse/oauth"
)

// asked wraps the GET of a page: it opens the challenge and picks the
// language. HEAD does nothing, since a GET may accept at once.
func (s *site) asked(k oauth.ChallengeKind, show func(*visit, *oauth.Challenge)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			return
		}
		v := s.visit(w, r)
		if c := v.open(k, r.URL.Query().Get(string(k)+"_challenge")); c != nil {
			show(v, c)
		}
	}
}

// answered wraps the POST of a page: it reads the form within limits, refuses
// forged ones and opens the challenge again.
func (s *site) answered(k oauth.ChallengeKind, act func(*visit, *oauth.Challenge)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v := s.visit(w, r)
		if err := s.foreign.Check(r); err != nil {
			v.forged(k, "")
			return
		}
		if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/x-www-form-urlencoded" {
			v.problem(http.StatusUnsupportedMediaType, "invalid", "")
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		if err := r.ParseForm(); err != nil {
			var long *http.MaxBytesError
			if errors.As(err, &long) {
				v.problem(http.StatusRequestEntityTooLarge, "toolarge", "")
				return
			}
			v.problem(http.StatusBadRequest, "invalid", "")
			return
		}
		for name, values := range r.PostForm {
			if len(values) > 1 && name != "grant_scope" {
				v.problem(http.StatusBadRequest, "invalid", "")
				return
			}
		}
		challenge := r.PostForm.Get("challenge")
		if !s.genuine(r, k, challenge, r.PostForm.Get("_csrf")) {
			v.forged(k, challenge)
			return
		}
		if c := v.open(k, challenge); c != nil {
			act(v, c)
		}
	}
}

// open asks the desk for a challenge. When that fails it answers and returns nil.
func (v *visit) open(k oauth.ChallengeKind, challenge string) *oauth.Challenge {
	switch {
	case challenge == "":
		v.problem(http.StatusBadRequest, "missing", "")
		return nil
	case len(challenge) > maxChallenge:
		v.problem(http.StatusNotFound, "expired", "")
		return nil
	}
	c, err := v.site.Desk.Open(v.Context(), k, challenge)
	if err != nil {
		v.fail(err, "")
		return nil
	}
	v.text = v.site.languages.pick(c.OIDC.UILocales, v.Header.Get("Accept-Language"))
	return c
}

// accept hands a yes to the desk and sends the browser on.
func (v *visit) accept(c *oauth.Challenge, a oauth.Answer) {
	to, err := v.site.Desk.Accept(v.Context(), c.Kind, c.ID, a)
	if err != nil {
		v.fail(err, c.RequestURL)
		return
	}
	v.redirect(to)
}

// reject hands a no to the desk and sends the browser on.
func (v *visit) reject(c *oauth.Challenge, reason *oauth.Error) {
	to, err := v.site.Desk.Reject(v.Context(), c.Kind, c.ID, reason)
	switch {
	case err != nil:
		v.fail(err, c.RequestURL)
	case to == "":
		v.render(http.StatusOK, "message", &message{frame: v.frame("stay.title"), Lead: v.text.T("stay.lead")})
	default:
		v.redirect(to)
	}
}

// errDenied is what the application hears when the user says no.
var errDenied = &oauth.Error{Code: "access_denied", Description: "The user denied the request.", Status: http.StatusForbidden}

// webURL says whether a browser may be sent there: an absolute http(s) URL.
func webURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

// prompts says whether the application demanded this treatment (OpenID
// Connect Core 1.0, section 3.1.2.1). What travels by reference is not seen.
func prompts(c *oauth.Challenge, value string) bool {
	u, err := url.Parse(c.RequestURL)
	return err == nil && slices.Contains(strings.Fields(u.Query().Get("prompt")), value)
}
