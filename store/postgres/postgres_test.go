package postgres_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"gatehouse/lib/fault"
	"gatehouse/login"
	"gatehouse/oauth"
	"gatehouse/store/postgres"
	"gatehouse/store/storetest"
	"gatehouse/test/fixtures"
)

func TestMain(m *testing.M) { os.Exit(fixtures.Main(m)) }

// migrated returns the DSN of a database with tables.
func migrated(t testing.TB) string {
	t.Helper()
	dsn := fixtures.Postgres(t)
	if err := postgres.Migrate(context.Background(), dsn, func(string) {}); err != nil {
		t.Fatal(err)
	}
	return dsn
}

func openRecords(t testing.TB, dsn string) *postgres.Records {
	t.Helper()
	s, err := postgres.OpenRecords(context.Background(), dsn, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestRecords(t *testing.T) {
	storetest.Records(t, func(t *testing.T) oauth.Store {
		return openRecords(t, migrated(t)+"&max_conns=20&max_idle_conns=4&max_conn_lifetime=1h")
	})
}

func TestRecordsReopen(t *testing.T) {
	dsn := migrated(t)
	storetest.RecordsReopen(t, func(t *testing.T) oauth.Store { return openRecords(t, dsn) },
		func(t *testing.T, s oauth.Store) oauth.Store {
			s.(*postgres.Records).Close()
			return openRecords(t, dsn)
		})
}

// TestRecordsShared runs the contract on several processes' stores at once:
// each call goes to another one.
func TestRecordsShared(t *testing.T) {
	storetest.Records(t, func(t *testing.T) oauth.Store {
		dsn := migrated(t)
		return &many{Store: openRecords(t, dsn), other: openRecords(t, dsn)}
	})
}

// many reads and takes from one store what it puts into another.
type many struct {
	oauth.Store
	other *postgres.Records
	mu    sync.Mutex
	turn  bool // guarded by mu
}

func (m *many) next() oauth.Store {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.turn = !m.turn; m.turn {
		return m.Store
	}
	return m.other
}

func (m *many) Put(ctx context.Context, rs ...oauth.Record) error { return m.next().Put(ctx, rs...) }
func (m *many) Get(ctx context.Context, refs ...oauth.Ref) ([]oauth.Record, error) {
	return m.next().Get(ctx, refs...)
}
func (m *many) Take(ctx context.Context, k oauth.RecordKind, key string) (oauth.Record, error) {
	return m.next().Take(ctx, k, key)
}
func (m *many) Revoke(ctx context.Context, family string, until time.Time) error {
	return m.next().Revoke(ctx, family, until)
}
func (m *many) Watch(ctx context.Context, k oauth.RecordKind, changed func(string)) error {
	return m.other.Watch(ctx, k, changed)
}

func TestUsers(t *testing.T) {
	storetest.Users(t, func(t *testing.T) login.Store {
		s, err := postgres.OpenUsers(t.Context(), migrated(t))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	})
}

func TestOpenUnmigrated(t *testing.T) {
	dsn := fixtures.Postgres(t)
	_, err := postgres.OpenRecords(t.Context(), dsn, time.Now)
	if fault.KindOf(err) != fault.Unavailable || !strings.Contains(err.Error(), "migrate sql") {
		t.Fatalf("got %v, want to be told what to run", err)
	}
	if _, err = postgres.OpenUsers(t.Context(), dsn); fault.KindOf(err) != fault.Unavailable {
		t.Fatalf("got %v", err)
	}
	status := func() postgres.Migration {
		t.Helper()
		ms, err := postgres.MigrationStatus(t.Context(), dsn)
		if err != nil || len(ms) == 0 {
			t.Fatalf("got %v, %v", ms, err)
		}
		return ms[0]
	}
	if m := status(); m.Applied || m.Version != 1 || m.Name != "00001_records.sql" {
		t.Fatalf("before: %+v", m)
	}
	// Several at once: one works, the others wait, all succeed.
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			told := 0
			if err := postgres.Migrate(t.Context(), dsn, func(string) { told++ }); err != nil || told == 0 {
				t.Errorf("migrating: %v, told %d lines", err, told)
			}
		})
	}
	wg.Wait()
	if m := status(); !m.Applied {
		t.Fatalf("after: %+v", m)
	}
	openRecords(t, dsn)

	admin(t, dsn, "INSERT INTO gatehouse_migrations (version_id, is_applied) VALUES (999, true)")
	for _, err := range []error{
		postgres.Migrate(t.Context(), dsn, func(string) {}),
		func() error { _, err := postgres.OpenRecords(t.Context(), dsn, time.Now); return err }(),
	} {
		if fault.KindOf(err) != fault.Conflict {
			t.Fatalf("tables of the future: got %v", err)
		}
	}
}

func admin(t *testing.T, dsn, query string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), query); err != nil {
		t.Fatal(err)
	}
}

