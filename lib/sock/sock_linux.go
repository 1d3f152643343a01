//go:build linux && (amd64 || arm64)

package sock

import (
	"syscall"
	"unsafe"
)

// Available says that Recv, Send and Look work here.
const Available = true

// Recv reads what has arrived. 0 without an error is the end of the stream;
// syscall.EAGAIN: nothing is there. b must not be empty.
func Recv(fd uintptr, b []byte) (int, syscall.Errno) {
	for {
		n, _, e := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), syscall.MSG_DONTWAIT, 0, 0)
		if e == 0 {
			return int(n), 0
		}
		if e != syscall.EINTR {
			return 0, e
		}
	}
}

// Send writes as much as the socket takes; syscall.EAGAIN: nothing. It raises
// no SIGPIPE. b must not be empty.
func Send(fd uintptr, b []byte) (int, syscall.Errno) {
	for {
		n, _, e := syscall.RawSyscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, 0, 0)
		if e == 0 {
			return int(n), 0
		}
		if e != syscall.EINTR {
			return 0, e
		}
	}
}

// Look says how a socket is, and takes nothing from it.
func Look(fd uintptr) State {
	var b [1]byte
	for {
		n, _, e := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b[0])), 1, syscall.MSG_PEEK|syscall.MSG_DONTWAIT, 0, 0)
		switch {
		case e == syscall.EINTR:
		case e == syscall.EAGAIN:
			return Quiet
		case e != 0 || n == 0:
			return Ended
		default:
			return Readable
		}
	}
}

// CloseWrite tells the peer that nothing more comes; the descriptor stays open.
func CloseWrite(fd uintptr) { _ = syscall.Shutdown(int(fd), syscall.SHUT_WR) }
