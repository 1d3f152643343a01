package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// clientFields are the flags of a client: its JSON field and its name in
// either spelling. An empty name: that spelling has no such flag.
var clientFields = []struct {
	field, v1, v2 string
	short         string // of v1
	list          bool
	initial       []string
	doc           string
}{
	{"client_id", "id", "id", "", false, nil, "the client's id"},
	{"client_name", "name", "name", "n", false, nil, "the client's name"},
	{"redirect_uris", "callbacks", "redirect-uri", "c", true, nil, "allowed redirect URIs"},
	{"grant_types", "grant-types", "grant-type", "g", true, []string{"authorization_code"}, "allowed grant types"},
	{"response_types", "response-types", "response-type", "r", true, []string{"code"}, "allowed response types"},
	{"scope", "scope", "scope", "a", true, nil, "scopes the client may request"},
	{"audience", "audience", "audience", "", true, nil, "audiences the client may request"},
	{"allowed_cors_origins", "allowed-cors-origins", "allowed-cors-origin", "", true, nil, "origins allowed to make CORS requests"},
	{"post_logout_redirect_uris", "post-logout-callbacks", "post-logout-callback", "", true, nil, "where the browser may go after signing out"},
	{"token_endpoint_auth_method", "token-endpoint-auth-method", "token-endpoint-auth-method", "", false, []string{"client_secret_basic"}, "client_secret_basic, client_secret_post or none"},
	{"subject_type", "subject-type", "subject-type", "", false, []string{"public"}, "public"},
	{"client_uri", "client-uri", "client-uri", "", false, nil, "a page about the client"},
	{"logo_uri", "logo-uri", "logo-uri", "", false, nil, "the client's logo"},
	{"policy_uri", "policy-uri", "policy-uri", "", false, nil, "the client's privacy policy"},
	{"tos_uri", "tos-uri", "tos-uri", "", false, nil, "the client's terms of service"},
	{"jwks_uri", "jwks-uri", "jwks-uri", "", false, nil, "the client's keys"},
	{"frontchannel_logout_uri", "frontchannel-logout-callback", "frontchannel-logout-callback", "", false, nil, "front-channel logout URI"},
	{"backchannel_logout_uri", "backchannel-logout-callback", "backchannel-logout-callback", "", false, nil, "back-channel logout URI"},
	{"owner", "", "owner", "", false, nil, "who owns the client"},
	{"contacts", "", "contact", "", true, nil, "whom to ask about the client"},
	{"access_token_strategy", "", "access-token-strategy", "", false, nil, "opaque or jwt"},
}

func addClientFlags(f *pflag.FlagSet, s spelling) {
	for _, x := range clientFields {
		name, short := x.v1, x.short
		if s == v2 {
			name, short = x.v2, ""
		}
		switch {
		case name == "":
		case x.list:
			f.StringSliceP(name, short, x.initial, x.doc)
		default:
			f.StringP(name, short, strings.Join(x.initial, ""), x.doc)
		}
	}
	f.String("secret", "", "the client's secret; generated when not given")
	f.String("metadata", "", "any JSON object")
	f.Bool("skip-consent", false, "do not ask users for consent")
	f.Bool("skip-logout-consent", false, "do not ask users before signing out")
}

// clientBody is what the flags say, as the admin API wants it.
func clientBody(f *pflag.FlagSet, s spelling, onlyChanged bool) (map[string]any, error) {
	body := map[string]any{}
	for _, x := range clientFields {
		name := x.v1
		if s == v2 {
			name = x.v2
		}
		if name == "" || onlyChanged && !f.Changed(name) {
			continue
		}
		if !x.list {
			if v, _ := f.GetString(name); v != "" {
				body[x.field] = v
			}
			continue
		}
		v, _ := f.GetStringSlice(name)
		switch {
		case len(v) == 0:
		case x.field == "scope":
			body[x.field] = strings.Join(v, " ")
		default:
			body[x.field] = v
		}
	}
	if v, _ := f.GetString("secret"); v != "" {
		body["client_secret"] = v
	}
	if v, _ := f.GetString("metadata"); v != "" {
		if !json.Valid([]byte(v)) {
			return nil, usageError{fmt.Errorf("--metadata is not JSON")}
		}
		body["metadata"] = json.RawMessage(v)
	}
	for flag, field := range map[string]string{"skip-consent": "skip_consent", "skip-logout-consent": "skip_logout_consent"} {
		if f.Changed(flag) {
			body[field], _ = f.GetBool(flag)
		}
	}
	return body, nil
}

