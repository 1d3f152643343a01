package storetest

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/login"
)

// Users is the contract of login.Store.
func Users(t *testing.T, open func(*testing.T) login.Store) {
	s := open(t)
	t.Run("Accounts", func(t *testing.T) { usersAccounts(t, s) })
	t.Run("Paging", func(t *testing.T) { usersPaging(t, s) })
	t.Run("Limits", func(t *testing.T) { usersLimits(t, s) })
	t.Run("EmailRace", func(t *testing.T) { usersRace(t, s) })
}

func usersAccounts(t *testing.T, s login.Store) {
	ctx := deadline(t)
	now := time.Now().Truncate(time.Microsecond)
	u := login.User{ID: "id-1", Email: "ann@example.com", Name: "Ann Ä", PasswordHash: "$argon2id$x", Admin: true, Disabled: true, CreatedAt: now, UpdatedAt: now.Add(time.Hour)}
	v := login.User{ID: "id-2", Email: "bob@example.com"}
	check := func(want login.User) {
		t.Helper()
		byID, err := s.User(ctx, want.ID)
		must(t, err)
		byEmail, err := s.UserByEmail(ctx, want.Email)
		must(t, err)
		sameUsers(t, []login.User{byID, byEmail}, want, want)
	}
	must(t, s.AddUser(ctx, u))
	must(t, s.AddUser(ctx, v))
	check(u)
	check(v)
	for _, bad := range []login.User{{ID: "id-1", Email: "new@example.com"}, {ID: "id-3", Email: "ann@example.com"}} {
		wantKind(t, s.AddUser(ctx, bad), fault.Conflict)
	}
	for _, id := range []string{"id-3", "", "nul\x00", "\xff"} {
		_, err := s.User(ctx, id)
		wantKind(t, err, fault.NotFound)
		_, err = s.UserByEmail(ctx, id)
		wantKind(t, err, fault.NotFound)
		wantKind(t, s.DeleteUser(ctx, id), fault.NotFound)
	}
	wantKind(t, s.UpdateUser(ctx, login.User{ID: "id-3", Email: "c@example.com"}), fault.NotFound)
	wantKind(t, s.UpdateUser(ctx, login.User{ID: "id-2", Email: "ann@example.com"}), fault.Conflict)
	check(v)

	u = login.User{ID: "id-1", Email: "anna@example.com", Name: "Anna", CreatedAt: now.Add(time.Minute), UpdatedAt: now}
	must(t, s.UpdateUser(ctx, u))
	check(u)
	_, err := s.UserByEmail(ctx, "ann@example.com")
	wantKind(t, err, fault.NotFound)
	must(t, s.UpdateUser(ctx, u)) // keeping one's own email is no conflict

	must(t, s.DeleteUser(ctx, "id-1"))
	wantKind(t, s.DeleteUser(ctx, "id-1"), fault.NotFound)
	_, err = s.User(ctx, "id-1")
	wantKind(t, err, fault.NotFound)
	must(t, s.AddUser(ctx, u)) // ID and email are free again
	must(t, s.DeleteUser(ctx, "id-1"))
	must(t, s.DeleteUser(ctx, "id-2"))
}

func sameUsers(t *testing.T, got []login.User, want ...login.User) {
	t.Helper()
	tidy := func(us []login.User) []login.User {
		us = slices.Clone(us)
		for i := range us {
			us[i].CreatedAt, us[i].UpdatedAt = us[i].CreatedAt.UTC(), us[i].UpdatedAt.UTC()
		}
		return us
	}
	if g, w := tidy(got), tidy(want); !reflect.DeepEqual(g, w) {
		t.Fatalf("got  %+v\nwant %+v", g, w)
	}
}

func usersPaging(t *testing.T, s login.Store) {
	ctx := deadline(t)
	var want []login.User
	for i := range 25 {
		u := login.User{ID: fmt.Sprint(t.Name(), i), Email: fmt.Sprintf("%02d@example.com", (i*7)%25)}
		must(t, s.AddUser(ctx, u))
		want = append(want, u)
	}
	slices.SortFunc(want, func(a, b login.User) int { return strings.Compare(a.Email, b.Email) })
	for _, limit := range []int{0, 1, 10, 1000} {
		var got []login.User
		for after := ""; ; after = got[len(got)-1].Email {
			page, err := s.Users(ctx, after, limit)
			must(t, err)
			if limit > 0 && len(page) > limit {
				t.Fatalf("got a page of %d, want at most %d", len(page), limit)
			}
			if len(page) == 0 {
				break
			}
			got = append(got, page...)
		}
		sameUsers(t, got, want...)
	}
	for _, u := range want {
		must(t, s.DeleteUser(ctx, u.ID))
	}
}

func usersLimits(t *testing.T, s login.Store) {
	long := strings.Repeat("x", 1025)
	for _, u := range []login.User{
		{ID: "", Email: "a@example.com"}, {ID: "a", Email: ""}, {ID: long, Email: "a@example.com"}, {ID: "a", Email: long},
		{ID: "a", Email: "A@example.com"}, {ID: "a", Email: "a@example.com", Name: long}, {ID: "a", Email: "a@example.com", Name: "\x00"},
	} {
		wantKind(t, s.AddUser(deadline(t), u), fault.Invalid)
		wantKind(t, s.UpdateUser(deadline(t), u), fault.Invalid)
	}
}

func usersRace(t *testing.T, s login.Store) {
	for round := range 20 {
		var errs [racers]error
		race(racers, func(i int) {
			errs[i] = s.AddUser(t.Context(), login.User{ID: fmt.Sprint(t.Name(), round, "-", i), Email: fmt.Sprint(round, "@race.example")})
		})
		exactlyOne(t, errs[:], fault.Conflict)
	}
}
