package phc

import (
	"context"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"gatehouse/lib/fault"
)

func TestVerify(t *testing.T) {
	h := New(2, 4)
	ctx := t.Context()
	own, err := h.Hash(ctx, "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(own, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("hash is %q", own)
	}
	key, _ := pbkdf2.Key(sha256.New, "correct horse", []byte("0123456789abcdef"), 25000, 32)
	foreign := fmt.Sprintf("$pbkdf2-sha256$i=25000,l=32$%s$%s",
		base64.RawStdEncoding.EncodeToString([]byte("0123456789abcdef")), base64.RawStdEncoding.EncodeToString(key))
	bc, _ := bcrypt.GenerateFromPassword([]byte("correct horse"), bcrypt.MinCost)
	for _, c := range []struct {
		name, stored string
		outdated     bool
	}{
		{"argon2id", own, false},
		{"pbkdf2", foreign, true},
		{"bcrypt", string(bc), true},
	} {
		if ok, err := h.Verify(ctx, c.stored, "correct horse"); !ok || err != nil {
			t.Errorf("%s: right password: %v, %v", c.name, ok, err)
		}
		if ok, err := h.Verify(ctx, c.stored, "correct horsf"); ok || err != nil {
			t.Errorf("%s: wrong password: %v, %v", c.name, ok, err)
		}
		if got := h.Outdated(c.stored); got != c.outdated {
			t.Errorf("%s: outdated %v, want %v", c.name, got, c.outdated)
		}
	}
	if again, _ := h.Hash(ctx, "correct horse"); again == own {
		t.Error("two hashes of one password are equal: no salt")
	}
}

func TestForeignParametersRefused(t *testing.T) {
	h := New(1, 1)
	const tail = "$c29tZXNhbHRzb21lc2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	for _, s := range []string{
		"", "x", "$", "$$$$$",
		"$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$",
		"$argon2id$v=16$m=19456,t=2,p=1" + tail,
		"$argon2i$v=19$m=19456,t=2,p=1" + tail,
		"$argon2id$v=19$m=1048576,t=2,p=1" + tail,
		"$argon2id$v=19$m=19456,t=999,p=1" + tail,
		"$argon2id$v=19$m=19456,t=2,p=99" + tail,
		"$argon2id$v=19$m=19456,t=0,p=1" + tail,
		"$argon2id$v=19$t=2,m=19456,p=1" + tail,
		"$argon2id$v=19$m=-1,t=2,p=1" + tail,
		"$pbkdf2-sha256$i=999999999,l=32" + tail,
		"$pbkdf2-sha256$i=0,l=32" + tail,
		"$pbkdf2-sha256$i=1000,l=16" + tail,
		"$2a$31$" + strings.Repeat("a", 53),
		"$argon2id$v=19$m=19456,t=2,p=1" + tail + strings.Repeat("A", 600),
	} {
		if ok, err := h.Verify(t.Context(), s, "p"); ok || !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %v, %v, want ErrFormat", s, ok, err)
		}
	}
}

func TestLongPasswordRefused(t *testing.T) {
	h := New(1, 1)
	long := strings.Repeat("x", MaxPassword+1)
	if _, err := h.Hash(t.Context(), long); fault.KindOf(err) != fault.Invalid {
		t.Errorf("hash: %v, want Invalid", err)
	}
	own, _ := h.Hash(t.Context(), "x")
	if ok, err := h.Verify(t.Context(), own, long); ok || err != nil {
		t.Errorf("verify: %v, %v", ok, err)
	}
}

func TestQueueIsBounded(t *testing.T) {
	h := New(1, 1)
	h.slots <- struct{}{} // somebody computes
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { _, err := h.Hash(ctx, "waits"); done <- err }()
	for h.waiting.Load() == 0 {
	}
	if _, err := h.Hash(t.Context(), "refused"); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("full queue: %v, want Unavailable", err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("ended context: %v", err)
	}
	h.leave()
	if _, err := h.Hash(t.Context(), "now"); err != nil {
		t.Errorf("free again: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Add("$pbkdf2-sha256$i=1,l=32$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Add("$2a$04$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ012345")
	f.Fuzz(func(t *testing.T, s string) {
		m, err := parse(s)
		if (m == nil) == (err == nil) {
			t.Fatalf("%v, %v", m, err)
		}
		if a, ok := m.(argonHash); ok && (a.memory > maxMemory || a.time > maxTime || a.threads == 0 || len(a.sum) < minHash) {
			t.Fatalf("over the limits: %+v", a)
		}
	})
}
