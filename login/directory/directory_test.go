package directory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/login"
)

// users is a login.Store in a map.
type users struct {
	mu   sync.Mutex
	byID map[string]login.User
	err  error
}

func (s *users) find(f func(login.User) bool) (login.User, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.byID {
		if f(u) {
			return u, s.err
		}
	}
	return login.User{}, cmp.Or(s.err, error(fault.New(fault.NotFound, "no such user")))
}

func (s *users) User(_ context.Context, id string) (login.User, error) {
	return s.find(func(u login.User) bool { return u.ID == id })
}

func (s *users) UserByEmail(_ context.Context, email string) (login.User, error) {
	return s.find(func(u login.User) bool { return u.Email == email })
}

func (s *users) AddUser(ctx context.Context, u login.User) error {
	if _, err := s.UserByEmail(ctx, u.Email); err == nil {
		return fault.New(fault.Conflict, "taken")
	}
	return s.put(u)
}

func (s *users) UpdateUser(_ context.Context, u login.User) error { return s.put(u) }

func (s *users) put(u login.User) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byID[u.ID] = u
	return s.err
}

func (s *users) DeleteUser(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byID, id)
	return s.err
}

func (s *users) Users(_ context.Context, after string, limit int) ([]login.User, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []login.User
	for _, u := range s.byID {
		if u.Email > after {
			all = append(all, u)
		}
	}
	slices.SortFunc(all, func(a, b login.User) int { return strings.Compare(a.Email, b.Email) })
	return all[:min(limit, len(all))], s.err
}

// plainHasher "hashes" with a version in front and counts the checks.
type plainHasher struct {
	mu      sync.Mutex
	version string
	checks  []string // the hashes that were checked
	busy    bool
}

func (h *plainHasher) Hash(_ context.Context, p string) (string, error) {
	return h.version + ":" + p, nil
}

func (h *plainHasher) Verify(_ context.Context, phc, p string) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.busy {
		return false, fault.New(fault.Unavailable, "full")
	}
	h.checks = append(h.checks, phc)
	_, want, ok := strings.Cut(phc, ":")
	if !ok {
		return false, errors.New("unreadable hash")
	}
	return want == p, nil
}

func (h *plainHasher) Outdated(phc string) bool { return !strings.HasPrefix(phc, h.version+":") }

type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.at }
func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func open(t *testing.T, l Limits) (*Directory, *users, *plainHasher, *clock) {
	t.Helper()
	s, h, c := &users{byID: map[string]login.User{}}, &plainHasher{version: "v1"}, &clock{at: time.Unix(1e9, 0)}
	d, err := New(t.Context(), Config{Store: s, Hasher: h, Now: c.now, Limits: l})
	if err != nil {
		t.Fatal(err)
	}
	return d, s, h, c
}

