package embedded

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
	"gatehouse/store/notice"
	"gatehouse/store/shape"
)

// expireBatch is how many expired records go in one transaction.
const expireBatch = 500

// Records is an oauth.Store and oauth.Watcher in provider.db.
type Records struct {
	*database
	board notice.Board
	now   func() time.Time
}

// OpenRecords opens dir/provider.db, and creates it when it is not there. It
// fails with fault.Conflict when another process has it open.
func OpenRecords(ctx context.Context, dir string, now func() time.Time, opts ...Option) (*Records, error) {
	d, err := open(ctx, dir, "provider", opts)
	if err != nil {
		return nil, err
	}
	return &Records{database: d, now: now}, nil
}

var (
	_ oauth.Store   = (*Records)(nil)
	_ oauth.Watcher = (*Records)(nil)
)

// Close ends all watches and closes the file.
func (s *Records) Close() error {
	s.board.Close()
	return s.close()
}

// Watch implements oauth.Watcher. There is one process, so it is told at once.
func (s *Records) Watch(ctx context.Context, k oauth.RecordKind, changed func(key string)) error {
	return s.board.Watch(ctx, k, changed)
}

const (
	recordColumns = "kind, key, client, subject, session, family, generation, expires, data"
	alive         = "(expires IS NULL OR expires > ?)"
)

func scanRecord(scan func(...any) error, more ...any) (oauth.Record, error) {
	var r oauth.Record
	var expires sql.NullInt64
	err := scan(append([]any{&r.Kind, &r.Key, &r.Client, &r.Subject, &r.Session, &r.Family, &r.Generation, &expires, &r.Data}, more...)...)
	r.Expires = fromMicros(expires)
	return r, err
}

func (s *Records) Get(ctx context.Context, refs ...oauth.Ref) (rs []oauth.Record, err error) {
	if err := shape.Refs(refs); err != nil {
		return nil, err
	}
	var args []any
	asked := make(map[oauth.Ref]bool, len(refs))
	for _, r := range refs {
		if shape.Ref(r) && !asked[r] {
			asked[r] = true
			args = append(args, string(r.Kind), r.Key)
		}
	}
	if len(args) == 0 {
		return nil, nil
	}
	// The number of places is rounded up, so that few texts are prepared.
	places := 1
	for places < len(args)/2 {
		places *= 2
	}
	for len(args) < 2*places {
		args = append(args, nil, nil)
	}
	query := "SELECT " + recordColumns + " FROM records WHERE (kind, key) IN (VALUES (?, ?)" + strings.Repeat(", (?, ?)", places-1) + ") AND " + alive
	err = s.read(ctx, query, append(args, s.now().UnixMicro()), func(scan func(...any) error) error {
		r, err := scanRecord(scan)
		rs = append(rs, r)
		return err
	})
	return rs, err
}

