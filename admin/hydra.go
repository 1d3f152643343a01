package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/lib/seal"
	"gatehouse/oauth"
)

// Hydra is the provider's management API, as Ory Hydra's is on the wire: every
// path with and without /admin in front (2.x and 1.x).
//
// It authenticates nobody; its listener belongs on loopback or on a private
// network. Against web pages in the operator's browser it defends itself: a
// request that a browser sends across origins is refused, and on a loopback
// listener so is a Host that is a foreign name (DNS rebinding).
type Hydra struct {
	Store      oauth.Store
	Desk       oauth.Desk
	Clients    HydraClients
	Keys       HydraKeys
	Introspect http.Handler // POST /oauth2/introspect
	Metrics    http.Handler // GET /metrics/prometheus
	// Ready says whether the store answers; nil: it is not asked.
	Ready      func(context.Context) error
	Version    string
	PublicBase string   // of the public endpoints, without a trailing slash
	Secrets    [][]byte // seal page tokens: oauth.Settings.Secrets
	Log        *slog.Logger
	Now        func() time.Time
}

const hydraMaxKeys = 512 << 10 // bytes of a key set as others send it

// hydraServer serves a Hydra whose fields are complete.
type hydraServer struct {
	*Hydra
	mux   *http.ServeMux
	pages *seal.Ring
	cross *http.CrossOriginProtection
}

// Handler returns the API. It fails when there is no usable secret.
func (h *Hydra) Handler() (http.Handler, error) {
	ring, err := seal.New(h.Secrets, "page token")
	if err != nil {
		return nil, err
	}
	s := &hydraServer{Hydra: h, mux: http.NewServeMux(), pages: ring, cross: http.NewCrossOriginProtection()}
	for pattern, serve := range map[string]func(*hydraServer, http.ResponseWriter, *http.Request) error{
		"GET /clients":                        (*hydraServer).listClients,
		"POST /clients":                       (*hydraServer).createClient,
		"GET /clients/{id}":                   (*hydraServer).getClient,
		"PUT /clients/{id}":                   (*hydraServer).putClient,
		"PATCH /clients/{id}":                 (*hydraServer).patchClient,
		"DELETE /clients/{id}":                (*hydraServer).deleteClient,
		"PUT /clients/{id}/lifespans":         (*hydraServer).putLifespans,
		"POST /clients/{id}/secrets/rotate":   (*hydraServer).rotateSecret,
		"DELETE /clients/{id}/secrets/rotate": (*hydraServer).deleteRotated,

		"GET /keys/{set}":          (*hydraServer).getSet,
		"POST /keys/{set}":         (*hydraServer).createKey,
		"PUT /keys/{set}":          (*hydraServer).putSet,
		"DELETE /keys/{set}":       (*hydraServer).deleteSet,
		"GET /keys/{set}/{kid}":    (*hydraServer).getKey,
		"PUT /keys/{set}/{kid}":    (*hydraServer).putKey,
		"DELETE /keys/{set}/{kid}": (*hydraServer).deleteKey,

		"GET /oauth2/auth/sessions/consent":    (*hydraServer).listConsents,
		"DELETE /oauth2/auth/sessions/consent": (*hydraServer).deleteConsents,
		"DELETE /oauth2/auth/sessions/login":   (*hydraServer).deleteLogins,
		"DELETE /oauth2/tokens":                (*hydraServer).deleteTokens,

		"GET /health/alive": (*hydraServer).alive,
		"GET /health/ready": (*hydraServer).ready,
		"GET /version":      (*hydraServer).version,
	} {
		s.handle(pattern, serve)
	}
	for _, k := range []oauth.ChallengeKind{oauth.AskLogin, oauth.AskConsent, oauth.AskLogout} {
		path := "/oauth2/auth/requests/" + string(k)
		s.handle("GET "+path, hydraAsk(k, (*hydraServer).openChallenge))
		s.handle("PUT "+path+"/accept", hydraAsk(k, (*hydraServer).acceptChallenge))
		s.handle("PUT "+path+"/reject", hydraAsk(k, (*hydraServer).rejectChallenge))
	}
	if h.Introspect != nil {
		s.mux.Handle("POST /oauth2/introspect", h.Introspect)
	}
	if h.Metrics != nil {
		s.mux.Handle("GET /metrics/prometheus", h.Metrics)
	}
	return s, nil
}

