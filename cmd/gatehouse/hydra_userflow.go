package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"gatehouse/daemon"
)

// userFlow plays a client in the authorization code flow.
type userFlow struct {
	h                 *hydraCLI
	auth              clientAuth
	port, maxAge      int
	authURL, tokenURL string
	redirect          string
	scope, audience   []string
	prompt            []string
	noOpen            bool
	noShutdown, https bool

	conf oauth2.Config
	mu   sync.Mutex // guards the two below
	// attempts are the flows under way: state to PKCE verifier and nonce.
	attempts map[string]attempt
	order    []string
}

type attempt struct{ verifier, nonce string }

const maxAttempts = 64

var flowPage = template.Must(template.New("").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{.Title}}</title>
<style>:root{color-scheme:light dark;font:1rem/1.5 system-ui,sans-serif}body{max-width:44rem;margin:3rem auto;padding:0 1rem}code{overflow-wrap:anywhere}dt{font-weight:600;margin-top:1rem}dd{margin:0}</style></head>
<body><main><h1>{{.Title}}</h1>{{if .Text}}<p>{{.Text}}</p>{{end}}
{{if .Link}}<p><a id="authorize" href="{{.Link}}">Authorize application</a></p>{{end}}
<dl>{{range .Rows}}<dt>{{.Name}}</dt><dd><code>{{.Value}}</code></dd>{{end}}</dl></main></body></html>`))

type flowRow struct{ Name, Value string }

type flowView struct {
	Title, Text, Link string
	Rows              []flowRow
}

func showFlow(w http.ResponseWriter, status int, v flowView) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.WriteHeader(status)
	flowPage.Execute(w, v)
}

func (u *userFlow) run(ctx context.Context) error {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(u.port)))
	if err != nil {
		return hinted{fmt.Errorf("listening on port %d: %w", u.port, err), "another program uses it; choose one with --port and register its callback"}
	}
	scheme := "http"
	if u.https {
		cfg, err := u.h.load()
		if err != nil {
			return err
		}
		cert, err := daemon.LocalCertificate(cfg, "127.0.0.1", "localhost")
		if err != nil {
			return err
		}
		scheme, l = "https", tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{*cert}})
	}
	home := scheme + "://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(l.Addr().(*net.TCPAddr).Port)) + "/"
	if u.redirect == "" {
		u.redirect = home + "callback"
	}
	u.attempts = map[string]attempt{}
	u.conf = oauth2.Config{ClientID: u.auth.id, ClientSecret: u.auth.secret, RedirectURL: u.redirect, Scopes: u.scope,
		Endpoint: oauth2.Endpoint{AuthURL: u.authURL, TokenURL: u.tokenURL}}

	done := make(chan error, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		showFlow(w, http.StatusOK, flowView{Title: "Example OAuth 2.0 client", Text: "Sign in at the provider and see the tokens it issues.", Link: u.begin()})
	})
	mux.HandleFunc("GET /callback", func(w http.ResponseWriter, r *http.Request) {
		token, err := u.finish(ctx, r)
		if err != nil {
			showFlow(w, http.StatusBadRequest, flowView{Title: "That did not work", Text: err.Error(), Link: u.begin()})
		} else {
			rows := tokenRows(token)
			showFlow(w, http.StatusOK, flowView{Title: "It works", Rows: rows})
			for _, row := range rows {
				fmt.Fprintf(u.h.stdout, "%s:\n\t%s\n", row.Name, row.Value)
			}
		}
		if !u.noShutdown {
			select {
			case done <- err:
			default:
			}
		}
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()

	fmt.Fprintf(u.h.stdout, "Setting up home route on %s\nSetting up callback listener on %scallback\n", home, home)
	fmt.Fprint(u.h.stdout, "Press ctrl + c on Linux / Windows or cmd + c on OSX to end the process.\n")
	fmt.Fprintf(u.h.stdout, "If your browser doesn't open automatically, navigate to:\n\n\t%s\n\n", home)
	if !u.noOpen {
		openBrowser(home)
	}
	select {
	case <-ctx.Done():
	case err = <-done:
	case err = <-failed:
		return err
	}
	// Browsers hold connections open that they never use.
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if srv.Shutdown(stop) != nil {
		srv.Close()
	}
	return err
}

// begin remembers a new attempt and returns where it starts.
func (u *userFlow) begin() string {
	state, a := rand.Text(), attempt{oauth2.GenerateVerifier(), rand.Text()}
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.order) >= maxAttempts {
		delete(u.attempts, u.order[0])
		u.order = u.order[1:]
	}
	u.attempts[state], u.order = a, append(u.order, state)
	opts := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(a.verifier), oauth2.SetAuthURLParam("nonce", a.nonce)}
	if len(u.audience) > 0 {
		opts = append(opts, oauth2.SetAuthURLParam("audience", strings.Join(u.audience, " ")))
	}
	if len(u.prompt) > 0 {
		opts = append(opts, oauth2.SetAuthURLParam("prompt", strings.Join(u.prompt, " ")))
	}
	if u.maxAge >= 0 {
		opts = append(opts, oauth2.SetAuthURLParam("max_age", strconv.Itoa(u.maxAge)))
	}
	return u.conf.AuthCodeURL(state, opts...)
}

// finish trades the code of a callback for tokens.
func (u *userFlow) finish(ctx context.Context, r *http.Request) (*oauth2.Token, error) {
	q := r.URL.Query()
	u.mu.Lock()
	a, known := u.attempts[q.Get("state")]
	delete(u.attempts, q.Get("state"))
	u.mu.Unlock()
	if !known {
		return nil, errors.New("the state does not belong to a sign-in that was started here; start again")
	}
	if code := q.Get("error"); code != "" {
		return nil, fmt.Errorf("the provider answered %s: %s", code, q.Get("error_description"))
	}
	return u.conf.Exchange(ctx, q.Get("code"), oauth2.VerifierOption(a.verifier))
}

func tokenRows(t *oauth2.Token) []flowRow {
	rows := []flowRow{{"Access Token", t.AccessToken}, {"Refresh Token", t.RefreshToken}, {"Expires in", t.Expiry.Format(time.RFC3339)}}
	id, _ := t.Extra("id_token").(string)
	return append(rows, flowRow{"ID Token", id})
}

// openBrowser tries to; whoever has none reads the address.
func openBrowser(address string) {
	name, args := "xdg-open", []string{address}
	switch runtime.GOOS {
	case "darwin":
		name = "open"
	case "windows":
		name, args = "rundll32", []string{"url.dll,FileProtocolHandler", address}
	}
	if cmd := exec.Command(name, args...); cmd.Start() == nil {
		go cmd.Wait()
	}
}
