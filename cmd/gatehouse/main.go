// Command gatehouse is an API gateway, an OAuth 2.0 and OpenID Connect
// provider and a login application in one program. Called `hydra`, it speaks
// the provider's command line alone.
//
// One file per verb; what the verbs do is in package daemon.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"gatehouse/daemon"
)

func main() {
	reason := daemon.TellError()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	p := &program{env: os.LookupEnv, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, argv: os.Args, reason: reason}
	code := p.run(ctx, os.Args)
	stop()
	os.Exit(code)
}

// program is what every verb is given.
type program struct {
	env    daemon.Environ
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	data   string    // --data
	config string    // -c
	json   bool      // --json
	argv   []string  // how this process was started; empty: it is no process of its own
	reason io.Writer // where to say why the program failed, besides stderr; nil: nowhere
}

// usageError is a mistake in how a command was called: exit code 2.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

// hinted is an error with what to do next.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

func run(ctx context.Context, args []string, env daemon.Environ, stdin io.Reader, stdout, stderr io.Writer) int {
	return (&program{env: env, stdin: stdin, stdout: stdout, stderr: stderr}).run(ctx, args)
}

func (p *program) run(ctx context.Context, args []string) int {
	name, root := "gatehouse", p.root()
	if base := filepath.Base(args[0]); base == "hydra" || base == "hydra.exe" {
		name, root = "hydra", p.hydra()
		p.dataFlags(root)
	}
	root.SetArgs(args[1:])
	root.SetIn(p.stdin)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	root.SilenceErrors, root.SilenceUsage = true, true
	for _, c := range append(allCommands(root), root) {
		c.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
			return usageError{hinted{err, "see " + c.CommandPath() + " --help"}}
		})
		if c.HasSubCommands() && c.Run == nil && c.RunE == nil {
			c.RunE = unknownVerb
			c.Args = cobra.ArbitraryArgs
		}
	}
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if p.reason != nil {
		fmt.Fprintln(p.reason, err)
	}
	for _, line := range strings.Split(strings.TrimSpace(err.Error()), "\n") {
		fmt.Fprintf(p.stderr, "%s: %s\n", name, line)
	}
	var h hinted
	if errors.As(err, &h) {
		fmt.Fprintf(p.stderr, "%s: hint: %s\n", name, h.hint)
	}
	if dh := daemon.Hint(err); dh != "" {
		fmt.Fprintf(p.stderr, "%s: hint: %s\n", name, dh)
	}
	var u usageError
	if errors.As(err, &u) || strings.HasPrefix(err.Error(), "accepts ") || strings.HasPrefix(err.Error(), "requires ") || strings.HasPrefix(err.Error(), "unknown command") {
		return 2
	}
	return 1
}

func allCommands(c *cobra.Command) (out []*cobra.Command) {
	for _, s := range c.Commands() {
		out = append(append(out, s), allCommands(s)...)
	}
	return out
}

// unknownVerb is what a command that only groups others does: help, or an
// error that names the nearest.
func unknownVerb(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return c.Help()
	}
	hint := "see " + c.CommandPath() + " --help"
	c.SuggestionsMinimumDistance = 2
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		hint = "did you mean `" + c.CommandPath() + " " + near[0] + "`?"
	}
	return usageError{hinted{fmt.Errorf("unknown command %q for %q", args[0], c.CommandPath()), hint}}
}

func (p *program) root() *cobra.Command {
	c := &cobra.Command{
		Use:   "gatehouse",
		Short: "API gateway, OpenID Connect provider and login app in one program",
		Long: `Gatehouse guards your services: an API gateway that speaks Apache APISIX, an
OAuth 2.0 and OpenID Connect provider that speaks Ory Hydra, and a login app.

New here? Try

  gatehouse demo

and open the address it prints.`,
	}
	p.dataFlags(c)
	c.AddCommand(p.demo(), p.serve(), p.reloadVerb(), p.stop(), p.users(), p.check(), p.hydra(), p.version())
	return c
}

func (p *program) dataFlags(c *cobra.Command) {
	c.PersistentFlags().StringVar(&p.data, "data", "", "directory for everything kept on disk (default ./gatehouse-data, or GATEHOUSE_DATA)")
}

func (p *program) configFlag(c *cobra.Command) {
	c.PersistentFlags().StringVarP(&p.config, "config", "c", "", "configuration file (YAML or JSON)")
}

// load reads the configuration and what the flags say over it.
func (p *program) load() (*daemon.Config, error) {
	cfg, err := daemon.LoadConfig(p.config, p.env)
	if err != nil {
		return nil, err
	}
	if p.data != "" {
		cfg.Data = p.data
	}
	return cfg, nil
}
