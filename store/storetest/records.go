package storetest

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
)

// Records is the contract of oauth.Store, and of oauth.Watcher where the store
// implements it.
func Records(t *testing.T, open func(*testing.T) oauth.Store) {
	s := open(t)
	for _, c := range []struct {
		name string
		f    func(*testing.T, oauth.Store)
	}{
		{"ColdRace", recordsColdRace}, // first: nothing was read before
		{"PutAndGet", recordsPutGet},
		{"Generations", recordsGenerations},
		{"AllOrNothing", recordsAllOrNothing},
		{"Take", recordsTake},
		{"List", recordsList},
		{"Delete", recordsDelete},
		{"Remove", recordsRemove},
		{"Revoke", recordsRevoke},
		{"Expiry", recordsExpiry},
		{"Expire", recordsExpire},
		{"Limits", recordsLimits},
		{"TakeOnceRace", recordsTakeRace},
		{"GenerationRace", recordsGenerationRace},
		{"InsertRace", recordsInsertRace},
		{"PutOrderRace", recordsOrderRace},
		{"RevokeRace", recordsRevokeRace},
		{"Watch", recordsWatch},
	} {
		t.Run(c.name, func(t *testing.T) { c.f(t, s) })
	}
}

// RecordsReopen checks that what was answered with success is there after
// reopen, which closes the store and opens it again.
func RecordsReopen(t *testing.T, open func(*testing.T) oauth.Store, reopen func(*testing.T, oauth.Store) oauth.Store) {
	ctx := deadline(t)
	s := open(t)
	r := full(t)
	must(t, s.Put(ctx, r, oauth.Record{Kind: oauth.Used, Key: "once"}))
	_, err := s.Take(ctx, oauth.Used, "once")
	must(t, err)
	must(t, s.Revoke(ctx, "gone", time.Time{}))
	s = reopen(t, s)
	r.Generation = 1
	sameRecords(t, get(t, s, ref(r)), r)
	_, err = s.Take(ctx, oauth.Used, "once")
	wantKind(t, err, fault.Spent)
	wantKind(t, s.Put(ctx, oauth.Record{Kind: oauth.Used, Key: "late", Family: "gone"}), fault.Denied)
}

func full(t *testing.T) oauth.Record {
	return oauth.Record{
		Kind: oauth.Authorizations, Key: t.Name() + "-ä日", Client: "client", Subject: "subject", Session: "session", Family: t.Name() + "family",
		Expires: time.Now().Add(time.Hour).Truncate(time.Microsecond), Data: []byte{0, 1, 0xff, '\n'},
	}
}

func ref(r oauth.Record) oauth.Ref { return oauth.Ref{Kind: r.Kind, Key: r.Key} }

func get(t *testing.T, s oauth.Store, refs ...oauth.Ref) []oauth.Record {
	t.Helper()
	rs, err := s.Get(deadline(t), refs...)
	must(t, err)
	return rs
}

// one returns a record that must be there.
func one(t *testing.T, s oauth.Store, r oauth.Ref) oauth.Record {
	t.Helper()
	rs := get(t, s, r)
	if len(rs) != 1 {
		t.Fatalf("got %d records for %v, want 1", len(rs), r)
	}
	return rs[0]
}

// sameRecords compares, whatever the order.
func sameRecords(t *testing.T, got []oauth.Record, want ...oauth.Record) {
	t.Helper()
	tidy := func(rs []oauth.Record) []oauth.Record {
		rs = slices.Clone(rs)
		for i := range rs {
			rs[i].Expires = rs[i].Expires.UTC()
			if len(rs[i].Data) == 0 {
				rs[i].Data = nil
			}
		}
		slices.SortFunc(rs, func(a, b oauth.Record) int {
			return strings.Compare(string(a.Kind)+" "+a.Key, string(b.Kind)+" "+b.Key)
		})
		return rs
	}
	if g, w := tidy(got), tidy(want); !(len(g) == 0 && len(w) == 0) && !reflect.DeepEqual(g, w) {
		t.Fatalf("got  %+v\nwant %+v", g, w)
	}
}

