package endurance

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const trickle = 200 * time.Millisecond // between two bytes of a slow client

// slowKinds are the ways to hold a connection with next to nothing.
var slowKinds = []struct {
	name   string
	begin  string // at once
	repeat string // then again and again, byte by byte
	reads  bool   // a byte at a time
	says   string // the answer
}{
	{name: "heads", begin: "GET / HTTP/1.1\r\nHost: a\r\n", repeat: "X-A: b\r\n", says: "HTTP/1.1 408 "},
	{name: "bodies", begin: "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n", repeat: "x", says: "HTTP/1.1 408 "},
	{name: "readers", begin: "GET /big HTTP/1.1\r\nHost: a\r\n\r\n", reads: true, says: "HTTP/1.1 200 "},
	{name: "readers that send", begin: "POST /big HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", repeat: "1\r\nx\r\n", reads: true, says: "HTTP/1.1 200 "},
}

// TestSlowClients: clients that send or read a byte now and then are got rid
// of in time, all of them, nobody else notices, and what they took comes back.
func TestSlowClients(t *testing.T) {
	const each = 130 // clients of a kind
	g := startProgram(t, ", client_header_timeout: 3s, client_body_timeout: 3s, send_timeout: 3s, client_min_rate_window: 3s", origin(t))
	guests := g.invite(4)
	g.eventually("nobody is served", 10*time.Second, func() bool { guests.mu.Lock(); defer guests.mu.Unlock(); return len(guests.took) > 200 })
	before, _ := g.memory()
	open := g.descriptors()
	var most [2]int
	for i := range most {
		slowWave(t, g, each)
		g.eventually("connections stay open", 10*time.Second, func() bool { return g.descriptors() <= open+20 })
		_, most[i] = g.memory()
	}
	guests.leave()
	t.Logf("resident: %d MB before, at most %d MB with the first wave and %d MB with the second", before, most[0], most[1])
	if most[0] > before+60 {
		t.Errorf("%d clients that want nothing took %d MB", each*len(slowKinds), most[0]-before)
	}
	if most[1] > most[0]+20 {
		t.Errorf("the second wave took %d MB more than the first: what that took has not come back", most[1]-most[0])
	}
}

// slowWave lets slow clients in, and returns when the program has got rid of
// them.
func slowWave(t *testing.T, g *program, each int) {
	var wg sync.WaitGroup
	for _, k := range slowKinds {
		for range each {
			wg.Go(func() {
				c, err := slowDial(g.addr)
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				began := time.Now()
				_, _ = io.WriteString(c, k.begin)
				got := hold(c, k.repeat, k.reads, 20*time.Second)
				if took := time.Since(began); took > 15*time.Second {
					t.Errorf("%s: still served after %v", k.name, took)
				}
				if !strings.HasPrefix(got, k.says[:min(len(k.says), len(got))]) || !k.reads && len(got) < len(k.says) {
					t.Errorf("%s: answered %q", k.name, got)
				}
			})
		}
	}
	wg.Wait()
}

// slowDial connects with little room for what is not read.
func slowDial(addr string) (*net.TCPConn, error) {
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 16<<10) })
	}}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// hold sends and reads byte by byte until the connection is broken or it has
// taken too long, and returns how the answer begins.
func hold(c *net.TCPConn, repeat string, reads bool, limit time.Duration) (got string) {
	size := 256
	if reads {
		size = 1
	}
	b, raw, err := make([]byte, size), syscall.RawConn(nil), error(nil)
	if raw, err = c.SyscallConn(); err != nil {
		return err.Error()
	}
	step := time.NewTicker(trickle)
	defer step.Stop()
	for i, end := 0, time.Now().Add(limit); time.Now().Before(end); i++ {
		if repeat != "" {
			if _, err := c.Write([]byte{repeat[i%len(repeat)]}); err != nil {
				return got
			}
		}
		<-step.C
		_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
		n, err := c.Read(b)
		if got += string(b[:n]); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return got
		}
		broken := 0 // by a reset, whatever there is to read still
		_ = raw.Control(func(fd uintptr) { broken, _ = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ERROR) })
		if broken != 0 {
			return got
		}
	}
	return got
}
