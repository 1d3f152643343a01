// Package storetest holds the contracts of resource.Store, oauth.Store and
// login.Store as tests, concurrency included. What passes is a backend.
//
// open is called once per group of tests and returns an empty store, which it
// closes with t.Cleanup. The tests use the real clock.
package storetest

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"

	"gatehouse/lib/fault"
)

// racers is how many goroutines fight for one thing; rounds how often.
const (
	racers = 16
	rounds = 100
)

// coldReaders is how many goroutines list a store that nobody has read before,
// while as many read it in other ways, coldPatience how long they may take.
const (
	coldReaders  = 32
	coldStores   = 3 // tried, where another one costs little
	coldPatience = 8 * time.Second
)

// patience bounds every wait for something that must happen.
const patience = 20 * time.Second

func wantKind(t *testing.T, err error, want fault.Kind) {
	t.Helper()
	if err == nil || fault.KindOf(err) != want {
		t.Fatalf("got error %v (kind %d), want kind %d", err, fault.KindOf(err), want)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%s did not happen within %v", what, patience)
		}
	}
}

// race runs f in n goroutines that begin together.
func race(n int, f func(i int)) {
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-begin
			f(i)
		})
	}
	close(begin)
	wg.Wait()
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}
