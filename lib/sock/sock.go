// Package sock holds the raw system calls of the data plane: receiving and
// sending on a socket, and moving bytes from one to another, without waiting.
//
// The calls cannot block, so on Linux they bypass the scheduler's bookkeeping
// for calls that might; that is half of their cost. The descriptor comes from
// syscall.RawConn, whose callback keeps it open while it runs. Elsewhere
// Available is false and callers use net.Conn.
package sock

import "net"

// RawConn returns what Recv and Send need of a connection, or false where they
// are not available.
func RawConn(c *net.TCPConn) (Raw, bool) {
	if !Available || c == nil {
		return nil, false
	}
	r, err := c.SyscallConn()
	return r, err == nil
}

// Raw is a syscall.RawConn.
type Raw interface {
	Control(func(fd uintptr)) error
	Read(func(fd uintptr) (done bool)) error
	Write(func(fd uintptr) (done bool)) error
}

// State is what a look at a socket says without taking anything from it.
type State uint8

const (
	Quiet    State = iota // open, nothing to read
	Readable              // bytes have arrived
	Ended                 // the peer has closed, or the connection is broken
)

// Pipe is where bytes stay in the kernel on their way from one socket to
// another.
type Pipe struct{ r, w uintptr }
