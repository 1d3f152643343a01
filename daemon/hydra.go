package daemon

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"gatehouse/lib/localca"
	"gatehouse/store/postgres"
)

// LoadHydraConfig reads files whose top level is what gatehouse.yaml has below
// provider; later files win.
func LoadHydraConfig(files []string, env Environ) (*Config, error) {
	c := defaults()
	return c.load(files, &c.Provider, env)
}

// PublicURL is where clients find the provider.
func (c *Config) PublicURL() string {
	p := &c.Provider
	switch {
	case p.URLs.Self.Public != "":
		return p.URLs.Self.Public
	case p.URLs.Self.Issuer != "":
		return p.URLs.Self.Issuer
	}
	scheme := "https"
	if p.Dev || !p.Serve.Public.TLS.Enabled {
		scheme = "http"
	}
	return scheme + "://" + net.JoinHostPort("localhost", strconv.Itoa(p.Serve.Public.Port)) + "/"
}

// LocalRoots is the certificate of the data directory's own authority, or nil.
func (c *Config) LocalRoots() []byte { return localca.Roots(c.Data) }

// LocalCertificate issues a certificate of the data directory's authority.
func LocalCertificate(c *Config, hosts ...string) (*tls.Certificate, error) {
	if err := ensureDir(c.Data); err != nil {
		return nil, err
	}
	ca, err := localca.Open(c.Data, time.Now())
	if err != nil {
		return nil, err
	}
	return ca.Issue(hosts, time.Now())
}

// Admin is a way to the provider's admin API.
type Admin struct {
	Client *http.Client
	URL    string
	close  func() error
}

// Close releases the database, if this process opened it.
func (a *Admin) Close() error { return a.close() }

// OpenAdmin connects to the admin API of a data directory's provider: to the
// running one by its socket, or else to its database itself.
func OpenAdmin(ctx context.Context, c *Config) (*Admin, error) {
	if socketAlive(c.Data, providerSocket) {
		return &Admin{socketClient(c.Data, providerSocket), "http://provider", func() error { return nil }}, nil
	}
	if err := ensureDir(c.Data); err != nil {
		return nil, err
	}
	p, err := openProvider(ctx, c, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	return &Admin{&http.Client{Transport: inProcess{p.admin}}, "http://provider", p.close}, nil
}

// Migrate creates or updates the tables of a shared database and tells its steps.
func Migrate(ctx context.Context, dsn string, say func(string)) error {
	if !isPostgres(dsn) {
		say("An embedded database needs no migration: it is brought up to date when it is opened.")
		return nil
	}
	if err := postgres.Migrate(ctx, dsn, say); err != nil {
		return err
	}
	say("Successfully applied migrations!")
	return nil
}

// MigrationStatus writes which migrations a shared database has.
func MigrationStatus(ctx context.Context, dsn string, w io.Writer) error {
	if !isPostgres(dsn) {
		_, err := fmt.Fprintln(w, "An embedded database needs no migration.")
		return err
	}
	steps, err := postgres.MigrationStatus(ctx, dsn)
	if err != nil {
		return err
	}
	for _, m := range steps {
		status := "pending"
		if m.Applied {
			status = "applied"
		}
		if _, err := fmt.Fprintf(w, "%d\t%s\t%s\n", m.Version, m.Name, status); err != nil {
			return err
		}
	}
	return nil
}

func isPostgres(dsn string) bool {
	return strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://")
}

// Janitor removes expired records of a provider that nobody serves.
func Janitor(ctx context.Context, c *Config) (int, error) {
	if err := ensureDir(c.Data); err != nil {
		return 0, err
	}
	s, err := openRecords(ctx, c, nil)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	return s.Expire(ctx, time.Now())
}

// WriteYAML writes v as YAML.
func WriteYAML(w io.Writer, v any) error {
	raw, err := yaml.Marshal(v)
	if err == nil {
		_, err = w.Write(raw)
	}
	return err
}
