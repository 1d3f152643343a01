package storetest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
)

// recordsColdRace reads a store that nobody has read before, by queries of
// many shapes at once: the readers may not wait for each other.
func recordsColdRace(t *testing.T, s oauth.Store) {
	r := full(t)
	must(t, s.Put(t.Context(), r))
	r.Generation = 1
	ctx, cancel := context.WithTimeout(t.Context(), coldPatience)
	defer cancel()
	var got [2 * coldReaders][]oauth.Record
	var errs [2 * coldReaders]error
	race(len(errs), func(i int) {
		if i >= coldReaders {
			refs := []oauth.Ref{ref(r)}
			for n := range i % 8 {
				refs = append(refs, oauth.Ref{Kind: oauth.Keys, Key: fmt.Sprint(t.Name(), "missing", n)})
			}
			got[i], errs[i] = s.Get(ctx, refs...)
			return
		}
		q := oauth.Query{Kind: r.Kind, Family: r.Family}
		if i&1 != 0 {
			q.Client = r.Client
		}
		if i&2 != 0 {
			q.Subject = r.Subject
		}
		if i&4 != 0 {
			q.Session = r.Session
		}
		got[i], errs[i] = s.List(ctx, q)
	})
	for i, err := range errs {
		if err != nil {
			t.Errorf("reader %d: %v", i, err)
			continue
		}
		sameRecords(t, got[i], r)
	}
}

func recordsTakeRace(t *testing.T, s oauth.Store) {
	for round := range rounds {
		r := oauth.Record{Kind: oauth.Flows, Key: fmt.Sprint(t.Name(), round), Data: []byte("data")}
		must(t, s.Put(t.Context(), r))
		r.Generation = 1
		var got [racers]oauth.Record
		var errs [racers]error
		race(racers, func(i int) { got[i], errs[i] = s.Take(t.Context(), r.Kind, r.Key) })
		winners := 0
		for i := range racers {
			if errs[i] == nil {
				winners++
			} else {
				wantKind(t, errs[i], fault.Spent)
			}
			sameRecords(t, got[i:i+1], r)
		}
		if winners != 1 {
			t.Fatalf("round %d: %d winners, want 1", round, winners)
		}
	}
}

func recordsGenerationRace(t *testing.T, s oauth.Store) {
	r := full(t)
	must(t, s.Put(t.Context(), r))
	for round := range rounds {
		var errs [racers]error
		race(racers, func(i int) {
			mine := r
			mine.Generation, mine.Data = int64(round+1), fmt.Append(nil, round, i)
			errs[i] = s.Put(t.Context(), mine)
		})
		winner := exactlyOne(t, errs[:], fault.Conflict)
		got := one(t, s, ref(r))
		if want := fmt.Sprint(round, winner); string(got.Data) != want || got.Generation != int64(round+2) {
			t.Fatalf("got %q generation %d, want what the winner wrote, %q generation %d", got.Data, got.Generation, want, round+2)
		}
	}
}

// exactlyOne checks that one of the racers won and the others got the kind.
func exactlyOne(t *testing.T, errs []error, lost fault.Kind) int {
	t.Helper()
	winner := -1
	for i, err := range errs {
		switch {
		case err != nil:
			wantKind(t, err, lost)
		case winner >= 0:
			t.Fatalf("racers %d and %d both won", winner, i)
		default:
			winner = i
		}
	}
	if winner < 0 {
		t.Fatal("nobody won")
	}
	return winner
}

func recordsInsertRace(t *testing.T, s oauth.Store) {
	for round := range rounds / 2 {
		r := full(t)
		r.Key += fmt.Sprint(round)
		if round%2 == 1 { // in the place of an expired one
			dead := r
			dead.Expires = time.Now().Add(-time.Minute)
			must(t, s.Put(t.Context(), dead))
		}
		var errs [racers]error
		race(racers, func(i int) { errs[i] = s.Put(t.Context(), r) })
		exactlyOne(t, errs[:], fault.Conflict)
	}
}

// recordsOrderRace writes the same records in opposite orders: one must win
// each round and nobody may be stuck.
func recordsOrderRace(t *testing.T, s oauth.Store) {
	a := oauth.Record{Kind: oauth.Flows, Key: t.Name() + "a", Family: t.Name() + "1"}
	b := oauth.Record{Kind: oauth.Clients, Key: t.Name() + "b", Family: t.Name() + "2"}
	must(t, s.Put(t.Context(), a, b))
	for round := range rounds / 2 {
		a.Generation, b.Generation = int64(round+1), int64(round+1)
		var errs [racers]error
		race(racers, func(i int) {
			if i%2 == 0 {
				errs[i] = s.Put(t.Context(), a, b)
			} else {
				errs[i] = s.Put(t.Context(), b, a)
			}
		})
		exactlyOne(t, errs[:], fault.Conflict)
	}
}