func recordsPutGet(t *testing.T, s oauth.Store) {
	ctx := deadline(t)
	a := full(t)
	b := oauth.Record{Kind: oauth.Clients, Key: a.Key} // same key, other kind; every option empty
	c := oauth.Record{Kind: oauth.Keys, Key: "openid/" + a.Key, Data: []byte("x")}
	must(t, s.Put(ctx, a, b, c))
	a.Generation, b.Generation, c.Generation = 1, 1, 1
	sameRecords(t, get(t, s, ref(a)), a)
	sameRecords(t, get(t, s, ref(a), ref(b), ref(c), oauth.Ref{Kind: oauth.Keys, Key: "missing"}), a, b, c)
	sameRecords(t, get(t, s, ref(c), ref(c)), c)
	sameRecords(t, get(t, s, oauth.Ref{Kind: oauth.Keys, Key: "missing"}))
	sameRecords(t, get(t, s))
	must(t, s.Put(ctx))

	t.Run("a record handed out or in is nobody's but the caller's", func(t *testing.T) {
		data := []byte("before")
		r := oauth.Record{Kind: oauth.Flows, Key: t.Name(), Data: data}
		must(t, s.Put(ctx, r))
		copy(data, "xxxxxx")
		got := one(t, s, ref(r))
		copy(got.Data, "yyyyyy")
		if got := one(t, s, ref(r)).Data; !bytes.Equal(got, []byte("before")) {
			t.Fatalf("got data %q, want %q", got, "before")
		}
	})
	t.Run("an ended context writes nothing or says so", func(t *testing.T) {
		gone, cancel := context.WithCancel(ctx)
		cancel()
		r := oauth.Record{Kind: oauth.Flows, Key: t.Name()}
		err := s.Put(gone, r)
		if n := len(get(t, s, ref(r))); err == nil && n != 1 {
			t.Fatal("Put succeeded and kept nothing")
		}
	})
}

func recordsGenerations(t *testing.T, s oauth.Store) {
	ctx := deadline(t)
	r := full(t)
	put := func(gen int64, data string) error {
		r.Generation, r.Data = gen, []byte(data)
		return s.Put(ctx, r)
	}
	check := func(gen int64, data string) {
		t.Helper()
		if got := one(t, s, ref(r)); got.Generation != gen || string(got.Data) != data {
			t.Fatalf("got generation %d data %q, want %d %q", got.Generation, got.Data, gen, data)
		}
	}
	wantKind(t, put(1, "cas of nothing"), fault.Conflict)
	must(t, put(0, "one"))
	check(1, "one")
	wantKind(t, put(0, "again"), fault.Conflict)
	must(t, put(1, "two"))
	check(2, "two")
	wantKind(t, put(1, "late"), fault.Conflict)
	wantKind(t, put(3, "early"), fault.Conflict)
	check(2, "two")
	must(t, put(oauth.Overwrite, "three"))
	check(3, "three")

	// Every field is replaced.
	next := oauth.Record{Kind: r.Kind, Key: r.Key, Generation: 3, Client: "c2", Subject: "s2", Session: "x2", Family: "f2", Data: []byte("d2")}
	must(t, s.Put(ctx, next))
	next.Generation = 4
	sameRecords(t, get(t, s, ref(r)), next)

	fresh := oauth.Record{Kind: oauth.Flows, Key: t.Name() + "fresh", Generation: oauth.Overwrite}
	must(t, s.Put(ctx, fresh))
	fresh.Generation = 1
	sameRecords(t, get(t, s, ref(fresh)), fresh)

	// One call may write a record twice.
	twice := oauth.Record{Kind: oauth.Flows, Key: t.Name() + "twice"}
	second := twice
	second.Generation, second.Data = 1, []byte("2nd")
	must(t, s.Put(ctx, twice, second))
	second.Generation = 2
	sameRecords(t, get(t, s, ref(twice)), second)
}