const secretWarning = "You should not provide secrets using command line flags: they stay in the shell's history and show in the list of processes"

func (h *hydraCLI) clientCreate(s spelling) *cobra.Command {
	c := &cobra.Command{Short: "Create an OAuth 2.0 client", Args: cobra.NoArgs}
	c.Use = "create"
	c.Example = "  hydra clients create --id my-app --callbacks http://127.0.0.1:5555/callback --scope openid,offline"
	var file string
	if s == v2 {
		c.Use, c.Aliases = "oauth2-client", []string{"client"}
		c.Example = "  hydra create client --name my-app --redirect-uri http://127.0.0.1:5555/callback --scope openid,offline"
		c.Flags().StringVar(&file, "file", "", "read the client from a JSON file; other flags are ignored")
	}
	addClientFlags(c.Flags(), s)
	c.RunE = func(c *cobra.Command, _ []string) error {
		var body any
		if file != "" {
			raw, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			body = raw
		} else {
			m, err := clientBody(c.Flags(), s, false)
			if err != nil {
				return err
			}
			body = m
		}
		given := c.Flags().Changed("secret")
		if given {
			fmt.Fprintln(h.stderr, secretWarning)
		}
		var out map[string]any
		if err := h.admin(c.Context(), http.MethodPost, "/clients", body, &out); err != nil {
			return err
		}
		if s == v2 {
			return h.printClient(out)
		}
		fmt.Fprintf(h.stdout, "OAuth 2.0 Client ID: %v\n", out["client_id"])
		if secret, ok := out["client_secret"].(string); ok && secret != "" && !given {
			fmt.Fprintf(h.stdout, "OAuth 2.0 Client Secret: %s\n", secret)
		}
		return nil
	}
	return c
}

func text(v any) string {
	if l, ok := v.([]any); ok {
		var out []string
		for _, x := range l {
			out = append(out, fmt.Sprint(x))
		}
		return strings.Join(out, ", ")
	}
	if v == nil {
		return ""
	}
	return fmt.Sprint(v)
}

var clientColumns = []struct{ title, field string }{
	{"CLIENT ID", "client_id"}, {"CLIENT SECRET", "client_secret"}, {"GRANT TYPES", "grant_types"},
	{"RESPONSE TYPES", "response_types"}, {"SCOPE", "scope"}, {"AUDIENCE", "audience"}, {"REDIRECT URIS", "redirect_uris"},
}

func (h *hydraCLI) printClient(out map[string]any) error {
	if h.quiet {
		_, err := fmt.Fprintln(h.stdout, out["client_id"])
		return err
	}
	return h.printFormat(out, func(w io.Writer) error {
		tw := tabwriter.NewWriter(w, 0, 8, 1, '\t', 0)
		for _, col := range clientColumns {
			fmt.Fprintf(tw, "%s\t%s\n", col.title, text(out[col.field]))
		}
		return tw.Flush()
	})
}

func (h *hydraCLI) clientGet(use string, s spelling) *cobra.Command {
	c := &cobra.Command{Use: use + " ID", Short: "Show an OAuth 2.0 client", Args: cobra.ExactArgs(1)}
	if s == v2 {
		c.Aliases = []string{"client"}
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		var out map[string]any
		if err := h.admin(c.Context(), http.MethodGet, "/clients/"+url.PathEscape(args[0]), nil, &out); err != nil {
			return err
		}
		if s == v2 {
			return h.printClient(out)
		}
		return h.printTabbed(out)
	}
	return c
}

func (h *hydraCLI) clientList(use string, s spelling) *cobra.Command {
	c := &cobra.Command{Use: use, Short: "List OAuth 2.0 clients", Args: cobra.NoArgs}
	size := c.Flags().Int("page-size", 250, "how many at most")
	token := c.Flags().String("page-token", "", "where to go on, as the answer before said")
	c.Flags().Int("limit", 250, "1.x: how many at most")
	c.Flags().Int("page", 1, "1.x: accepted")
	if s == v2 {
		c.Aliases = []string{"clients"}
	}
	c.RunE = func(c *cobra.Command, _ []string) error {
		if c.Flags().Changed("limit") {
			*size, _ = c.Flags().GetInt("limit")
		}
		q := url.Values{"page_size": {fmt.Sprint(*size)}}
		if *token != "" {
			q.Set("page_token", *token)
		}
		out := []map[string]any{}
		if err := h.admin(c.Context(), http.MethodGet, "/clients?"+q.Encode(), nil, &out); err != nil {
			return err
		}
		if s == v1 && h.format == "" {
			return pipeTable(h.stdout, out)
		}
		return h.printFormat(map[string]any{"items": out}, func(w io.Writer) error {
			tw := tabwriter.NewWriter(w, 0, 8, 1, '\t', 0)
			for _, col := range clientColumns {
				fmt.Fprintf(tw, "%s\t", col.title)
			}
			fmt.Fprintln(tw)
			for _, cl := range out {
				for _, col := range clientColumns {
					fmt.Fprintf(tw, "%s\t", text(cl[col.field]))
				}
				fmt.Fprintln(tw)
			}
			return tw.Flush()
		})
	}
	return c
}

