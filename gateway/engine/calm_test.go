package engine

import "testing"

// TestMemoryGoesBackWhenACrowdIsIdle, whoever is busy meanwhile, and not while
// the crowd still grows.
func TestMemoryGoesBackWhenACrowdIsIdle(t *testing.T) {
	for _, c := range []struct {
		name string
		shed []int64 // in each second
		want int     // the second in which it is due; -1: never
	}{
		{"nobody", []int64{0, 0, 0}, -1},
		{"too few", []int64{900, 900, 900}, -1},
		{"a crowd alone", []int64{2000, 9000, 9000}, 2},
		{"a crowd, and some are busy", []int64{2000, 9000, 9030, 9060}, 2},
		{"a crowd that grows", []int64{2000, 4000, 6000, 8000}, -1},
	} {
		got, k := -1, calm{}
		for i, n := range c.shed {
			if k.due(int64(1000+i), n) && got < 0 {
				got = i
			}
		}
		if got != c.want {
			t.Errorf("%s: due in second %d, want %d", c.name, got, c.want)
		}
	}
	k := calm{}
	k.due(1000, 5000)
	if !k.due(1001, 5000) || k.due(1002, 5000) || k.due(1030, 5000) || !k.due(1061, 5000) {
		t.Error("it is not due once a minute")
	}
}
