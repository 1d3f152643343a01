// Package memory keeps resources, records and users in this process, for
// tests and for trials: everything is gone when it ends.
//
// It does what the contracts say and nothing to be fast.
package memory

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"sync"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/resource"
	"gatehouse/store/notice"
	"gatehouse/store/shape"
)

// history is how many changes Watch can reach back.
const history = 4096

// Resources is a resource.Store.
type Resources struct {
	Now func() time.Time // time.Now outside tests

	bell notice.Bell

	mu      sync.Mutex // guards what follows
	rev     int64
	objects map[objectKey]resource.Object
	log     []resource.Change // the newest changes, oldest first
	pruned  int64             // changes up to this revision are not all in log
	timer   *time.Timer       // of the next expiry; nil: nothing expires
}

type objectKey struct {
	kind resource.Kind
	id   string
}

// NewResources returns an empty store. It needs no closing.
func NewResources() *Resources {
	return &Resources{Now: time.Now, objects: map[objectKey]resource.Object{}}
}

var _ resource.Store = (*Resources)(nil)

func (s *Resources) Get(ctx context.Context, k resource.Kind, id string) (resource.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[objectKey{k, id}]
	if !ok || dead(o.Expires, s.Now()) {
		return resource.Object{}, fault.New(fault.NotFound, "there is no "+string(k)+" "+id)
	}
	o.JSON = slices.Clone(o.JSON)
	return o, nil
}

func (s *Resources) List(ctx context.Context, k resource.Kind) ([]resource.Object, int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var objs []resource.Object
	now := s.Now()
	for key, o := range s.objects {
		if (k == "" || key.kind == k) && !dead(o.Expires, now) {
			o.JSON = slices.Clone(o.JSON)
			objs = append(objs, o)
		}
	}
	slices.SortFunc(objs, func(a, b resource.Object) int {
		return cmp.Or(cmp.Compare(a.CreateRevision, b.CreateRevision), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Kind, b.Kind))
	})
	return objs, s.rev, nil
}

func (s *Resources) Apply(ctx context.Context, changes ...resource.Change) (int64, error) {
	if err := shape.Changes(changes); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep()
	if len(changes) == 0 {
		return s.rev, nil
	}
	rev := s.rev + 1
	next := map[objectKey]*resource.Object{} // what will be there; nil: nothing
	made := make([]resource.Change, 0, len(changes))
	for _, c := range changes {
		key := objectKey{c.Kind, c.ID}
		cur, touched := next[key]
		if !touched {
			if o, ok := s.objects[key]; ok {
				cur = &o
			}
		}
		name := string(c.Kind) + " " + c.ID
		switch {
		case c.JSON == nil && cur == nil:
			return 0, fault.New(fault.NotFound, "there is no "+name)
		case c.If == resource.Absent && cur != nil:
			return 0, fault.New(fault.Conflict, name+" exists already")
		case c.If > 0 && (cur == nil || cur.Revision != c.If):
			return 0, fault.New(fault.Conflict, name+" was changed by someone else")
		}
		c.JSON = slices.Clone(c.JSON)
		c.Expires = stored(c.Expires)
		c.Revision, c.CreateRevision = rev, rev
		if cur != nil {
			c.CreateRevision = cur.CreateRevision
		}
		if c.JSON == nil {
			c.Expires = time.Time{}
			next[key] = nil
		} else {
			next[key] = &resource.Object{Kind: c.Kind, ID: c.ID, JSON: c.JSON, Expires: c.Expires,
				Revision: rev, CreateRevision: c.CreateRevision}
		}
		made = append(made, c)
	}
	for key, o := range next {
		if o == nil {
			delete(s.objects, key)
		} else {
			s.objects[key] = *o
		}
	}
	s.commit(rev, made)
	return rev, nil
}

// commit makes the changes known. mu is held.
func (s *Resources) commit(rev int64, made []resource.Change) {
	s.rev = rev
	s.log = append(s.log, made...)
	if n := len(s.log) - history; n > history/4 {
		s.pruned = s.log[n-1].Revision
		s.log = slices.Clone(s.log[n:])
	}
	s.schedule()
	s.bell.Ring()
}

// sweep turns expired objects into deletes. mu is held.
func (s *Resources) sweep() {
	now := s.Now()
	var made []resource.Change
	for key, o := range s.objects {
		if dead(o.Expires, now) {
			made = append(made, resource.Change{Kind: o.Kind, ID: o.ID, Revision: s.rev + 1, CreateRevision: o.CreateRevision})
			delete(s.objects, key)
		}
	}
	if len(made) > 0 {
		s.commit(s.rev+1, made)
	}
}

// schedule arms the timer for the next expiry. mu is held.
func (s *Resources) schedule() {
	var next time.Time
	for _, o := range s.objects {
		if !o.Expires.IsZero() && (next.IsZero() || o.Expires.Before(next)) {
			next = o.Expires
		}
	}
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
	if next.IsZero() {
		return
	}
	s.timer = time.AfterFunc(max(next.Sub(s.Now()), time.Millisecond), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sweep()
		s.schedule()
	})
}

func (s *Resources) Watch(ctx context.Context, after int64) iter.Seq2[resource.Change, error] {
	return func(yield func(resource.Change, error) bool) {
		at := after
		for {
			wake := s.bell.Wait()
			s.mu.Lock()
			lost := at < s.pruned || at > s.rev
			var news []resource.Change
			if !lost {
				from, _ := slices.BinarySearchFunc(s.log, at+1, func(c resource.Change, rev int64) int { return cmp.Compare(c.Revision, rev) })
				news = slices.Clone(s.log[from:])
			}
			s.mu.Unlock()
			if lost {
				yield(resource.Change{}, fault.New(fault.Conflict, "the changes after this revision are not known any more"))
				return
			}
			for i, c := range news {
				if ctx.Err() != nil {
					return
				}
				c.JSON = slices.Clone(c.JSON)
				c.More = i+1 < len(news) && news[i+1].Revision == c.Revision
				at = c.Revision // whole revisions are appended at once
				if !yield(c, nil) {
					return
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-wake:
			}
		}
	}
}

// dead says whether something with this end is gone at now.
func dead(expires, now time.Time) bool { return !expires.IsZero() && !expires.After(now) }
