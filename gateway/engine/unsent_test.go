package engine

import (
	"bufio"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
)

// echoes answers every request with its body, of so many bytes; it closes its
// connections when leave is closed.
func echoes(t testing.TB, size int, leave <-chan struct{}) *origin {
	return newOrigin(t, "127.0.0.1:0", func(o *origin, _ int32, br *bufio.Reader, c *net.TCPConn) {
		if leave != nil {
			go func() { <-leave; c.Close() }()
		}
		for b := make([]byte, size); ; {
			if _, ok := o.head(br); !ok {
				return
			}
			if _, err := io.ReadFull(br, b); err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: "+itoa(size)+"\r\n\r\n"+string(b))
		}
	})
}

// TestUnsentBodyIsThereForTheNextNode: a small body is taken for a kept
// connection that turns out to have ended, and the node takes no other.
func TestUnsentBodyIsThereForTheNextNode(t *testing.T) {
	leave := make(chan struct{})
	first, next := echoes(t, 5, leave), echoes(t, 5, nil)
	tr := NewTransport(once(first.addr))
	defer tr.Close()
	post := func(addr string) *Call {
		c := call(addr)
		c.Method, c.Body, c.Length, c.Scratch = "POST", &unsent{head: []byte("hello")}, 5, new(Scratch)
		return c
	}
	if got, err := do(t.Context(), tr, post(first.addr)); err != nil || got != "hello" {
		t.Fatal(got, err)
	}
	close(leave)
	eventually(t, "the kept connection does not end", func() bool {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		for _, p := range tr.idle {
			if len(p.list) == 1 {
				return !p.list[0].quiet()
			}
		}
		return false
	})
	c := post(first.addr)
	_, err := do(t.Context(), tr, c)
	if ce := (*CallError)(nil); !errors.As(err, &ce) || ce.Stage != StageConnect {
		t.Fatalf("%v, want no connection", err)
	}
	for range 2 { // another node that cannot be reached changes nothing
		c.Addr = first.addr
		_, _ = do(t.Context(), tr, c)
	}
	c.Scratch.out = append(c.Scratch.out[:0], strings.Repeat("x", 500)...) // the caller's again
	c.Addr = next.addr
	if got, err := do(t.Context(), tr, c); err != nil || got != "hello" {
		t.Errorf("the next node got %q, %v", got, err)
	}
}
