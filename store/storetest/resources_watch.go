package storetest

import (
	"context"
	"fmt"
	"reflect"
	"sync"
	"testing"

	"gatehouse/lib/fault"
	"gatehouse/resource"
)

func resourcesWatch(t *testing.T, s resource.Store) {
	start := current(t, s)
	ctx, cancel := context.WithCancel(deadline(t))
	news := make(chan resource.Change, 100)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		for c, err := range s.Watch(ctx, start) {
			if err != nil {
				t.Errorf("watching: %v", err)
				return
			}
			news <- c
		}
	})
	next := func(want resource.Change) {
		t.Helper()
		select {
		case c := <-news:
			c.If, want.If = 0, 0
			if !reflect.DeepEqual(c, want) {
				t.Fatalf("got  %+v\nwant %+v", c, want)
			}
		case <-ctx.Done():
			t.Fatalf("%+v did not come", want)
		}
	}
	as := func(c resource.Change, rev, create int64) resource.Change {
		c.Revision, c.CreateRevision = rev, create
		return c
	}
	more := func(c resource.Change) resource.Change { c.More = true; return c }
	a, b := put("a", "1"), put("b", "1")
	r1 := apply(t, s, a, b)
	next(more(as(a, r1, r1)))
	next(as(b, r1, r1))
	r2 := apply(t, s, put("a", "2"))
	next(as(put("a", "2"), r2, r1))
	r3 := apply(t, s, del("a"), put("b", "3"))
	next(more(as(del("a"), r3, r1)))
	next(as(put("b", "3"), r3, r1))
	_, err := s.Apply(ctx, put("c", "1"), del("missing")) // refused: nobody hears of it
	wantKind(t, err, fault.NotFound)
	r4 := apply(t, s, put("a", "4"))
	next(as(put("a", "4"), r4, r4))
	r5 := apply(t, s, del("a"), del("b"))
	next(more(as(del("a"), r5, r4)))
	next(as(del("b"), r5, r1))
}

func resourcesWatchOld(t *testing.T, s resource.Store) {
	start := current(t, s)
	var want []string
	for i := range 50 {
		rev := apply(t, s, put("old", fmt.Sprint(i)))
		want = append(want, fmt.Sprint(rev, string(doc(fmt.Sprint(i)))))
	}
	rev := apply(t, s, del("old"))
	want = append(want, fmt.Sprint(rev, ""))
	for _, from := range []int{0, 1, 25, 50} {
		got := collect(t, s, start+int64(from), len(want)-from)
		for i, c := range got {
			if g := fmt.Sprint(c.Revision, string(c.JSON)); g != want[from+i] {
				t.Fatalf("from %d, change %d: got %q, want %q", from, i, g, want[from+i])
			}
		}
	}
	// A revision that was never reached belongs to another store: list again.
	for _, err := range s.Watch(deadline(t), rev+1000) {
		wantKind(t, err, fault.Conflict)
		return
	}
	t.Fatal("watching from the future ended without an error")
}

// resourcesWatchConcurrent lets several watchers follow several writers: each
// watcher sees every change once, in the order of revisions, and the changes
// lead to what a list shows.
func resourcesWatchConcurrent(t *testing.T, s resource.Store) {
	const writers, each, watchers = 8, 40, 4
	start := current(t, s)
	ctx := deadline(t)
	var wg sync.WaitGroup
	var got [watchers][]resource.Change
	for w := range watchers {
		wg.Go(func() {
			for c, err := range s.Watch(ctx, start) {
				if err != nil {
					t.Errorf("watching: %v", err)
					return
				}
				if c.ID == "end" {
					return
				}
				got[w] = append(got[w], c)
			}
		})
	}
	race(writers, func(i int) {
		for n := range each {
			mine, shared := put(fmt.Sprint("w", i), fmt.Sprint(n)), put("shared", fmt.Sprint(i, n))
			if n%10 == 9 {
				mine = del(mine.ID)
			}
			if _, err := s.Apply(ctx, mine, shared); err != nil {
				t.Errorf("writer %d: %v", i, err)
				return
			}
		}
	})
	objs, end, err := s.List(ctx, resource.Routes)
	must(t, err)
	if want := start + writers*each; end != want {
		t.Fatalf("got revision %d after %d transactions, want %d", end, writers*each, want)
	}
	apply(t, s, put("end", "x"))
	wg.Wait()
	for w := range watchers {
		if n := len(got[w]); n != 2*writers*each {
			t.Fatalf("watcher %d saw %d changes, want %d", w, n, 2*writers*each)
		}
		state := map[string]resource.Object{}
		for i, c := range got[w] {
			if want := start + 1 + int64(i/2); c.Revision != want || (i%2 == 1) != (c.ID == "shared") {
				t.Fatalf("watcher %d: change %d is %s of revision %d, want revision %d", w, i, c.ID, c.Revision, want)
			}
			if c.JSON == nil {
				delete(state, c.ID)
			} else {
				state[c.ID] = resource.Object{Kind: c.Kind, ID: c.ID, JSON: c.JSON, Revision: c.Revision, CreateRevision: c.CreateRevision}
			}
		}
		if len(state) != len(objs) {
			t.Fatalf("watcher %d ends with %d objects, want %d", w, len(state), len(objs))
		}
		for _, o := range objs {
			sameObjects(t, []resource.Object{state[o.ID]}, []resource.Object{o})
		}
	}
	gone := []resource.Change{del("end")}
	for _, o := range objs {
		gone = append(gone, del(o.ID))
	}
	apply(t, s, gone...)
}

func resourcesWatchEnds(t *testing.T, s resource.Store) {
	start := current(t, s)
	apply(t, s, put("x", "1"))
	apply(t, s, put("x", "2"))
	for range s.Watch(deadline(t), start) {
		break // ends without a word
	}
	ctx, cancel := context.WithCancel(deadline(t))
	defer cancel()
	n := 0
	for c, err := range s.Watch(ctx, start) {
		must(t, err)
		if n++; c.Revision == start+2 {
			cancel() // while it waits for more
		}
	}
	if n != 2 {
		t.Fatalf("saw %d changes, want 2", n)
	}
	apply(t, s, del("x"))
}

// resourcesWatchForgotten writes until the store forgets its oldest changes.
// A store that never does passes as well.
func resourcesWatchForgotten(t *testing.T, s resource.Store) {
	start := current(t, s)
	var cs []resource.Change
	for i := range 1000 {
		cs = append(cs, put(fmt.Sprint("f", i), "x"))
	}
	for range 12 {
		apply(t, s, cs...)
	}
	last := current(t, s)
	n := 0
	for c, err := range s.Watch(deadline(t), start) {
		if err != nil {
			wantKind(t, err, fault.Conflict)
			if n > 0 {
				t.Fatalf("%d changes came before the watch said that some are missing", n)
			}
			break
		}
		if n++; n == 12000 {
			break
		}
		if want := start + 1 + int64((n-1)/1000); c.Revision != want {
			t.Fatalf("change %d has revision %d, want %d", n, c.Revision, want)
		}
	}
	// From the last listed revision it goes on.
	apply(t, s, put("f0", "last"))
	if c := collect(t, s, last, 1)[0]; c.ID != "f0" || c.Revision != last+1 {
		t.Fatalf("got %+v", c)
	}
	gone := make([]resource.Change, 0, len(cs))
	for _, c := range cs {
		gone = append(gone, del(c.ID))
	}
	apply(t, s, gone...)
}