// pipeTable prints clients as Hydra 1.x does.
func pipeTable(w io.Writer, clients []map[string]any) error {
	cols := []struct{ title, field string }{
		{"CLIENT ID", "client_id"}, {"NAME", "client_name"}, {"RESPONSE TYPES", "response_types"}, {"SCOPE", "scope"},
		{"REDIRECT URIS", "redirect_uris"}, {"GRANT TYPES", "grant_types"}, {"TOKEN ENDPOINT AUTH METHOD", "token_endpoint_auth_method"},
	}
	cell := func(c map[string]any, field string) string { return strings.ReplaceAll(text(c[field]), ", ", ",") }
	width := make([]int, len(cols))
	for i, col := range cols {
		width[i] = len(col.title)
		for _, c := range clients {
			width[i] = max(width[i], len(cell(c, col.field)))
		}
	}
	var b strings.Builder
	for i, col := range cols {
		left := (width[i] - len(col.title)) / 2
		fmt.Fprintf(&b, "| %*s%-*s ", left, "", width[i]-left, col.title)
	}
	b.WriteString("|\n")
	for i := range cols {
		b.WriteString("|" + strings.Repeat("-", width[i]+2))
	}
	b.WriteString("|\n")
	for _, c := range clients {
		for i, col := range cols {
			fmt.Fprintf(&b, "| %-*s ", width[i], cell(c, col.field))
		}
		b.WriteString("|\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (h *hydraCLI) clientDelete(use string) *cobra.Command {
	return &cobra.Command{Use: use + " ID...", Aliases: []string{"client"}, Short: "Delete OAuth 2.0 clients", Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			for _, id := range args {
				if err := h.admin(c.Context(), http.MethodDelete, "/clients/"+url.PathEscape(id), nil, nil); err != nil {
					return fmt.Errorf("deleting client %s: %w", id, err)
				}
				fmt.Fprintf(h.stdout, "OAuth 2.0 Client deleted: %s\n", id)
			}
			return nil
		}}
}

func (h *hydraCLI) clientUpdate(use string, s spelling) *cobra.Command {
	c := &cobra.Command{Use: use + " ID", Short: "Replace an OAuth 2.0 client by what the flags say", Args: cobra.ExactArgs(1)}
	if s == v2 {
		c.Aliases = []string{"client"}
	}
	addClientFlags(c.Flags(), s)
	c.RunE = func(c *cobra.Command, args []string) error {
		body, err := clientBody(c.Flags(), s, false)
		if err != nil {
			return err
		}
		body["client_id"] = args[0]
		var out map[string]any
		if err := h.admin(c.Context(), http.MethodPut, "/clients/"+url.PathEscape(args[0]), body, &out); err != nil {
			return err
		}
		if s == v2 {
			return h.printClient(out)
		}
		_, err = fmt.Fprintf(h.stdout, "%s OAuth 2.0 Client updated.\n", args[0])
		return err
	}
	return c
}

func (h *hydraCLI) clientImport(use string) *cobra.Command {
	return &cobra.Command{Use: use + " FILE...", Aliases: []string{"client"}, Short: "Create OAuth 2.0 clients from JSON files (- for standard input)", Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			for _, name := range args {
				raw, err := h.readFile(name)
				if err != nil {
					return err
				}
				var many []json.RawMessage
				if json.Unmarshal(raw, &many) != nil {
					many = []json.RawMessage{raw}
				}
				for _, one := range many {
					var out map[string]any
					if err := h.admin(c.Context(), http.MethodPost, "/clients", []byte(one), &out); err != nil {
						return fmt.Errorf("importing %s: %w", name, err)
					}
					fmt.Fprintf(h.stdout, "Imported OAuth 2.0 Client %v from %s\n", out["client_id"], name)
				}
			}
			return nil
		}}
}

func (h *hydraCLI) readFile(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(io.LimitReader(h.stdin, maxAnswer))
	}
	return os.ReadFile(name)
}
