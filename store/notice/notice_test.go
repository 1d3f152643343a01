package notice_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
	"gatehouse/store/notice"
)

func TestBell(t *testing.T) {
	var b notice.Bell
	b.Ring() // nobody waits
	first := b.Wait()
	select {
	case <-first:
		t.Fatal("rang before Ring")
	default:
	}
	b.Ring()
	<-first
	select {
	case <-b.Wait():
		t.Fatal("one ring was heard twice")
	default:
	}
}

// TestBusyWatcher: a watcher that does not keep up never holds up a writer,
// and is told that anything may have changed when it missed too much.
func TestBusyWatcher(t *testing.T) {
	var b notice.Board
	ctx, cancel := context.WithCancel(t.Context())
	calls, goOn := make(chan string), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		b.Watch(ctx, oauth.Clients, func(key string) {
			calls <- key
			<-goOn
		})
	})
	if key := <-calls; key != "" {
		t.Fatalf("the first call is for %q, want anything", key)
	}
	b.Changed(oauth.Ref{Kind: oauth.Keys, Key: "other kind"}, oauth.Ref{Kind: oauth.Clients, Key: "a"}, oauth.Ref{Kind: oauth.Clients, Key: "a"})
	goOn <- struct{}{}
	if key := <-calls; key != "a" {
		t.Fatalf("got %q, want a, once", key)
	}
	for i := range 5000 { // while it is busy
		b.Changed(oauth.Ref{Kind: oauth.Clients, Key: fmt.Sprint(i)})
	}
	goOn <- struct{}{}
	if key := <-calls; key != "" {
		t.Fatalf("got %q after too many changes, want anything", key)
	}
	cancel()
	goOn <- struct{}{}
	wg.Wait()
	b.Changed(oauth.Ref{Kind: oauth.Clients, Key: "nobody listens"})
}

func TestClose(t *testing.T) {
	var b notice.Board
	begun := make(chan struct{}, 10)
	ended := make(chan error)
	go func() { ended <- b.Watch(t.Context(), oauth.Clients, func(string) { begun <- struct{}{} }) }()
	<-begun
	b.Close()
	if err := <-ended; fault.KindOf(err) != fault.Unavailable {
		t.Fatalf("got %v", err)
	}
	if err := b.Watch(t.Context(), oauth.Clients, func(string) { t.Error("called after Close") }); fault.KindOf(err) != fault.Unavailable {
		t.Fatalf("got %v", err)
	}
}