func add(t *testing.T, d *Directory, email, password string, admin bool) login.User {
	t.Helper()
	u, err := d.Add(t.Context(), email, "", password, admin)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestVerifyTellsNothing(t *testing.T) {
	d, s, h, _ := open(t, Limits{})
	ann := add(t, d, "Ann@Example.com ", "correct horse", false)
	off := add(t, d, "off@example.com", "correct horse", false)
	if err := d.Disable(t.Context(), off.ID, true); err != nil {
		t.Fatal(err)
	}
	s.put(login.User{ID: "bare", Email: "bare@example.com"})
	s.put(login.User{ID: "odd", Email: "odd@example.com", PasswordHash: "garbage"})

	u, err := d.Verify(t.Context(), " ANN@example.com", "correct horse")
	if err != nil || u.ID != ann.ID {
		t.Fatalf("right password: %+v, %v", u, err)
	}
	var texts []string
	for _, c := range []struct{ name, email, password string }{
		{"wrong password", "ann@example.com", "wrong horse"},
		{"unknown", "nobody@example.com", "correct horse"},
		{"disabled", "off@example.com", "correct horse"},
		{"without password", "bare@example.com", "correct horse"},
		{"unreadable hash", "odd@example.com", "correct horse"},
		{"malformed", "nonsense", "correct horse"},
		{"too long", "ann@example.com", strings.Repeat("x", MaxPassword+1)},
		{"empty", "ann@example.com", ""},
	} {
		before := len(h.checks)
		u, err := d.Verify(t.Context(), c.email, c.password)
		if fault.KindOf(err) != fault.Denied || u.ID != "" {
			t.Errorf("%s: %+v, %v", c.name, u, err)
			continue
		}
		texts = append(texts, err.Error())
		// One readable hash is checked, no more and no fewer.
		readable := 0
		for _, phc := range h.checks[before:] {
			if strings.Contains(phc, ":") {
				readable++
			}
		}
		want := 1
		if c.name == "malformed" || c.name == "too long" || c.name == "empty" {
			want = 0
		}
		if readable != want {
			t.Errorf("%s: %d hashes checked, want %d", c.name, readable, want)
		}
	}
	if slices.Sort(texts); len(slices.Compact(texts)) != 1 {
		t.Errorf("texts differ: %q", texts)
	}
}

func TestUnavailableIsNotAFailure(t *testing.T) {
	d, s, h, _ := open(t, Limits{Pair: Rate{Burst: 1}})
	add(t, d, "ann@example.com", "correct horse", false)
	h.busy = true
	for range 3 {
		if _, err := d.Verify(t.Context(), "ann@example.com", "correct horse"); fault.KindOf(err) != fault.Unavailable {
			t.Errorf("busy: %v", err)
		}
	}
	h.busy = false
	s.err = errors.New("disk")
	if _, err := d.Verify(t.Context(), "ann@example.com", "correct horse"); err == nil || fault.KindOf(err) != fault.Internal {
		t.Errorf("store down: %v", err)
	}
	s.err = nil
	if _, err := d.Verify(t.Context(), "ann@example.com", "correct horse"); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestLimits(t *testing.T) {
	d, _, _, c := open(t, Limits{
		Pair:    Rate{3, time.Minute},
		Address: Rate{6, time.Minute},
		Account: Rate{8, time.Minute},
	})
	add(t, d, "ann@example.com", "correct horse", false)
	add(t, d, "bob@example.com", "correct horse", false)
	home, office := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	try := func(from netip.Addr, email, password string) fault.Kind {
		_, err := d.VerifyFrom(t.Context(), from, email, password)
		if err == nil {
			return 255
		}
		var w interface{ RetryAfter() time.Duration }
		if fault.KindOf(err) == fault.Unavailable && (!errors.As(err, &w) || w.RetryAfter() <= 0) {
			t.Errorf("no waiting time in %v", err)
		}
		return fault.KindOf(err)
	}
	expect := func(what string, got, want fault.Kind) {
		t.Helper()
		if got != want {
			t.Errorf("%s: kind %d, want %d", what, got, want)
		}
	}
	const fine = fault.Kind(255)

	expect("ann is known at home", try(home, "ann@example.com", "correct horse"), fine)
	for range 3 {
		expect("guess", try(office, "ann@example.com", "guess"), fault.Denied)
	}
	expect("the right password must wait too", try(office, "ann@example.com", "correct horse"), fault.Unavailable)
	expect("neighbour in the same /64", try(netip.MustParseAddr("2001:db8::2"), "ann@example.com", "guess"), fault.Unavailable)
	expect("unknown names count as well", try(office, "nobody@example.com", "guess"), fault.Denied)
	expect("another account", try(office, "bob@example.com", "correct horse"), fine)
	expect("guess", try(office, "bob@example.com", "guess"), fault.Denied)
	expect("guess", try(office, "bob@example.com", "guess"), fault.Denied)
	expect("six failures from one address", try(office, "bob@example.com", "correct horse"), fault.Unavailable)

	// Many addresses guess at one account.
	denied := 0
	for i := range 20 {
		if try(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), "ann@example.com", "guess") == fault.Denied {
			denied++
		}
	}
	expect("guesses let through", fault.Kind(denied), 5) // 8 less the 3 from the office
	expect("a stranger must wait", try(netip.MustParseAddr("203.0.113.9"), "ann@example.com", "correct horse"), fault.Unavailable)
	expect("ann at home does not", try(home, "ann@example.com", "correct horse"), fine)

	c.add(time.Minute)
	expect("one more after a minute", try(office, "ann@example.com", "correct horse"), fine)
}

func TestLimiterIsBounded(t *testing.T) {
	d, _, _, _ := open(t, Limits{Entries: 100})
	for i := range 1000 {
		from := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		tk, wait := d.limiter.enter(from, fmt.Sprintf("u%d@example.com", i))
		if wait > 0 {
			t.Fatalf("attempt %d has to wait", i)
		}
		d.limiter.succeeded(tk)
		d.limiter.enter(from, fmt.Sprintf("u%d@example.com", i))
	}
	l := d.limiter
	for name, n := range map[string]int{"pair": len(l.pair.buckets), "address": len(l.address.buckets), "account": len(l.account.buckets), "friends": len(l.friends)} {
		if n > 100 {
			t.Errorf("%s holds %d", name, n)
		}
	}
}

func TestParallelGuessesAreCountedBeforeTheyAreChecked(t *testing.T) {
	d, _, h, _ := open(t, Limits{Pair: Rate{5, time.Hour}})
	add(t, d, "ann@example.com", "correct horse", false)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() { d.Verify(context.Background(), "ann@example.com", "guess") })
	}
	wg.Wait()
	if len(h.checks) != 5 {
		t.Errorf("%d guesses were checked, want 5", len(h.checks))
	}
}

