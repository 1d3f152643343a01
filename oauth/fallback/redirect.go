package fallback

import (
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
)

// Classify makes an OAuth error of any error and logs what the client does not
// see.
func Classify(r *http.Request, set *oauth.Settings, err error) *oauth.Error {
	e := oauth.AsError(err)
	if set.Log != nil && e.Cause != nil {
		level := slog.LevelDebug
		switch e.Code {
		case oauth.ErrServerError.Code:
			level = slog.LevelError
		case oauth.ErrTemporarilyUnavailable.Code:
			level = slog.LevelWarn
		}
		set.Log.Log(r.Context(), level, "request refused", "path", r.URL.Path, "error", e.Code, "err", cause(e.Cause))
	}
	if set.ExposeInternalError && e.Code == oauth.ErrServerError.Code && e.Cause != nil {
		return e.WithHint(cause(e.Cause))
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
