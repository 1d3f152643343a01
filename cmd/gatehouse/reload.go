package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"gatehouse/daemon"
)

func (p *program) reloadVerb() *cobra.Command {
	c := &cobra.Command{
		Use: "reload", Short: "Replace the running process by a fresh one, without a refused connection", Args: cobra.NoArgs,
		Long: `Has the process that runs on the data directory start its successor, with the
command line it was started with itself: configuration file, certificates and
the program on disk are read again. The successor takes over all sockets and
databases, then the old process sees its clients off.

When the successor cannot start, the old process goes on as it was, and this
command says why and exits with 1.

  gatehouse reload
  gatehouse reload --data /var/lib/gatehouse

Routes, certificates and whatever else the Admin API writes need no reload.`,
		RunE: func(*cobra.Command, []string) error { return p.tell(daemon.Reload) },
	}
	p.configFlag(c)
	return c
}

func (p *program) stop() *cobra.Command {
	c := &cobra.Command{
		Use: "stop", Short: "Stop the running process when what is under way has ended", Args: cobra.NoArgs,
		Long: `Tells the process that runs on the data directory to stop, as SIGTERM would, and
waits for it.

  gatehouse stop`,
		RunE: func(*cobra.Command, []string) error { return p.tell(daemon.Stop) },
	}
	p.configFlag(c)
	return c
}

func (p *program) tell(do func(*daemon.Config, func(string)) error) error {
	cfg, err := p.load()
	if err != nil {
		return err
	}
	return do(cfg, func(line string) { fmt.Fprintln(p.stdout, line) })
}
