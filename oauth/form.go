package oauth

import (
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Limits on a form sent to an OAuth endpoint.
const (
	MaxForm       = 64 << 10 // bytes
	maxParameters = 64
)

// ParseForm reads the form in a request's body, and nothing from its query
// (RFC 6749, section 2.3.1: credentials do not belong there). A parameter that
// comes twice is refused (section 3.2) unless it is named in repeatable.
// Empty parameters are left out, as the section wants.
func ParseForm(w http.ResponseWriter, r *http.Request, repeatable ...string) (url.Values, error) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/x-www-form-urlencoded" {
		return nil, ErrInvalidRequest.WithHint("The body must be a form of type application/x-www-form-urlencoded.")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxForm))
	if err != nil {
		return nil, ErrInvalidRequest.WithHint("The body could not be read or is too large.").Because(err)
	}
	if strings.Count(string(body), "&") >= maxParameters {
		return nil, ErrInvalidRequest.WithHint("There are too many parameters.")
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, ErrInvalidRequest.WithHint("The body is not a valid form.").Because(err)
	}
	for name, values := range form {
		if len(values) > 1 && !slices.Contains(repeatable, name) {
			return nil, ErrInvalidRequest.WithHint("A parameter is repeated.")
		}
		values = slices.DeleteFunc(values, func(v string) bool { return v == "" })
		if len(values) == 0 {
			delete(form, name)
			continue
		}
		form[name] = values
	}
	return form, nil
}
