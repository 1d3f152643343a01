package engine

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"gatehouse/gateway"
)

// TestSlowReadersThatAlsoSend: a client that sends a byte of its body now and
// then is held to the limits of who reads an answer all the same.
func TestSlowReadersThatAlsoSend(t *testing.T) {
	big := strings.Repeat("x", 24<<20)
	o := newOrigin(t, "127.0.0.1:0", answers(big))
	tr := newTransport(t)
	for _, c := range []struct {
		name, path string
		part       int // bytes of the answer that are taken at a time
		limits     Limits
	}{
		{"written, reads nothing", "/written", 0, Limits{SendTime: 2 * time.Second, Rate: -1}},
		{"written, reads next to nothing", "/written", 100, Limits{Rate: 4000, RateTime: 2 * time.Second}},
		{"spliced, reads nothing", "/spliced", 0, Limits{SendTime: 2 * time.Second, Rate: -1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ended := make(chan error, 1)
			addr, s := start(t, func(x *gateway.Exchange, w *Writer) {
				sent := make(chan struct{})
				go func() { // as Transport does
					defer close(sent)
					_, _ = io.Copy(io.Discard, x.Req.Body)
				}()
				ended <- stream(x, w, tr, o.addr, big)
				w.StopBody()
				<-sent
			}, func(sc *ServerConfig) { sc.Limits = c.limits })
			d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
				return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 64<<10) })
			}}
			client, err := d.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			_, _ = io.WriteString(client, "POST "+c.path+" HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
			late, part := time.After(12*time.Second), make([]byte, c.part)
			for {
				select {
				case err := <-ended:
					if !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("the answer ended with %v", err)
					}
					eventually(t, "the connection stays", func() bool { return s.Connections() == 0 })
					return
				case <-late:
					t.Fatal("it is still served")
				case <-time.After(200 * time.Millisecond):
					_, _ = io.WriteString(client, "1\r\nx\r\n")
					_, _ = client.Read(part)
				}
			}
		})
	}
}

// stream answers with big, of the test or of an origin.
func stream(x *gateway.Exchange, w *Writer, tr *Transport, origin, big string) error {
	if x.Req.Path == "/written" {
		x.Resp.Status, x.Resp.Length = 200, int64(len(big))
		w.Head()
		_, err := io.WriteString(w, big)
		return err
	}
	c := call(origin)
	a, err := tr.Send(x.Ctx, c, &x.Resp)
	if err != nil {
		return err
	}
	defer a.Close()
	w.Head()
	buf := make([]byte, 1<<10)
	for {
		if ok, err := w.Splice(a); ok {
			if err != nil {
				w.Abort()
			}
			return err
		}
		n, err := a.Read(buf)
		if err != nil {
			return err
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
	}
}

// TestContinueIsJudged: a client that takes nothing does not hold on to who
// invites its body, nor to who begins the answer meanwhile.
func TestContinueIsJudged(t *testing.T) {
	t.Parallel()
	failed := make(chan error, 1)
	addr, s := start(t, func(x *gateway.Exchange, w *Writer) {
		nc := w.f.(*client).nc
		for _, n := range []int{64 << 10, 1} { // until not a byte more fits
			_ = nc.SetWriteDeadline(time.Now().Add(time.Second / 2))
			for b := make([]byte, n); ; {
				if _, err := nc.Write(b); err != nil {
					break
				}
			}
		}
		_ = nc.SetWriteDeadline(time.Time{})
		_, err := x.Req.Body.Read(make([]byte, 1))
		failed <- err
		w.Refuse(408)
	}, func(c *ServerConfig) { c.Limits = Limits{SendTime: 2 * time.Second, Rate: -1} })
	c := dial(t, addr)
	_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")
	select {
	case err := <-failed:
		if !errors.Is(err, ErrSlow) {
			t.Errorf("the body failed with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the invitation still waits")
	}
	eventually(t, "the connection stays", func() bool { return s.Connections() == 0 })
}
