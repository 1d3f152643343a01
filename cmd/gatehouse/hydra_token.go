package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/oauth2"
)

// clientAuth are the flags by which a command is a client.
type clientAuth struct{ id, secret string }

func (h *hydraCLI) clientAuthFlags(c *cobra.Command, a *clientAuth) {
	c.Flags().StringVar(&a.id, "client-id", "", "the client's id (or OAUTH2_CLIENT_ID)")
	c.Flags().StringVar(&a.secret, "client-secret", "", "the client's secret (or OAUTH2_CLIENT_SECRET)")
}

func (h *hydraCLI) fill(a *clientAuth) error {
	if v, ok := h.env("OAUTH2_CLIENT_ID"); ok && a.id == "" {
		a.id = v
	}
	if v, ok := h.env("OAUTH2_CLIENT_SECRET"); ok && a.secret == "" {
		a.secret = v
	}
	if a.id == "" {
		return usageError{hinted{fmt.Errorf("no client given"), "name one with --client-id and --client-secret"}}
	}
	return nil
}

// postForm posts to an endpoint of the public port as a client.
func (h *hydraCLI) postForm(ctx context.Context, path string, a clientAuth, form url.Values) ([]byte, error) {
	base, err := h.publicURL()
	if err != nil {
		return nil, err
	}
	client, err := h.httpClient()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, h.failAfter)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+path, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, usageError{err}
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if h.fakeTLS {
		req.Header.Set("X-Forwarded-Proto", "https")
	}
	req.SetBasicAuth(url.QueryEscape(a.id), url.QueryEscape(a.secret))
	res, err := client.Do(req)
	if err != nil {
		return nil, unreachable(base, err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if res.StatusCode >= 300 {
		return nil, answerError(res.Status, raw)
	}
	return raw, nil
}

func (h *hydraCLI) tokenClient(use string, s spelling) *cobra.Command {
	c := &cobra.Command{Use: use, Short: "Get an access token by the client credentials grant", Args: cobra.NoArgs,
		Example: "  hydra token client --client-id my-app --client-secret … --scope photos.read"}
	var a clientAuth
	h.clientAuthFlags(c, &a)
	scope := c.Flags().StringSlice("scope", nil, "scopes to ask for")
	audience := c.Flags().StringSlice("audience", nil, "audiences to ask for")
	verbose := c.Flags().BoolP("verbose", "v", false, "print the whole answer")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := h.fill(&a); err != nil {
			return err
		}
		form := url.Values{"grant_type": {"client_credentials"}}
		if len(*scope) > 0 {
			form.Set("scope", strings.Join(*scope, " "))
		}
		if len(*audience) > 0 {
			form.Set("audience", strings.Join(*audience, " "))
		}
		raw, err := h.postForm(c.Context(), "/oauth2/token", a, form)
		if err != nil {
			return err
		}
		var t map[string]any
		if err := json.Unmarshal(raw, &t); err != nil {
			return fmt.Errorf("the token endpoint did not answer JSON: %w", err)
		}
		if s == v2 {
			return h.printFormat(t, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "ACCESS TOKEN\t%v\nREFRESH TOKEN\t<empty>\nID TOKEN\t<empty>\nEXPIRY\t%v\n", t["access_token"], t["expires_in"])
				return err
			})
		}
		if *verbose {
			return h.printTabbed(t)
		}
		_, err = fmt.Fprintln(h.stdout, t["access_token"])
		return err
	}
	return c
}

func (h *hydraCLI) tokenIntrospect(use string) *cobra.Command {
	c := &cobra.Command{Use: use + " TOKEN", Short: "Say whether a token is good and what it allows", Args: cobra.ExactArgs(1)}
	scope := c.Flags().StringSlice("scope", nil, "scopes the token must have")
	c.RunE = func(c *cobra.Command, args []string) error {
		form := url.Values{"token": {args[0]}}
		if len(*scope) > 0 {
			form.Set("scope", strings.Join(*scope, " "))
		}
		var out map[string]any
		if err := h.admin(c.Context(), http.MethodPost, "/oauth2/introspect", form, &out); err != nil {
			return err
		}
		return h.printTabbed(out)
	}
	return c
}