func TestHashIsUpgradedOnUse(t *testing.T) {
	d, s, h, _ := open(t, Limits{})
	u := add(t, d, "ann@example.com", "correct horse", false)
	h.version = "v2"
	if _, err := d.Verify(t.Context(), "ann@example.com", "wrong horse"); err == nil {
		t.Fatal("wrong password accepted")
	}
	if got := s.byID[u.ID].PasswordHash; got != "v1:correct horse" {
		t.Errorf("a wrong password changed the hash to %q", got)
	}
	if _, err := d.Verify(t.Context(), "ann@example.com", "correct horse"); err != nil {
		t.Fatal(err)
	}
	if got := s.byID[u.ID].PasswordHash; got != "v2:correct horse" {
		t.Errorf("hash = %q", got)
	}
	// A change of password between the check and the upgrade wins.
	if err := d.SetPassword(t.Context(), u.ID, "battery staple"); err != nil {
		t.Fatal(err)
	}
	if err := d.upgrade(t.Context(), u, "correct horse"); err != nil {
		t.Fatal(err)
	}
	if got := s.byID[u.ID].PasswordHash; got != "v2:battery staple" {
		t.Errorf("the old password came back: %q", got)
	}
}

func TestAdd(t *testing.T) {
	d, _, _, c := open(t, Limits{})
	for _, x := range []struct {
		name, email, display, password string
		want                           fault.Kind
	}{
		{"fine", "Zoë@Example.com", "  Zoë\t Z ", "eight ch", 255},
		{"taken in another spelling", "ZOE\u0308@example.com", "", "eight ch", fault.Conflict},
		{"short", "a@example.com", "", "seven c", fault.Invalid},
		{"short in characters", "a@example.com", "", "ééééééé", fault.Invalid},
		{"long", "a@example.com", "", strings.Repeat("x", 4097), fault.Invalid},
		{"longest", "a@example.com", "", strings.Repeat("x", 4096), 255},
		{"the email itself", "b@example.com", "", "B@example.com", fault.Invalid},
		{"not UTF-8", "b@example.com", "", "\xff\xff\xff\xff\xff\xff\xff\xff", fault.Invalid},
		{"no email", "", "", "eight ch", fault.Invalid},
		{"no at", "b", "", "eight ch", fault.Invalid},
		{"two ats", "b@c@d", "", "eight ch", fault.Invalid},
		{"a header", "b@c\r\nBcc: x", "", "eight ch", fault.Invalid},
		{"invisible", "b\u200b@example.com", "", "eight ch", fault.Invalid},
		{"name turns the text around", "b@example.com", "x\u202ey", "eight ch", fault.Invalid},
		{"long name", "b@example.com", strings.Repeat("x", 201), "eight ch", fault.Invalid},
	} {
		u, err := d.Add(t.Context(), x.email, x.display, x.password, false)
		if x.want != 255 {
			if fault.KindOf(err) != x.want || err == nil {
				t.Errorf("%s: %+v, %v", x.name, u, err)
			}
			continue
		}
		if err != nil || len(u.ID) != 32 || !u.CreatedAt.Equal(c.now()) || u.Disabled {
			t.Errorf("%s: %+v, %v", x.name, u, err)
		}
	}
	u, err := d.FindByEmail(t.Context(), "zoë@EXAMPLE.com")
	if err != nil || u.Name != "Zoë Z" || u.Email != "zoë@example.com" {
		t.Errorf("found %+v, %v", u, err)
	}
	// The same characters from another keyboard.
	if u, err = d.Add(t.Context(), "mac@example.com", "", "cafe\u0301 au lait", false); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Verify(t.Context(), "mac@example.com", "café au lait"); err != nil {
		t.Errorf("composed spelling of the password: %v", err)
	}
}

