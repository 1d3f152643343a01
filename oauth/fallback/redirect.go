package fallback

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
)

// Classify makes an OAuth error of any error. What has no class is a
// server_error with a generic text; the cause is logged here.
func Classify(r *http.Request, set *oauth.Settings, err error) *oauth.Error {
	var oe *oauth.Error
	if errors.As(err, &oe) {
		if oe.Cause != nil && set.Log != nil {
			set.Log.DebugContext(r.Context(), "request refused", "path", r.URL.Path, "error", oe.Code, "err", oe.Cause)
		}
		return oe
	}
	if fault.KindOf(err) == fault.Unavailable {
		if set.Log != nil {
			set.Log.WarnContext(r.Context(), "request not served", "path", r.URL.Path, "err", cause(err))
		}
		return oauth.ErrTemporarilyUnavailable.Because(err)
	}
	if set.Log != nil {
		set.Log.ErrorContext(r.Context(), "request failed", "path", r.URL.Path, "err", cause(err))
	}
	e := oauth.ErrServerError.Because(err)
	if set.ExposeInternalError {
		e = e.WithHint(cause(err))
	}
	return e
}

// cause is the text of an error with what fault keeps for the log.
func cause(err error) string {
	s := err.Error()
	var f *fault.Error
	if errors.As(err, &f) && f.Err != nil {
		s += ": " + f.Err.Error()
	}
	return s
}

// Redirect sends the browser to the error page: the operator's or our own.
func Redirect(w http.ResponseWriter, r *http.Request, set *oauth.Settings, err error) {
	e := Classify(r, set, err)
	to := set.ErrorURL
	if to == "" {
		to = set.PublicBase() + "/oauth2/fallbacks/error"
	}
	sep := "?"
	if strings.Contains(to, "?") {
		sep = "&"
	}
	v := url.Values{"error": {e.Code}, "error_description": {cut(e.Text(), 1000)}}
	h := w.Header()
	h.Set("Cache-Control", "private, no-cache, no-store, must-revalidate")
	h.Set("Referrer-Policy", "no-referrer")
	http.Redirect(w, r, to+sep+v.Encode(), http.StatusFound)
}
