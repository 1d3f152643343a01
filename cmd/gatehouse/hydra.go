package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/daemon"
)

const hydraHelp = `Speaks the command line of Ory Hydra, in both spellings: that of 1.x (clients
create, token user) and that of 2.x (create client, perform authorization-code).

Commands that talk to the admin API use --endpoint, or HYDRA_ADMIN_URL or
ORY_SDK_URL, or else the provider of the data directory, whether it runs or not.`

// hydra is the tree of commands of the provider.
func (p *program) hydra() *cobra.Command {
	c := &cobra.Command{Use: "hydra", Short: "Ory Hydra's command line", Long: hydraHelp}
	h := &hydraCLI{program: p}
	f := c.PersistentFlags()
	f.StringVarP(&h.endpoint, "endpoint", "e", "", "URL of the provider this command talks to")
	f.BoolVar(&h.skipVerify, "skip-tls-verify", false, "do not verify TLS certificates; never in production")
	f.BoolVar(&h.fakeTLS, "fake-tls-termination", false, "send X-Forwarded-Proto: https")
	f.StringVar(&h.format, "format", "", "output: table, json, json-pretty or yaml (2.x spellings)")
	f.BoolVarP(&h.quiet, "quiet", "q", false, "print little")
	f.DurationVar(&h.failAfter, "fail-after", time.Minute, "give up after this long")
	f.StringArrayVarP(&h.headers, "http-header", "H", nil, "header to send: -H 'Name: value'")

	c.AddCommand(
		h.serve(), h.migrate(), h.janitor(), p.version(),
		// 1.x
		group("clients", "Manage OAuth 2.0 clients", h.clientCreate(v1), h.clientGet("get", v1), h.clientList("list", v1), h.clientDelete("delete"), h.clientUpdate("update", v1), h.clientImport("import")),
		group("token", "Issue and manage tokens", h.tokenUser("user", v1), h.tokenClient("client", v1), h.tokenIntrospect("introspect"), h.tokenRevoke("revoke"), h.tokenFlush(), h.tokenDelete("delete")),
		group("keys", "Manage JSON Web Keys", h.keysGet("get"), h.keysCreate("create"), h.keysDelete("delete"), h.keysImport("import")),
		// 2.x
		group("create", "Create resources", h.clientCreate(v2), h.keysCreate("jwk")),
		group("get", "Get resources", h.clientGet("oauth2-client", v2), h.keysGet("jwk")),
		group("list", "List resources", h.clientList("oauth2-clients", v2)),
		group("update", "Update resources", h.clientUpdate("oauth2-client", v2)),
		group("delete", "Delete resources", h.clientDelete("oauth2-client"), h.keysDelete("jwk"), h.tokenDelete("access-tokens")),
		group("import", "Import resources", h.clientImport("oauth2-client"), h.keysImport("jwk")),
		group("introspect", "Introspect resources", h.tokenIntrospect("token")),
		group("revoke", "Revoke resources", h.tokenRevoke("token")),
		group("perform", "Perform OAuth 2.0 flows", h.tokenUser("authorization-code", v2), h.tokenClient("client-credentials", v2)),
	)
	return c
}

// spelling is which of Hydra's command lines a command speaks.
type spelling int

const (
	v1 spelling = iota
	v2
)

func group(use, short string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short}
	c.AddCommand(verbs...)
	return c
}

// hydraCLI is what the provider's commands share.
type hydraCLI struct {
	*program
	endpoint   string
	skipVerify bool
	fakeTLS    bool
	quiet      bool
	format     string
	failAfter  time.Duration
	headers    []string
}

const maxAnswer = 8 << 20

// public calls an endpoint of the public port, whose URL the flag, an
// environment variable or the issuer in the configuration tells.
func (h *hydraCLI) publicURL() (string, error) {
	if h.endpoint != "" {
		return strings.TrimSuffix(h.endpoint, "/"), nil
	}
	for _, name := range []string{"HYDRA_URL", "ORY_SDK_URL"} {
		if v, ok := h.env(name); ok && v != "" {
			return strings.TrimSuffix(v, "/"), nil
		}
	}
	cfg, err := h.load()
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(cfg.PublicURL(), "/"), nil
}

