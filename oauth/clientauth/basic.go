package clientauth

import (
	"net/http"
	"net/url"
)

// basic is client_secret_basic: id and secret, form-encoded each, in the
// Authorization header (RFC 6749, section 2.3.1).
func basic(r *http.Request, _ url.Values) (credentials, bool, error) {
	id, secret, ok := r.BasicAuth()
	if !ok {
		return credentials{}, false, nil
	}
	id, secret = decoded(id), decoded(secret)
	if id == "" {
		return credentials{}, false, nil
	}
	if secret == "" { // nothing is proved
		return credentials{method: "none", id: id}, true, nil
	}
	return credentials{"client_secret_basic", id, secret}, true, nil
}

// decoded undoes the form encoding. What is not encoded that way was sent as
// it is, as many clients do.
func decoded(s string) string {
	if d, err := url.QueryUnescape(s); err == nil {
		return d
	}
	return s
}