func (s *hydraServer) handle(pattern string, serve func(*hydraServer, http.ResponseWriter, *http.Request) error) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if err := serve(s, w, r); err != nil {
			s.fail(w, r, err)
		}
	})
}

func (s *hydraServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "private, no-cache, no-store, must-revalidate")
	h.Set("X-Content-Type-Options", "nosniff")
	if !hydraHost(r) || s.cross.Check(r) != nil {
		hydraAnswer(w, http.StatusForbidden, hydraProblem{"The requested action was forbidden", "Requests from web pages are refused."})
		return
	}
	if rest, ok := strings.CutPrefix(r.URL.Path, "/admin/"); ok {
		r = hydraStrip(r, rest)
	}
	if _, pattern := s.mux.Handler(r); pattern == "" {
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusOK)
			return
		}
		hydraNoRoute(w, r)
		return
	}
	limit := int64(oauth.MaxAnswer)
	switch {
	case strings.HasPrefix(r.URL.Path, "/keys/"):
		limit = hydraMaxKeys
	case strings.HasPrefix(r.URL.Path, "/clients"):
		limit = oauth.MaxClientJSON
	}
	r.Body = http.MaxBytesReader(w, r.Body, limit)
	s.mux.ServeHTTP(w, r)
}

func hydraStrip(r *http.Request, rest string) *http.Request {
	q := r.Clone(r.Context())
	q.URL.Path = "/" + rest
	if raw, ok := strings.CutPrefix(r.URL.RawPath, "/admin/"); ok {
		q.URL.RawPath = "/" + raw
	}
	return q
}

// hydraHost refuses foreign names on a loopback listener. A page on
// evil.example whose name resolves to 127.0.0.1 sends its own name.
func hydraHost(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return true
	}
	ap, err := netip.ParseAddrPort(local.String())
	if err != nil || !ap.Addr().Unmap().IsLoopback() {
		return true
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSuffix(host, "]"), "["), ".")
	if host == "" || strings.EqualFold(host, "localhost") || strings.HasSuffix(strings.ToLower(host), ".localhost") {
		return true
	}
	_, err = netip.ParseAddr(host)
	return err == nil
}

