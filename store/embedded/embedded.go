// Package embedded keeps resources, records and users in SQLite files in the
// data directory: one file, one lock and one owning process for each.
//
// What a call answered with success survives kill -9 and a power cut: every
// answer waits for the disk. Concurrent writes share one such wait. Readers
// never wait for writers.
//
// It does not serve several processes; store/postgres does.
package embedded

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"gatehouse/lib/fault"
)

//go:embed migrations
var migrations embed.FS

// readers is how many queries run at once beside the writer.
const readers = 4

// database is one file, its lock, the connection that writes and those that read.
type database struct {
	path    string
	lock    *os.File
	write   *writer
	writeDB *sql.DB
	readDB  *sql.DB

	gate   gate
	closed atomic.Bool // from the beginning of close on

	mu    sync.Mutex
	stmts map[string]*sql.Stmt // guarded by mu; for readers, by their text
}

// open opens, or creates, dir/name.db, takes its lock and brings its tables up
// to date, and prepares the queries of its views. It fails with fault.Conflict
// when another process has the file, or when a newer program wrote it.
func open(ctx context.Context, dir, name string, opts []Option, views ...string) (_ *database, err error) {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating the data directory: %w", err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, fmt.Errorf("finding the data directory: %w", err)
	}
	d := &database{path: filepath.Join(dir, name+".db"), stmts: map[string]*sql.Stmt{}}
	if d.lock, err = lock(filepath.Join(dir, name+".lock"), d.path, o.lock); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if err := create(d.path); err != nil {
		return nil, err
	}
	if d.writeDB, err = sql.Open("sqlite", dsn(d.path, "immediate")); err != nil {
		return nil, d.failed("opening", err)
	}
	d.writeDB.SetMaxOpenConns(1)
	if err := d.migrate(ctx, name); err != nil {
		return nil, err
	}
	if d.readDB, err = sql.Open("sqlite", dsn(d.path, "deferred", "query_only(1)")); err != nil {
		return nil, d.failed("opening", err)
	}
	d.readDB.SetMaxOpenConns(readers)
	d.readDB.SetMaxIdleConns(readers)
	if err := d.readDB.PingContext(ctx); err != nil {
		return nil, d.failed("opening", err)
	}
	for _, query := range views {
		if _, err := d.prepared(ctx, query); err != nil {
			return nil, d.failed("opening", err)
		}
	}
	conn, err := d.writeDB.Conn(ctx)
	if err != nil {
		return nil, d.failed("opening", err)
	}
	d.write = startWriter(conn)
	return d, nil
}

// dsn names the file and how it is kept: every commit reaches the disk before
// it is answered (synchronous FULL syncs the log of each transaction).
func dsn(path, txlock string, pragmas ...string) string {
	q := url.Values{"_txlock": {txlock}, "_pragma": append([]string{
		"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)", "fullfsync(1)", "checkpoint_fullfsync(1)", "foreign_keys(1)", "trusted_schema(0)",
	}, pragmas...)}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String()
}

// create makes sure that the file exists and only its owner may read it;
// SQLite gives its companions (-wal, -shm) the same mode.
func create(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("opening the database: %w", err)
	}
	defer f.Close()
	if err := f.Chmod(0o600); err != nil {
		return fmt.Errorf("making the database private: %w", err)
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("opening the data directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil { // the name of the new file, too, must survive a power cut
		return fmt.Errorf("syncing the data directory: %w", err)
	}
	return nil
}

func (d *database) migrate(ctx context.Context, name string) error {
	sub, err := fs.Sub(migrations, "migrations/"+name)
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, d.writeDB, sub,
		goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()), goose.WithTableName("migrations"))
	if err != nil {
		return d.failed("reading the migrations of", err)
	}
	have, want, err := p.GetVersions(ctx)
	if err != nil {
		return d.failed("reading the version of", err)
	}
	if have > want {
		return fault.New(fault.Conflict, fmt.Sprintf("%s was written by a newer gatehouse (version %d of its tables, this one knows %d); use that one, or restore a backup", d.path, have, want))
	}
	if _, err := p.Up(ctx); err != nil {
		return d.failed("migrating", err)
	}
	return nil
}

