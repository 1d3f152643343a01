package embedded

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"iter"
	"sync"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/resource"
	"gatehouse/store/notice"
	"gatehouse/store/shape"
)

const (
	history     = 4096             // changes Watch can reach back, at least
	watchPage   = 256              // changes read at once
	sweepBatch  = 500              // expired objects deleted in one transaction
	sweepAtMost = 30 * time.Second // between looks at the clock, which may be set
)

// Resources is a resource.Store in gateway.db.
type Resources struct {
	*database
	now    func() time.Time
	bell   notice.Bell
	retime chan struct{} // capacity 1: the next expiry may be sooner now
	quit   context.CancelFunc
	ended  <-chan struct{} // closed by Close
	wg     sync.WaitGroup  // of the sweeper
}

// OpenResources opens dir/gateway.db, and creates it when it is not there. It
// fails with fault.Conflict when another process has it open.
func OpenResources(ctx context.Context, dir string, opts ...Option) (*Resources, error) {
	d, err := open(ctx, dir, "gateway", opts, readRevision, listObjects, readState, findChange, listChanges)
	if err != nil {
		return nil, err
	}
	life, quit := context.WithCancel(context.Background())
	s := &Resources{database: d, now: time.Now, retime: make(chan struct{}, 1), quit: quit, ended: life.Done()}
	s.wg.Go(func() { s.sweeper(life) })
	return s, nil
}

var _ resource.Store = (*Resources)(nil)

// Close ends all watches and closes the file.
func (s *Resources) Close() error {
	s.quit()
	s.wg.Wait()
	return s.close()
}

const objectColumns = "kind, id, create_revision, revision, expires, json"

// The queries of views.
const (
	readRevision = "SELECT revision FROM state"
	listObjects  = "SELECT " + objectColumns + " FROM objects WHERE (?1 = '' OR kind = ?1) AND (expires IS NULL OR expires > ?2) ORDER BY create_revision, id, kind"
	readState    = "SELECT revision, pruned_revision, pruned_seq FROM state"
	findChange   = "SELECT coalesce(max(seq), ?2) FROM changes WHERE revision <= ?1"
	listChanges  = "SELECT seq, revision, create_revision, kind, id, expires, json FROM changes WHERE seq > ? ORDER BY seq LIMIT ?"
)

func scanObject(scan func(...any) error) (resource.Object, error) {
	var o resource.Object
	var expires sql.NullInt64
	var doc []byte
	err := scan(&o.Kind, &o.ID, &o.CreateRevision, &o.Revision, &expires, &doc)
	o.JSON, o.Expires = doc, fromMicros(expires)
	return o, err
}

func (s *Resources) Get(ctx context.Context, k resource.Kind, id string) (o resource.Object, err error) {
	found := false
	if shape.Text(string(k)) && shape.Text(id) {
		err = s.read(ctx, "SELECT "+objectColumns+" FROM objects WHERE kind = ? AND id = ? AND (expires IS NULL OR expires > ?)",
			[]any{string(k), id, s.now().UnixMicro()}, func(scan func(...any) error) (err error) {
				found = true
				o, err = scanObject(scan)
				return err
			})
	}
	if err == nil && !found {
		err = fault.New(fault.NotFound, fmt.Sprintf("there is no %s %s", k, id))
	}
	return o, err
}

func (s *Resources) List(ctx context.Context, k resource.Kind) (objs []resource.Object, revision int64, err error) {
	if !shape.Text(string(k)) {
		k = "\ufffd" // no such kind
	}
	err = s.view(ctx, func(query func(string, []any, func(func(...any) error) error) error) error {
		if err := query(readRevision, nil, func(scan func(...any) error) error { return scan(&revision) }); err != nil {
			return err
		}
		return query(listObjects,
			[]any{string(k), s.now().UnixMicro()}, func(scan func(...any) error) error {
				o, err := scanObject(scan)
				objs = append(objs, o)
				return err
			})
	})
	return objs, revision, err
}