func (s *Records) Put(ctx context.Context, rs ...oauth.Record) error {
	if err := shape.Records(rs); err != nil {
		return err
	}
	if len(rs) == 0 {
		return nil
	}
	err := s.update(ctx, func(t *tx) error {
		now := s.now().UnixMicro()
		for _, r := range rs {
			if err := refuseRevoked(t, r.Family, now); err != nil {
				return err
			}
		}
		for _, r := range rs {
			if err := putRecord(t, r, now); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	refs := make([]oauth.Ref, len(rs))
	for i, r := range rs {
		refs[i] = oauth.Ref{Kind: r.Kind, Key: r.Key}
	}
	s.board.Changed(refs...)
	return nil
}

// refuseRevoked fails with fault.Denied. There is one writer: nobody revokes
// between this and the commit.
func refuseRevoked(t *tx, family string, now int64) error {
	if family == "" {
		return nil
	}
	var one int
	found, err := t.row("SELECT 1 FROM revoked_families WHERE family = ? AND (until IS NULL OR until > ?)", []any{family, now}, &one)
	if err == nil && found {
		err = fault.New(fault.Denied, "this was revoked")
	}
	return err
}

func putRecord(t *tx, r oauth.Record, now int64) error {
	if r.Data == nil {
		r.Data = []byte{}
	}
	// A spent record stays spent, whoever writes it; an expired one is as good as none.
	const insert = "INSERT INTO records (kind, key, client, subject, session, family, expires, data, generation, spent) " +
		"VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 1, 0) ON CONFLICT (kind, key) DO UPDATE SET client = ?3, subject = ?4, session = ?5, family = ?6, expires = ?7, data = ?8, "
	args := []any{string(r.Kind), r.Key, r.Client, r.Subject, r.Session, r.Family, micros(r.Expires), r.Data, now}
	var query string
	switch r.Generation {
	case 0:
		query = insert + "generation = 1, spent = 0 WHERE records.expires <= ?9"
	case oauth.Overwrite:
		query = insert + "generation = CASE WHEN coalesce(records.expires <= ?9, 0) THEN 1 ELSE records.generation + 1 END, " +
			"spent = CASE WHEN coalesce(records.expires <= ?9, 0) THEN 0 ELSE records.spent END"
	default:
		query = "UPDATE records SET client = ?3, subject = ?4, session = ?5, family = ?6, expires = ?7, data = ?8, generation = generation + 1 " +
			"WHERE kind = ?1 AND key = ?2 AND generation = ?10 AND (expires IS NULL OR expires > ?9)"
		args = append(args, r.Generation)
	}
	n, err := t.exec(query, args...)
	if err == nil && n == 0 {
		err = fault.New(fault.Conflict, fmt.Sprintf("the %s was changed by someone else", r.Kind))
	}
	return err
}

func (s *Records) Take(ctx context.Context, k oauth.RecordKind, key string) (r oauth.Record, err error) {
	missing := fault.New(fault.NotFound, fmt.Sprintf("there is no such %s", k))
	if !shape.Ref(oauth.Ref{Kind: k, Key: key}) {
		return oauth.Record{}, missing
	}
	spent := false
	err = s.update(ctx, func(t *tx) error {
		found := false
		if err := t.rows("SELECT "+recordColumns+", spent FROM records WHERE kind = ? AND key = ? AND "+alive, []any{string(k), key, s.now().UnixMicro()},
			func(scan func(...any) error) (err error) {
				found = true
				r, err = scanRecord(scan, &spent)
				return err
			}); err != nil {
			return err
		}
		switch {
		case !found:
			return missing
		case spent:
			return fault.New(fault.Spent, fmt.Sprintf("this %s was used already", k))
		}
		_, err := t.exec("UPDATE records SET spent = 1 WHERE kind = ? AND key = ?", string(k), key)
		return err
	})
	switch fault.KindOf(err) {
	case fault.Spent:
		return r, err
	case fault.Internal:
		if err == nil {
			s.board.Changed(oauth.Ref{Kind: k, Key: key})
			return r, nil
		}
	}
	return oauth.Record{}, err
}

// where turns the named fields of a query into a condition that the partial
// indexes can serve.
func where(q oauth.Query) (string, []any) {
	cond, args := "kind = ?", []any{string(q.Kind)}
	for _, c := range []struct{ column, value string }{{"client", q.Client}, {"subject", q.Subject}, {"session", q.Session}, {"family", q.Family}} {
		if c.value != "" {
			cond += " AND " + c.column + " <> '' AND " + c.column + " = ?"
			args = append(args, c.value)
		}
	}
	return cond, args
}

func (s *Records) List(ctx context.Context, q oauth.Query) (rs []oauth.Record, err error) {
	if ok, err := shape.Query(q); !ok {
		return nil, err
	}
	if q.Limit <= 0 {
		q.Limit = shape.Page
	}
	cond, args := where(q)
	err = s.read(ctx, "SELECT "+recordColumns+" FROM records WHERE "+cond+" AND key > ? AND "+alive+" ORDER BY key LIMIT ?",
		append(args, q.After, s.now().UnixMicro(), q.Limit), func(scan func(...any) error) error {
			r, err := scanRecord(scan)
			rs = append(rs, r)
			return err
		})
	return rs, err
}

func (s *Records) Delete(ctx context.Context, q oauth.Query) (n int, err error) {
	if ok, err := shape.DeleteQuery(q); !ok {
		return 0, err
	}
	cond, args := where(q)
	return s.remove(ctx, func(t *tx, now int64, each func(func(...any) error) error) error {
		return t.rows("DELETE FROM records WHERE "+cond+" RETURNING kind, key, coalesce(expires > ?, 1)", append(args, now), each)
	})
}

// remove runs a delete that returns kind, key and whether the record was
// still good, tells the watchers, and counts the good ones.
func (s *Records) remove(ctx context.Context, del func(t *tx, now int64, each func(func(...any) error) error) error) (n int, err error) {
	var refs []oauth.Ref
	err = s.update(ctx, func(t *tx) error {
		return del(t, s.now().UnixMicro(), func(scan func(...any) error) error {
			var ref oauth.Ref
			var good bool
			if err := scan(&ref.Kind, &ref.Key, &good); err != nil {
				return err
			}
			refs = append(refs, ref)
			if good {
				n++
			}
			return nil
		})
	})
	if err != nil {
		return 0, err
	}
	s.board.Changed(refs...)
	return n, nil
}

func (s *Records) Remove(ctx context.Context, refs ...oauth.Ref) error {
	if err := shape.Refs(refs); err != nil {
		return err
	}
	n, err := s.remove(ctx, func(t *tx, now int64, each func(func(...any) error) error) error {
		for _, r := range refs {
			if !shape.Ref(r) {
				continue
			}
			if err := t.rows("DELETE FROM records WHERE kind = ? AND key = ? RETURNING kind, key, coalesce(expires > ?, 1)", []any{string(r.Kind), r.Key, now}, each); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && n == 0 {
		err = fault.New(fault.NotFound, "there is no such record")
	}
	return err
}

func (s *Records) Revoke(ctx context.Context, family string, until time.Time) error {
	if err := shape.Family(family); err != nil {
		return err
	}
	_, err := s.remove(ctx, func(t *tx, now int64, each func(func(...any) error) error) error {
		// max of NULL and anything is NULL: for good wins.
		if _, err := t.exec("INSERT INTO revoked_families (family, until) VALUES (?, ?) ON CONFLICT (family) DO UPDATE SET until = max(until, excluded.until)",
			family, micros(until)); err != nil {
			return err
		}
		return t.rows("DELETE FROM records WHERE family <> '' AND family = ? RETURNING kind, key, coalesce(expires > ?, 1)", []any{family, now}, each)
	})
	return err
}

func (s *Records) Expire(ctx context.Context, now time.Time) (total int, err error) {
	for _, query := range []string{
		"DELETE FROM records WHERE rowid IN (SELECT rowid FROM records WHERE expires <= ? LIMIT ?) RETURNING kind, key",
		"DELETE FROM revoked_families WHERE family IN (SELECT family FROM revoked_families WHERE until <= ? LIMIT ?) RETURNING '', family",
	} {
		for n := expireBatch; n == expireBatch; {
			var refs []oauth.Ref
			err := s.update(ctx, func(t *tx) error {
				return t.rows(query, []any{now.UnixMicro(), expireBatch}, func(scan func(...any) error) error {
					var ref oauth.Ref
					err := scan(&ref.Kind, &ref.Key)
					refs = append(refs, ref)
					return err
				})
			})
			if err != nil {
				return total, err
			}
			if n = len(refs); n > 0 && refs[0].Kind != "" {
				total += n
				s.board.Changed(refs...)
			}
		}
	}
	return total, nil
}