func recordsAllOrNothing(t *testing.T, s oauth.Store) {
	ctx := deadline(t)
	have := oauth.Record{Kind: oauth.Flows, Key: t.Name() + "have", Data: []byte("old")}
	must(t, s.Put(ctx, have))
	must(t, s.Revoke(ctx, t.Name()+"gone", time.Time{}))
	fresh := func(i int) oauth.Record {
		return oauth.Record{Kind: oauth.Flows, Key: fmt.Sprint(t.Name(), "-", i), Client: t.Name()}
	}
	update := have
	update.Generation, update.Data = 1, []byte("new")
	for _, c := range []struct {
		name string
		rs   []oauth.Record
		want fault.Kind
	}{
		{"conflict last", []oauth.Record{fresh(1), update, have}, fault.Conflict},
		{"conflict first", []oauth.Record{have, fresh(2), fresh(3)}, fault.Conflict},
		{"denied", []oauth.Record{fresh(4), update, {Kind: oauth.Flows, Key: t.Name() + "5", Family: t.Name() + "gone"}}, fault.Denied},
		{"invalid", []oauth.Record{fresh(6), {Kind: oauth.Flows}}, fault.Invalid},
	} {
		t.Run(c.name, func(t *testing.T) { wantKind(t, s.Put(ctx, c.rs...), c.want) })
	}
	rs, err := s.List(ctx, oauth.Query{Kind: oauth.Flows, Client: t.Name()})
	must(t, err)
	sameRecords(t, rs)
	have.Generation = 1
	sameRecords(t, get(t, s, ref(have)), have)
}

func recordsTake(t *testing.T, s oauth.Store) {
	ctx := deadline(t)
	r := full(t)
	_, err := s.Take(ctx, r.Kind, r.Key)
	wantKind(t, err, fault.NotFound)
	must(t, s.Put(ctx, r))
	r.Generation = 1
	got, err := s.Take(ctx, r.Kind, r.Key)
	must(t, err)
	sameRecords(t, []oauth.Record{got}, r)
	got, err = s.Take(ctx, r.Kind, r.Key)
	wantKind(t, err, fault.Spent)
	sameRecords(t, []oauth.Record{got}, r)
	sameRecords(t, get(t, s, ref(r)), r) // a spent record is still a record

	// Writing it does not make it unused.
	must(t, s.Put(ctx, r))
	_, err = s.Take(ctx, r.Kind, r.Key)
	wantKind(t, err, fault.Spent)
	r.Generation = oauth.Overwrite
	must(t, s.Put(ctx, r))
	_, err = s.Take(ctx, r.Kind, r.Key)
	wantKind(t, err, fault.Spent)

	must(t, s.Remove(ctx, ref(r)))
	_, err = s.Take(ctx, r.Kind, r.Key)
	wantKind(t, err, fault.NotFound)
	r.Generation = 0
	must(t, s.Put(ctx, r))
	_, err = s.Take(ctx, r.Kind, r.Key)
	must(t, err)
}

func recordsList(t *testing.T, s oauth.Store) {
	ctx := deadline(t)
	const n = 30
	var all []oauth.Record
	for i := range n {
		// Byte order: upper case before lower case, which a language's order has otherwise.
		key := fmt.Sprintf("%s-%c%02d", t.Name(), "aBcD"[i%4], i)
		all = append(all, oauth.Record{Kind: oauth.Consents, Key: key, Client: t.Name() + fmt.Sprint(i%2), Subject: t.Name() + fmt.Sprint(i%3),
			Session: t.Name() + fmt.Sprint(i%5), Family: t.Name() + fmt.Sprint(i%7)})
	}
	all = append(all, oauth.Record{Kind: oauth.Sessions, Key: t.Name() + "-other kind", Client: t.Name() + "0"})
	must(t, s.Put(ctx, all...))
	slices.SortFunc(all, func(a, b oauth.Record) int { return strings.Compare(a.Key, b.Key) })
	for i := range all {
		all[i].Generation = 1
	}
	for _, q := range []oauth.Query{
		{Client: t.Name() + "0"}, {Subject: t.Name() + "1"}, {Session: t.Name() + "4"}, {Family: t.Name() + "6"},
		{Client: t.Name() + "1", Subject: t.Name() + "2"},
		{Client: t.Name() + "1", Subject: t.Name() + "1", Session: t.Name() + "1", Family: t.Name() + "1"},
		{Client: "nobody"}, {Client: t.Name() + "0", Subject: "nobody"}, {},
	} {
		q.Kind = oauth.Consents
		var want []oauth.Record
		for _, r := range all {
			if r.Kind == q.Kind && (q.Client == "" || q.Client == r.Client) && (q.Subject == "" || q.Subject == r.Subject) &&
				(q.Session == "" || q.Session == r.Session) && (q.Family == "" || q.Family == r.Family) {
				want = append(want, r)
			}
		}
		for _, limit := range []int{0, 1, 4, 1000} {
			q.After, q.Limit = "", limit
			var got []oauth.Record
			for {
				page, err := s.List(ctx, q)
				must(t, err)
				if limit > 0 && len(page) > limit {
					t.Fatalf("got a page of %d, want at most %d", len(page), limit)
				}
				if len(page) == 0 {
					break
				}
				got = append(got, page...)
				q.After = page[len(page)-1].Key
			}
			if g, w := keys(got), keys(want); !slices.Equal(g, w) {
				t.Fatalf("query %+v: got %q, want %q", q, g, w)
			}
			sameRecords(t, got, want...)
		}
	}
	_, err := s.List(ctx, oauth.Query{Client: "c"})
	wantKind(t, err, fault.Invalid)
}