func TestDSN(t *testing.T) {
	for _, c := range []struct {
		dsn  string
		want fault.Kind
		text string
	}{
		{"mysql://root:sesame@localhost/db", fault.Invalid, `"mysql"`},
		{"postgres://u:sesame@localhost/db?max_conns=none", fault.Invalid, "max_conns"},
		{"postgres://u:sesame@localhost/db?max_conns=0", fault.Invalid, "max_conns"},
		{"postgres://u:sesame@localhost/db?max_idle_conns=-1", fault.Invalid, "max_idle_conns"},
		{"postgres://u:sesame@localhost/db?max_conn_lifetime=5", fault.Invalid, "max_conn_lifetime"},
		{"postgres://u:sesame@local host/%zz", fault.Invalid, "malformed"},
		{"postgres://u:sesame@127.0.0.1:1/db?sslmode=disable", fault.Unavailable, "cannot be reached"},
		{"host=127.0.0.1 port=1 password=sesame sslmode=disable max_conns=3 max_conn_lifetime=0s", fault.Unavailable, "cannot be reached"},
	} {
		_, err := postgres.OpenRecords(t.Context(), c.dsn, time.Now)
		if fault.KindOf(err) != c.want || !strings.Contains(fmt.Sprint(err), c.text) {
			t.Errorf("%s: got %v, want kind %d and %s", c.dsn, err, c.want, c.text)
		}
		for e := err; e != nil; { // nor may the log show the password
			if strings.Contains(e.Error(), "sesame") {
				t.Errorf("%s: the error shows the password: %v", c.dsn, e)
			}
			u, ok := e.(interface{ Unwrap() error })
			if !ok {
				break
			}
			e = u.Unwrap()
		}
	}
	wrong, err := url.Parse(fixtures.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	wrong.User = url.UserPassword("gatehouse", "wrong")
	if _, err := postgres.OpenRecords(t.Context(), wrong.String(), time.Now); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("wrong password: got %v", err)
	}
}

// TestWatchFails: a watch that cannot begin says so at once, without a call.
func TestWatchFails(t *testing.T) {
	dsn := migrated(t)
	s := openRecords(t, dsn)
	admin(t, dsn, "ALTER TABLE gatehouse_watched_kinds RENAME TO elsewhere")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err := s.Watch(ctx, oauth.Keys, func(string) { t.Error("told that the watch began") })
	if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "gatehouse_watched_kinds") {
		t.Fatalf("got %v, want what is wrong", err)
	}
}

// TestWatchLost: a lost connection ends the watch with an error, and a new one
// begins with an empty key.
func TestWatchLost(t *testing.T) {
	dsn := migrated(t)
	s, other := openRecords(t, dsn), openRecords(t, dsn)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	seen := make(chan string, 100)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		for ctx.Err() == nil {
			err := s.Watch(ctx, oauth.Keys, func(key string) { seen <- key })
			if ctx.Err() == nil && fault.KindOf(err) != fault.Unavailable {
				t.Errorf("a lost connection: got %v", err)
			}
		}
	})
	next := func(want string) {
		t.Helper()
		select {
		case key := <-seen:
			if key != want {
				t.Fatalf("got %q, want %q", key, want)
			}
		case <-ctx.Done():
			t.Fatalf("%q was not told", want)
		}
	}
	next("")
	for round := range 3 {
		key := fmt.Sprint("set/", round)
		if err := other.Put(ctx, oauth.Record{Kind: oauth.Keys, Key: key}); err != nil {
			t.Fatal(err)
		}
		next(key)
		admin(t, dsn, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'gatehouse watch'")
		next("")
	}
}

// TestOnlyWatchedKindsNotify: a notification costs a lock that all committing
// transactions share, so what changes with every sign-in sends none.
func TestOnlyWatchedKindsNotify(t *testing.T) {
	dsn := migrated(t)
	s := openRecords(t, dsn)
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), "LISTEN gatehouse_records; INSERT INTO gatehouse_watched_kinds VALUES ('client')"); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), oauth.Record{Kind: oauth.Authorizations, Key: "a"}, oauth.Record{Kind: oauth.Clients, Key: "c"}); err != nil {
		t.Fatal(err)
	}
	n, err := conn.WaitForNotification(t.Context())
	if err != nil || n.Payload != "client c" {
		t.Fatalf("got %+v, %v", n, err)
	}
}

func TestClosed(t *testing.T) {
	s := openRecords(t, migrated(t))
	var once sync.Once
	ended := make(chan error)
	begun := make(chan struct{})
	go func() {
		ended <- s.Watch(t.Context(), oauth.Clients, func(string) { once.Do(func() { close(begun) }) })
	}()
	<-begun
	s.Close()
	if err := <-ended; fault.KindOf(err) != fault.Unavailable {
		t.Fatalf("the watch ended with %v", err)
	}
	if _, err := s.Get(t.Context(), oauth.Ref{Kind: oauth.Clients, Key: "c"}); fault.KindOf(err) != fault.Unavailable {
		t.Fatalf("Get on a closed store: %v", err)
	}
}

func BenchmarkPut(b *testing.B) {
	s := openRecords(b, migrated(b))
	data := make([]byte, 300)
	var mu sync.Mutex
	n := 0
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			mu.Lock()
			n++
			key := fmt.Sprint(n)
			mu.Unlock()
			if err := s.Put(b.Context(), oauth.Record{Kind: oauth.Authorizations, Key: key, Family: key, Client: "c", Subject: "s", Data: data}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
