package e2e

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

const testClient = `{"client_id":"rp","client_secret":"a-secret-of-rp","client_name":"A relying party",
"grant_types":["authorization_code","refresh_token","client_credentials"],"response_types":["code"],
"scope":"openid offline email photos.*","redirect_uris":["http://127.0.0.1/callback"],
"post_logout_redirect_uris":["http://127.0.0.1/bye"]}`

const testCallback = "http://127.0.0.1:9999/callback"

// TestGoOIDC completes the flow with coreos/go-oidc and golang.org/x/oauth2.
func TestGoOIDC(t *testing.T) {
	backends(t, func(t *testing.T, s *stack) {
		s.client(testClient)
		ctx := t.Context()
		provider, err := oidc.NewProvider(ctx, s.provider+"/")
		if err != nil {
			t.Fatal(err)
		}
		conf := oauth2.Config{ClientID: "rp", ClientSecret: "a-secret-of-rp", Endpoint: provider.Endpoint(), RedirectURL: testCallback,
			Scopes: []string{"openid", "offline", "email", "photos.read"}}
		verifier := oauth2.GenerateVerifier()
		a := newAgent(t, testCallback)
		p := a.walk(conf.AuthCodeURL("a-state-of-ours", oidc.Nonce("a-nonce-of-ours"), oauth2.S256ChallengeOption(verifier)))
		q := p.location.Query()
		if q.Get("state") != "a-state-of-ours" || q.Get("iss") != s.provider+"/" {
			t.Fatalf("callback %s", p.location)
		}
		token, err := conf.Exchange(ctx, q.Get("code"), oauth2.VerifierOption(verifier))
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := token.Extra("id_token").(string)
		id, err := provider.Verifier(&oidc.Config{ClientID: "rp"}).Verify(ctx, raw)
		if err != nil {
			t.Fatal(err)
		}
		if id.Nonce != "a-nonce-of-ours" {
			t.Errorf("nonce %q", id.Nonce)
		}
		if err := id.VerifyAccessToken(token.AccessToken); err != nil {
			t.Errorf("at_hash: %v", err)
		}
		info, err := provider.UserInfo(ctx, oauth2.StaticTokenSource(token))
		if err != nil || info.Subject != id.Subject || info.Email != testUser {
			t.Errorf("userinfo %+v, %v; want subject %s, email %s", info, err, id.Subject, testUser)
		}

		// A refresh ends what was before it.
		old := *token
		fresh, err := conf.TokenSource(ctx, &oauth2.Token{RefreshToken: token.RefreshToken}).Token()
		if err != nil {
			t.Fatal(err)
		}
		if fresh.RefreshToken == old.RefreshToken || fresh.AccessToken == old.AccessToken {
			t.Error("the refresh gave the same tokens again")
		}
		if _, err := provider.UserInfo(ctx, oauth2.StaticTokenSource(&old)); err == nil {
			t.Error("the access token of before the refresh is still good")
		}
		if _, err := provider.UserInfo(ctx, oauth2.StaticTokenSource(fresh)); err != nil {
			t.Errorf("userinfo after a refresh: %v", err)
		}
		// Replaying the old refresh token ends everything.
		if _, err := conf.TokenSource(ctx, &oauth2.Token{RefreshToken: old.RefreshToken}).Token(); err == nil {
			t.Error("a used refresh token worked again")
		}
		if _, err := provider.UserInfo(ctx, oauth2.StaticTokenSource(fresh)); err == nil {
			t.Error("tokens survive the replay of a refresh token")
		}
	})
}

