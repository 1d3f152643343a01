package session

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
	"gatehouse/oauth/fallback"
)

// LogoutRequest is a checked request to sign out (OpenID Connect RP-Initiated
// Logout 1.0).
type LogoutRequest struct {
	SessionID, Subject string
	ClientID           string // "": no client asked
	RedirectURI        string // registered with the client; "": our own page
	State              string
	RPInitiated        bool
}

// LogoutDesk asks the human; oauth/interaction is one.
type LogoutDesk interface {
	oauth.Desk
	AskLogout(ctx context.Context, q LogoutRequest) (challenge string, err error)
	RedeemLogout(ctx context.Context, verifier string) (LogoutRequest, error)
}

// Hints verifies ID tokens that were issued here, whether expired or not.
type Hints interface {
	VerifyIDTokenHint(ctx context.Context, raw string) (claims map[string]any, err error)
}

// Logout serves GET and POST /oauth2/sessions/logout.
type Logout struct {
	Settings *oauth.Settings
	Keeper   *Keeper
	Desk     LogoutDesk
	Clients  oauth.ClientFinder
	Hints    Hints
	Pages    *fallback.Pages
}

const maxLogoutForm = 16 << 10

func (l *Logout) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodPost && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, POST")
		http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("Cache-Control", "private, no-cache, no-store, must-revalidate")
	w.Header().Set("Referrer-Policy", "no-referrer")
	r.Body = http.MaxBytesReader(w, r.Body, maxLogoutForm)
	if err := r.ParseForm(); err != nil || len(r.URL.RawQuery) > maxLogoutForm {
		l.fail(w, r, oauth.ErrInvalidRequest)
		return
	}
	for name, vs := range r.Form {
		if len(vs) > 1 {
			l.fail(w, r, oauth.ErrInvalidRequest.WithHint("Parameter '"+name+"' is repeated."))
			return
		}
	}
	var err error
	switch {
	case r.Form.Get("logout_verifier") != "":
		err = l.redeem(w, r)
	case r.Method == http.MethodPost && r.PostForm.Get("logout_challenge") != "":
		err = l.answer(w, r)
	default:
		err = l.begin(w, r)
	}
	if err != nil {
		l.fail(w, r, err)
	}
}

// begin checks the request and asks. Without a session there is nothing to
// end: the browser goes on at once.
func (l *Logout) begin(w http.ResponseWriter, r *http.Request) error {
	q, client, claims, err := l.check(r)
	if err != nil {
		return err
	}
	s, err := l.Keeper.Current(r.Context(), r)
	if err != nil {
		return err
	}
	if s == nil {
		if _, has := l.Keeper.Ticket(r); has {
			l.Keeper.Clear(w)
		}
		http.Redirect(w, r, l.after(q), http.StatusFound)
		return nil
	}
	q.SessionID, q.Subject = s.ID, s.Subject
	// An ID token of this very session shows that the client's user is here.
	sid, _ := claims["sid"].(string)
	sub, _ := claims["sub"].(string)
	if client != nil && client.SkipLogoutConsent != nil && *client.SkipLogoutConsent && sid == s.ID && sub == s.Subject {
		if err := l.Keeper.End(r.Context(), s.ID); err != nil {
			return err
		}
		l.Keeper.Clear(w)
		http.Redirect(w, r, l.after(q), http.StatusFound)
		return nil
	}
	challenge, err := l.Desk.AskLogout(r.Context(), q)
	if err != nil {
		return err
	}
	if l.Settings.LogoutURL != "" {
		sep := "?"
		if strings.Contains(l.Settings.LogoutURL, "?") {
			sep = "&"
		}
		http.Redirect(w, r, l.Settings.LogoutURL+sep+"logout_challenge="+challenge, http.StatusFound)
		return nil
	}
	name := ""
	if client != nil {
		if name = client.Name; name == "" {
			name = client.ID
		}
	}
	l.Pages.Confirm(w, "/oauth2/sessions/logout", challenge, name, s.Subject)
	return nil
}