func hydraNoRoute(w http.ResponseWriter, r *http.Request) {
	const reason = "The requested route does not exist. Make sure you are using the right path, domain, and port."
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		var b struct {
			Error struct {
				Code    int    `json:"code"`
				Message string `json:"message"`
				Reason  string `json:"reason"`
			} `json:"error"`
		}
		b.Error.Code, b.Error.Message, b.Error.Reason = http.StatusNotFound, "Not Found", reason
		body, _ := json.MarshalIndent(b, "", "  ")
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(http.StatusNotFound)
		w.Write(append(body, '\n'))
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'")
	w.WriteHeader(http.StatusNotFound)
	io.WriteString(w, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>404 - Route not found</title></head><body><h1>404</h1><p>"+reason+"</p></body></html>\n")
}

// hydraProblem is the error form of the admin API.
type hydraProblem struct {
	Error       string `json:"error"`
	Description string `json:"error_description"`
}

// hydraRefusal is an error with its whole answer.
type hydraRefusal struct {
	status int
	hydraProblem
	cause error
}

func (e *hydraRefusal) Error() string { return e.hydraProblem.Error + ": " + e.Description }
func (e *hydraRefusal) Unwrap() error { return e.cause }

const (
	hydraMalformed = "The request was malformed or contained invalid parameters"
	hydraExists    = "Unable to insert or update resource because a resource with that value exists already"
	hydraMissing   = "Unable to locate the resource"
	hydraNowhere   = "Unable to locate the requested resource"
)

// hydraInvalid is an answer for a missing or contradictory parameter.
func hydraInvalid(hint string) error {
	e := oauth.ErrInvalidRequest.WithHint(hint)
	return &hydraRefusal{status: http.StatusBadRequest, hydraProblem: hydraProblem{e.Code, e.Text()}}
}

// fail translates an error. What has no kind is logged and answered with a
// generic text.
func (s *hydraServer) fail(w http.ResponseWriter, r *http.Request, err error) {
	var (
		refusal *hydraRefusal
		spent   *oauth.SpentError
		oe      *oauth.Error
		large   *http.MaxBytesError
		f       *fault.Error
		text    string
	)
	if errors.As(err, &f) {
		text = f.Msg
	}
	switch {
	case errors.As(err, &refusal):
		hydraAnswer(w, refusal.status, refusal.hydraProblem)
	case errors.As(err, &spent):
		body, err := oauth.RedirectWire(spent.RedirectTo)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		hydraRaw(w, http.StatusGone, body)
	case errors.As(err, &oe):
		status := oe.Status
		if status == 0 {
			status = http.StatusBadRequest
		}
		hydraAnswer(w, status, hydraProblem{oe.Code, oe.Text()})
	case errors.As(err, &large):
		hydraAnswer(w, http.StatusRequestEntityTooLarge, hydraProblem{hydraMalformed, "The request body is too large."})
	default:
		switch fault.KindOf(err) {
		case fault.Invalid:
			hydraAnswer(w, http.StatusBadRequest, hydraProblem{hydraMalformed, text})
		case fault.NotFound:
			hydraAnswer(w, http.StatusNotFound, hydraProblem{hydraMissing, ""})
		case fault.Conflict:
			hydraAnswer(w, http.StatusConflict, hydraProblem{hydraExists, ""})
		case fault.Denied:
			hydraAnswer(w, http.StatusForbidden, hydraProblem{"The requested action was forbidden", text})
		case fault.Unavailable:
			s.log(r, slog.LevelWarn, err)
			w.Header().Set("Retry-After", "1")
			hydraAnswer(w, http.StatusServiceUnavailable, hydraProblem{"The service is unavailable", "Try again later."})
		default:
			s.log(r, slog.LevelError, err)
			hydraAnswer(w, http.StatusInternalServerError, hydraProblem{oauth.ErrServerError.Code, oauth.ErrServerError.Description})
		}
	}
}

func (s *hydraServer) log(r *http.Request, level slog.Level, err error) {
	if s.Log != nil {
		s.Log.Log(r.Context(), level, "admin request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
}

// hydraAnswer writes a value; errors go without a charset, as Hydra's do.
func hydraAnswer(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"error":"server_error","error_description":""}`)
	}
	hydraRaw(w, status, body)
}

func hydraRaw(w http.ResponseWriter, status int, body []byte) {
	ct := "application/json; charset=utf-8"
	if status >= 400 {
		ct = "application/json"
	}
	body = append(bytes.Clone(body), '\n')
	h := w.Header()
	h.Set("Content-Type", ct)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body) // a caller that went away is no error of ours
}

func hydraBody(r *http.Request) ([]byte, error) {
	b, err := io.ReadAll(r.Body)
	var large *http.MaxBytesError
	if err != nil && !errors.As(err, &large) {
		return nil, fault.Wrap(fault.Invalid, "The request body cannot be read.", err)
	}
	return b, err
}

func (s *hydraServer) alive(w http.ResponseWriter, _ *http.Request) error {
	hydraRaw(w, http.StatusOK, []byte(`{"status":"ok"}`))
	return nil
}

func (s *hydraServer) ready(w http.ResponseWriter, r *http.Request) error {
	if s.Ready != nil {
		ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
		defer cancel()
		if err := s.Ready(ctx); err != nil {
			s.log(r, slog.LevelWarn, err)
			hydraRaw(w, http.StatusServiceUnavailable, []byte(`{"errors":{"database":"the store does not answer"}}`))
			return nil
		}
	}
	return s.alive(w, r)
}

func (s *hydraServer) version(w http.ResponseWriter, _ *http.Request) error {
	hydraAnswer(w, http.StatusOK, map[string]string{"version": s.Version})
	return nil
}