// TestOpenIDClient completes the flow with npm's openid-client.
func TestOpenIDClient(t *testing.T) {
	s := startAll(t, "")
	s.client(testClient)
	dir := t.TempDir()
	for _, name := range []string{"package.json", "package-lock.json", "flow.mjs"} {
		b, err := os.ReadFile(filepath.Join("testdata", "openid-client", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	install := exec.CommandContext(t.Context(), "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	// The script prints the authorization URL, reads the callback's URL, and
	// prints the claims.
	node := exec.CommandContext(t.Context(), "node", "flow.mjs", s.provider+"/", "rp", "a-secret-of-rp", testCallback)
	node.Dir = dir
	var stderr bytes.Buffer
	node.Stderr = &stderr
	in, err := node.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := node.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	line := func() string {
		var b []byte
		one := make([]byte, 1)
		for {
			if n, err := out.Read(one); n == 0 || err != nil {
				node.Wait()
				t.Fatalf("openid-client stopped: %s", stderr.String())
			}
			if one[0] == '\n' {
				return string(b)
			}
			b = append(b, one[0])
		}
	}
	p := newAgent(t, testCallback).walk(line())
	if _, err := in.Write([]byte(p.location.String() + "\n")); err != nil {
		t.Fatal(err)
	}
	if claims := line(); !strings.Contains(claims, `"email":"`+testUser+`"`) || !strings.Contains(claims, `"refreshed":true`) {
		t.Errorf("openid-client got %s", claims)
	}
	if err := node.Wait(); err != nil {
		t.Errorf("%v: %s", err, stderr.String())
	}
}

// TestRecordedLoginApp is a login app that makes exactly the calls Hydra's
// sample app was recorded with: GET and PUT on the unshortened admin paths.
func TestRecordedLoginApp(t *testing.T) {
	s := startAll(t, "")
	s.client(testClient)
	app := &http.Client{}
	call := func(method, path, body string) map[string]any {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, s.hydraAdmin+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", "application/json")
		if body != "" {
			req.Header.Set("Content-Type", "application/json")
		}
		p := (&agent{t: t, Client: app}).read(app.Do(req))
		if p.status != http.StatusOK {
			t.Fatalf("%s %s: %d %s", method, path, p.status, p.body)
		}
		return parse[map[string]any](t, p.body)
	}
	a := newAgent(t, s.login)
	next := s.provider + "/oauth2/auth?client_id=rp&response_type=code&scope=openid+offline+photos.read&redirect_uri=http%3A%2F%2F127.0.0.1%3A9999%2Fcallback&state=0123456789abcdef&nonce=nonce-12345678"
	p := a.open(next)
	challenge := p.location.Query().Get("login_challenge")
	if challenge == "" || len(challenge) > 1000 {
		t.Fatalf("login challenge of %d characters at %s", len(challenge), p.location)
	}
	esc := func(s string) string { return strings.ReplaceAll(s, "=", "%3D") }
	login := call("GET", "/admin/oauth2/auth/requests/login?login_challenge="+esc(challenge), "")
	if login["challenge"] != challenge || login["skip"] != false || login["subject"] != "" {
		t.Errorf("login request %v", login)
	}
	to := call("PUT", "/admin/oauth2/auth/requests/login/accept?login_challenge="+esc(challenge), `{"subject":"foo@bar.com","remember":true,"remember_for":3600,"acr":"0"}`)
	p = a.open(to["redirect_to"].(string))
	challenge = p.location.Query().Get("consent_challenge")
	consent := call("GET", "/admin/oauth2/auth/requests/consent?consent_challenge="+esc(challenge), "")
	if consent["subject"] != "foo@bar.com" || consent["acr"] != "0" {
		t.Errorf("consent request %v", consent)
	}
	to = call("PUT", "/admin/oauth2/auth/requests/consent/accept?consent_challenge="+esc(challenge),
		`{"grant_scope":["openid","offline","photos.read"],"session":{"access_token":{},"id_token":{"foo":"bar"}},"grant_access_token_audience":[],"remember":true,"remember_for":3600}`)
	a = &agent{t: t, Client: &http.Client{Jar: a.Jar, CheckRedirect: newAgent(t, testCallback).CheckRedirect}}
	p = a.open(to["redirect_to"].(string))
	if p.location == nil || p.status != http.StatusSeeOther || !strings.HasPrefix(p.location.Query().Get("code"), "ory_ac_") {
		t.Fatalf("no code: %d %v %s", p.status, p.location, p.body)
	}
	// Used challenges are gone for good.
	req, _ := http.NewRequestWithContext(t.Context(), "GET", s.hydraAdmin+"/admin/oauth2/auth/requests/consent?consent_challenge="+esc(challenge), nil)
	if p := a.read(app.Do(req)); p.status != http.StatusGone || !strings.Contains(p.body, "redirect_to") {
		t.Errorf("used challenge: %d %s", p.status, p.body)
	}
	// The second time both are known: skip.
	a = &agent{t: t, Client: &http.Client{Jar: a.Jar, CheckRedirect: newAgent(t, s.login).CheckRedirect}}
	p = a.open(next)
	login = call("GET", "/oauth2/auth/requests/login?login_challenge="+esc(p.location.Query().Get("login_challenge")), "")
	if login["skip"] != true || login["subject"] != "foo@bar.com" {
		t.Errorf("second login request %v", login)
	}
}