// check verifies the hint, finds the client and its redirect URI.
func (l *Logout) check(r *http.Request) (q LogoutRequest, client *oauth.Client, claims map[string]any, err error) {
	hint, id, uri := r.Form.Get("id_token_hint"), r.Form.Get("client_id"), r.Form.Get("post_logout_redirect_uri")
	q.State = r.Form.Get("state")
	if len(q.State) > 2048 {
		return q, nil, nil, oauth.ErrInvalidRequest.WithHint("Parameter 'state' is too long.")
	}
	if hint != "" {
		if claims, err = l.Hints.VerifyIDTokenHint(r.Context(), hint); err != nil {
			return q, nil, nil, oauth.ErrInvalidRequest.WithHint("Parameter 'id_token_hint' is not an ID token of this server.").Because(err)
		}
		q.RPInitiated = true
		auds := audience(claims["aud"])
		switch {
		case id == "" && len(auds) == 1:
			id = auds[0]
		case id == "":
			id, _ = claims["azp"].(string)
		case !slices.Contains(auds, id):
			return q, nil, nil, oauth.ErrInvalidRequest.WithHint("Parameter 'client_id' is not the client the ID token was issued to.")
		}
	}
	if id != "" {
		client, err = l.Clients.Client(r.Context(), id)
		switch {
		case err == nil:
			q.ClientID, q.RPInitiated = client.ID, true
		case fault.KindOf(err) != fault.NotFound:
			return q, nil, nil, err
		}
	}
	if uri != "" {
		if id == "" {
			return q, nil, nil, oauth.ErrInvalidRequest.WithHint("Parameter 'post_logout_redirect_uri' needs 'id_token_hint' or 'client_id' beside it.")
		}
		if client == nil || !slices.Contains(client.PostLogoutRedirectURIs, uri) || !browsable(uri) {
			return q, nil, nil, oauth.ErrInvalidRequest.WithHint("Parameter 'post_logout_redirect_uri' is not registered with the client.")
		}
		q.RedirectURI = uri
	}
	return q, client, claims, nil
}

func audience(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []string:
		return v
	case []any:
		var out []string
		for _, a := range v {
			if s, ok := a.(string); ok {
				out = append(out, s)
			}
		}
		return out
	}
	return nil
}

func browsable(uri string) bool {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme == "" {
		return false
	}
	switch strings.ToLower(u.Scheme) {
	case "javascript", "data", "vbscript", "file", "blob", "about":
		return false
	}
	return true
}

// answer takes the form of our own page. The challenge is sealed and names the
// session, and the browser must have that session: another site can send
// neither.
func (l *Logout) answer(w http.ResponseWriter, r *http.Request) error {
	challenge := r.PostForm.Get("logout_challenge")
	c, err := l.Desk.Open(r.Context(), oauth.AskLogout, challenge)
	if err != nil {
		return gone(err)
	}
	s, err := l.Keeper.Current(r.Context(), r)
	if err != nil {
		return err
	}
	if s == nil || s.ID != c.SessionID {
		return oauth.ErrInvalidRequest.WithHint("This browser is not signed in to the session that was to be ended.")
	}
	if r.PostForm.Get("answer") != "yes" {
		if _, err := l.Desk.Reject(r.Context(), oauth.AskLogout, challenge, nil); err != nil {
			return gone(err)
		}
		l.Pages.StillIn(w)
		return nil
	}
	to, err := l.Desk.Accept(r.Context(), oauth.AskLogout, challenge, oauth.Answer{})
	if err != nil {
		return gone(err)
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
	return nil
}

// redeem ends the session the verifier names. The cookie is deleted unless the
// browser has gone on to another session.
func (l *Logout) redeem(w http.ResponseWriter, r *http.Request) error {
	q, err := l.Desk.RedeemLogout(r.Context(), r.Form.Get("logout_verifier"))
	if err != nil {
		return gone(err)
	}
	if err := l.Keeper.End(r.Context(), q.SessionID); err != nil {
		return err
	}
	if t, has := l.Keeper.Ticket(r); !has || t.ID == q.SessionID {
		l.Keeper.Clear(w)
	}
	http.Redirect(w, r, l.after(q), http.StatusFound)
	return nil
}

func gone(err error) error {
	switch fault.KindOf(err) {
	case fault.NotFound, fault.Spent, fault.Invalid:
		return oauth.ErrInvalidRequest.WithHint("The question whether to sign out has expired or was answered already.").Because(err)
	}
	return err
}

// after is where the browser goes when the session has ended.
func (l *Logout) after(q LogoutRequest) string {
	to := q.RedirectURI
	if to == "" {
		if to = l.Settings.PostLogoutRedirectURL; to == "" {
			return l.Settings.PublicBase() + "/oauth2/fallbacks/logout/callback"
		}
		return to
	}
	if q.State == "" {
		return to
	}
	sep := "?"
	if strings.Contains(to, "?") {
		sep = "&"
	}
	return to + sep + "state=" + url.QueryEscape(q.State)
}

// fail tells the user, on the error page: nothing here is told to a client.
func (l *Logout) fail(w http.ResponseWriter, r *http.Request, err error) {
	fallback.Redirect(w, r, l.Settings, err)
}
