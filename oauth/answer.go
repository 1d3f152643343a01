package oauth

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"gatehouse/lib/fault"
)

// AsError says how an error is answered by an OAuth endpoint. What is neither
// an *Error nor a fault of a kind that concerns the client is a server_error
// whose text tells nothing.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	var f *fault.Error
	hint := ""
	if errors.As(err, &f) {
		hint = f.Msg
	}
	switch fault.KindOf(err) {
	case fault.Invalid, fault.Conflict, fault.NotFound, fault.Spent:
		return ErrInvalidRequest.WithHint(hint).Because(err)
	case fault.Denied:
		return ErrAccessDenied.WithHint(hint).Because(err)
	case fault.Unavailable:
		return ErrTemporarilyUnavailable.Because(err)
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return ErrTemporarilyUnavailable.Because(err)
	}
	return ErrServerError.Because(err)
}

// WriteError answers with an error as RFC 6749, section 5.2, and Hydra have
// it. With debug the private cause is shown as error_debug
// (oauth2.expose_internal_errors). It sets no WWW-Authenticate.
func WriteError(w http.ResponseWriter, err error, debug bool) {
	e := AsError(err)
	body := struct {
		Code  string `json:"error"`
		Text  string `json:"error_description,omitempty"`
		Debug string `json:"error_debug,omitempty"`
	}{Code: e.Code, Text: e.Text()}
	if debug && e.Cause != nil {
		body.Debug = e.Cause.Error()
	}
	status := e.Status
	if status == 0 {
		status = http.StatusBadRequest
	}
	if status == http.StatusServiceUnavailable && w.Header().Get("Retry-After") == "" {
		w.Header().Set("Retry-After", "1")
	}
	WriteJSON(w, status, body)
}

// WriteJSON answers with a value that must not be stored on the way: tokens
// and errors (RFC 6749, section 5.1).
func WriteJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"error":"server_error"}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json;charset=UTF-8")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	NoStore(h)
	w.WriteHeader(status)
	w.Write(body) // a client that went away is no error of ours
}

// NoStore forbids caching an answer.
func NoStore(h http.Header) {
	h.Set("Cache-Control", "no-store")
	h.Set("Pragma", "no-cache")
}
