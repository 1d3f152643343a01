//go:build !linux

package sock

import (
	"errors"
	"net"
	"os"
)

func sendFDs(*net.UnixConn, []byte, []int) error { return errors.ErrUnsupported }

func receiveFDs(*net.UnixConn, []byte) (int, []*os.File, error) {
	return 0, nil, errors.ErrUnsupported
}

// Peer is not available here.
func Peer(*net.UnixConn) (uid, pid int, err error) { return 0, 0, errors.ErrUnsupported }
