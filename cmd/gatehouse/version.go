package main

import (
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"gatehouse/daemon"
)

func (p *program) version() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v, rev := daemon.Version()
			if asJSON {
				return json.NewEncoder(p.stdout).Encode(map[string]string{"version": v, "revision": rev, "go": runtime.Version()})
			}
			_, err := fmt.Fprintf(p.stdout, "Version:    %s\nGit Hash:   %s\nGo:         %s\n", v, rev, runtime.Version())
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