func keys(rs []oauth.Record) []string {
	var ks []string
	for _, r := range rs {
		ks = append(ks, r.Key)
	}
	return ks
}

func recordsDelete(t *testing.T, s oauth.Store) {
	ctx := deadline(t)
	mk := func(key, client, subject string) oauth.Record {
		return oauth.Record{Kind: oauth.Authorizations, Key: t.Name() + key, Client: t.Name() + client, Subject: t.Name() + subject}
	}
	a, b, c := mk("a", "1", "x"), mk("b", "1", "y"), mk("c", "2", "x")
	dead := mk("d", "1", "x")
	dead.Expires = time.Now().Add(-time.Minute)
	other := a
	other.Kind = oauth.Consents
	must(t, s.Put(ctx, a, b, c, dead, other))
	for _, q := range []oauth.Query{{}, {Kind: oauth.Authorizations}, {Client: t.Name() + "1"}, {Kind: oauth.Authorizations, After: "a", Limit: 1}} {
		_, err := s.Delete(ctx, q)
		wantKind(t, err, fault.Invalid)
	}
	n, err := s.Delete(ctx, oauth.Query{Kind: oauth.Authorizations, Client: t.Name() + "1", Subject: t.Name() + "y"})
	if must(t, err); n != 1 {
		t.Fatalf("deleted %d, want 1", n)
	}
	// After and Limit are not looked at; what has expired does not count.
	n, err = s.Delete(ctx, oauth.Query{Kind: oauth.Authorizations, Subject: t.Name() + "x", After: "zzz", Limit: 1})
	if must(t, err); n != 2 {
		t.Fatalf("deleted %d, want 2", n)
	}
	other.Generation = 1
	sameRecords(t, get(t, s, ref(a), ref(b), ref(c), ref(other)), other)
	n, err = s.Delete(ctx, oauth.Query{Kind: oauth.Authorizations, Subject: t.Name() + "x"})
	if must(t, err); n != 0 {
		t.Fatalf("deleted %d, want 0", n)
	}
	must(t, s.Put(ctx, a)) // deleting is not revoking
}

func recordsRemove(t *testing.T, s oauth.Store) {
	ctx := deadline(t)
	a, b := oauth.Record{Kind: oauth.Flows, Key: t.Name() + "a"}, oauth.Record{Kind: oauth.Flows, Key: t.Name() + "b"}
	wantKind(t, s.Remove(ctx, ref(a)), fault.NotFound)
	must(t, s.Put(ctx, a, b))
	must(t, s.Remove(ctx, ref(a), oauth.Ref{Kind: oauth.Flows, Key: "missing"}))
	b.Generation = 1
	sameRecords(t, get(t, s, ref(a), ref(b)), b)
	must(t, s.Remove(ctx, ref(b)))
	wantKind(t, s.Remove(ctx, ref(a), ref(b)), fault.NotFound)
	dead := oauth.Record{Kind: oauth.Flows, Key: t.Name() + "dead", Expires: time.Now().Add(-time.Minute)}
	must(t, s.Put(ctx, dead))
	wantKind(t, s.Remove(ctx, ref(dead)), fault.NotFound)
}

