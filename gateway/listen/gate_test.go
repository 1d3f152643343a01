package listen

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gatehouse/gateway/engine"
)

// TestDescriptorsRunOut: a port with TLS or the PROXY protocol is as a plain
// one: when no connection can be accepted, idle ones make room for those who
// ask, and nothing spins.
func TestDescriptorsRunOut(t *testing.T) {
	if what := os.Getenv("GATEHOUSE_TEST_DESCRIPTORS"); what != "" {
		serveFewDescriptors(t, what)
		return
	}
	for _, what := range []string{"tls", "proxied", "proxied tls"} {
		t.Run(what, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestDescriptorsRunOut$")
			cmd.Env = append(os.Environ(), "GATEHOUSE_TEST_DESCRIPTORS="+what)
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			cmd.Stderr = os.Stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				in.Close()
				if err := cmd.Wait(); err != nil {
					t.Errorf("the server: %v", err)
				}
				if spent := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(); spent > 5*time.Second {
					t.Errorf("the server spent %v", spent)
				}
			}()
			addr, err := bufio.NewReader(out).ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			addr = strings.TrimSpace(addr)
			// Three times as many as there are descriptors, each kept open by
			// its client.
			for i := range 300 {
				c, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(10 * time.Second))
				if strings.HasPrefix(what, "proxied") {
					_, _ = io.WriteString(c, "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n")
				}
				if strings.HasSuffix(what, "tls") {
					c = tls.Client(c, &tls.Config{InsecureSkipVerify: true})
				}
				_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
				if line, err := bufio.NewReader(c).ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 200 ") {
					t.Fatalf("connection %d: %q, %v", i, line, err)
				}
			}
		})
	}
}

func serveFewDescriptors(t *testing.T, what string) {
	cert, key := pair(t, "a")
	p, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		panic(err)
	}
	l, err := TCP(context.Background(), "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr())
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 100, Max: 100}); err != nil {
		panic(err)
	}
	if strings.HasPrefix(what, "proxied") {
		l = Proxied(l, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, quiet)
	}
	if strings.HasSuffix(what, "tls") {
		l = TLS(l, oneCert{&tls.Config{Certificates: []tls.Certificate{p}}}, quiet)
	}
	var exhausted atomic.Int32
	s := engine.NewServer(engine.ServerConfig{
		Handler:   engine.FromHTTP(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "ok") }), quiet),
		Exhausted: func() { exhausted.Add(1) },
	})
	go func() { panic(s.Serve(l)) }()
	_, _ = io.Copy(io.Discard, os.Stdin)
	if exhausted.Load() == 0 {
		panic("descriptors never ran out")
	}
	os.Exit(0)
}

// flaky is a listener that fails, as often as accepts has errors.
type flaky struct {
	net.Listener
	accepts chan error
	asked   chan struct{}
}

func (f *flaky) Accept() (net.Conn, error) {
	f.asked <- struct{}{}
	select {
	case err := <-f.accepts:
		return nil, err
	default:
		return f.Listener.Accept()
	}
}

// TestErrorsOfAcceptingAreHandedOn: who calls Accept hears each error as it is,
// before the next try, and goes on by asking again.
func TestErrorsOfAcceptingAreHandedOn(t *testing.T) {
	tcp, err := TCP(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	all := []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.ECONNRESET}
	below := &flaky{tcp, make(chan error, len(all)), make(chan struct{}, 2*len(all))}
	for _, err := range all {
		below.accepts <- &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", err)}
	}
	g := newGate(below, quiet, "", func(_ context.Context, c net.Conn) (net.Conn, error) { return c, nil }).open()
	for i, want := range all {
		if _, err := g.Accept(); !errors.Is(err, want) {
			t.Fatalf("got %v, want %v", err, want)
		}
		if got, want := len(below.asked), i+1; got != want {
			t.Errorf("the listener below was asked %d times when error %d was told, want %d", got, i, want)
		}
	}
	c, err := net.Dial("tcp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, err := g.Accept()
	if err != nil {
		t.Fatal(err)
	}
	got.Close()
	g.Close()
	if _, err := g.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}

	// Nobody takes the error.
	tcp, err = TCP(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	below = &flaky{tcp, make(chan error, 1), make(chan struct{}, 9)}
	below.accepts <- syscall.EMFILE
	g = newGate(below, quiet, "", nil).open()
	<-below.asked
	g.Close()
	<-g.ended
}