func (s *Resources) Apply(ctx context.Context, changes ...resource.Change) (revision int64, err error) {
	if err := shape.Changes(changes); err != nil {
		return 0, err
	}
	expiring := false
	for _, c := range changes {
		expiring = expiring || !c.Expires.IsZero()
	}
	err = s.update(ctx, func(t *tx) error {
		if err := sweep(t, s.now()); err != nil {
			return err
		}
		st, err := stateOf(t)
		if err != nil {
			return err
		}
		if revision = st.revision; len(changes) == 0 {
			return nil
		}
		revision++
		for _, c := range changes {
			if err := change(t, c, revision); err != nil {
				return err
			}
		}
		return st.advance(t, revision)
	})
	if err != nil {
		return 0, err
	}
	s.bell.Ring()
	if expiring {
		select {
		case s.retime <- struct{}{}:
		default:
		}
	}
	return revision, nil
}

// change makes one change under a revision.
func change(t *tx, c resource.Change, rev int64) error {
	var create, have int64
	found, err := t.row("SELECT create_revision, revision FROM objects WHERE kind = ? AND id = ?", []any{string(c.Kind), c.ID}, &create, &have)
	if err != nil {
		return err
	}
	switch {
	case c.JSON == nil && !found:
		return fault.New(fault.NotFound, fmt.Sprintf("there is no %s %s", c.Kind, c.ID))
	case c.If == resource.Absent && found:
		return fault.New(fault.Conflict, fmt.Sprintf("%s %s exists already", c.Kind, c.ID))
	case c.If > 0 && have != c.If:
		return fault.New(fault.Conflict, fmt.Sprintf("%s %s was changed by someone else", c.Kind, c.ID))
	}
	if !found {
		create = rev
	}
	if c.JSON == nil {
		if _, err := t.exec("DELETE FROM objects WHERE kind = ? AND id = ?", string(c.Kind), c.ID); err != nil {
			return err
		}
		c.Expires = time.Time{}
	} else if _, err := t.exec("INSERT INTO objects ("+objectColumns+") VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (kind, id) DO UPDATE SET revision = excluded.revision, expires = excluded.expires, json = excluded.json",
		string(c.Kind), c.ID, create, rev, micros(c.Expires), []byte(c.JSON)); err != nil {
		return err
	}
	return note(t, c, rev, create)
}

// note appends to what Watch yields.
func note(t *tx, c resource.Change, rev, create int64) error {
	var doc any
	if c.JSON != nil {
		doc = []byte(c.JSON)
	}
	_, err := t.exec("INSERT INTO changes (revision, create_revision, kind, id, expires, json) VALUES (?, ?, ?, ?, ?, ?)",
		rev, create, string(c.Kind), c.ID, micros(c.Expires), doc)
	return err
}

// sweep deletes what expired, under revisions of its own.
func sweep(t *tx, now time.Time) error {
	for {
		var gone []resource.Object
		err := t.rows("SELECT "+objectColumns+" FROM objects WHERE expires <= ? ORDER BY expires, kind, id LIMIT ?", []any{now.UnixMicro(), sweepBatch},
			func(scan func(...any) error) error {
				o, err := scanObject(scan)
				gone = append(gone, o)
				return err
			})
		if err != nil || len(gone) == 0 {
			return err
		}
		st, err := stateOf(t)
		if err != nil {
			return err
		}
		for _, o := range gone {
			if err := change(t, resource.Change{Kind: o.Kind, ID: o.ID}, st.revision+1); err != nil {
				return err
			}
		}
		if err := st.advance(t, st.revision+1); err != nil {
			return err
		}
	}
}

// sweeper deletes expired objects on time, until ctx ends.
func (s *Resources) sweeper(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.retime:
		case <-timer.C:
		}
		swept := false
		var next sql.NullInt64
		err := s.update(ctx, func(t *tx) error {
			now := s.now()
			if _, err := t.row("SELECT min(expires) FROM objects WHERE expires IS NOT NULL", nil, &next); err != nil {
				return err
			}
			if !next.Valid || next.Int64 > now.UnixMicro() {
				return nil
			}
			swept = true
			if err := sweep(t, now); err != nil {
				return err
			}
			_, err := t.row("SELECT min(expires) FROM objects WHERE expires IS NOT NULL", nil, &next)
			return err
		})
		wait := sweepAtMost
		switch {
		case err != nil:
			wait = time.Second // a full disk, for example; Get and List hide what expired meanwhile
		case next.Valid:
			wait = min(wait, max(time.UnixMicro(next.Int64).Sub(s.now()), time.Millisecond))
		}
		if swept && err == nil {
			s.bell.Ring()
		}
		timer.Reset(wait)
	}
}

