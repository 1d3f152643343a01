package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	"gatehouse/lib/fault"
)

const (
	maxQueue = 256 // writes that wait; more wait outside
	maxGroup = 128 // writes that share one commit
)

// writer owns the one connection that writes. It runs what is queued in turn,
// each under a savepoint of its own, and commits together what was waiting at
// the same time: one sync of the disk for all of them.
type writer struct {
	conn  *sql.Conn
	stmts map[string]*sql.Stmt // of conn, by their text; used by run alone
	queue chan *job

	mu     sync.RWMutex // held for reading while a job is queued
	closed bool         // guarded by mu
	ended  chan struct{}
}

// job is one write. The caller waits for done, which comes after the commit.
type job struct {
	gone <-chan struct{} // the caller's context: not begun after its end
	run  func(*tx) error
	done chan error // capacity 1
}

var errGone = errors.New("the caller is gone")

func startWriter(conn *sql.Conn) *writer {
	w := &writer{conn: conn, stmts: map[string]*sql.Stmt{}, queue: make(chan *job, maxQueue), ended: make(chan struct{})}
	go w.loop()
	return w
}

// do runs f and returns after its commit. What f began is finished whatever
// becomes of ctx, so that the answer is true.
func (w *writer) do(ctx context.Context, f func(*tx) error) error {
	j := &job{gone: ctx.Done(), run: f, done: make(chan error, 1)}
	if err := w.enqueue(ctx, j); err != nil {
		return err
	}
	err := <-j.done
	if err == errGone {
		return ctx.Err()
	}
	return err
}

func (w *writer) enqueue(ctx context.Context, j *job) error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.closed {
		return fault.New(fault.Unavailable, "the store is closed")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case w.queue <- j:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stop finishes what is queued and closes the connection.
func (w *writer) stop() error {
	w.mu.Lock()
	first := !w.closed
	if first {
		w.closed = true
		close(w.queue)
	}
	w.mu.Unlock()
	<-w.ended
	if !first {
		return nil
	}
	return w.conn.Close()
}

func (w *writer) loop() {
	defer close(w.ended)
	defer func() {
		for _, st := range w.stmts {
			st.Close()
		}
	}()
	for j := range w.queue {
		group := []*job{j}
	more:
		for len(group) < maxGroup {
			select {
			case j, ok := <-w.queue:
				if !ok {
					break more
				}
				group = append(group, j)
			default:
				break more
			}
		}
		w.commit(group)
	}
}

// commit runs a group and tells each its own outcome, or all of them that the
// commit failed.
func (w *writer) commit(group []*job) {
	errs := make([]error, len(group))
	whole := w.runAll(group, errs)
	for i, j := range group {
		if whole != nil && errs[i] != errGone {
			errs[i] = whole
		}
		j.done <- errs[i]
	}
}

func (w *writer) runAll(group []*job, errs []error) error {
	t := &tx{w}
	if _, err := t.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	changed := false
	for i, j := range group {
		select {
		case <-j.gone:
			errs[i] = errGone
			continue
		default:
		}
		err := t.under(j.run)
		if f := (*broken)(nil); errors.As(err, &f) {
			t.exec("ROLLBACK") // may be done already
			return f.err
		}
		errs[i] = err
		changed = changed || err == nil
	}
	end := "COMMIT"
	if !changed {
		end = "ROLLBACK"
	}
	if _, err := t.exec(end); err != nil {
		t.exec("ROLLBACK")
		return err
	}
	return nil
}

// broken says that the whole transaction is lost.
type broken struct{ err error }

func (b *broken) Error() string { return b.err.Error() }

// tx is the transaction a job runs in. It is used by the writer's goroutine only.
type tx struct{ w *writer }

// under runs f under a savepoint and takes back what it did when it fails.
func (t *tx) under(f func(*tx) error) error {
	if _, err := t.exec("SAVEPOINT job"); err != nil {
		return &broken{err}
	}
	err := f(t)
	if err != nil {
		if _, back := t.exec("ROLLBACK TO job"); back != nil {
			return &broken{fmt.Errorf("%w, after %w", back, err)}
		}
	}
	if _, rel := t.exec("RELEASE job"); rel != nil {
		return &broken{rel}
	}
	return err
}

func (t *tx) stmt(query string) (*sql.Stmt, error) {
	if st, ok := t.w.stmts[query]; ok {
		return st, nil
	}
	st, err := t.w.conn.PrepareContext(context.Background(), query)
	if err == nil {
		t.w.stmts[query] = st
	}
	return st, err
}

// exec returns how many rows were touched.
func (t *tx) exec(query string, args ...any) (int64, error) {
	st, err := t.stmt(query)
	if err != nil {
		return 0, err
	}
	res, err := st.Exec(args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// row reads the first row of a query, and says whether there was one.
func (t *tx) row(query string, args []any, into ...any) (bool, error) {
	st, err := t.stmt(query)
	if err != nil {
		return false, err
	}
	err = st.QueryRow(args...).Scan(into...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// rows calls each for every row. each must not use the transaction.
func (t *tx) rows(query string, args []any, each func(scan func(...any) error) error) error {
	st, err := t.stmt(query)
	if err != nil {
		return err
	}
	rows, err := st.Query(args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}