// close ends the writer after what it has begun, folds the log into the file
// and gives up the lock. It may be called at any stage of open, and
// again.
func (d *database) close() error {
	if d.closed.Swap(true) {
		return nil
	}
	d.gate.end()
	var errs []error
	if d.write != nil {
		errs = append(errs, d.write.stop())
	}
	if d.readDB != nil {
		d.mu.Lock()
		for _, st := range d.stmts {
			errs = append(errs, st.Close())
		}
		d.mu.Unlock()
		errs = append(errs, d.readDB.Close())
	}
	if d.writeDB != nil { // the last connection to go folds the log
		errs = append(errs, d.writeDB.Close())
	}
	errs = append(errs, d.lock.Close())
	return errors.Join(errs...)
}

// known returns the statement for readers if there is one already.
func (d *database) known(query string) *sql.Stmt {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stmts[query]
}

// prepared returns the statement for readers. Texts are few: they are built
// from constants only. It may wait for a connection, so the caller must not
// have one, and d.mu is not held meanwhile.
func (d *database) prepared(ctx context.Context, query string) (*sql.Stmt, error) {
	if st := d.known(query); st != nil {
		return st, nil
	}
	st, err := d.readDB.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	first, ok := d.stmts[query]
	if !ok {
		d.stmts[query] = st
	}
	d.mu.Unlock()
	if ok { // someone else was faster
		st.Close()
		return first, nil
	}
	return st, nil
}

// read runs one query outside any transaction and calls each for every row.
func (d *database) read(ctx context.Context, query string, args []any, each func(scan func(...any) error) error) error {
	if err := d.gate.enter(ctx); err != nil {
		return err
	}
	defer d.gate.leave()
	st, err := d.prepared(ctx, query)
	if err != nil {
		return d.failed("reading", err)
	}
	rows, err := st.QueryContext(ctx, args...)
	if err != nil {
		return d.failed("reading", err)
	}
	return d.scan(rows, each)
}

func (d *database) scan(rows *sql.Rows, each func(scan func(...any) error) error) error {
	defer rows.Close()
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return d.failed("reading", err)
		}
	}
	if err := rows.Err(); err != nil {
		return d.failed("reading", err)
	}
	return nil
}

// view runs f in a transaction that sees one state of the file. It has a
// connection and never waits for another: queries that were not given to open
// are prepared on its own, each time.
func (d *database) view(ctx context.Context, f func(query func(query string, args []any, each func(scan func(...any) error) error) error) error) error {
	if err := d.gate.enter(ctx); err != nil {
		return err
	}
	defer d.gate.leave()
	tx, err := d.readDB.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return d.failed("reading", err)
	}
	defer tx.Rollback()
	return f(func(query string, args []any, each func(scan func(...any) error) error) error {
		var rows *sql.Rows
		var err error
		if st := d.known(query); st != nil {
			rows, err = tx.StmtContext(ctx, st).QueryContext(ctx, args...)
		} else {
			rows, err = tx.QueryContext(ctx, query, args...)
		}
		if err != nil {
			return d.failed("reading", err)
		}
		return d.scan(rows, each)
	})
}

// update runs f in the writer and returns when its effect is durable.
func (d *database) update(ctx context.Context, f func(*tx) error) error {
	if err := d.gate.enter(ctx); err != nil {
		return err
	}
	defer d.gate.leave()
	err := d.write.do(ctx, f)
	if err == nil {
		return nil
	}
	return d.failed("writing", err)
}

// failed says what was done to the file; faults pass as they are.
func (d *database) failed(doing string, err error) error {
	if f := (*fault.Error)(nil); errors.As(err, &f) {
		return err
	}
	err = fmt.Errorf("%s %s: %w", doing, d.path, err)
	if d.closed.Load() {
		return fault.Wrap(fault.Unavailable, "the store is closed", err)
	}
	if e := (*sqlite.Error)(nil); errors.As(err, &e) {
		switch e.Code() & 0xff {
		case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
			return fault.Wrap(fault.Unavailable, "the database is busy; try again", err)
		case sqlite3.SQLITE_FULL:
			return fault.Wrap(fault.Unavailable, "the disk of the database is full", err)
		}
	}
	return err
}

// micros is a time as it is stored; nil for the zero time.
func micros(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

// fromMicros is the way back.
func fromMicros(v sql.NullInt64) time.Time {
	if !v.Valid {
		return time.Time{}
	}
	return time.UnixMicro(v.Int64).UTC()
}
