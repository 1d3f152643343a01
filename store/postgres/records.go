package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
	"gatehouse/store/shape"
)

// expireBatch is how many expired records go in one transaction.
const expireBatch = 500

// Records is an oauth.Store and oauth.Watcher.
type Records struct {
	pool  *pgxpool.Pool
	now   func() time.Time
	life  <-chan struct{} // closed by Close
	close func()
}

// OpenRecords connects to a migrated database. It fails with fault.Invalid
// for a DSN it cannot read and fault.Unavailable when the database does not
// answer or was not migrated.
func OpenRecords(ctx context.Context, dsn string, now func() time.Time) (*Records, error) {
	pool, err := open(ctx, dsn)
	if err != nil {
		return nil, err
	}
	life, end := context.WithCancel(context.Background())
	return &Records{pool: pool, now: now, life: life.Done(), close: end}, nil
}

var (
	_ oauth.Store   = (*Records)(nil)
	_ oauth.Watcher = (*Records)(nil)
)

// Close ends all watches and waits for the calls under way.
func (s *Records) Close() error {
	s.close()
	s.pool.Close()
	return nil
}

const (
	recordColumns = "r.kind, r.key, r.client, r.subject, r.session, r.family, r.generation, r.expires, r.data"
	table         = "gatehouse_records"
)

// alive is the condition that a record has not expired at $n.
func alive(n int) string { return fmt.Sprintf("(r.expires IS NULL OR r.expires > $%d)", n) }

func scanRecord(row pgx.CollectableRow) (oauth.Record, error) {
	var r oauth.Record
	var expires *time.Time
	err := row.Scan(&r.Kind, &r.Key, &r.Client, &r.Subject, &r.Session, &r.Family, &r.Generation, &expires, &r.Data)
	r.Expires = fromStamp(expires)
	return r, err
}

func (s *Records) query(ctx context.Context, query string, args ...any) ([]oauth.Record, error) {
	rows, err := s.pool.Query(ctx, query, args...)
	if err != nil {
		return nil, failed("reading", err)
	}
	rs, err := pgx.CollectRows(rows, scanRecord)
	return rs, failed("reading", err)
}

func (s *Records) Get(ctx context.Context, refs ...oauth.Ref) ([]oauth.Record, error) {
	if err := shape.Refs(refs); err != nil {
		return nil, err
	}
	var kinds, keys []string
	asked := make(map[oauth.Ref]bool, len(refs))
	for _, r := range refs {
		if shape.Ref(r) && !asked[r] {
			asked[r] = true
			kinds, keys = append(kinds, string(r.Kind)), append(keys, r.Key)
		}
	}
	switch len(kinds) {
	case 0:
		return nil, nil
	case 1:
		return s.query(ctx, "SELECT "+recordColumns+" FROM "+table+" r WHERE r.kind = $1 AND r.key = $2 AND "+alive(3), kinds[0], keys[0], stamp(s.now()))
	}
	return s.query(ctx, "SELECT "+recordColumns+" FROM unnest($1::text[], $2::text[]) AS w (kind, key) JOIN "+table+" r ON r.kind = w.kind AND r.key = w.key WHERE "+alive(3),
		kinds, keys, stamp(s.now()))
}

// Statements that guard a family against writes that race its revocation; the
// migration that creates the functions says how.
const (
	enterFamily = "SELECT gatehouse_enter_family($1, $2)"
	closeFamily = "SELECT gatehouse_close_family($1)"
	revoked     = "GH001" // SQLSTATE of a write into a revoked family
)

func (s *Records) Put(ctx context.Context, rs ...oauth.Record) error {
	if err := shape.Records(rs); err != nil {
		return err
	}
	if len(rs) == 0 {
		return nil
	}
	now := stamp(s.now())
	var err error
	if len(rs) == 1 {
		err = s.putOne(ctx, rs[0], now)
	} else {
		err = s.putAll(ctx, rs, now)
	}
	if sqlState(err) == revoked {
		return fault.New(fault.Denied, "this was revoked")
	}
	return failed("writing to", err)
}

// putOne takes one round trip. A batch outside a transaction is one of its own;
// a generation that does not fit leaves nothing in it to undo.
func (s *Records) putOne(ctx context.Context, r oauth.Record, now *time.Time) error {
	b := &pgx.Batch{}
	if r.Family != "" {
		b.Queue(enterFamily, r.Family, now)
	}
	queuePut(b, r, now)
	return s.pool.SendBatch(ctx, b).Close()
}

