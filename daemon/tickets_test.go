package daemon

import (
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

func TestTicketKeysRotate(t *testing.T) {
	dir := t.TempDir()
	start := time.Unix(20_000*24*60*60, 0)
	day := func(n int) [][32]byte {
		t.Helper()
		keys, err := ticketKeys(dir, start.Add(time.Duration(n)*24*time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		return keys
	}
	first := day(0)
	if again := day(0); len(first) != 1 || !slices.Equal(first, again) {
		t.Fatalf("%d keys, then %d, want the same one", len(first), len(again))
	}
	// Half a file that a crash left is none; strangers' files are left alone.
	for _, name := range []string{".new-123", "readme"} {
		if err := os.WriteFile(filepath.Join(dir, ticketDir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	second := day(1)
	if len(second) != 2 || second[1] != first[0] || second[0] == first[0] {
		t.Errorf("the second day has %d keys, want a new one and the first", len(second))
	}
	if back := day(0); len(back) != 2 || back[0] != first[0] {
		t.Error("a clock that is set back a little seals with the key of its day and opens with both")
	}
	if later := day(ticketDays); len(later) != 3 || !slices.Contains(later, first[0]) {
		t.Errorf("%d keys while the first still counts", len(later))
	}
	if later := day(ticketDays + 1); slices.Contains(later, first[0]) {
		t.Error("the first key is still accepted")
	}
	if _, err := os.Stat(filepath.Join(dir, ticketDir, ticketFile(20_000))); !os.IsNotExist(err) {
		t.Errorf("the first key is still there: %v", err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, ticketDir, "*.key"))
	for _, f := range files {
		if fi, err := os.Stat(f); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", f, fi.Mode(), err)
		}
	}
	if fi, err := os.Stat(filepath.Join(dir, ticketDir)); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("mode of the directory: %v, %v", fi.Mode(), err)
	}
}

// Processes that begin a day together seal with one key.
func TestTicketKeysAreOneForAll(t *testing.T) {
	dir := t.TempDir()
	var mu sync.Mutex
	seen := map[[32]byte]bool{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			keys, err := ticketKeys(dir, time.Unix(1e9, 0))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
				return
			}
			seen[keys[0]] = true
		})
	}
	wg.Wait()
	if len(seen) != 1 {
		t.Errorf("%d keys, want one", len(seen))
	}
}
