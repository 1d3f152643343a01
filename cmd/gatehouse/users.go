package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"gatehouse/daemon"
)

const usersHelp = `Manages the accounts of the built-in login app. Works while everything runs and
while nothing does.

  echo 'a long password' | gatehouse users add ann@example.com --password-stdin
  gatehouse users list --json`

func (p *program) users() *cobra.Command {
	c := &cobra.Command{Use: "users", Short: "Add, list and change the accounts of the login app", Long: usersHelp}
	p.configFlag(c)
	c.PersistentFlags().BoolVar(&p.json, "json", false, "print JSON")

	var name string
	var admin, fromStdin bool
	add := &cobra.Command{Use: "add EMAIL", Short: "Add an account", Args: cobra.ExactArgs(1), Long: usersHelp,
		RunE: p.withUsers(func(c *cobra.Command, u *daemon.Users, args []string) error {
			pw, err := p.password(fromStdin)
			if err != nil {
				return err
			}
			user, err := u.Add(c.Context(), daemon.NewUser{Email: args[0], Name: name, Password: pw, Admin: admin})
			if err != nil {
				return err
			}
			return p.show(user, "added %s (%s)\n", user.Email, user.ID)
		})}
	add.Flags().StringVar(&name, "name", "", "the person's name")
	add.Flags().BoolVar(&admin, "admin", false, "an administrator")
	add.Flags().BoolVar(&fromStdin, "password-stdin", false, "read the password from the first line of standard input")

	passwd := &cobra.Command{Use: "passwd EMAIL", Short: "Set an account's password", Args: cobra.ExactArgs(1),
		RunE: p.withUsers(func(c *cobra.Command, u *daemon.Users, args []string) error {
			pw, err := p.password(fromStdin)
			if err != nil {
				return err
			}
			if err := u.SetPassword(c.Context(), args[0], pw); err != nil {
				return err
			}
			return p.show(map[string]string{"email": args[0]}, "changed the password of %s\n", args[0])
		})}
	passwd.Flags().BoolVar(&fromStdin, "password-stdin", false, "read the password from the first line of standard input")

	list := &cobra.Command{Use: "list", Short: "List the accounts", Args: cobra.NoArgs,
		RunE: p.withUsers(func(c *cobra.Command, u *daemon.Users, _ []string) error {
			users, err := u.List(c.Context())
			if err != nil {
				return err
			}
			if p.json {
				return p.show(users, "")
			}
			w := tabwriter.NewWriter(p.stdout, 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "EMAIL\tNAME\tID\tADMIN\tDISABLED")
			for _, x := range users {
				fmt.Fprintf(w, "%s\t%s\t%s\t%v\t%v\n", x.Email, x.Name, x.ID, x.Admin, x.Disabled)
			}
			return w.Flush()
		})}

	one := func(verb, short, done string, do func(*cobra.Command, *daemon.Users, string) error) *cobra.Command {
		return &cobra.Command{Use: verb + " EMAIL", Short: short, Args: cobra.ExactArgs(1),
			RunE: p.withUsers(func(c *cobra.Command, u *daemon.Users, args []string) error {
				if err := do(c, u, args[0]); err != nil {
					return err
				}
				return p.show(map[string]string{"email": args[0]}, "%s %s\n", done, args[0])
			})}
	}
	c.AddCommand(add, list, passwd,
		one("delete", "Delete an account", "deleted", func(c *cobra.Command, u *daemon.Users, email string) error { return u.Delete(c.Context(), email) }),
		one("disable", "Stop an account from signing in", "disabled", func(c *cobra.Command, u *daemon.Users, email string) error {
			return u.Disable(c.Context(), email, true)
		}),
		one("enable", "Let a disabled account sign in again", "enabled", func(c *cobra.Command, u *daemon.Users, email string) error {
			return u.Disable(c.Context(), email, false)
		}))
	return c
}

func (p *program) withUsers(do func(*cobra.Command, *daemon.Users, []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		cfg, err := p.load()
		if err != nil {
			return err
		}
		u, err := daemon.OpenUsers(c.Context(), cfg)
		if err != nil {
			return err
		}
		defer u.Close()
		return do(c, u, args)
	}
}

// password reads one line. There is no flag for it: it would stay in the
// shell's history and show in the list of processes.
func (p *program) password(fromStdin bool) (string, error) {
	if !fromStdin {
		return "", usageError{hinted{fmt.Errorf("no password given"), "pipe it in: echo 'a long password' | gatehouse users … --password-stdin"}}
	}
	line, err := bufio.NewReader(io.LimitReader(p.stdin, 8192)).ReadString('\n')
	if err != nil && err != io.EOF {
		return "", fmt.Errorf("reading the password: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}

// show prints v as JSON when asked, else the text.
func (p *program) show(v any, format string, args ...any) error {
	if !p.json {
		_, err := fmt.Fprintf(p.stdout, format, args...)
		return err
	}
	e := json.NewEncoder(p.stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
