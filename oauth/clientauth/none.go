package clientauth

import (
	"net/http"
	"net/url"
)

// none is what a public client does: it says who it is and proves nothing.
func none(r *http.Request, form url.Values) (credentials, bool, error) {
	if form.Get("client_id") == "" || form.Get("client_secret") != "" {
		return credentials{}, false, nil
	}
	if id, _, ok := r.BasicAuth(); ok && id != "" {
		return credentials{}, false, nil // the id only repeats the header's
	}
	return credentials{method: "none", id: form.Get("client_id")}, true, nil
}
