package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/resource"
)

// Resources is the contract of resource.Store.
func Resources(t *testing.T, open func(*testing.T) resource.Store) {
	t.Run("ColdRace", func(t *testing.T) {
		for range coldStores {
			resourcesColdRace(t, open(t))
		}
	})
	s := open(t)
	for _, c := range []struct {
		name string
		f    func(*testing.T, resource.Store)
	}{
		{"Apply", resourcesApply},
		{"Conditions", resourcesConditions},
		{"AllOrNothing", resourcesAllOrNothing},
		{"List", resourcesList},
		{"Limits", resourcesLimits},
		{"TTL", resourcesTTL},
		{"ConditionRace", resourcesRace},
		{"Watch", resourcesWatch},
		{"WatchOld", resourcesWatchOld},
		{"WatchConcurrent", resourcesWatchConcurrent},
		{"WatchEnds", resourcesWatchEnds},
		{"WatchForgotten", resourcesWatchForgotten}, // last: it writes a lot
	} {
		t.Run(c.name, func(t *testing.T) { c.f(t, s) })
	}
}

// ResourcesReopen checks that a revision never goes back and nothing is lost
// over reopen, which closes the store and opens it again.
func ResourcesReopen(t *testing.T, open func(*testing.T) resource.Store, reopen func(*testing.T, resource.Store) resource.Store) {
	ctx := deadline(t)
	s := open(t)
	for i := range 5 {
		apply(t, s, put("a", fmt.Sprint(i)))
	}
	before := apply(t, s, put("b", "1"))
	last := apply(t, s, del("b"), resource.Change{Kind: resource.Routes, ID: "ttl", JSON: doc("x"), Expires: time.Now().Add(300 * time.Millisecond)})
	want, _, err := s.List(ctx, resource.Routes)
	must(t, err)
	s = reopen(t, s)
	got, rev, err := s.List(ctx, resource.Routes)
	must(t, err)
	if rev < last {
		t.Fatalf("the revision went back from %d to %d", last, rev)
	}
	sameObjects(t, living(got, "a"), living(want, "a"))
	// The changes from before are still known, and the expiry is still kept.
	news := collect(t, s, before, 3)
	if news[0].ID != "b" || news[1].ID != "ttl" || news[2].ID != "ttl" || news[2].JSON != nil || news[2].Revision <= last {
		t.Fatalf("got changes %+v", news)
	}
	if next := apply(t, s, put("a", "9")); next <= news[2].Revision {
		t.Fatalf("the revision went from %d to %d", news[2].Revision, next)
	}
}

// resourcesColdRace reads a store that nobody has read before, in every way at
// once: the readers may not wait for each other.
func resourcesColdRace(t *testing.T, s resource.Store) {
	apply(t, s, put("a", "1"), put("b", "2"))
	ctx, cancel := context.WithTimeout(t.Context(), coldPatience)
	defer cancel()
	var errs [2 * coldReaders]error
	race(len(errs), func(i int) {
		switch {
		case i < coldReaders:
			kinds := []resource.Kind{resource.Routes, ""}
			objs, _, err := s.List(ctx, kinds[i%len(kinds)])
			if errs[i] = err; err == nil && len(objs) != 2 {
				errs[i] = fmt.Errorf("a list of %d, want 2", len(objs))
			}
		case i%2 == 0:
			_, errs[i] = s.Get(ctx, resource.Routes, "a")
		default:
			errs[i] = errors.New("the watch ended without a change")
			for _, err := range s.Watch(ctx, 0) {
				errs[i] = err
				break
			}
		}
	})
	for i, err := range errs {
		if err != nil {
			t.Errorf("reader %d: %v", i, err)
		}
	}
}

func doc(v string) json.RawMessage { return fmt.Appendf(nil, `{"v":%q}`, v) }

func put(id, v string) resource.Change {
	return resource.Change{Kind: resource.Routes, ID: id, JSON: doc(v)}
}

func del(id string) resource.Change { return resource.Change{Kind: resource.Routes, ID: id} }

func apply(t *testing.T, s resource.Store, cs ...resource.Change) int64 {
	t.Helper()
	rev, err := s.Apply(deadline(t), cs...)
	must(t, err)
	return rev
}

