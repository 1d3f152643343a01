package main

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"gatehouse/daemon"
)

const serveHelp = `Runs one part or all of them until it is told to stop (Ctrl-C, SIGTERM or
SIGQUIT): what is under way ends first, a second signal ends it at once. SIGHUP
and SIGUSR2 replace it by a fresh process, as ` + "`gatehouse reload`" + ` does.

The parts work as one process or as several on the same data directory. Every
setting has a default that works; a configuration file is optional.

  gatehouse serve all
  gatehouse serve gateway -c gatehouse.yaml
  gatehouse serve provider --dev
  gatehouse serve login --port 3001`

// takeOverFlag is the same for every way to serve.
func takeOverFlag(c *cobra.Command, to *bool) {
	c.Flags().BoolVar(to, "takeover", false, "replace the process that runs the same on this data directory, if there is one; no client notices")
}

// serving is how a process that serves was started, and follows signals from
// now on.
func (p *program) serving(takeOver bool) daemon.Options {
	o := daemon.Options{TakeOver: takeOver, Argv: p.argv}
	if len(p.argv) > 0 {
		reload := make(chan os.Signal, 1)
		signal.Notify(reload, syscall.SIGHUP, syscall.SIGUSR2)
		o.Reload = reload
	}
	return o
}

func (p *program) serve() *cobra.Command {
	c := &cobra.Command{Use: "serve", Short: "Run the gateway, the provider, the login app, or all", Long: serveHelp}
	p.configFlag(c)
	part := func(use, short string, parts daemon.Parts) *cobra.Command {
		var dev, takeOver bool
		var port int
		s := &cobra.Command{Use: use, Short: short, Long: short + ".\n\n" + serveHelp, Args: cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error {
				cfg, err := p.load()
				if err != nil {
					return err
				}
				cfg.Provider.Dev = cfg.Provider.Dev || dev
				if c.Flags().Changed("port") {
					cfg.Login.Port = port
				}
				return daemon.Run(c.Context(), cfg, parts, p.serving(takeOver), p.stderr)
			}}
		takeOverFlag(s, &takeOver)
		if parts.Provider {
			s.Flags().BoolVar(&dev, "dev", false, "serve plain HTTP; for development on this machine only")
		}
		if parts.Login && !parts.Provider {
			s.Flags().IntVar(&port, "port", 3000, "port of the login app")
		}
		return s
	}
	c.AddCommand(
		part("gateway", "The API gateway (9080, 9443) and its Admin API (9180)", daemon.Parts{Gateway: true}),
		part("provider", "The OAuth 2.0 and OpenID Connect provider (4444) and its admin API (4445)", daemon.Parts{Provider: true, PublicAPI: true, AdminAPI: true}),
		part("login", "The login and consent app (3000)", daemon.Parts{Login: true}),
		part("all", "Gateway, provider and login app", daemon.Parts{Gateway: true, Provider: true, PublicAPI: true, AdminAPI: true, Login: true}),
	)
	return c
}
