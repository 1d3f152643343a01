package memory

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
	"gatehouse/store/notice"
	"gatehouse/store/shape"
)

// Records is an oauth.Store and an oauth.Watcher.
type Records struct {
	notice.Board
	now func() time.Time

	mu      sync.Mutex // guards what follows
	records map[oauth.Ref]kept
	revoked map[string]time.Time // family → until; zero: for good
}

type kept struct {
	oauth.Record
	spent bool
}

// NewRecords returns an empty store.
func NewRecords(now func() time.Time) *Records {
	return &Records{now: now, records: map[oauth.Ref]kept{}, revoked: map[string]time.Time{}}
}

var (
	_ oauth.Store   = (*Records)(nil)
	_ oauth.Watcher = (*Records)(nil)
)

// living returns a copy of a record that has not expired. mu is held.
func (s *Records) living(ref oauth.Ref) (kept, bool) {
	r, ok := s.records[ref]
	if !ok || dead(r.Expires, s.now()) {
		return kept{}, false
	}
	r.Data = slices.Clone(r.Data)
	return r, true
}

func (s *Records) Get(ctx context.Context, refs ...oauth.Ref) ([]oauth.Record, error) {
	if err := shape.Refs(refs); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var rs []oauth.Record
	seen := map[oauth.Ref]bool{}
	for _, ref := range refs {
		if r, ok := s.living(ref); ok && !seen[ref] {
			seen[ref] = true
			rs = append(rs, r.Record)
		}
	}
	return rs, nil
}

func (s *Records) Put(ctx context.Context, rs ...oauth.Record) error {
	if err := shape.Records(rs); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	next := map[oauth.Ref]kept{}
	for _, r := range rs {
		if until, ok := s.revoked[r.Family]; ok && r.Family != "" && !dead(until, s.now()) {
			return fault.New(fault.Denied, "this was revoked")
		}
	}
	for _, r := range rs {
		ref := oauth.Ref{Kind: r.Kind, Key: r.Key}
		cur, ok := next[ref]
		if ok {
			ok = !dead(cur.Expires, s.now())
		} else {
			cur, ok = s.living(ref)
		}
		if !ok {
			cur = kept{}
		}
		if r.Generation != oauth.Overwrite && r.Generation != cur.Generation {
			return fault.New(fault.Conflict, "the "+string(r.Kind)+" was changed by someone else")
		}
		r.Generation = cur.Generation + 1
		r.Data = slices.Clone(r.Data)
		r.Expires = stored(r.Expires)
		next[ref] = kept{r, cur.spent}
	}
	refs := make([]oauth.Ref, 0, len(next))
	for ref, r := range next {
		s.records[ref] = r
		refs = append(refs, ref)
	}
	s.Changed(refs...)
	return nil
}

// stored is a time as every backend gives it back: UTC, in microseconds.
func stored(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return time.UnixMicro(t.UnixMicro()).UTC()
}

func (s *Records) Take(ctx context.Context, k oauth.RecordKind, key string) (oauth.Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ref := oauth.Ref{Kind: k, Key: key}
	r, ok := s.living(ref)
	if !ok {
		return oauth.Record{}, fault.New(fault.NotFound, "there is no such "+string(k))
	}
	if r.spent {
		return r.Record, fault.New(fault.Spent, "this "+string(k)+" was used already")
	}
	spent := s.records[ref]
	spent.spent = true
	s.records[ref] = spent
	s.Changed(ref)
	return r.Record, nil
}

func (s *Records) List(ctx context.Context, q oauth.Query) ([]oauth.Record, error) {
	if ok, err := shape.Query(q); !ok {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var rs []oauth.Record
	for ref, r := range s.records {
		if matches(q, r.Record) && ref.Key > q.After {
			if r, ok := s.living(ref); ok {
				rs = append(rs, r.Record)
			}
		}
	}
	slices.SortFunc(rs, func(a, b oauth.Record) int { return strings.Compare(a.Key, b.Key) })
	if q.Limit <= 0 {
		q.Limit = shape.Page
	}
	return rs[:min(len(rs), q.Limit)], nil
}

func matches(q oauth.Query, r oauth.Record) bool {
	return q.Kind == r.Kind && cmp.Or(q.Client, r.Client) == r.Client && cmp.Or(q.Subject, r.Subject) == r.Subject &&
		cmp.Or(q.Session, r.Session) == r.Session && cmp.Or(q.Family, r.Family) == r.Family
}

func (s *Records) Delete(ctx context.Context, q oauth.Query) (int, error) {
	if ok, err := shape.DeleteQuery(q); !ok {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.remove(func(r oauth.Record) bool { return matches(q, r) }), nil
}

// remove deletes what is chosen and returns how many of it had not expired. mu is held.
func (s *Records) remove(chosen func(oauth.Record) bool) int {
	n := 0
	for ref, r := range s.records {
		if !chosen(r.Record) {
			continue
		}
		if !dead(r.Expires, s.now()) {
			n++
		}
		delete(s.records, ref)
		s.Changed(ref)
	}
	return n
}

func (s *Records) Remove(ctx context.Context, refs ...oauth.Ref) error {
	if err := shape.Refs(refs); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found := false
	for _, ref := range refs {
		if _, ok := s.living(ref); ok {
			found = true
			delete(s.records, ref)
			s.Changed(ref)
		}
	}
	if !found {
		return fault.New(fault.NotFound, "there is no such record")
	}
	return nil
}

func (s *Records) Revoke(ctx context.Context, family string, until time.Time) error {
	if err := shape.Family(family); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if had, ok := s.revoked[family]; !ok || until.IsZero() || (!had.IsZero() && until.After(had)) {
		s.revoked[family] = until
	}
	s.remove(func(r oauth.Record) bool { return r.Family == family })
	return nil
}

func (s *Records) Expire(ctx context.Context, now time.Time) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for ref, r := range s.records {
		if dead(r.Expires, now) {
			delete(s.records, ref)
			s.Changed(ref)
			n++
		}
	}
	for f, until := range s.revoked {
		if dead(until, now) {
			delete(s.revoked, f)
		}
	}
	return n, nil
}
