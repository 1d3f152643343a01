package endurance

import (
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	idlers   = 9_000
	idleRoom = 90 // MB
)

// TestIdleClients: thousands of connections that have been answered once cost
// little memory while they wait, slow nobody down, and are answered again.
func TestIdleClients(t *testing.T) {
	needDescriptors(t, idlers+1_000)
	g := startProgram(t, "", origin(t))
	guests := g.invite(4)
	conns := make([]net.Conn, idlers)
	defer func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	}()
	all := func(what string, do func(i int) error) {
		t.Helper()
		var wg sync.WaitGroup
		next := make(chan int)
		for range 32 {
			wg.Go(func() {
				for i := range next {
					if err := do(i); err != nil {
						t.Errorf("%s, connection %d: %v", what, i, err)
					}
				}
			})
		}
		for i := range conns {
			if t.Failed() {
				break
			}
			next <- i
		}
		close(next)
		wg.Wait()
		if t.Failed() {
			t.FailNow()
		}
	}
	all("first request", func(i int) (err error) {
		if conns[i], err = net.Dial("tcp", g.addr); err != nil {
			return err
		}
		return ask(conns[i])
	})
	// They go back to rest by and by, and stay there.
	now, most, since := 0, 0, time.Now()
	g.eventually("idle connections take too much memory", 20*time.Second, func() bool {
		if now, most = g.memory(); now > idleRoom {
			since = time.Now()
		}
		return time.Since(since) > 5*time.Second
	})
	t.Logf("resident: %d MB, %d at most", now, most)
	if most > 2*idleRoom {
		t.Errorf("%d connections took %d MB while they were answered", idlers, most)
	}
	if n := g.descriptors(); n < idlers {
		t.Errorf("%d descriptors: connections are gone", n)
	}
	all("second request", func(i int) error { return ask(conns[i]) })
	guests.leave()
}

// needDescriptors raises the limit of this process, which its children
// inherit, or skips the test.
func needDescriptors(t *testing.T, n uint64) {
	t.Helper()
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	if l.Cur >= n {
		return
	}
	l.Cur, l.Max = n, max(n, l.Max)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		t.Skipf("needs %d descriptors, and the hard limit allows fewer: ulimit -Hn, %v", n, err)
	}
}