// state is the row of the table of that name.
type state struct{ revision, prunedRevision, prunedSeq int64 }

func stateOf(t *tx) (st state, err error) {
	_, err = t.row(readState, nil, &st.revision, &st.prunedRevision, &st.prunedSeq)
	return st, err
}

// advance stores the new revision and forgets the oldest changes, some at a time.
func (st state) advance(t *tx, rev int64) error {
	st.revision = rev
	var last int64
	if _, err := t.row("SELECT max(seq) FROM changes", nil, &last); err != nil {
		return err
	}
	if keep := last - history; keep-st.prunedSeq > history/4 {
		st.prunedSeq = keep
		if _, err := t.row("SELECT revision FROM changes WHERE seq = ?", []any{keep}, &st.prunedRevision); err != nil {
			return err
		}
		if _, err := t.exec("DELETE FROM changes WHERE seq <= ?", keep); err != nil {
			return err
		}
	}
	_, err := t.exec("UPDATE state SET revision = ?, pruned_revision = ?, pruned_seq = ?", st.revision, st.prunedRevision, st.prunedSeq)
	return err
}

func (s *Resources) Watch(ctx context.Context, after int64) iter.Seq2[resource.Change, error] {
	return func(yield func(resource.Change, error) bool) {
		seq := int64(-1) // of the last change yielded; -1: not begun
		for {
			wake := s.bell.Wait()
			news, err := s.changes(ctx, after, &seq)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				yield(resource.Change{}, err)
				return
			}
			for _, c := range news {
				if ctx.Err() != nil || !yield(c, nil) {
					return
				}
			}
			if len(news) > 0 {
				continue
			}
			select {
			case <-ctx.Done():
				return
			case <-s.ended:
				yield(resource.Change{}, fault.New(fault.Unavailable, "the store is closed"))
				return
			case <-wake:
			}
		}
	}
}

// changes reads the next page after seq and moves seq to its end.
func (s *Resources) changes(ctx context.Context, after int64, seq *int64) (news []resource.Change, err error) {
	err = s.view(ctx, func(query func(string, []any, func(func(...any) error) error) error) error {
		var st state
		if err := query(readState, nil, func(scan func(...any) error) error {
			return scan(&st.revision, &st.prunedRevision, &st.prunedSeq)
		}); err != nil {
			return err
		}
		lost := *seq >= 0 && *seq < st.prunedSeq
		if *seq < 0 {
			if lost = after < st.prunedRevision || after > st.revision; !lost {
				*seq = st.prunedSeq
				if err := query(findChange, []any{after, st.prunedSeq},
					func(scan func(...any) error) error { return scan(seq) }); err != nil {
					return err
				}
			}
		}
		if lost {
			return fault.New(fault.Conflict, "the changes after this revision are not known any more")
		}
		// One more than a page: it tells whether the page ends a revision.
		return query(listChanges,
			[]any{*seq, watchPage + 1}, func(scan func(...any) error) error {
				var c resource.Change
				var at int64
				var expires sql.NullInt64
				var doc []byte
				if err := scan(&at, &c.Revision, &c.CreateRevision, &c.Kind, &c.ID, &expires, &doc); err != nil {
					return err
				}
				if n := len(news); n > 0 {
					news[n-1].More = news[n-1].Revision == c.Revision
				}
				if len(news) == watchPage {
					return nil
				}
				*seq = at
				c.JSON, c.Expires = json.RawMessage(doc), fromMicros(expires)
				news = append(news, c)
				return nil
			})
	})
	return news, err
}
