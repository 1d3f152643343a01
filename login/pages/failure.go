package pages

import (
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
)

// message is a page that says something and leads on at most.
type message struct {
	frame
	Lead    string
	Details []detail // what a developer may want to know
	Link    string   // where to go on: absolute, or relative to these pages
	LinkTo  string   // its text
	Alarm   bool     // something went wrong
}

type detail struct{ Label, Text string }

// fail answers with the page for an error. When the flow can begin again at a
// known address (restart, or what the provider says), the page leads there.
func (v *visit) fail(err error, restart string) {
	var spent *oauth.SpentError
	if errors.As(err, &spent) {
		restart = spent.RedirectTo
	}
	switch fault.KindOf(err) {
	case fault.NotFound:
		v.problem(http.StatusNotFound, "expired", restart)
	case fault.Spent:
		v.problem(http.StatusGone, "spent", restart)
	case fault.Unavailable:
		v.site.Log.Warn("login page cannot be served", "request_id", v.id, "path", v.URL.Path, "err", err, "cause", errors.Unwrap(err))
		v.w.Header().Set("Retry-After", "5")
		v.problem(http.StatusServiceUnavailable, "unavailable", "")
	case fault.Invalid, fault.Conflict, fault.Denied:
		v.site.Log.Warn("answer refused by the provider", "request_id", v.id, "path", v.URL.Path, "err", err, "cause", errors.Unwrap(err))
		v.problem(http.StatusBadRequest, "invalid", restart)
	default:
		if v.Context().Err() != nil {
			return // nobody is there to read an answer
		}
		v.site.Log.Error("login page broke", "request_id", v.id, "path", v.URL.Path, "err", err, "cause", errors.Unwrap(err))
		v.problem(http.StatusInternalServerError, "internal", "")
	}
}

// problem answers with one of the pages "problem.<key>" of the messages.
func (v *visit) problem(status int, key, restart string) {
	m := &message{frame: v.frame("problem." + key + ".title"), Lead: v.text.T("problem." + key + ".lead"), Alarm: true}
	if webURL(restart) {
		m.Link, m.LinkTo = restart, v.text.T("problem.restart")
	}
	if status == http.StatusInternalServerError {
		m.Details = []detail{{v.text.T("error.request"), v.id}}
	}
	v.render(status, "message", m)
}

// forged answers a form that did not come from our page in this browser. An
// honest user gets there with cookies switched off or a form left open for
// long, so the page leads back to a fresh form.
func (v *visit) forged(k oauth.ChallengeKind, challenge string) {
	v.site.Log.Warn("form refused as forged", "request_id", v.id, "path", v.URL.Path)
	m := &message{frame: v.frame("problem.forged.title"), Lead: v.text.T("problem.forged.lead"), Alarm: true}
	if challenge != "" && len(challenge) <= maxChallenge {
		m.Link, m.LinkTo = pageOf(k, challenge), v.text.T("problem.again")
	}
	v.render(http.StatusForbidden, "message", m)
}

// showError is where the provider sends people when it cannot send them back
// to an application. The texts in the URL are anybody's: they are shown as
// details, short and stripped, below words of our own.
func (s *site) showError(w http.ResponseWriter, r *http.Request) {
	v := s.visit(w, r)
	q := r.URL.Query()
	code := clean(q.Get("error"), 60)
	key := "error.generic"
	switch code {
	case "access_denied", "invalid_request", "invalid_client", "login_required", "server_error", "temporarily_unavailable":
		key = "error." + code
	case "invalid_state", "request_forbidden":
		key = "error.cookies"
	}
	m := &message{frame: v.frame("error.title"), Lead: v.text.T(key), Alarm: true}
	for _, d := range []struct{ label, text string }{
		{"error.code", code},
		{"error.description", clean(q.Get("error_description"), 500)},
		{"error.hint", clean(q.Get("error_hint"), 300)},
	} {
		if d.text != "" {
			m.Details = append(m.Details, detail{v.text.T(d.label), d.text})
		}
	}
	v.render(http.StatusOK, "message", m)
}

func (s *site) notFound(w http.ResponseWriter, r *http.Request) {
	v := s.visit(w, r)
	v.problem(http.StatusNotFound, "nopage", "")
}

// seconds is a duration as Retry-After has it, rounded up.
func seconds(d time.Duration) string { return itoa(max(1, int(math.Ceil(d.Seconds())))) }

func itoa(n int) string { return strconv.Itoa(n) }
