// Package remote is an oauth.Desk that works over HTTP: the admin API of a
// provider somewhere else, ours or Ory Hydra of any version since 1.0.
//
// It opens, accepts and rejects challenges. It shows nothing to anybody and
// keeps nothing but which of the two spellings of the paths the provider
// understands.
package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
)

// Limits of one call.
const (
	timeout = 10 * time.Second
	maxBody = 1 << 20 // bytes of an answer
)

// Desk asks a provider over HTTP. It is safe for concurrent use.
type Desk struct {
	base   string
	client *http.Client
	broken error // what is wrong with the base URL
	// plain: the paths have no /admin in front, as before Hydra 2.0.
	plain atomic.Bool
}

var _ oauth.Desk = (*Desk)(nil)

// New returns a desk at the admin API under baseURL: http://host:4445,
// https://host:4445, or unix:/path/to/socket (then the client's transport is
// not used). A nil client means default TLS verification. A base URL that
// cannot be used makes every call fail. Redirects are never followed and no
// call takes longer than ten seconds.
func New(baseURL string, client *http.Client) *Desk {
	d := &Desk{client: &http.Client{}}
	if client != nil {
		c := *client
		d.client = &c
	}
	d.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if path, ok := strings.CutPrefix(baseURL, "unix:"); ok {
		path = "/" + strings.TrimLeft(path, "/")
		d.base = "http://unix"
		d.client.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}, MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute}
		return d
	}
	u, err := url.Parse(baseURL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		d.broken = errors.New("the admin URL of the provider must look like http://host:4445 or unix:/path")
		return d
	}
	d.base = strings.TrimSuffix(u.String(), "/")
	return d
}

// Open asks for a challenge; see oauth.Desk. The error about a used challenge
// holds an oauth.SpentError when the provider says where the flow began.
func (d *Desk) Open(ctx context.Context, k oauth.ChallengeKind, challenge string) (*oauth.Challenge, error) {
	body, err := d.call(ctx, http.MethodGet, k, "", challenge, nil)
	if err != nil {
		return nil, err
	}
	c, err := oauth.ParseChallenge(k, body)
	if err != nil {
		return nil, unreadable(err)
	}
	c.ID = challenge // Hydra 1.x leaves it out
	return c, nil
}

// Accept answers yes; see oauth.Desk.
func (d *Desk) Accept(ctx context.Context, k oauth.ChallengeKind, challenge string, a oauth.Answer) (string, error) {
	in, err := a.Wire(k)
	if err != nil {
		return "", fmt.Errorf("writing the answer to a challenge: %w", err)
	}
	return d.answer(ctx, k, "/accept", challenge, in)
}

// Reject answers no; see oauth.Desk. No reason means access_denied.
func (d *Desk) Reject(ctx context.Context, k oauth.ChallengeKind, challenge string, reason *oauth.Error) (string, error) {
	if k == oauth.AskLogout {
		_, err := d.call(ctx, http.MethodPut, k, "/reject", challenge, nil)
		return "", err
	}
	if reason == nil {
		reason = oauth.ErrAccessDenied
	}
	in, err := reason.RejectWire()
	if err != nil {
		return "", fmt.Errorf("writing the refusal of a challenge: %w", err)
	}
	return d.answer(ctx, k, "/reject", challenge, in)
}

func (d *Desk) answer(ctx context.Context, k oauth.ChallengeKind, verb, challenge string, in []byte) (string, error) {
	body, err := d.call(ctx, http.MethodPut, k, verb, challenge, in)
	if err != nil {
		return "", err
	}
	to, err := oauth.ParseRedirect(body)
	if err != nil {
		return "", unreadable(err)
	}
	if to == "" {
		return "", errors.New("the provider took the answer but named no redirect")
	}
	return to, nil
}

// unreadable is the provider's fault, not that of whoever is at the browser,
// whatever kind the parser gave it.
func unreadable(err error) error {
	return fault.Wrap(fault.Internal, "The provider's answer cannot be read.", err)
}