func recordsRevoke(t *testing.T, s oauth.Store) {
	ctx := deadline(t)
	fam := func(f string) oauth.Record {
		return oauth.Record{Kind: oauth.Authorizations, Key: t.Name() + f, Family: t.Name() + f}
	}
	a, b := fam("a"), fam("b")
	flow := a
	flow.Kind = oauth.Flows
	must(t, s.Put(ctx, a, b, flow))
	must(t, s.Revoke(ctx, a.Family, time.Time{}))
	b.Generation = 1
	sameRecords(t, get(t, s, ref(a), ref(b), ref(flow)), b)
	for _, gen := range []int64{0, 1, oauth.Overwrite} { // whatever the generation says: denied, not a conflict
		late := a
		late.Generation = gen
		wantKind(t, s.Put(ctx, late), fault.Denied)
	}
	// Moving a living record into it is refused as well.
	move := b
	move.Family = a.Family
	wantKind(t, s.Put(ctx, move), fault.Denied)
	sameRecords(t, get(t, s, ref(b)), b)
	// Neither a shorter revocation nor time ends one that is for good.
	must(t, s.Revoke(ctx, a.Family, time.Now().Add(-time.Hour)))
	_, err := s.Expire(ctx, time.Now())
	must(t, err)
	wantKind(t, s.Put(ctx, a), fault.Denied)

	must(t, s.Revoke(ctx, fam("unseen").Family, time.Now().Add(time.Hour))) // nothing there yet
	wantKind(t, s.Put(ctx, fam("unseen")), fault.Denied)
	must(t, s.Revoke(ctx, fam("unseen").Family, time.Now().Add(time.Minute)))
	_, err = s.Expire(ctx, time.Now().Add(30*time.Minute)) // the longer one still holds
	must(t, err)
	wantKind(t, s.Put(ctx, fam("unseen")), fault.Denied)

	must(t, s.Put(ctx, fam("past")))
	must(t, s.Revoke(ctx, fam("past").Family, time.Now().Add(-time.Second))) // over already: deletes only
	sameRecords(t, get(t, s, ref(fam("past"))))
	must(t, s.Put(ctx, fam("past")))
	wantKind(t, s.Revoke(ctx, "", time.Time{}), fault.Invalid)
}

func recordsExpiry(t *testing.T, s oauth.Store) {
	ctx := deadline(t)
	r := full(t)
	r.Expires = time.Now().Add(-time.Second)
	must(t, s.Put(ctx, r))
	gone := func(r oauth.Record) {
		t.Helper()
		sameRecords(t, get(t, s, ref(r)))
		sameRecords(t, get(t, s, ref(r), oauth.Ref{Kind: oauth.Flows, Key: "missing"}))
		_, err := s.Take(ctx, r.Kind, r.Key)
		wantKind(t, err, fault.NotFound)
		rs, err := s.List(ctx, oauth.Query{Kind: r.Kind, Family: r.Family})
		must(t, err)
		sameRecords(t, rs)
		stale := r
		stale.Generation = 1
		wantKind(t, s.Put(ctx, stale), fault.Conflict)
	}
	gone(r)
	// Its place is free, also for Overwrite, and what comes is a new record.
	r.Expires = time.Now().Add(-time.Second)
	r.Generation = oauth.Overwrite
	must(t, s.Put(ctx, r))
	r.Generation, r.Expires = 0, time.Now().Add(time.Hour).Truncate(time.Microsecond)
	must(t, s.Put(ctx, r))
	r.Generation = 1
	sameRecords(t, get(t, s, ref(r)), r)

	// A spent record that expired does not make its successor spent.
	_, err := s.Take(ctx, r.Kind, r.Key)
	must(t, err)
	r.Expires = time.Now().Add(50 * time.Millisecond)
	must(t, s.Put(ctx, r))
	eventually(t, "expiry", func() bool { return len(get(t, s, ref(r))) == 0 })
	gone(r)
	r.Generation, r.Expires = oauth.Overwrite, time.Time{}
	must(t, s.Put(ctx, r))
	if got := one(t, s, ref(r)); got.Generation != 1 || !got.Expires.IsZero() {
		t.Fatalf("got generation %d expires %v, want 1 and never", got.Generation, got.Expires)
	}
	_, err = s.Take(ctx, r.Kind, r.Key)
	must(t, err)
}

