//go:build !(linux && (amd64 || arm64))

package sock

import "syscall"

// Available says that Recv, Send and Look work here.
const Available = false

// Recv is not available here.
func Recv(uintptr, []byte) (int, syscall.Errno) { return 0, syscall.ENOSYS }

// Send is not available here.
func Send(uintptr, []byte) (int, syscall.Errno) { return 0, syscall.ENOSYS }

// SendMore is not available here.
func SendMore(uintptr, []byte) (int, syscall.Errno) { return 0, syscall.ENOSYS }

// Look is not available here.
func Look(uintptr) State { return Quiet }

// Traffic is not available here.
func Traffic(uintptr) (acked, received uint64, ok bool) { return 0, 0, false }

// CloseWrite is not available here.
func CloseWrite(uintptr) {}

// NewPipe is not available here.
func NewPipe() (*Pipe, error) { return nil, syscall.ENOSYS }

// Close is not available here.
func (*Pipe) Close() {}

// Fill is not available here.
func (*Pipe) Fill(uintptr, int64) (int, syscall.Errno) { return 0, syscall.ENOSYS }

// Drain is not available here.
func (*Pipe) Drain(uintptr, int64, bool) (int, syscall.Errno) { return 0, syscall.ENOSYS }