// collect watches until n changes came.
func collect(t *testing.T, s resource.Store, after int64, n int) []resource.Change {
	t.Helper()
	var got []resource.Change
	for c, err := range s.Watch(deadline(t), after) {
		must(t, err)
		if got = append(got, c); len(got) == n {
			return got
		}
	}
	t.Fatalf("the watch ended after %d of %d changes: %+v", len(got), n, got)
	return nil
}

func living(objs []resource.Object, ids ...string) []resource.Object {
	return slices.DeleteFunc(slices.Clone(objs), func(o resource.Object) bool { return !slices.Contains(ids, o.ID) })
}

func sameObjects(t *testing.T, got, want []resource.Object) {
	t.Helper()
	tidy := func(objs []resource.Object) []resource.Object {
		objs = slices.Clone(objs)
		for i := range objs {
			objs[i].Expires = objs[i].Expires.UTC()
		}
		return objs
	}
	if g, w := tidy(got), tidy(want); !(len(g) == 0 && len(w) == 0) && !reflect.DeepEqual(g, w) {
		t.Fatalf("got  %+v\nwant %+v", g, w)
	}
}

func current(t *testing.T, s resource.Store) int64 {
	t.Helper()
	_, rev, err := s.List(deadline(t), "")
	must(t, err)
	return rev
}

func resourcesApply(t *testing.T, s resource.Store) {
	ctx := deadline(t)
	_, err := s.Get(ctx, resource.Routes, "r1")
	wantKind(t, err, fault.NotFound)
	r0 := current(t, s)
	exact := json.RawMessage(`{"z": 1,  "a":"<&ä>" }`) // kept byte by byte
	r1 := apply(t, s, resource.Change{Kind: resource.Routes, ID: "r1", JSON: exact}, resource.Change{Kind: resource.Services, ID: "r1", JSON: doc("s")})
	if r1 != r0+1 {
		t.Fatalf("got revision %d for the first transaction after %d", r1, r0)
	}
	got, err := s.Get(ctx, resource.Routes, "r1")
	must(t, err)
	sameObjects(t, []resource.Object{got}, []resource.Object{{Kind: resource.Routes, ID: "r1", CreateRevision: r1, Revision: r1, JSON: exact}})
	r2 := apply(t, s, put("r1", "2"))
	if r2 != r1+1 {
		t.Fatalf("got revision %d after %d", r2, r1)
	}
	got, err = s.Get(ctx, resource.Routes, "r1")
	must(t, err)
	sameObjects(t, []resource.Object{got}, []resource.Object{{Kind: resource.Routes, ID: "r1", CreateRevision: r1, Revision: r2, JSON: doc("2")}})
	if got, err = s.Get(ctx, resource.Services, "r1"); err != nil || got.Revision != r1 {
		t.Fatalf("another kind was touched: %+v, %v", got, err)
	}
	apply(t, s, del("r1"))
	_, err = s.Get(ctx, resource.Routes, "r1")
	wantKind(t, err, fault.NotFound)
	r4 := apply(t, s, put("r1", "4"))
	if got, err = s.Get(ctx, resource.Routes, "r1"); err != nil || got.CreateRevision != r4 {
		t.Fatalf("created again: got %+v, %v, want create revision %d", got, err, r4)
	}
	if rev := apply(t, s); rev != r4 {
		t.Fatalf("no changes: got revision %d, want %d as before", rev, r4)
	}
	// What is handed in and out belongs to the caller.
	mine := doc("mine")
	apply(t, s, resource.Change{Kind: resource.Routes, ID: "r1", JSON: mine})
	copy(mine, "xxxxxxx")
	got, _ = s.Get(ctx, resource.Routes, "r1")
	copy(got.JSON, "yyyyyy")
	if got, _ = s.Get(ctx, resource.Routes, "r1"); string(got.JSON) != string(doc("mine")) {
		t.Fatalf("got %s, want %s", got.JSON, doc("mine"))
	}
	apply(t, s, del("r1"), resource.Change{Kind: resource.Services, ID: "r1"})
}

