package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"

	"gatehouse/lib/fault"
	"gatehouse/login"
)

// Accounts is what the accounts API does; the login room's directory.
type Accounts interface {
	Add(ctx context.Context, email, name, password string, admin bool) (login.User, error)
	SetPassword(ctx context.Context, id, password string) error
	Disable(ctx context.Context, id string, disabled bool) error
	Delete(ctx context.Context, id string) error
	List(ctx context.Context, after string, limit int) ([]login.User, error)
}

// Users is the accounts API of the login app. It authenticates nobody: it is
// served on a socket only the owner of the data directory may use.
//
//	GET    /users?after=EMAIL
//	POST   /users                    {"email", "name", "password", "admin"}
//	PUT    /users/{email}/password   {"password"}
//	PUT    /users/{email}/disabled   {"disabled"}
//	DELETE /users/{email}
//
// Errors are {"error": kind, "error_description": text}.
type Users struct {
	Accounts Accounts
	Store    login.Store
	Log      *slog.Logger
}

// maxUserBody bounds a request's body.
const maxUserBody = 16 << 10

// Handler serves the API.
func (u *Users) Handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, status int, do func(r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxUserBody)
			out, err := do(r)
			if err != nil {
				u.fail(w, err)
				return
			}
			userAnswer(w, status, out)
		})
	}
	handle("GET /users", http.StatusOK, func(r *http.Request) (any, error) {
		return u.Accounts.List(r.Context(), r.URL.Query().Get("after"), 500)
	})
	handle("POST /users", http.StatusCreated, func(r *http.Request) (any, error) {
		var in struct {
			Email, Name, Password string
			Admin                 bool
		}
		if err := userBody(r, &in); err != nil {
			return nil, err
		}
		return u.Accounts.Add(r.Context(), in.Email, in.Name, in.Password, in.Admin)
	})
	handle("PUT /users/{email}/password", http.StatusOK, func(r *http.Request) (any, error) {
		var in struct{ Password string }
		if err := userBody(r, &in); err != nil {
			return nil, err
		}
		return u.by(r, func(x login.User) error { return u.Accounts.SetPassword(r.Context(), x.ID, in.Password) })
	})
	handle("PUT /users/{email}/disabled", http.StatusOK, func(r *http.Request) (any, error) {
		var in struct{ Disabled bool }
		if err := userBody(r, &in); err != nil {
			return nil, err
		}
		return u.by(r, func(x login.User) error { return u.Accounts.Disable(r.Context(), x.ID, in.Disabled) })
	})
	handle("DELETE /users/{email}", http.StatusOK, func(r *http.Request) (any, error) {
		return u.by(r, func(x login.User) error { return u.Accounts.Delete(r.Context(), x.ID) })
	})
	return mux
}

// by finds the user a path names and does something with them.
func (u *Users) by(r *http.Request, do func(login.User) error) (any, error) {
	email := strings.ToLower(strings.TrimSpace(r.PathValue("email")))
	x, err := u.Store.UserByEmail(r.Context(), email)
	if fault.KindOf(err) == fault.NotFound {
		return nil, fault.New(fault.NotFound, "no user has the email "+email)
	}
	if err != nil {
		return nil, err
	}
	return x, do(x)
}

func userBody(r *http.Request, into any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fault.Wrap(fault.Invalid, "the body is not the JSON expected", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fault.New(fault.Invalid, "the body goes on after the JSON")
	}
	return nil
}

func userAnswer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

func (u *Users) fail(w http.ResponseWriter, err error) {
	status, code := http.StatusInternalServerError, "server_error"
	text := "an unexpected error, see the log"
	switch fault.KindOf(err) {
	case fault.Invalid:
		status, code, text = http.StatusBadRequest, "invalid", err.Error()
	case fault.NotFound:
		status, code, text = http.StatusNotFound, "not_found", err.Error()
	case fault.Conflict:
		status, code, text = http.StatusConflict, "conflict", err.Error()
	case fault.Unavailable:
		status, code, text = http.StatusServiceUnavailable, "unavailable", err.Error()
	default:
		u.Log.Error("accounts API", "err", err)
	}
	userAnswer(w, status, map[string]string{"error": code, "error_description": text})
}
