package main

import (
	"github.com/spf13/cobra"

	"gatehouse/daemon"
)

func (p *program) demo() *cobra.Command {
	c := &cobra.Command{
		Use: "demo", Short: "Run everything on embedded defaults with a page to sign in to", Args: cobra.NoArgs,
		Long: `Starts gateway, provider and login app with a sample service behind a route that
asks for a sign-in, a registered client and a demo user. It prints what to open
and how to sign in, then "ready", and runs until Ctrl-C.

Everything listens on this machine only, over plain HTTP. The password is new at
every start. Running it again on the same data directory picks up where it was.`,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := p.load()
			if err != nil {
				return err
			}
			return daemon.Demo(c.Context(), cfg, p.stdout, p.stderr)
		},
	}
	p.configFlag(c)
	return c
}
