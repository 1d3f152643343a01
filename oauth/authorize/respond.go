package authorize

import (
	"net/http"
	"net/url"
	"strings"

	"gatehouse/oauth"
)

// target is where an answer goes: a redirect URI that has been checked.
type target struct{ uri, mode, state string }

// respond sends the browser back to the client. Existing parameters of the
// redirect URI stay as they are (RFC 6749, section 3.1.2).
func (e *Endpoint) respond(w http.ResponseWriter, r *http.Request, to *target, fields map[string]string) {
	if to.state != "" || fields["code"] == "" {
		fields["state"] = to.state
	}
	if to.mode == "form_post" {
		e.Pages.Post(w, to.uri, fields)
		return
	}
	v := url.Values{}
	for k, s := range fields {
		v.Set(k, s)
	}
	sep := "?"
	switch {
	case to.mode == "fragment":
		sep = "#"
	case strings.HasSuffix(to.uri, "?"):
		sep = ""
	case strings.Contains(to.uri, "?"):
		sep = "&"
	}
	h := w.Header()
	oauth.NoStore(h)
	h.Set("Location", to.uri+sep+v.Encode())
	w.WriteHeader(http.StatusSeeOther)
}
