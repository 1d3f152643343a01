package embedded_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/resource"
	"gatehouse/store/embedded"
)

// borrowDir tells the test binary to be the process that borrows: its lock is
// file 3. It writes a route and waits for the end of its input.
const borrowDir = "GATEHOUSE_TEST_BORROW_DIR"

func borrower(dir string) {
	s, err := embedded.OpenResources(context.Background(), dir, embedded.WithLock(os.NewFile(3, "lock")))
	if err == nil {
		_, err = s.Apply(context.Background(), route("borrowed"))
	}
	fmt.Println("ready", err)
	io.Copy(io.Discard, os.Stdin)
	s.Close()
}

func route(id string) resource.Change {
	return resource.Change{Kind: resource.Routes, ID: id, JSON: []byte(`{}`)}
}

// borrow starts a process that borrows, and waits until it has.
func borrow(t *testing.T, dir string, lock *os.File) (end func(kill bool)) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), borrowDir+"="+dir)
	cmd.ExtraFiles = []*os.File{lock}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready <nil>\n" {
		t.Fatalf("the borrower said %q, %v", line, err)
	}
	return func(kill bool) {
		if kill {
			cmd.Process.Kill()
		}
		in.Close()
		cmd.Wait()
	}
}

// taken says whether somebody has the lock.
func taken(t *testing.T, dir string) bool {
	t.Helper()
	s, err := embedded.OpenResources(t.Context(), dir)
	if err == nil {
		s.Close()
	}
	return fault.KindOf(err) == fault.Conflict
}

// TestTakeBack: the borrower ends, whichever way, and the owner goes on with
// what it wrote.
func TestTakeBack(t *testing.T) {
	for _, kill := range []bool{false, true} {
		dir := t.TempDir()
		s := openResources(t, dir)
		if _, err := s.Apply(t.Context(), route("mine")); err != nil {
			t.Fatal(err)
		}
		_, after, err := s.List(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		seen := make(chan resource.Change, 4)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		go func() {
			for c := range s.Watch(ctx, after) {
				seen <- c
			}
		}()
		lock, err := s.Lend(ctx)
		if err != nil {
			t.Fatal(err)
		}
		waited := make(chan error, 1)
		go func() {
			_, err := s.Apply(ctx, route("later"))
			waited <- err
		}()
		end := borrow(t, dir, lock)
		if !taken(t, dir) {
			t.Error("nobody has the lock")
		}
		select {
		case err := <-waited:
			t.Errorf("a write went through while the store was lent: %v", err)
		default:
		}
		end(kill)
		if !taken(t, dir) {
			t.Error("nobody has the lock after the borrower's end")
		}
		if err := s.TakeBack(); err != nil {
			t.Fatal(err)
		}
		if err := <-waited; err != nil {
			t.Error(err)
		}
		for _, want := range []string{"borrowed", "later"} {
			if c := <-seen; c.ID != want {
				t.Errorf("the watch saw %s, want %s", c.ID, want)
			}
			if _, err := s.Get(ctx, resource.Routes, want); err != nil {
				t.Errorf("%s: %v", want, err)
			}
		}
	}
}

// TestLentForGood: the owner closes, what it held back is refused as worth
// retrying, and the lock stays with the borrower.
func TestLentForGood(t *testing.T) {
	dir := t.TempDir()
	s := openResources(t, dir)
	lock, err := s.Lend(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	waited := make(chan error, 1)
	go func() {
		_, err := s.Apply(t.Context(), route("late"))
		waited <- err
	}()
	end := borrow(t, dir, lock)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-waited; fault.KindOf(err) != fault.Unavailable {
		t.Errorf("what waited got %v", err)
	}
	if !taken(t, dir) {
		t.Error("the lock was lost with the owner")
	}
	end(false)
	s = openResources(t, dir)
	if _, err := s.Get(t.Context(), resource.Routes, "borrowed"); err != nil {
		t.Error(err)
	}
	if _, err := s.Get(t.Context(), resource.Routes, "late"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("what was refused is there: %v", err)
	}
}

func TestLockOfAnotherDirectory(t *testing.T) {
	s := openResources(t, t.TempDir())
	lock, err := s.Lend(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if other, err := embedded.OpenResources(t.Context(), t.TempDir(), embedded.WithLock(lock)); err == nil {
		other.Close()
		t.Error("a foreign lock was accepted")
	}
}