func (s *Records) putAll(ctx context.Context, rs []oauth.Record, now *time.Time) error {
	// The same order everywhere, so that writers wait for each other in a line
	// and not in a circle.
	rs = slices.Clone(rs)
	slices.SortStableFunc(rs, func(a, b oauth.Record) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Key, b.Key))
	})
	var families []string
	for _, r := range rs {
		if r.Family != "" {
			families = append(families, r.Family)
		}
	}
	slices.Sort(families)
	return transact(ctx, s.pool, func(tx pgx.Tx) error {
		b := &pgx.Batch{}
		for _, f := range slices.Compact(families) {
			b.Queue(enterFamily, f, now)
		}
		for _, r := range rs {
			queuePut(b, r, now)
		}
		return tx.SendBatch(ctx, b).Close()
	})
}

func queuePut(b *pgx.Batch, r oauth.Record, now *time.Time) {
	query, args := putStatement(r, now)
	b.Queue(query, args...).Exec(func(tag pgconn.CommandTag) error {
		if tag.RowsAffected() == 0 {
			return changed(r.Kind)
		}
		return nil
	})
}

func changed(k oauth.RecordKind) error {
	return fault.New(fault.Conflict, fmt.Sprintf("the %s was changed by someone else", k))
}

// putStatement writes one record when its generation fits. It touches no row
// when it does not. A spent record stays spent, whoever writes it; an expired
// one is as good as none.
func putStatement(r oauth.Record, now *time.Time) (string, []any) {
	if r.Data == nil {
		r.Data = []byte{}
	}
	const insert = "INSERT INTO " + table + " AS r (kind, key, client, subject, session, family, expires, data, generation) " +
		"VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1) ON CONFLICT (kind, key) DO UPDATE SET client = $3, subject = $4, session = $5, family = $6, expires = $7, data = $8, "
	args := []any{string(r.Kind), r.Key, r.Client, r.Subject, r.Session, r.Family, stamp(r.Expires), r.Data, now}
	switch r.Generation {
	case 0:
		return insert + "generation = 1, spent = false WHERE r.expires <= $9", args
	case oauth.Overwrite:
		return insert + "generation = CASE WHEN r.expires <= $9 THEN 1 ELSE r.generation + 1 END, " +
			"spent = r.spent AND NOT coalesce(r.expires <= $9, false)", args
	}
	return "UPDATE " + table + " AS r SET client = $3, subject = $4, session = $5, family = $6, expires = $7, data = $8, generation = r.generation + 1 " +
		"WHERE r.kind = $1 AND r.key = $2 AND r.generation = $10 AND " + alive(9), append(args, r.Generation)
}

func (s *Records) Take(ctx context.Context, k oauth.RecordKind, key string) (oauth.Record, error) {
	missing := fault.New(fault.NotFound, fmt.Sprintf("there is no such %s", k))
	if !shape.Ref(oauth.Ref{Kind: k, Key: key}) {
		return oauth.Record{}, missing
	}
	for range attempts {
		now := stamp(s.now())
		rs, err := s.query(ctx, "UPDATE "+table+" AS r SET spent = true WHERE r.kind = $1 AND r.key = $2 AND NOT r.spent AND "+alive(3)+" RETURNING "+recordColumns, string(k), key, now)
		if err != nil {
			return oauth.Record{}, err
		}
		if len(rs) == 1 {
			return rs[0], nil
		}
		var spent bool
		rows, err := s.pool.Query(ctx, "SELECT "+recordColumns+", r.spent FROM "+table+" r WHERE r.kind = $1 AND r.key = $2 AND "+alive(3), string(k), key, now)
		if err != nil {
			return oauth.Record{}, failed("reading", err)
		}
		r, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (r oauth.Record, err error) {
			var expires *time.Time
			err = row.Scan(&r.Kind, &r.Key, &r.Client, &r.Subject, &r.Session, &r.Family, &r.Generation, &expires, &r.Data, &spent)
			r.Expires = fromStamp(expires)
			return r, err
		})
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return oauth.Record{}, missing
		case err != nil:
			return oauth.Record{}, failed("reading", err)
		case spent:
			return r, fault.New(fault.Spent, fmt.Sprintf("this %s was used already", k))
		}
		// Between the two statements it was removed and made anew: again.
	}
	return oauth.Record{}, fault.New(fault.Unavailable, fmt.Sprintf("the %s changes too often", k))
}

