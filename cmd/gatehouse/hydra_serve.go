package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"gatehouse/daemon"
)

const hydraServeHelp = `Starts the OAuth 2.0 and OpenID Connect provider and opens its ports.

  hydra serve all       public (4444) and admin (4445) endpoints
  hydra serve public    the endpoints for browsers and clients
  hydra serve admin     the endpoints for operators and login apps

Settings come from a file (-c) and from the environment, a key in upper case with
underscores: DSN, SECRETS_SYSTEM, URLS_SELF_ISSUER, URLS_LOGIN, URLS_CONSENT,
SERVE_PUBLIC_PORT. Without a DSN an embedded database is used.

HTTPS is served with a certificate of the data directory's own authority unless
serve.public.tls and serve.admin.tls name one, or --dev is given. The admin port
listens on this machine only unless serve.admin.host says otherwise.`

func (h *hydraCLI) serve() *cobra.Command {
	var files []string
	var dev, forceHTTP, optOut bool
	var insecureRedirects []string
	c := &cobra.Command{Use: "serve", Short: "Run the provider", Long: hydraServeHelp}
	f := c.PersistentFlags()
	f.StringSliceVarP(&files, "config", "c", nil, "configuration files with Hydra's keys; later ones win")
	f.BoolVar(&dev, "dev", false, "serve plain HTTP; for development on this machine only")
	f.BoolVar(&forceHTTP, "dangerous-force-http", false, "the 1.x spelling of --dev")
	f.BoolVar(&optOut, "sqa-opt-out", false, "accepted; nothing is ever reported home")
	f.StringSliceVar(&insecureRedirects, "dangerous-allow-insecure-redirect-urls", nil, "accepted; redirect URIs are matched exactly")
	part := func(use, short string, parts daemon.Parts) *cobra.Command {
		var takeOver bool
		c := &cobra.Command{Use: use, Short: short, Long: short + ".\n\n" + hydraServeHelp, Args: cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error {
				cfg, err := daemon.LoadHydraConfig(files, h.env)
				if err != nil {
					return err
				}
				if h.data != "" {
					cfg.Data = h.data
				}
				cfg.Provider.Dev = cfg.Provider.Dev || dev || forceHTTP
				if len(insecureRedirects) > 0 {
					fmt.Fprintln(h.stderr, "gatehouse: --dangerous-allow-insecure-redirect-urls has no effect: redirect URIs must match exactly")
				}
				return daemon.Run(c.Context(), cfg, parts, h.serving(takeOver), h.stderr)
			}}
		takeOverFlag(c, &takeOver)
		return c
	}
	c.AddCommand(
		part("all", "Serves both public and administrative endpoints", daemon.Parts{Provider: true, PublicAPI: true, AdminAPI: true}),
		part("public", "Serves the public endpoints", daemon.Parts{Provider: true, PublicAPI: true}),
		part("admin", "Serves the administrative endpoints", daemon.Parts{Provider: true, AdminAPI: true}),
	)
	return c
}

func (h *hydraCLI) migrate() *cobra.Command {
	c := group("migrate", "Prepare the database")
	var yes, readEnv bool
	var files []string
	dsn := func(args []string) (string, error) {
		if len(args) == 1 && args[0] != "" {
			return args[0], nil
		}
		if v, ok := h.env("DSN"); ok && v != "" {
			return v, nil
		}
		cfg, err := daemon.LoadHydraConfig(files, h.env)
		if err == nil && cfg.Provider.DSN != "" {
			return cfg.Provider.DSN, nil
		}
		return "", usageError{hinted{fmt.Errorf("no database given"), "hydra migrate sql --yes postgres://user:password@localhost:5432/hydra?sslmode=disable"}}
	}
	up := func(c *cobra.Command, args []string) error {
		to, err := dsn(args)
		if err != nil {
			return err
		}
		if !yes {
			return usageError{hinted{fmt.Errorf("this changes the database's schema"), "say --yes when you have a backup"}}
		}
		return daemon.Migrate(c.Context(), to, func(line string) { fmt.Fprintln(h.stdout, line) })
	}
	sql := &cobra.Command{Use: "sql [DSN]", Short: "Create or update the tables", Args: cobra.MaximumNArgs(1), RunE: up,
		Long: "Applies what is missing of the schema, in order, and says what it did. Embedded databases need no migration.\n\n  hydra migrate sql --yes $DSN"}
	f := sql.PersistentFlags()
	f.BoolVarP(&yes, "yes", "y", false, "do not ask")
	f.BoolVarP(&readEnv, "read-from-env", "E", false, "take the database from DSN (the default when none is given)")
	f.StringSliceVarP(&files, "config", "c", nil, "configuration files with Hydra's keys")
	sql.AddCommand(
		&cobra.Command{Use: "up [DSN]", Short: "Create or update the tables", Args: cobra.MaximumNArgs(1), RunE: up},
		&cobra.Command{Use: "status [DSN]", Short: "Say what is applied", Args: cobra.MaximumNArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				to, err := dsn(args)
				if err != nil {
					return err
				}
				return daemon.MigrationStatus(c.Context(), to, h.stdout)
			}})
	c.AddCommand(sql)
	return c
}

func (h *hydraCLI) janitor() *cobra.Command {
	c := &cobra.Command{Use: "janitor [DSN]", Short: "Remove expired records", Args: cobra.MaximumNArgs(1),
		Long: "Removes what has expired. The provider does so itself while it runs; this is for databases nobody serves.",
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := h.load()
			if err != nil {
				return err
			}
			if len(args) == 1 {
				cfg.Provider.DSN = args[0]
			}
			n, err := daemon.Janitor(c.Context(), cfg)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(h.stdout, "Removed %d expired records\n", n)
			return err
		}}
	var ignored bool
	c.Flags().BoolVar(&ignored, "tokens", true, "accepted; all that expired is removed")
	c.Flags().BoolVar(&ignored, "requests", true, "accepted; all that expired is removed")
	c.Flags().BoolVar(&ignored, "grants", true, "accepted; all that expired is removed")
	return c
}
