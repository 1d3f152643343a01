package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"
)

func (h *hydraCLI) keysGet(use string) *cobra.Command {
	return &cobra.Command{Use: use + " SET", Short: "Show a JSON Web Key set", Args: cobra.ExactArgs(1), Aliases: []string{"jwks"},
		RunE: func(c *cobra.Command, args []string) error {
			var out any
			if err := h.admin(c.Context(), http.MethodGet, "/keys/"+url.PathEscape(args[0]), nil, &out); err != nil {
				return err
			}
			return h.printTabbed(out)
		}}
}

func (h *hydraCLI) keysCreate(use string) *cobra.Command {
	c := &cobra.Command{Use: use + " SET [KEY-ID]", Short: "Make a key in a JSON Web Key set", Args: cobra.RangeArgs(1, 2), Aliases: []string{"jwks"}}
	alg := c.Flags().StringP("alg", "a", "RS256", "RS256, PS256, ES256, EdDSA, …")
	purpose := c.Flags().StringP("use", "u", "sig", "sig or enc")
	c.RunE = func(c *cobra.Command, args []string) error {
		body := map[string]string{"alg": *alg, "use": *purpose}
		if len(args) == 2 {
			body["kid"] = args[1]
		}
		var out any
		if err := h.admin(c.Context(), http.MethodPost, "/keys/"+url.PathEscape(args[0]), body, &out); err != nil {
			return err
		}
		return h.printTabbed(out)
	}
	return c
}

func (h *hydraCLI) keysDelete(use string) *cobra.Command {
	return &cobra.Command{Use: use + " SET", Short: "Delete a JSON Web Key set", Args: cobra.ExactArgs(1), Aliases: []string{"jwks"},
		RunE: func(c *cobra.Command, args []string) error {
			if err := h.admin(c.Context(), http.MethodDelete, "/keys/"+url.PathEscape(args[0]), nil, nil); err != nil {
				return err
			}
			_, err := fmt.Fprintf(h.stdout, "JSON Web Key Set deleted: %s\n", args[0])
			return err
		}}
}

func (h *hydraCLI) keysImport(use string) *cobra.Command {
	return &cobra.Command{Use: use + " SET FILE", Short: "Replace a JSON Web Key set by that of a file (- for standard input)", Args: cobra.ExactArgs(2), Aliases: []string{"jwks"},
		RunE: func(c *cobra.Command, args []string) error {
			raw, err := h.readFile(args[1])
			if err != nil {
				return err
			}
			if !json.Valid(raw) {
				return usageError{fmt.Errorf("%s is not JSON", args[1])}
			}
			var out any
			if err := h.admin(c.Context(), http.MethodPut, "/keys/"+url.PathEscape(args[0]), raw, &out); err != nil {
				return err
			}
			return h.printTabbed(out)
		}}
}