func TestLastAdministratorStays(t *testing.T) {
	d, _, _, _ := open(t, Limits{})
	a := add(t, d, "a@example.com", "correct horse", true)
	b := add(t, d, "b@example.com", "correct horse", true)
	for i := range listPage + 3 { // more than one page before the other administrator
		d.store.AddUser(t.Context(), login.User{ID: fmt.Sprint(i), Email: fmt.Sprintf("a%04d@example.com", i)})
	}
	ctx := t.Context()
	if err := d.Disable(ctx, a.ID, true); err != nil {
		t.Fatalf("one of two: %v", err)
	}
	for name, do := range map[string]func() error{
		"disable": func() error { return d.Disable(ctx, b.ID, true) },
		"demote":  func() error { return d.SetAdmin(ctx, b.ID, false) },
		"delete":  func() error { return d.Delete(ctx, b.ID) },
	} {
		if err := do(); fault.KindOf(err) != fault.Conflict {
			t.Errorf("%s of the last administrator: %v", name, err)
		}
	}
	if err := d.Delete(ctx, a.ID); err != nil {
		t.Errorf("a disabled administrator may go: %v", err)
	}
	if err := d.SetAdmin(ctx, "1", true); err != nil {
		t.Fatal(err)
	}
	if err := d.Delete(ctx, b.ID); err != nil {
		t.Errorf("with a successor: %v", err)
	}
	if err := d.Delete(ctx, "nobody"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("unknown: %v", err)
	}
	if us, err := d.List(ctx, "a0002@example.com", 2); err != nil || len(us) != 2 || us[0].ID != "3" {
		t.Errorf("list: %+v, %v", us, err)
	}
}

func TestTwoAdministratorsCannotBothGo(t *testing.T) {
	for range 50 {
		d, s, _, _ := open(t, Limits{})
		a, b := add(t, d, "a@example.com", "correct horse", true), add(t, d, "b@example.com", "correct horse", true)
		var wg sync.WaitGroup
		wg.Go(func() { d.Delete(context.Background(), a.ID) })
		wg.Go(func() { d.Disable(context.Background(), b.ID, true) })
		wg.Wait()
		if !slices.ContainsFunc([]login.User{s.byID[a.ID], s.byID[b.ID]}, func(u login.User) bool { return u.Admin && !u.Disabled }) {
			t.Fatal("no administrator is left")
		}
	}
}

func FuzzNormalEmail(f *testing.F) {
	for _, s := range []string{"a@b", "A@B.c ", "İ@x", "\u212a@x", "a\u0301@x", "a@b@c", "\xff@x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := NormalEmail(s)
		if err != nil {
			return
		}
		again, err := NormalEmail(got)
		if err != nil || again != got {
			t.Errorf("%q becomes %q, which becomes %q (%v)", s, got, again, err)
		}
		if len(got) > MaxEmail || strings.ContainsAny(got, "\r\n <>") {
			t.Errorf("%q becomes %q", s, got)
		}
	})
}