// call makes one call of the admin API and returns the body of a success.
// While the spelling of the paths is not known, or no longer right, it tries
// both.
func (d *Desk) call(ctx context.Context, method string, k oauth.ChallengeKind, verb, challenge string, body []byte) ([]byte, error) {
	if d.broken != nil {
		return nil, d.broken
	}
	if k != oauth.AskLogin && k != oauth.AskConsent && k != oauth.AskLogout {
		return nil, fault.New(fault.Invalid, "There is no such kind of challenge.")
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	prefixes := [2]string{"/admin", ""}
	if d.plain.Load() {
		prefixes = [2]string{"", "/admin"}
	}
	for _, prefix := range prefixes {
		target := d.base + prefix + "/oauth2/auth/requests/" + string(k) + verb +
			"?" + url.Values{string(k) + "_challenge": {challenge}}.Encode()
		out, err := d.once(ctx, method, target, body)
		if errors.Is(err, errNoRoute) {
			continue
		}
		if fault.KindOf(err) != fault.Unavailable {
			d.plain.Store(prefix == "")
		}
		return out, err
	}
	return nil, fault.Wrap(fault.Unavailable, "The sign-in service is not available.", fmt.Errorf("%s is not the admin API of a provider: %w", d.base, errNoRoute))
}

// errNoRoute says that the provider does not know this path at all, which is
// not the same as an unknown challenge.
var errNoRoute = errors.New("no such path")

func (d *Desk) once(ctx context.Context, method, target string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("the URL of the provider cannot be called") // err names the challenge
	}
	req.Header.Set("Accept", "application/json")
	// For a provider that speaks plain HTTP behind something that terminates TLS.
	req.Header.Set("X-Forwarded-Proto", "https")
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := d.client.Do(req)
	if err != nil {
		// The error of net/http names the URL and with it the challenge.
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, fault.Wrap(fault.Unavailable, "The sign-in service cannot be reached.", err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	switch {
	case err != nil:
		return nil, fault.Wrap(fault.Unavailable, "The sign-in service broke off its answer.", err)
	case len(raw) > maxBody:
		return nil, fmt.Errorf("the provider's answer is longer than %d bytes", maxBody)
	case res.StatusCode/100 == 2:
		return raw, nil
	}
	return nil, refusal(res.StatusCode, raw)
}

// refusal makes a fault of an error answer. Hydra's error_description goes to
// the log only: it speaks to the login application's developer.
func refusal(status int, raw []byte) error {
	w, known := readError(raw)
	cause := fmt.Errorf("the provider answered %d %s: %s", status, w.code, w.description)
	switch {
	case status == http.StatusNotFound && !known, status == http.StatusMethodNotAllowed:
		return errNoRoute
	case status == http.StatusNotFound:
		return fault.Wrap(fault.NotFound, "This request is unknown or has expired.", cause)
	case status == http.StatusGone && w.redirect != "":
		return fault.Wrap(fault.Spent, "This request was answered before.", &oauth.SpentError{RedirectTo: w.redirect})
	case status == http.StatusGone:
		return fault.Wrap(fault.Spent, "This request was answered before.", cause)
	case status == http.StatusBadRequest, status == http.StatusConflict, status == http.StatusUnprocessableEntity:
		return fault.Wrap(fault.Invalid, "The sign-in service did not accept the answer.", cause)
	case status == http.StatusTooManyRequests, status >= 500:
		return fault.Wrap(fault.Unavailable, "The sign-in service is not available.", cause)
	}
	return cause
}

type errorAnswer struct{ code, description, redirect string }

// readError understands {"error":"code","error_description":"…"} and, of a
// used challenge, {"redirect_to":"…"}. The answer to an unknown path has an
// object as "error", or is no JSON at all: then known is false.
func readError(raw []byte) (e errorAnswer, known bool) {
	var w struct {
		Error       json.RawMessage `json:"error"`
		Description string          `json:"error_description"`
		RedirectTo  string          `json:"redirect_to"`
	}
	if json.Unmarshal(raw, &w) != nil {
		return e, false
	}
	known = json.Unmarshal(w.Error, &e.code) == nil && e.code != ""
	e.description, e.redirect = w.Description, w.RedirectTo
	return e, known
}