func recordsExpire(t *testing.T, s oauth.Store) {
	ctx := deadline(t)
	now := time.Now()
	_, err := s.Expire(ctx, now)
	must(t, err)
	const n = 700 // more than a batch
	var rs []oauth.Record
	for i := range n {
		rs = append(rs, oauth.Record{Kind: oauth.Used, Key: fmt.Sprint(t.Name(), i), Expires: now.Add(-time.Minute)})
	}
	soon := oauth.Record{Kind: oauth.Used, Key: t.Name() + "soon", Expires: now.Add(time.Hour)}
	never := oauth.Record{Kind: oauth.Used, Key: t.Name() + "never"}
	must(t, s.Put(ctx, rs...))
	must(t, s.Put(ctx, soon, never))
	got, err := s.Expire(ctx, now)
	if must(t, err); got != n {
		t.Fatalf("expired %d, want %d", got, n)
	}
	got, err = s.Expire(ctx, now)
	if must(t, err); got != 0 {
		t.Fatalf("expired %d, want 0", got)
	}
	if got := get(t, s, ref(soon), ref(never)); len(got) != 2 {
		t.Fatalf("got %d living records, want 2", len(got))
	}
	// The clock is the caller's.
	got, err = s.Expire(ctx, now.Add(2*time.Hour))
	must(t, err)
	if got < 1 || len(get(t, s, ref(soon))) != 0 {
		t.Fatalf("expired %d, and the record is still there", got)
	}
}

func recordsLimits(t *testing.T, s oauth.Store) {
	ctx := deadline(t)
	long, huge := strings.Repeat("k", 1024), strings.Repeat("k", 1025)
	r := oauth.Record{Kind: oauth.Flows, Key: long, Client: long, Subject: long, Session: long, Family: long, Data: make([]byte, 1<<20)}
	must(t, s.Put(ctx, r))
	r.Generation = 1
	sameRecords(t, get(t, s, ref(r)), r)
	must(t, s.Remove(ctx, ref(r)))
	for _, key := range []string{"", huge, "nul\x00", "\xff\xfe"} {
		wantKind(t, s.Put(ctx, oauth.Record{Kind: oauth.Flows, Key: key}), fault.Invalid)
		// Asking for it is no error: it is not there.
		sameRecords(t, get(t, s, oauth.Ref{Kind: oauth.Flows, Key: key}))
		_, err := s.Take(ctx, oauth.Flows, key)
		wantKind(t, err, fault.NotFound)
		wantKind(t, s.Remove(ctx, oauth.Ref{Kind: oauth.Flows, Key: key}), fault.NotFound)
		if key == "" {
			continue
		}
		wantKind(t, s.Put(ctx, oauth.Record{Kind: oauth.Flows, Key: "k", Subject: key}), fault.Invalid)
		rs, err := s.List(ctx, oauth.Query{Kind: oauth.Flows, Subject: key})
		must(t, err)
		sameRecords(t, rs)
		n, err := s.Delete(ctx, oauth.Query{Kind: oauth.Flows, Subject: key})
		if must(t, err); n != 0 {
			t.Fatalf("deleted %d, want 0", n)
		}
	}
	wantKind(t, s.Put(ctx, oauth.Record{Key: "k"}), fault.Invalid)
	wantKind(t, s.Put(ctx, oauth.Record{Kind: oauth.Flows, Key: "k", Data: make([]byte, 1<<20+1)}), fault.Invalid)
	wantKind(t, s.Put(ctx, oauth.Record{Kind: oauth.Flows, Key: "k", Generation: -2}), fault.Invalid)
	wantKind(t, s.Put(ctx, make([]oauth.Record, 1001)...), fault.Invalid)
	_, err := s.Get(ctx, make([]oauth.Ref, 1001)...)
	wantKind(t, err, fault.Invalid)
}