func resourcesConditions(t *testing.T, s resource.Store) {
	ctx := deadline(t)
	absent := put("c", "1")
	absent.If = resource.Absent
	r1 := apply(t, s, absent)
	for _, c := range []struct {
		name  string
		id    string
		json  json.RawMessage
		cond  int64
		fails fault.Kind
	}{
		{"absent but there", "c", doc("x"), resource.Absent, fault.Conflict},
		{"older revision", "c", doc("x"), r1 - 1, fault.Conflict},
		{"later revision", "c", doc("x"), r1 + 1, fault.Conflict},
		{"revision of nothing", "none", doc("x"), r1, fault.Conflict},
		{"delete, older revision", "c", nil, r1 - 1, fault.Conflict},
		{"delete, absent", "c", nil, resource.Absent, fault.Conflict},
		{"delete of nothing", "none", nil, resource.Any, fault.NotFound},
		{"delete of nothing, with a revision", "none", nil, r1, fault.NotFound},
		{"meaningless", "c", doc("x"), -2, fault.Invalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := s.Apply(ctx, resource.Change{Kind: resource.Routes, ID: c.id, JSON: c.json, If: c.cond})
			wantKind(t, err, c.fails)
		})
	}
	if rev := current(t, s); rev != r1 {
		t.Fatalf("refused changes moved the revision from %d to %d", r1, rev)
	}
	next := put("c", "2")
	next.If = r1
	r2 := apply(t, s, next)
	gone := del("c")
	gone.If = r2
	apply(t, s, gone)
}

func resourcesAllOrNothing(t *testing.T, s resource.Store) {
	ctx := deadline(t)
	r1 := apply(t, s, put("have", "1"))
	stale := put("have", "x")
	stale.If = r1 - 1
	for _, cs := range [][]resource.Change{
		{put("n1", "x"), put("have", "x"), stale},
		{put("n2", "x"), del("have"), del("missing")},
		{stale, put("n3", "x")},
		{put("n4", "x"), {Kind: resource.Routes}},
	} {
		if _, err := s.Apply(ctx, cs...); err == nil {
			t.Fatalf("%+v was applied", cs)
		}
	}
	objs, rev, err := s.List(ctx, resource.Routes)
	must(t, err)
	if len(objs) != 1 || string(objs[0].JSON) != string(doc("1")) || rev != r1 {
		t.Fatalf("got %+v at %d, want what was there before, at %d", objs, rev, r1)
	}
	// Changes of one transaction see each other.
	apply(t, s, del("have"), put("have", "2"), put("tmp", "x"), del("tmp"))
	objs, rev, err = s.List(ctx, resource.Routes)
	must(t, err)
	if len(objs) != 1 || string(objs[0].JSON) != string(doc("2")) || objs[0].CreateRevision != rev {
		t.Fatalf("got %+v at %d", objs, rev)
	}
	apply(t, s, del("have"))
}

func resourcesList(t *testing.T, s resource.Store) {
	ctx := deadline(t)
	objs, rev, err := s.List(ctx, "")
	must(t, err)
	if len(objs) != 0 || rev != current(t, s) {
		t.Fatalf("got %+v, want an empty store", objs)
	}
	apply(t, s, put("z", "1"))
	apply(t, s, put("b", "1"), put("a", "1"), resource.Change{Kind: resource.Upstreams, ID: "u", JSON: doc("1")})
	apply(t, s, put("z", "2")) // an update keeps its place
	last := apply(t, s, put("Y", "1"))
	ids := func(objs []resource.Object) string {
		var s []string
		for _, o := range objs {
			s = append(s, o.ID)
		}
		return strings.Join(s, " ")
	}
	objs, rev, err = s.List(ctx, resource.Routes)
	must(t, err)
	if got := ids(objs); got != "z a b Y" || rev != last {
		t.Fatalf("got %q at %d, want %q at %d", got, rev, "z a b Y", last)
	}
	objs, _, err = s.List(ctx, "")
	must(t, err)
	if got := ids(objs); got != "z a b u Y" {
		t.Fatalf("got %q, want every kind", got)
	}
	if objs, _, err = s.List(ctx, resource.SSLs); err != nil || len(objs) != 0 {
		t.Fatalf("got %+v, %v, want nothing", objs, err)
	}
	apply(t, s, del("z"), del("a"), del("b"), del("Y"), resource.Change{Kind: resource.Upstreams, ID: "u"})
}