// where turns the named fields of a query into a condition that the partial
// indexes can serve.
func where(q oauth.Query) (string, []any) {
	cond, args := "r.kind = $1", []any{string(q.Kind)}
	for _, c := range []struct{ column, value string }{{"client", q.Client}, {"subject", q.Subject}, {"session", q.Session}, {"family", q.Family}} {
		if c.value != "" {
			args = append(args, c.value)
			cond += fmt.Sprintf(" AND r.%[1]s <> '' AND r.%[1]s = $%[2]d", c.column, len(args))
		}
	}
	return cond, args
}

func (s *Records) List(ctx context.Context, q oauth.Query) ([]oauth.Record, error) {
	if ok, err := shape.Query(q); !ok {
		return nil, err
	}
	if q.Limit <= 0 {
		q.Limit = shape.Page
	}
	cond, args := where(q)
	n := len(args)
	return s.query(ctx, fmt.Sprintf("SELECT %s FROM %s r WHERE %s AND r.key > $%d AND %s ORDER BY r.key LIMIT $%d", recordColumns, table, cond, n+1, alive(n+2), n+3),
		append(args, q.After, stamp(s.now()), q.Limit)...)
}

func (s *Records) Delete(ctx context.Context, q oauth.Query) (int, error) {
	if ok, err := shape.DeleteQuery(q); !ok {
		return 0, err
	}
	cond, args := where(q)
	return s.count(ctx, fmt.Sprintf("WITH gone AS (DELETE FROM %s r WHERE %s RETURNING %s AS good) SELECT count(*) FILTER (WHERE good) FROM gone", table, cond, alive(len(args)+1)),
		append(args, stamp(s.now()))...)
}

// count runs a delete that says how many living records it removed.
func (s *Records) count(ctx context.Context, query string, args ...any) (n int, err error) {
	for range attempts { // two deletes may meet the same rows in different orders
		err = s.pool.QueryRow(ctx, query, args...).Scan(&n)
		if !repeatable(sqlState(err)) {
			break
		}
	}
	return n, failed("writing to", err)
}

func (s *Records) Remove(ctx context.Context, refs ...oauth.Ref) error {
	if err := shape.Refs(refs); err != nil {
		return err
	}
	var kinds, keys []string
	for _, r := range refs {
		if shape.Ref(r) {
			kinds, keys = append(kinds, string(r.Kind)), append(keys, r.Key)
		}
	}
	n := 0
	if len(kinds) > 0 {
		var err error
		if n, err = s.count(ctx, "WITH gone AS (DELETE FROM "+table+" r USING unnest($1::text[], $2::text[]) AS w (kind, key) WHERE r.kind = w.kind AND r.key = w.key RETURNING "+alive(3)+" AS good) "+
			"SELECT count(*) FILTER (WHERE good) FROM gone", kinds, keys, stamp(s.now())); err != nil {
			return err
		}
	}
	if n == 0 {
		return fault.New(fault.NotFound, "there is no such record")
	}
	return nil
}

func (s *Records) Revoke(ctx context.Context, family string, until time.Time) error {
	if err := shape.Family(family); err != nil {
		return err
	}
	err := transact(ctx, s.pool, func(tx pgx.Tx) error {
		b := &pgx.Batch{}
		b.Queue(closeFamily, family)
		// For good, or else the longer of both.
		b.Queue("INSERT INTO gatehouse_revoked_families AS f (family, until) VALUES ($1, $2) ON CONFLICT (family) DO UPDATE SET until = "+
			"CASE WHEN f.until IS NOT NULL AND excluded.until IS NOT NULL THEN greatest(f.until, excluded.until) END", family, stamp(until))
		b.Queue("DELETE FROM "+table+" r WHERE r.family <> '' AND r.family = $1", family)
		return tx.SendBatch(ctx, b).Close()
	})
	return failed("writing to", err)
}

func (s *Records) Expire(ctx context.Context, now time.Time) (int, error) {
	total := 0
	for i, query := range []string{
		"DELETE FROM " + table + " WHERE ctid = ANY (ARRAY (SELECT ctid FROM " + table + " WHERE expires <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED)) AND expires <= $1",
		"DELETE FROM gatehouse_revoked_families WHERE ctid = ANY (ARRAY (SELECT ctid FROM gatehouse_revoked_families WHERE until <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED)) AND until <= $1",
	} {
		for n := expireBatch; n == expireBatch; {
			tag, err := s.pool.Exec(ctx, query, stamp(now), expireBatch)
			if err != nil {
				return total, failed("writing to", err)
			}
			if n = int(tag.RowsAffected()); i == 0 {
				total += n
			}
		}
	}
	return total, nil
}
