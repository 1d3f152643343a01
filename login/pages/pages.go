// Package pages shows people the sign-in, consent, sign-out and error pages
// and hands their answers to the provider.
//
// It is plain HTML over HTTP: no JavaScript, no session of its own. All it
// leaves in a browser is one cookie against forged forms. It does not check
// passwords (Users does) and does not know OAuth beyond oauth.Desk, the same
// contract that any other login application uses.
//
// Start with New, then signin.go, consent.go and signout.go, one per page.
package pages

import (
	"context"
	"crypto/rand"
	"embed"
	"errors"
	"html/template"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"gatehouse/lib/seal"
	"gatehouse/login"
	"gatehouse/oauth"
)

// Limits of what a browser may send.
const (
	maxForm      = 64 << 10 // bytes of a POST body
	maxChallenge = 8 << 10  // bytes
	maxEcho      = 254      // bytes of an email address shown again
)

// Users checks passwords and finds people; login/directory fulfils it.
type Users interface {
	// VerifyFrom is login.Directory's Verify for a client address. A cause of
	// fault.Unavailable may have RetryAfter() time.Duration.
	VerifyFrom(ctx context.Context, from netip.Addr, email, password string) (login.User, error)
	Find(ctx context.Context, id string) (login.User, error)
}

// Config is what the pages need. Desk, Users and Secret must be set.
type Config struct {
	Desk   oauth.Desk
	Users  Users
	Secret []byte // at least 16 bytes; the same in every process that serves these pages
	Secure bool   // browsers reach the pages over HTTPS: cookies are Secure
	// RememberFor is how long "Keep me signed in" holds; 0: 30 days.
	RememberFor time.Duration
	// ClientAddr tells the browser's address; nil: the peer of the connection.
	ClientAddr func(*http.Request) netip.Addr
	// Ready says what keeps the pages from working; nil: nothing does.
	Ready func(context.Context) error
	Log   *slog.Logger     // nil: silent
	Now   func() time.Time // nil: time.Now
}

//go:embed templates/*.html messages/*.json style.css icon.svg
var files embed.FS

// site serves the pages. It is immutable.
type site struct {
	Config
	ring      *seal.Ring
	foreign   *http.CrossOriginProtection
	templates map[string]*template.Template
	languages languages
	style     asset
	icon      asset
}

// New returns the pages: /login, /consent, /logout, /error, /, /health/alive,
// /health/ready and what they look like. All links are relative, so they may
// be served under a path of their own with http.StripPrefix.
func New(c Config) (http.Handler, error) {
	if c.Desk == nil || c.Users == nil {
		return nil, errors.New("the login pages need a desk and users")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.RememberFor <= 0 {
		c.RememberFor = 30 * 24 * time.Hour
	}
	if c.ClientAddr == nil {
		c.ClientAddr = peer
	}
	s := &site{Config: c, foreign: http.NewCrossOriginProtection()}
	var err error
	if s.ring, err = seal.New([][]byte{c.Secret}, "login form"); err != nil {
		return nil, err
	}
	if s.languages, err = readLanguages(files); err != nil {
		return nil, err
	}
	if s.templates, err = readTemplates(files); err != nil {
		return nil, err
	}
	if s.style, err = readAsset(files, "style.css", "text/css; charset=utf-8"); err != nil {
		return nil, err
	}
	if s.icon, err = readAsset(files, "icon.svg", "image/svg+xml"); err != nil {
		return nil, err
	}

	mux := http.NewServeMux()
	mux.HandleFunc("GET /login", s.asked(oauth.AskLogin, s.showSignIn))
	mux.HandleFunc("POST /login", s.answered(oauth.AskLogin, s.signIn))
	mux.HandleFunc("GET /consent", s.asked(oauth.AskConsent, s.showConsent))
	mux.HandleFunc("POST /consent", s.answered(oauth.AskConsent, s.consent))
	mux.HandleFunc("GET /logout", s.asked(oauth.AskLogout, s.showSignOut))
	mux.HandleFunc("POST /logout", s.answered(oauth.AskLogout, s.signOut))
	mux.HandleFunc("GET /error", s.showError)
	mux.HandleFunc("GET /{$}", s.home)
	mux.HandleFunc("GET /style.css", s.style.serve)
	mux.HandleFunc("GET /icon.svg", s.icon.serve)
	mux.HandleFunc("GET /health/alive", s.alive)
	mux.HandleFunc("GET /health/ready", s.ready)
	mux.HandleFunc("GET /", s.notFound)
	return headers(mux), nil
}

// headers sets what every answer carries.
//
// There is no form-action in the policy: Chromium applies it to the whole
// chain of redirects after a POST, and that chain leads through the provider
// to an application whose address is not known here. Referrer-Policy is
// same-origin, not no-referrer: the latter makes browsers send "Origin: null"
// with our own forms, which is what a forged form looks like.
func headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("X-Frame-Options", "DENY")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// visit is one request to a page and the language of its answer.
type visit struct {
	*http.Request
	site *site
	w    http.ResponseWriter
	text *language
	id   string // names the request in the log and on the page of an internal error
}

func (s *site) visit(w http.ResponseWriter, r *http.Request) *visit {
	id := r.Header.Get("X-Request-Id")
	if !plainID(id) {
		id = rand.Text()
	}
	return &visit{r, s, w, s.languages.pick(nil, r.Header.Get("Accept-Language")), id}
}

func plainID(id string) bool {
	for _, c := range []byte(id) {
		if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return len(id) > 0 && len(id) <= 64
}

// redirect sends the browser on. The target comes from the provider; anything
// but a web address would be a mistake there.
func (v *visit) redirect(to string) {
	if !webURL(to) {
		v.fail(errors.New("the provider redirects to something that is no web address"), "")
		return
	}
	v.w.Header().Set("Location", to)
	v.w.WriteHeader(http.StatusSeeOther)
}

func (s *site) home(w http.ResponseWriter, r *http.Request) {
	v := s.visit(w, r)
	v.render(http.StatusOK, "message", &message{frame: v.frame("home.title"), Lead: v.text.T("home.lead")})
}

func (s *site) alive(w http.ResponseWriter, _ *http.Request) { health(w, http.StatusOK) }

func (s *site) ready(w http.ResponseWriter, r *http.Request) {
	if s.Ready != nil {
		if err := s.Ready(r.Context()); err != nil {
			s.Log.Warn("login pages are not ready", "err", err)
			health(w, http.StatusServiceUnavailable)
			return
		}
	}
	health(w, http.StatusOK)
}

func health(w http.ResponseWriter, status int) {
	body := `{"status":"ok"}` + "\n"
	if status != http.StatusOK {
		body = `{"errors":{"login":"not ready"}}` + "\n"
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write([]byte(body))
}

// peer is the address at the other end of the connection.
func peer(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr()
}