// httpClient verifies certificates against the system's roots and the
// data directory's own authority, unless told not to.
func (h *hydraCLI) httpClient() (*http.Client, error) {
	cfg, err := h.load()
	if err != nil {
		return nil, err
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	roots.AppendCertsFromPEM(cfg.LocalRoots())
	return &http.Client{
		Timeout:       30 * time.Second,
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, InsecureSkipVerify: h.skipVerify}, Proxy: http.ProxyFromEnvironment},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// admin calls the admin API and decodes a JSON answer into out, unless nil.
func (h *hydraCLI) admin(ctx context.Context, method, path string, body, out any) error {
	base := h.endpoint
	for _, name := range []string{"HYDRA_ADMIN_URL", "ORY_SDK_URL"} {
		if v, ok := h.env(name); ok && base == "" {
			base = v
		}
	}
	var client *http.Client
	if base == "" {
		cfg, err := h.load()
		if err != nil {
			return err
		}
		own, err := daemon.OpenAdmin(ctx, cfg)
		if err != nil {
			return err
		}
		defer own.Close()
		client, base = own.Client, own.URL
	} else {
		var err error
		if client, err = h.httpClient(); err != nil {
			return err
		}
	}
	var rd io.Reader
	header := http.Header{"Accept": {"application/json"}}
	switch b := body.(type) {
	case nil:
	case url.Values:
		rd = strings.NewReader(b.Encode())
		header.Set("Content-Type", "application/x-www-form-urlencoded")
	case []byte:
		rd = bytes.NewReader(b)
		header.Set("Content-Type", "application/json")
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			return err
		}
		rd = bytes.NewReader(raw)
		header.Set("Content-Type", "application/json")
	}
	if h.fakeTLS {
		header.Set("X-Forwarded-Proto", "https")
	}
	for _, line := range h.headers {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return usageError{fmt.Errorf("-H wants 'Name: value', got %q", line)}
		}
		header.Set(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	ctx, cancel := context.WithTimeout(ctx, h.failAfter)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(base, "/")+"/admin"+path, rd)
	if err != nil {
		return usageError{err}
	}
	req.Header = header
	res, err := client.Do(req)
	if err != nil {
		return unreachable(base, err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("reading the answer of %s: %w", base, err)
	}
	if res.StatusCode >= 300 {
		return answerError(res.Status, raw)
	}
	if out == nil || len(raw) == 0 {
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("%s did not answer JSON: %w", base, err)
	}
	return nil
}

func unreachable(base string, err error) error {
	hint := "is the provider running there? set --endpoint or HYDRA_ADMIN_URL"
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		hint = "its certificate is signed by an authority we do not know; use the provider's data directory with --data, or --skip-tls-verify to try things out"
	}
	return hinted{fmt.Errorf("calling %s: %w", base, err), hint}
}

func answerError(status string, raw []byte) error {
	var e struct {
		Error       json.RawMessage `json:"error"`
		Description string          `json:"error_description"`
	}
	if json.Unmarshal(raw, &e) == nil && len(e.Error) > 0 {
		code := strings.Trim(string(e.Error), `"`)
		return fmt.Errorf("the provider answered %s: %s", status, strings.TrimSpace(strings.TrimSuffix(code+": "+e.Description, ": ")))
	}
	return fmt.Errorf("the provider answered %s", status)
}

// printTabbed prints JSON as Hydra 1.x does.
func (h *hydraCLI) printTabbed(v any) error {
	e := json.NewEncoder(h.stdout)
	e.SetEscapeHTML(false)
	e.SetIndent("", "\t")
	return e.Encode(v)
}

// printFormat prints as --format says; table is printed by the caller's rows.
func (h *hydraCLI) printFormat(v any, table func(io.Writer) error) error {
	e := json.NewEncoder(h.stdout)
	e.SetEscapeHTML(false)
	switch h.format {
	case "", "table":
		return table(h.stdout)
	case "json":
		return e.Encode(v)
	case "json-pretty":
		e.SetIndent("", "  ")
		return e.Encode(v)
	case "yaml":
		return daemon.WriteYAML(h.stdout, v)
	}
	return usageError{fmt.Errorf("unknown format %q; use table, json, json-pretty or yaml", h.format)}
}
