// Package postgres keeps records and users in PostgreSQL, for any number of
// processes at once.
//
// It does not create its tables on the way: an operator runs Migrate. It
// relies on READ COMMITTED, which it asks for on every connection.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/puddle/v2"

	"gatehouse/lib/fault"
)

const (
	connectTimeout = 10 * time.Second // when the DSN names none
	attempts       = 5                // of a transaction that PostgreSQL asks to repeat
)

// config reads a DSN, in URL or keyword form, with the options max_conns,
// max_idle_conns, max_conn_lifetime and max_conn_idle_time besides those of
// libpq. Its errors do not show the DSN, which holds a password.
func config(dsn string) (*pgxpool.Config, error) {
	if scheme, _, ok := strings.Cut(dsn, "://"); ok && scheme != "postgres" && scheme != "postgresql" {
		return nil, fault.New(fault.Invalid, fmt.Sprintf("the dsn names a %q database; only postgres://… is supported", scheme))
	}
	c, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, "the dsn is malformed; it looks like postgres://user:password@host:5432/database?sslmode=verify-full", err)
	}
	params := c.ConnConfig.RuntimeParams
	for name, set := range map[string]func(string) error{
		"max_conns": func(v string) error {
			n, err := strconv.ParseInt(v, 10, 32)
			if err != nil || n < 1 {
				return errors.New("must be a positive number")
			}
			c.MaxConns = int32(n)
			return nil
		},
		// Idle connections are closed by time, not by number.
		"max_idle_conns": func(v string) error {
			if n, err := strconv.ParseInt(v, 10, 32); err != nil || n < 0 {
				return errors.New("must be a number")
			}
			return nil
		},
		"max_conn_lifetime":  duration(&c.MaxConnLifetime),
		"max_conn_idle_time": duration(&c.MaxConnIdleTime),
	} {
		v, ok := params[name]
		if !ok {
			continue
		}
		delete(params, name) // or it would go to the server, which does not know it
		if err := set(v); err != nil {
			return nil, fault.New(fault.Invalid, fmt.Sprintf("the dsn's %s is %q; it %v", name, v, err))
		}
	}
	if params["application_name"] == "" {
		params["application_name"] = "gatehouse"
	}
	params["default_transaction_isolation"] = "read committed"
	if c.ConnConfig.ConnectTimeout == 0 {
		c.ConnConfig.ConnectTimeout = connectTimeout
	}
	return c, nil
}

// duration accepts Go's spelling; 0 means no limit.
func duration(into *time.Duration) func(string) error {
	return func(v string) error {
		d, err := time.ParseDuration(v)
		if err != nil || d < 0 {
			return errors.New("must be a duration such as 30m")
		}
		if d == 0 {
			d = 1 << 62
		}
		*into = d
		return nil
	}
}

// open connects and checks the version of the tables.
func open(ctx context.Context, dsn string) (*pgxpool.Pool, error) {
	c, err := config(dsn)
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, c)
	if err != nil {
		return nil, failed("connecting to", err)
	}
	if err := check(ctx, pool); err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}

// check fails with fault.Unavailable when the tables are not there yet.
func check(ctx context.Context, pool *pgxpool.Pool) error {
	want, err := newest()
	if err != nil {
		return err
	}
	var have int64
	err = pool.QueryRow(ctx, "SELECT coalesce(max(version_id), 0) FROM "+versionTable+" WHERE is_applied").Scan(&have)
	switch {
	case sqlState(err) == "42P01": // undefined_table
		have = 0
	case err != nil:
		return failed("reading the version of", err)
	}
	switch {
	case have < want:
		return fault.New(fault.Unavailable, fmt.Sprintf(
			`the tables of the database are at version %d, version %d is needed; run: gatehouse hydra migrate sql --yes "$DSN"`, have, want))
	case have > want:
		return fault.New(fault.Conflict, fmt.Sprintf("the tables of the database are at version %d, this gatehouse knows %d; use the newer one", have, want))
	}
	return nil
}

// failed classifies an error of the driver; faults pass as they are.
func failed(doing string, err error) error {
	if f := (*fault.Error)(nil); err == nil || errors.As(err, &f) {
		return err
	}
	state := sqlState(err)
	err = fmt.Errorf("%s PostgreSQL: %w", doing, err)
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) && !isConnect(err) {
		return err
	}
	if errors.Is(err, puddle.ErrClosedPool) {
		return fault.Wrap(fault.Unavailable, "the store is closed", err)
	}
	if n := net.Error(nil); isConnect(err) || errors.As(err, &n) || pgconn.SafeToRetry(err) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fault.Wrap(fault.Unavailable, "the database cannot be reached", err)
	}
	switch {
	case strings.HasPrefix(state, "08"), strings.HasPrefix(state, "57P"), state == "53300": // connection, shutdown, too many connections
		return fault.Wrap(fault.Unavailable, "the database does not take connections now", err)
	case strings.HasPrefix(state, "53"), repeatable(state): // out of disk, memory; contention that did not end
		return fault.Wrap(fault.Unavailable, "the database cannot do this now", err)
	}
	return err
}

func isConnect(err error) bool {
	c := (*pgconn.ConnectError)(nil)
	return errors.As(err, &c)
}

func sqlState(err error) string {
	if e := (*pgconn.PgError)(nil); errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// repeatable says whether PostgreSQL undid a transaction only because of others.
func repeatable(state string) bool {
	return state == "40001" || state == "40P01" // serialization_failure, deadlock_detected
}

// transact runs f in a transaction, again when PostgreSQL says so. The error
// is the driver's, or f's.
func transact(ctx context.Context, pool *pgxpool.Pool, f func(pgx.Tx) error) error {
	var err error
	for range attempts {
		err = pgx.BeginFunc(ctx, pool, f)
		if !repeatable(sqlState(err)) {
			break
		}
	}
	return err
}

// stamp is a time as it is stored; nil for the zero time. PostgreSQL keeps
// microseconds, cut off rather than rounded, so that nothing lives longer.
func stamp(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = time.UnixMicro(t.UnixMicro()).UTC()
	return &t
}

// fromStamp is the way back.
func fromStamp(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}