// recordsRevokeRace lets writers of a family race its revocation: once Revoke
// has returned, nothing of the family may be there or come, whatever each
// writer was told.
func recordsRevokeRace(t *testing.T, s oauth.Store) {
	for round := range rounds {
		family := fmt.Sprint(t.Name(), round)
		base := oauth.Record{Kind: oauth.Authorizations, Key: family, Family: family}
		must(t, s.Put(t.Context(), base))
		var errs [racers]error
		race(racers, func(i int) {
			switch {
			case i == racers/2:
				errs[i] = s.Revoke(t.Context(), family, time.Time{})
			case i%3 == 0: // a refresh: compare and set
				mine := base
				mine.Generation = 1
				errs[i] = s.Put(t.Context(), mine)
			case i%3 == 1: // a new record of the family
				errs[i] = s.Put(t.Context(), oauth.Record{Kind: oauth.Flows, Key: fmt.Sprint(family, "-", i), Family: family})
			default: // two at once, one of another family
				errs[i] = s.Put(t.Context(),
					oauth.Record{Kind: oauth.Flows, Key: fmt.Sprint(family, "-", i), Family: family},
					oauth.Record{Kind: oauth.Flows, Key: fmt.Sprint(family, "=", i), Family: family + "other", Generation: oauth.Overwrite})
			}
		})
		must(t, errs[racers/2])
		for _, err := range errs {
			if err != nil && fault.KindOf(err) != fault.Denied && fault.KindOf(err) != fault.Conflict {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		for _, k := range []oauth.RecordKind{oauth.Authorizations, oauth.Flows} {
			rs, err := s.List(t.Context(), oauth.Query{Kind: k, Family: family})
			must(t, err)
			if len(rs) > 0 {
				t.Fatalf("round %d: %q outlived the revocation", round, keys(rs))
			}
		}
		for i, err := range errs { // all or nothing: the companion is there exactly when its writer was told so
			if i != racers/2 && i%3 == 2 {
				if n := len(get(t, s, oauth.Ref{Kind: oauth.Flows, Key: fmt.Sprint(family, "=", i)})); (n == 1) != (err == nil) {
					t.Fatalf("round %d: writer %d was told %v and %d of its records are there", round, i, err, n)
				}
			}
		}
		wantKind(t, s.Put(t.Context(), base), fault.Denied)
	}
}

func recordsWatch(t *testing.T, s oauth.Store) {
	w, ok := s.(oauth.Watcher)
	if !ok {
		t.Skip("this store is no watcher")
	}
	ctx, cancel := context.WithCancel(deadline(t))
	seen := make(chan string, 1000)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		if err := w.Watch(ctx, oauth.Clients, func(key string) { seen <- key }); ctx.Err() == nil {
			t.Errorf("Watch ended early: %v", err)
		}
	})
	next := func(what string, want string) {
		t.Helper()
		select {
		case key := <-seen:
			if key != want {
				t.Fatalf("%s: got key %q, want %q", what, key, want)
			}
		case <-ctx.Done():
			t.Fatalf("%s was not told", what)
		}
	}
	next("the beginning", "")
	c := oauth.Record{Kind: oauth.Clients, Key: t.Name() + " ü/", Client: t.Name(), Family: t.Name()}
	flow := c
	flow.Kind = oauth.Flows // of another kind: never told
	steps := []struct {
		name string
		f    func() error
	}{
		{"Put", func() error { return s.Put(ctx, c, flow) }},
		{"Put again", func() error { c.Generation = 1; return s.Put(ctx, c) }},
		{"Take", func() error { _, err := s.Take(ctx, c.Kind, c.Key); return err }},
		{"Remove", func() error { return s.Remove(ctx, ref(c), ref(flow)) }},
		{"Put anew", func() error { c.Generation = 0; return s.Put(ctx, flow, c) }},
		{"Delete", func() error { _, err := s.Delete(ctx, oauth.Query{Kind: c.Kind, Client: c.Client}); return err }},
		{"Put once more", func() error { return s.Put(ctx, c) }},
		{"Revoke", func() error { return s.Revoke(ctx, c.Family, time.Time{}) }},
	}
	for _, st := range steps {
		if err := st.f(); err != nil {
			t.Fatalf("%s: %v", st.name, err)
		}
		next(st.name, c.Key)
		if st.name != "Revoke" && len(get(t, s, ref(c))) != 1 && st.name != "Remove" && st.name != "Delete" {
			t.Fatalf("%s: told before it could be read", st.name)
		}
	}
	// A refused write is not told, or harmlessly.
	wantKind(t, s.Put(ctx, c), fault.Denied)
	c.Family, c.Key = "", t.Name()+"last"
	must(t, s.Put(ctx, c))
	next("the last", c.Key)
}
