package sock

import (
	"net"
	"os"
	"syscall"
)

// MaxFiles is how many descriptors one message may carry.
const MaxFiles = 250

// SendFiles writes b, which must not be empty, with the descriptors of what is
// given. They are copies: the receiver's live on when ours are closed.
func SendFiles(c *net.UnixConn, b []byte, files []syscall.Conn) error {
	return withFDs(files, nil, func(fds []int) error { return sendFDs(c, b, fds) })
}

// withFDs calls f with the descriptors open. os.File.Fd would do the same and
// make the file block, for everybody who has a copy.
func withFDs(files []syscall.Conn, fds []int, f func([]int) error) error {
	if len(files) == 0 {
		return f(fds)
	}
	raw, err := files[0].SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = withFDs(files[1:], append(fds, int(fd)), f) })
	if err != nil {
		return err
	}
	return inner
}

// ReceiveFiles reads into b what has come, with the descriptors that came with
// its first byte. The caller closes them.
func ReceiveFiles(c *net.UnixConn, b []byte) (int, []*os.File, error) { return receiveFDs(c, b) }
