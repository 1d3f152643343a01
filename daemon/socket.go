package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// maxSocketPath is what the kernel takes for the path of a unix socket.
const maxSocketPath = 100

// listenSocket opens a socket of mode 0600 in the data directory, for its
// owner only. The caller holds the lock of the database behind it, so what is
// there is left over. Its file stays when it is closed: see sockets.
func listenSocket(dir, name string) (*net.UnixListener, error) {
	// Made in a directory of its own, where nobody else can reach it, and moved
	// when its mode is right.
	tmp, err := os.MkdirTemp(dir, ".s")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	short, release, err := shortPath(tmp, "s")
	if err != nil {
		return nil, err
	}
	defer release()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("opening the socket %s: %w", name, err)
	}
	l.SetUnlinkOnClose(false)
	path := filepath.Join(dir, name)
	if err := errors.Join(os.Chmod(filepath.Join(tmp, "s"), 0o600), os.Rename(filepath.Join(tmp, "s"), path)); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// shortPath returns a path the kernel takes, by way of the directory's file
// descriptor when the direct one is too long.
func shortPath(dir, name string) (path string, release func(), err error) {
	path = filepath.Join(dir, name)
	if len(path) <= maxSocketPath {
		return path, func() {}, nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), name), func() { d.Close() }, nil
}

// socketClient calls the process that listens on a socket of the data
// directory. The host in URLs does not matter.
func socketClient(dir, name string) *http.Client {
	return &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				path, release, err := shortPath(dir, name)
				if err != nil {
					return nil, err
				}
				defer release()
				var d net.Dialer
				return d.DialContext(ctx, "unix", path)
			},
			MaxIdleConnsPerHost: 16,
			IdleConnTimeout:     30 * time.Second,
		},
	}
}

// socketAlive says whether a process answers on the socket.
func socketAlive(dir, name string) bool {
	path, release, err := shortPath(dir, name)
	if err != nil {
		return false
	}
	defer release()
	c, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}
