package endpoint

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
	"gatehouse/oauth/mint"
)

// userinfo serves GET and POST /userinfo (OpenID Connect Core 1.0, section
// 5.3). The token comes in the Authorization header or in the body (RFC 6750,
// sections 2.1 and 2.2), never in the query. It must have the scope openid.
func (e *Endpoints) userinfo(w http.ResponseWriter, r *http.Request) {
	raw, err := bearer(w, r)
	if err != nil {
		e.refuse(w, r, err)
		return
	}
	if raw == "" {
		e.refuse(w, r, nil)
		return
	}
	info, t, err := e.Introspector.access(r.Context(), raw)
	switch {
	case fault.KindOf(err) == fault.Invalid, fault.KindOf(err) == fault.NotFound:
		e.refuse(w, r, oauth.ErrInvalidToken.Because(err))
		return
	case err != nil:
		e.fail(w, r, err)
		return
	case info.Authorization == nil || !slices.Contains(info.Scopes, "openid"):
		e.refuse(w, r, &oauth.Error{
			Code: "insufficient_scope", Description: "The access token lacks the scope 'openid'.", Status: http.StatusForbidden,
		})
		return
	}
	c, err := e.Clients.Client(r.Context(), info.ClientID)
	if err != nil {
		e.fail(w, r, err)
		return
	}
	claims := mint.UserClaims(info.Authorization)
	claims["iss"], claims["aud"], claims["iat"] = e.Settings.Issuer, []string{c.ID}, t.Issued.Unix()
	body, kind := []byte(nil), "application/json; charset=utf-8"
	if c.UserinfoSignedResponseAlg == "" || c.UserinfoSignedResponseAlg == "none" {
		body, err = json.Marshal(claims)
	} else {
		var jwt string
		jwt, err = e.Mint.SignUserinfo(r.Context(), c, claims)
		body, kind = []byte(jwt), "application/jwt"
	}
	if err != nil {
		e.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", kind)
	oauth.NoStore(w.Header())
	w.Write(body)
}

// bearer is the access token of a request, "" when there is none.
func bearer(w http.ResponseWriter, r *http.Request) (string, error) {
	scheme, header, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		header = ""
	}
	header = strings.TrimSpace(header)
	if r.Method != http.MethodPost || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
		return header, nil
	}
	form, err := oauth.ParseForm(w, r)
	if err != nil {
		return "", err
	}
	body := form.Get("access_token")
	if header != "" && body != "" {
		return "", oauth.ErrInvalidRequest.WithHint("The access token came in more than one way.")
	}
	return header + body, nil
}

// refuse answers as RFC 6750, section 3, has it: without an error code when
// the request had no token at all.
func (e *Endpoints) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if err == nil {
		w.Header().Set("WWW-Authenticate", "Bearer")
		e.fail(w, r, &oauth.Error{
			Code: "request_unauthorized", Description: "The request has no access token.", Status: http.StatusUnauthorized,
		})
		return
	}
	oe := oauth.AsError(err)
	w.Header().Set("WWW-Authenticate", `Bearer error="`+oe.Code+`",error_description="`+strings.ReplaceAll(oe.Text(), `"`, "'")+`"`)
	e.fail(w, r, err)
}
