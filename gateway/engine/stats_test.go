package engine

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"gatehouse/gateway"
)

func soon(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not in time", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func TestServerStats(t *testing.T) {
	hold := make(chan struct{})
	addr, s := start(t, func(x *gateway.Exchange, w *Writer) {
		if x.Req.Path == "/hold" {
			<-hold
		}
		echo(x, w)
	}, func(c *ServerConfig) { c.Limits = Limits{Conns: 3} })
	defer func() {
		select {
		case <-hold:
		default:
			close(hold)
		}
	}()
	ask := func(path string) net.Conn {
		c := dial(t, addr)
		_, _ = io.WriteString(c, path)
		return c
	}
	idle := ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if line, _ := bufio.NewReader(idle).ReadString('\n'); !strings.Contains(line, " 200 ") {
		t.Fatalf("got %q", line)
	}
	ask("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
	half := ask("GET / HTTP/1.1\r\nHo")
	soon(t, "one of each", func() bool {
		st := s.Stats()
		return st.Waiting == 1 && st.Answering == 1 && st.Reading == 1 && st.Open["http/1"] == 3
	})
	if _, err := io.ReadAll(dial(t, addr)); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Fatal(err)
	}
	if st := s.Stats(); st.Accepted != 4 || st.TurnedListener != 1 || st.TurnedAddress != 0 {
		t.Errorf("got %+v", st)
	}
	_, _ = io.WriteString(half, "st: a\r\nHost: b\r\n\r\n")
	_, _ = io.ReadAll(half)
	if st := s.Stats(); st.Refused[400] != 1 || len(st.Refused) != 1 {
		t.Errorf("got %v refused, want one 400", st.Refused)
	}
	close(hold)
	soon(t, "an end", func() bool { st := s.Stats(); return st.Answering == 0 && st.Reading == 0 })
}

func TestSecuredConnectionsAreCounted(t *testing.T) {
	var s serverStats
	s.secured(&tls.ConnectionState{Version: tls.VersionTLS12})
	s.secured(&tls.ConnectionState{Version: tls.VersionTLS13, DidResume: true})
	if s.tls[0][0].Load() != 1 || s.tls[1][1].Load() != 1 || s.tls[0][1].Load() != 0 || s.tls[1][0].Load() != 0 {
		t.Errorf("got %v", &s.tls)
	}
}

// A request that is refused is told of, after its answer and with its status.
func TestRefusedIsTold(t *testing.T) {
	told := make(chan [2]int64, 4)
	addr, _ := start(t, echo, func(c *ServerConfig) {
		c.Refused = func(x *gateway.Exchange) { told <- [2]int64{int64(x.Resp.Status), x.BytesOut} }
	})
	for send, want := range map[string]int64{"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n": 400, "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n": 400, "GET / HTTP/3.7\r\nHost: a\r\n\r\n": 505} {
		raw(t, addr, send)
		select {
		case got := <-told:
			if got[0] != want || got[1] == 0 {
				t.Errorf("%q: got %v, want %d and some bytes", send, got, want)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%q: nobody was told", send)
		}
	}
	raw(t, addr, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	if len(told) != 0 {
		t.Error("told of a good request")
	}
}