func (h *hydraCLI) tokenRevoke(use string) *cobra.Command {
	c := &cobra.Command{Use: use + " TOKEN", Short: "Revoke an access or refresh token", Args: cobra.ExactArgs(1)}
	var a clientAuth
	h.clientAuthFlags(c, &a)
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := h.fill(&a); err != nil {
			return err
		}
		if _, err := h.postForm(c.Context(), "/oauth2/revoke", a, url.Values{"token": {args[0]}}); err != nil {
			return err
		}
		_, err := fmt.Fprintf(h.stdout, "Revoked OAuth 2.0 Access Token: %s\n", args[0])
		return err
	}
	return c
}

func (h *hydraCLI) tokenFlush() *cobra.Command {
	c := &cobra.Command{Use: "flush", Short: "Accepted for 1.x scripts: expired tokens need no flushing", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(h.stdout, "Successfully flushed inactive access tokens")
			return err
		}}
	c.Flags().Duration("min-age", 0, "accepted")
	return c
}

func (h *hydraCLI) tokenDelete(use string) *cobra.Command {
	return &cobra.Command{Use: use + " CLIENT-ID", Short: "End all access tokens of a client", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := h.admin(c.Context(), http.MethodDelete, "/oauth2/tokens?client_id="+url.QueryEscape(args[0]), nil, nil); err != nil {
				return err
			}
			_, err := fmt.Fprintf(h.stdout, "OAuth 2.0 Access Tokens deleted for client: %s\n", args[0])
			return err
		}}
}

func (h *hydraCLI) tokenUser(use string, s spelling) *cobra.Command {
	c := &cobra.Command{Use: use, Short: "Be a client: run the authorization code flow in a browser", Args: cobra.NoArgs,
		Long: `Starts a small web server that plays a client: its first page leads to the
provider, its callback trades the code for tokens and shows them. To see whether
a provider works; not for anything else. It listens on this machine only and
stops after the first success or error unless --no-shutdown is given.`,
		Example: "  hydra token user --port 9010 --client-id my-app --client-secret … --scope openid,offline"}
	u := &userFlow{h: h}
	h.clientAuthFlags(c, &u.auth)
	f := c.Flags()
	f.IntVarP(&u.port, "port", "p", 4446, "port of the web server")
	f.StringVar(&u.authURL, "auth-url", "", "authorization endpoint, when it is not the endpoint's")
	f.StringVar(&u.tokenURL, "token-url", "", "token endpoint, when it is not the endpoint's")
	f.StringVar(&u.redirect, "redirect", "", "redirect URI, when it is not this server's callback")
	f.StringSliceVar(&u.scope, "scope", []string{"offline", "openid"}, "scopes to ask for")
	f.StringSliceVar(&u.audience, "audience", nil, "audiences to ask for")
	f.StringSliceVar(&u.prompt, "prompt", nil, "OpenID Connect prompt")
	f.IntVar(&u.maxAge, "max-age", -1, "OpenID Connect max_age in seconds; negative: not sent")
	f.BoolVar(&u.noOpen, "no-open", false, "do not open a browser")
	f.BoolVar(&u.noShutdown, "no-shutdown", false, "go on after success or error")
	f.BoolVar(&u.https, "https", false, "serve HTTPS with a certificate of the data directory's authority")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := h.fill(&u.auth); err != nil {
			return err
		}
		if u.authURL == "" || u.tokenURL == "" {
			base, err := h.publicURL()
			if err != nil {
				return err
			}
			if u.authURL == "" {
				u.authURL = base + "/oauth2/auth"
			}
			if u.tokenURL == "" {
				u.tokenURL = base + "/oauth2/token"
			}
		}
		client, err := h.httpClient()
		if err != nil {
			return err
		}
		return u.run(context.WithValue(c.Context(), oauth2.HTTPClient, client))
	}
	return c
}
