package sock

import (
	"errors"
	"net"
	"os"
	"syscall"
)

func sendFDs(c *net.UnixConn, b []byte, fds []int) error {
	var oob []byte
	if len(fds) > 0 {
		oob = syscall.UnixRights(fds...)
	}
	n, _, err := c.WriteMsgUnix(b, oob, nil)
	if err == nil && n < len(b) {
		_, err = c.Write(b[n:])
	}
	return err
}

func receiveFDs(c *net.UnixConn, b []byte) (n int, files []*os.File, err error) {
	oob := make([]byte, syscall.CmsgSpace(4*MaxFiles))
	n, oobn, flags, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return n, nil, err
	}
	msgs, err := syscall.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return n, nil, err
	}
	for i := range msgs {
		fds, rights := syscall.ParseUnixRights(&msgs[i])
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "handed over"))
		}
		err = errors.Join(err, rights)
	}
	if flags&syscall.MSG_CTRUNC != 0 {
		err = errors.Join(err, errors.New("too many descriptors in one message"))
	}
	if err != nil {
		for _, f := range files {
			f.Close()
		}
		return n, nil, err
	}
	return n, files, nil
}

// Peer says which user and process is at the other end.
func Peer(c *net.UnixConn) (uid, pid int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	var cred *syscall.Ucred
	var inner error
	if err := raw.Control(func(fd uintptr) {
		cred, inner = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return 0, 0, err
	}
	if inner != nil {
		return 0, 0, inner
	}
	return int(cred.Uid), int(cred.Pid), nil
}
