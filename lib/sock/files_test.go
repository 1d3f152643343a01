//go:build linux

package sock

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestFilesChangeHands: a listener that is handed over accepts what came
// before, and lives on when the first owner closes; the owner's copy does not
// become blocking.
func TestFilesChangeHands(t *testing.T) {
	u, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	ca, err := net.DialUnix("unix", nil, u.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer ca.Close()
	cb, err := u.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer cb.Close()
	if uid, pid, err := Peer(cb); err != nil || uid != os.Getuid() || pid != os.Getpid() {
		t.Errorf("the peer is %d, %d, %v", uid, pid, err)
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	early, err := net.Dial("tcp", l.Addr().String()) // waits in the kernel
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close()
	if err := SendFiles(ca, []byte("hello"), []syscall.Conn{l.(*net.TCPListener)}); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 16)
	n, files, err := ReceiveFiles(cb, b)
	if err != nil || string(b[:n]) != "hello" || len(files) != 1 {
		t.Fatalf("%q, %v, %v", b[:n], files, err)
	}
	got, err := net.FileListener(files[0])
	files[0].Close()
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	l.Close()
	c, err := got.Accept()
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "served")
	c.Close()
	if s, err := io.ReadAll(early); string(s) != "served" || err != nil {
		t.Errorf("%q, %v", s, err)
	}
	// Were it blocking, the deadline would be of no use.
	got.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := got.Accept(); err == nil {
		t.Error("accepted nobody")
	}
}
