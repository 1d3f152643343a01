package seal

import (
	"bytes"
	"testing"
)

func ring(t *testing.T, purpose string, secrets ...string) *Ring {
	t.Helper()
	var ss [][]byte
	for _, s := range secrets {
		ss = append(ss, []byte(s))
	}
	r, err := New(ss, purpose)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestOpen(t *testing.T) {
	const a, b = "first-secret-0123456789", "second-secret-0123456789"
	box := ring(t, "p", a).Seal(nil, []byte("hello"), []byte("ad"))
	flipped := bytes.Clone(box)
	flipped[len(flipped)-1] ^= 1
	for _, c := range []struct {
		name string
		r    *Ring
		box  []byte
		ad   string
		ok   bool
	}{
		{"same ring", ring(t, "p", a), box, "ad", true},
		{"rotated: new secret in front", ring(t, "p", b, a), box, "ad", true},
		{"another secret", ring(t, "p", b), box, "ad", false},
		{"another purpose", ring(t, "q", a), box, "ad", false},
		{"another additional data", ring(t, "p", a), box, "da", false},
		{"changed", ring(t, "p", a), flipped, "ad", false},
		{"short", ring(t, "p", a), box[:10], "ad", false},
		{"empty", ring(t, "p", a), nil, "ad", false},
	} {
		got, err := c.r.Open(c.box, []byte(c.ad))
		if ok := err == nil && string(got) == "hello"; ok != c.ok {
			t.Errorf("%s: opened %v, want %v (%v)", c.name, ok, c.ok, err)
		}
	}
}

func TestVerify(t *testing.T) {
	r := ring(t, "p", "first-secret-0123456789")
	sum := r.MAC([]byte("m"))
	if !r.Verify([]byte("m"), sum) || !r.Verify([]byte("m"), sum[:16]) {
		t.Error("own MAC refused")
	}
	if r.Verify([]byte("n"), sum) || r.Verify([]byte("m"), sum[:15]) || r.Verify([]byte("m"), nil) {
		t.Error("foreign or short MAC accepted")
	}
}

func TestWeakSecretRefused(t *testing.T) {
	if _, err := New([][]byte{[]byte("short")}, "p"); err == nil {
		t.Error("short secret accepted")
	}
	if _, err := New(nil, "p"); err == nil {
		t.Error("no secret accepted")
	}
}
