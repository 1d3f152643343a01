//go:build linux && (amd64 || arm64)

package sock

import (
	"encoding/binary"
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
func Send(fd uintptr, b []byte) (int, syscall.Errno) { return send(fd, b, 0) }

// SendMore is Send when further bytes follow at once: they may leave together.
func SendMore(fd uintptr, b []byte) (int, syscall.Errno) {
	return send(fd, b, 0x8000) // MSG_MORE
}

func send(fd uintptr, b []byte, flags uintptr) (int, syscall.Errno) {
	for {
		n, _, e := syscall.RawSyscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL|flags, 0, 0)
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

// Traffic says how many bytes the peer of a TCP connection has acknowledged,
// and how many it has sent; false: the kernel does not say.
func Traffic(fd uintptr) (acked, received uint64, ok bool) {
	// struct tcp_info of linux/tcp.h: 8 bytes, 24 words, then words of 64 bits.
	var info [136]byte
	size := uint32(len(info))
	_, _, e := syscall.RawSyscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_INFO, uintptr(unsafe.Pointer(&info[0])), uintptr(unsafe.Pointer(&size)), 0)
	if e != 0 || int(size) < len(info) {
		return 0, 0, false
	}
	return binary.NativeEndian.Uint64(info[120:]), binary.NativeEndian.Uint64(info[128:]), true
}

// CloseWrite tells the peer that nothing more comes; the descriptor stays open.
func CloseWrite(fd uintptr) { _ = syscall.Shutdown(int(fd), syscall.SHUT_WR) }

// pipeSize is how much a Pipe holds: a large part of a body moves in two calls.
const pipeSize = 256 << 10

// NewPipe makes a pipe.
func NewPipe() (*Pipe, error) {
	var fd [2]int
	if err := syscall.Pipe2(fd[:], syscall.O_NONBLOCK|syscall.O_CLOEXEC); err != nil {
		return nil, err
	}
	const setPipeSize = 1031                                                            // F_SETPIPE_SZ
	_, _, _ = syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd[0]), setPipeSize, pipeSize) // refused: the usual size does
	return &Pipe{r: uintptr(fd[0]), w: uintptr(fd[1])}, nil
}

// Close gives the descriptors back.
func (p *Pipe) Close() {
	_ = syscall.Close(int(p.r))
	_ = syscall.Close(int(p.w))
}

// Fill moves at most n bytes from a socket into the pipe; 0 without an error is
// the end of the stream, syscall.EAGAIN: nothing has come.
func (p *Pipe) Fill(fd uintptr, n int64) (int, syscall.Errno) {
	return splice(fd, p.w, n, 0)
}

// Drain moves at most n bytes from the pipe to a socket; syscall.EAGAIN: the
// socket takes nothing now. more says that further bytes follow at once.
func (p *Pipe) Drain(fd uintptr, n int64, more bool) (int, syscall.Errno) {
	if more {
		return splice(p.r, fd, n, 0x4) // SPLICE_F_MORE
	}
	return splice(p.r, fd, n, 0)
}

func splice(from, to uintptr, n int64, flags uintptr) (int, syscall.Errno) {
	const moveNonblock = 0x1 | 0x2 // SPLICE_F_MOVE, SPLICE_F_NONBLOCK
	for {
		m, _, e := syscall.RawSyscall6(syscall.SYS_SPLICE, from, 0, to, 0, uintptr(min(n, 1<<30)), moveNonblock|flags)
		if e == 0 {
			return int(m), 0
		}
		if e != syscall.EINTR {
			return 0, e
		}
	}
}
