package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"gatehouse/lib/fault"
)

//go:embed migrations/*.sql
var migrations embed.FS

const versionTable = "gatehouse_migrations"

// newest is the version of the tables this program needs.
func newest() (int64, error) {
	var best int64
	files, err := fs.Glob(migrations, "migrations/*.sql")
	for _, f := range files {
		var v int64
		if v, err = goose.NumericComponent(path.Base(f)); err != nil {
			break
		}
		best = max(best, v)
	}
	return best, err
}

// Migrate brings the tables up to date and tells progress of each step, as a
// line of text. Several processes may call it at once: one works, the others
// wait. There is no way back.
func Migrate(ctx context.Context, dsn string, progress func(string)) error {
	return withProvider(ctx, dsn, func(p *goose.Provider) error {
		have, want, err := p.GetVersions(ctx)
		if err != nil {
			return failed("reading the version of", err)
		}
		if have > want {
			return fault.New(fault.Conflict, fmt.Sprintf("the tables of the database are at version %d, this gatehouse knows %d; use the newer one", have, want))
		}
		done, err := p.Up(ctx)
		if partial := (*goose.PartialError)(nil); errors.As(err, &partial) {
			done = partial.Applied
		}
		for _, r := range done {
			progress(fmt.Sprintf("applied %s in %s", path.Base(r.Source.Path), r.Duration))
		}
		if err != nil {
			return failed("migrating", err)
		}
		if len(done) == 0 {
			progress(fmt.Sprintf("nothing to do: the tables are at version %d", have))
		}
		return nil
	})
}

// Migration is one step and whether the database has made it.
type Migration struct {
	Version int64
	Name    string // of its file
	Applied bool
}

// MigrationStatus lists all steps in order.
func MigrationStatus(ctx context.Context, dsn string) ([]Migration, error) {
	var ms []Migration
	err := withProvider(ctx, dsn, func(p *goose.Provider) error {
		all, err := p.Status(ctx)
		for _, m := range all {
			ms = append(ms, Migration{m.Source.Version, path.Base(m.Source.Path), m.State == goose.StateApplied})
		}
		return failed("reading the version of", err)
	})
	return ms, err
}

func withProvider(ctx context.Context, dsn string, f func(*goose.Provider) error) error {
	c, err := config(dsn)
	if err != nil {
		return err
	}
	db := stdlib.OpenDB(*c.ConnConfig)
	defer db.Close()
	if err := db.PingContext(ctx); err != nil {
		return failed("connecting to", err)
	}
	// One process at a time; who waits looks every second, for ten minutes.
	one, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 600))
	if err != nil {
		return err
	}
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, sub, goose.WithDisableGlobalRegistry(true),
		goose.WithLogger(goose.NopLogger()), goose.WithTableName(versionTable), goose.WithSessionLocker(one))
	if err != nil {
		return err
	}
	return f(p)
}
