// Package fallback renders the provider's own pages: errors that must not be
// sent to a client, the logout question and its end, the page that posts an
// authorization response, and a hint for operators who set no login page.
//
// The pages need no script, load nothing and are never stored or framed. The
// package decides nothing: it only shows what it is given, escaped and
// shortened. Signing in and consenting are the login room's pages.
package fallback

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"html/template"
	"net/http"
	"strings"
	"unicode/utf8"
)

//go:embed pages/*.html pages/style.css
var files embed.FS

// submit is the only script there is: it sends the form of a form_post
// response. Without scripts the page has a button.
const submit = "document.forms[0].submit()"

// Pages renders. It is immutable and safe for concurrent use.
type Pages struct {
	tmpl  *template.Template
	style template.CSS
	csp   string
}

// New parses the pages.
func New() (*Pages, error) {
	css, err := files.ReadFile("pages/style.css")
	if err != nil {
		return nil, err
	}
	t, err := template.ParseFS(files, "pages/*.html")
	if err != nil {
		return nil, err
	}
	return &Pages{
		tmpl: t, style: template.CSS(css),
		// form-action is left out on purpose: browsers apply it to the redirects
		// that follow a form, which end at the client.
		csp: "default-src 'none'; base-uri 'none'; frame-ancestors 'none'; style-src '" + hash(string(css)) + "'; script-src '" + hash(submit) + "'",
	}, nil
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

type page struct {
	Style  template.CSS
	Script template.JS
	Title  string

	Code, Description, Hint string            // error
	Action                  template.URL      // logout, form_post
	Challenge               string            // logout
	Client, Subject         string            // logout
	Fields                  map[string]string // form_post
	Setting                 string            // missing
}

// Error shows an error with its code and its text.
func (p *Pages) Error(w http.ResponseWriter, status int, code, description string) {
	p.write(w, status, "error.html", page{Title: "Something went wrong", Code: cut(code, 60), Description: cut(description, 600)})
}

// Confirm asks whether to sign out. The form posts logout_challenge and
// answer ("yes" or "no") to action. Client and subject may be empty.
func (p *Pages) Confirm(w http.ResponseWriter, action, challenge, client, subject string) {
	p.write(w, http.StatusOK, "confirm.html", page{
		Title: "Sign out?", Action: template.URL(action), Challenge: challenge, Client: cut(client, 80), Subject: cut(subject, 80),
	})
}

// SignedOut says that the session has ended.
func (p *Pages) SignedOut(w http.ResponseWriter) {
	p.write(w, http.StatusOK, "signedout.html", page{Title: "You are signed out"})
}

// StillIn says that the user chose not to sign out.
func (p *Pages) StillIn(w http.ResponseWriter) {
	p.write(w, http.StatusOK, "stillin.html", page{Title: "You are still signed in"})
}

// Missing tells the operator which setting names the page that should be here.
func (p *Pages) Missing(w http.ResponseWriter, setting string) {
	p.write(w, http.StatusOK, "missing.html", page{Title: "No page is set up here", Setting: setting})
}

// Post sends the browser on with a POST of fields to action, which must be a
// checked redirect URI (OAuth 2.0 Form Post Response Mode).
func (p *Pages) Post(w http.ResponseWriter, action string, fields map[string]string) {
	p.write(w, http.StatusOK, "formpost.html", page{Title: "Going back", Action: template.URL(action), Fields: fields, Script: submit})
}

func (p *Pages) write(w http.ResponseWriter, status int, name string, d page) {
	d.Style = p.style
	var b bytes.Buffer
	if err := p.tmpl.ExecuteTemplate(&b, name, d); err != nil {
		http.Error(w, "Internal Server Error", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", p.csp)
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	h.Set("Pragma", "no-cache")
	w.WriteHeader(status)
	w.Write(b.Bytes())
}

// Handler serves the addresses under /oauth2/fallbacks/.
func (p *Pages) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /oauth2/fallbacks/error", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		code, description := q.Get("error"), q.Get("error_description")
		if code == "" {
			code, description = "server_error", "The server gave no reason."
		}
		p.Error(w, http.StatusInternalServerError, code, description)
	})
	mux.HandleFunc("GET /oauth2/fallbacks/logout/callback", func(w http.ResponseWriter, r *http.Request) { p.SignedOut(w) })
	for path, setting := range map[string]string{"login": "urls.login", "consent": "urls.consent", "logout": "urls.logout"} {
		mux.HandleFunc("GET /oauth2/fallbacks/"+path, func(w http.ResponseWriter, r *http.Request) { p.Missing(w, setting) })
	}
	return mux
}

// cut shortens to at most n bytes, between characters, and drops control
// characters.
func cut(s string, n int) string {
	if len(s) > n {
		for n > 0 && !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return -1
		}
		return r
	}, s)
}
