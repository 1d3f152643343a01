package accesslog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/gateway"
)

// sink is a place to write to, which a test can hold up or break.
type sink struct {
	mu     sync.Mutex
	b      bytes.Buffer  // guarded by mu
	writes int           // guarded by mu
	room   int           // guarded by mu; bytes until it fails; -1: any number
	closed bool          // guarded by mu
	gate   chan struct{} // nil: open
	held   chan struct{} // told of each write that waits
}

func newSink() *sink { return &sink{room: -1} }

func (s *sink) Write(p []byte) (int, error) {
	if s.gate != nil {
		s.held <- struct{}{}
		<-s.gate
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	if s.room >= 0 && len(p) > s.room {
		n := s.room
		s.b.Write(p[:n])
		s.room = 0
		return n, errors.New("no space left on device")
	}
	return s.b.Write(p)
}

func (s *sink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func open(t testing.TB, to *sink, flush time.Duration) *Log {
	t.Helper()
	l, err := New(Config{Format: compile(t, "$uri", EscapeText), FlushEvery: flush, Open: func() (io.WriteCloser, error) { return to, nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func at(path string) *gateway.Exchange {
	x := &gateway.Exchange{}
	x.Req.Path = path
	return x
}

// eventually waits for a condition, for a time.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not in time", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestLinesComeInOrderAndTogether(t *testing.T) {
	to := newSink()
	l := open(t, to, time.Hour)
	var want strings.Builder
	for i := range 3000 { // more than one batch
		path := fmt.Sprintf("/%06d/%s", i, strings.Repeat("x", 60))
		l.Log(at(path))
		want.WriteString(path + "\n")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if to.String() != want.String() {
		t.Errorf("got %d bytes, want %d in order", len(to.String()), want.Len())
	}
	if most := want.Len()/batchSize + 2; to.writes > most || !to.closed {
		t.Errorf("got %d writes, want at most %d, and closed (%v)", to.writes, most, to.closed)
	}
	l.Log(at("/late"))
	if l.Dropped() != 1 {
		t.Errorf("a line after Close: %d dropped, want 1", l.Dropped())
	}
}

func TestALineDoesNotWaitForABatch(t *testing.T) {
	to := newSink()
	l := open(t, to, 10*time.Millisecond)
	for _, path := range []string{"/1", "/2", "/3"} {
		l.Log(at(path))
		eventually(t, path, func() bool { return strings.HasSuffix(to.String(), path+"\n") })
	}
}

// When the disk hangs requests do not: lines are dropped and counted.
func TestOverload(t *testing.T) {
	to := newSink()
	to.gate, to.held = make(chan struct{}), make(chan struct{}, 1<<16)
	l := open(t, to, time.Hour)
	path := strings.Repeat("x", 1023)
	const lines = 2 * maxWaiting >> 10
	for range lines {
		l.Log(at(path))
	}
	dropped := l.Dropped()
	if dropped < lines/3 || dropped > lines*2/3 {
		t.Errorf("got %d of %d lines dropped", dropped, lines)
	}
	close(to.gate)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(to.String(), "\n"); int64(got) != lines-dropped || l.Dropped() != dropped {
		t.Errorf("got %d lines, want %d; %d dropped, want %d", got, lines-dropped, l.Dropped(), dropped)
	}
}

// A full disk costs lines, never half of one that another continues.
func TestFailedWrite(t *testing.T) {
	to := newSink()
	l := open(t, to, time.Millisecond)
	to.mu.Lock()
	to.room = 15
	to.mu.Unlock()
	for _, path := range []string{"/first", "/second", "/third"} {
		l.put([]byte(path + "\n"))
	}
	eventually(t, "the failure", func() bool { return l.Dropped() > 0 })
	to.mu.Lock()
	to.room = -1
	to.mu.Unlock()
	l.Log(at("/after"))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSuffix(to.String(), "\n"), "\n")
	if got[len(got)-1] != "/after" {
		t.Errorf("got %q", got)
	}
	if whole := int64(len(got)); whole+l.Dropped() < 4 {
		t.Errorf("%d lines and %d dropped, want 4 in all", whole, l.Dropped())
	}
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "access.log")
	broken := false
	var mu sync.Mutex
	l, err := New(Config{Format: compile(t, "$uri", EscapeText), FlushEvery: time.Hour, Open: func() (io.WriteCloser, error) {
		mu.Lock()
		defer mu.Unlock()
		if broken {
			return nil, errors.New("permission denied")
		}
		return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	}})
	if err != nil {
		t.Fatal(err)
	}
	l.Log(at("/1"))
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	l.Log(at("/2"))
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	l.Log(at("/3"))
	mu.Lock()
	broken = true
	mu.Unlock()
	if err := l.Reopen(); err == nil {
		t.Error("reopening failed without an error")
	}
	l.Log(at("/4"))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{path + ".1": "/1\n/2\n", path: "/3\n/4\n"} {
		if got, err := os.ReadFile(name); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
		}
	}
	if err := l.Reopen(); err == nil {
		t.Error("a closed log was reopened")
	}
}

func TestManyAtOnce(t *testing.T) {
	to := newSink()
	l := open(t, to, time.Millisecond)
	const workers, each = 8, 2000
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				l.Log(at("/the/same/line"))
			}
		})
	}
	for range 5 {
		_ = l.Reopen()
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := to.String(); got != strings.Repeat("/the/same/line\n", workers*each) {
		t.Errorf("got %d bytes", len(got))
	}
}

func TestOpenFails(t *testing.T) {
	if _, err := New(Config{Format: compile(t, "$uri", EscapeText), Open: func() (io.WriteCloser, error) { return nil, errors.New("no") }}); err == nil {
		t.Error("no error")
	}
}

// BenchmarkLog is what a request pays: the line, and its way into the batch.
func BenchmarkLog(b *testing.B) {
	l, err := New(Config{Format: compile(b, Default, EscapeText), Open: func() (io.WriteCloser, error) { return os.OpenFile(os.DevNull, os.O_WRONLY, 0) }})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	x := answered()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			l.Log(x)
		}
	})
}