func resourcesLimits(t *testing.T, s resource.Store) {
	ctx := deadline(t)
	for _, c := range []resource.Change{
		{ID: "a", JSON: doc("x")}, {Kind: resource.Routes, JSON: doc("x")}, put(strings.Repeat("x", 1025), "x"), put("\x00", "x"), put("\xff", "x"),
		{Kind: resource.Routes, ID: "a", JSON: json.RawMessage("{")}, {Kind: resource.Routes, ID: "a", JSON: json.RawMessage{}},
	} {
		_, err := s.Apply(ctx, c)
		wantKind(t, err, fault.Invalid)
	}
	for _, id := range []string{"", "\x00", "\xff", strings.Repeat("x", 5000)} {
		_, err := s.Get(ctx, resource.Routes, id)
		wantKind(t, err, fault.NotFound)
	}
	long := strings.Repeat("ä", 512)
	apply(t, s, put(long, strings.Repeat("j", 1<<20)))
	apply(t, s, del(long))
}

func resourcesTTL(t *testing.T, s resource.Store) {
	ctx := deadline(t)
	soon := put("soon", "1")
	soon.Expires = time.Now().Add(100 * time.Millisecond).Truncate(time.Microsecond)
	later := put("later", "1")
	later.Expires = time.Now().Add(time.Hour).Truncate(time.Microsecond)
	rev := apply(t, s, put("never", "1"), soon, later)
	got, err := s.Get(ctx, resource.Routes, "later")
	if must(t, err); !got.Expires.Equal(later.Expires) {
		t.Fatalf("got expiry %v, want %v", got.Expires, later.Expires)
	}
	c := collect(t, s, rev, 1)[0] // nothing else wakes the store
	if c.ID != "soon" || c.JSON != nil || c.Revision <= rev || c.CreateRevision != rev {
		t.Fatalf("got %+v, want the delete of what expired", c)
	}
	if time.Now().Before(soon.Expires) {
		t.Fatal("deleted before its time")
	}
	_, err = s.Get(ctx, resource.Routes, "soon")
	wantKind(t, err, fault.NotFound)
	// Expired is gone, for conditions too, whether it was swept or not; a put
	// without an end has none.
	past := put("later", "2")
	past.Expires = time.Now().Add(-time.Second)
	apply(t, s, past)
	_, err = s.Get(ctx, resource.Routes, "later")
	wantKind(t, err, fault.NotFound)
	again := put("later", "3")
	again.If = resource.Absent
	apply(t, s, again)
	if got, err = s.Get(ctx, resource.Routes, "later"); err != nil || !got.Expires.IsZero() || got.CreateRevision != got.Revision {
		t.Fatalf("got %+v, %v", got, err)
	}
	// Renewed in time, it stays.
	renew := put("renewed", "1")
	renew.Expires = time.Now().Add(50 * time.Millisecond)
	apply(t, s, renew)
	renew.Expires = time.Time{}
	rev = apply(t, s, renew)
	probe := put("probe", "1")
	probe.Expires = time.Now().Add(100 * time.Millisecond)
	apply(t, s, probe)
	for _, c := range collect(t, s, rev, 2) {
		if c.ID != "probe" {
			t.Fatalf("got %+v, want nothing but the probe to change", c)
		}
	}
	apply(t, s, del("never"), del("later"), del("renewed"))
}

func resourcesRace(t *testing.T, s resource.Store) {
	for round := range rounds / 2 {
		c := put(t.Name(), fmt.Sprint(round))
		if c.If = resource.Absent; round > 0 {
			o, err := s.Get(t.Context(), c.Kind, c.ID)
			must(t, err)
			c.If = o.Revision
		}
		var errs [racers]error
		race(racers, func(i int) { _, errs[i] = s.Apply(t.Context(), c) })
		exactlyOne(t, errs[:], fault.Conflict)
	}
	apply(t, s, del(t.Name()))
}
