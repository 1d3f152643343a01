package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (p *program) check() *cobra.Command {
	return &cobra.Command{
		Use: "check [FILE]", Short: "Say everything that is wrong with a configuration file", Args: cobra.MaximumNArgs(1),
		Long: `Reads the configuration file and the environment as serve would, starts nothing,
and prints every problem with its line and key.

  gatehouse check gatehouse.yaml`,
		RunE: func(c *cobra.Command, args []string) error {
			name := "the defaults"
			if len(args) == 1 {
				p.config, name = args[0], args[0]
			}
			if _, err := p.load(); err != nil {
				return err
			}
			fmt.Fprintf(p.stdout, "%s: ok\n", name)
			return nil
		},
	}
}
