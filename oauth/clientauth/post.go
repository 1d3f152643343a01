package clientauth

import (
	"net/http"
	"net/url"
)

// post is client_secret_post: id and secret in the body.
func post(_ *http.Request, form url.Values) (credentials, bool, error) {
	if form.Get("client_secret") == "" {
		return credentials{}, false, nil
	}
	// Without an id there may be one in the header: then these are two methods.
	return credentials{"client_secret_post", form.Get("client_id"), form.Get("client_secret")}, true, nil
}
