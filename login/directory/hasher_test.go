package directory

import (
	"testing"

	"gatehouse/lib/fault"
	"gatehouse/lib/phc"
	"gatehouse/login"
)

var (
	_ Hasher = (*phc.Hasher)(nil)
	_ Judge  = (*phc.Hasher)(nil)
)

// TestWithArgon2 goes the whole way once with real hashes.
func TestWithArgon2(t *testing.T) {
	s := &users{byID: map[string]login.User{}}
	d, err := New(t.Context(), Config{Store: s, Hasher: phc.New(0, 0)})
	if err != nil {
		t.Fatal(err)
	}
	u := add(t, d, "ann@example.com", "correct horse", true)
	if _, err := d.Verify(t.Context(), "ann@example.com", "correct horse"); err != nil {
		t.Error(err)
	}
	for _, email := range []string{"ann@example.com", "nobody@example.com"} {
		if _, err := d.Verify(t.Context(), email, "wrong horse"); fault.KindOf(err) != fault.Denied {
			t.Errorf("%s: %v", email, err)
		}
	}
	if got := s.byID[u.ID].PasswordHash; got != u.PasswordHash {
		t.Error("a hash of today was made anew")
	}
}
