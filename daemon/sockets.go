package daemon

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"gatehouse/gateway/listen"
)

// listener is what TCP and unix listeners have in common.
type listener interface {
	net.Listener
	syscall.Conn
	SetDeadline(time.Time) error
}

// socket is a listening socket of this process. Who serves it gets a view of
// it, which can be closed and followed by another while the kernel goes on
// queueing clients.
type socket struct {
	listener
	key  string      // by which another process knows it: "tcp 127.0.0.1:9080" as it is configured, or "unix login.sock"
	path string      // of a unix socket
	last atomic.Bool // nobody serves after this view: the kernel is to queue no more clients
}

// view is the socket for one server.
func (k *socket) view() net.Listener {
	_ = k.SetDeadline(time.Time{})
	return &view{k: k}
}

type view struct {
	k      *socket
	ending atomic.Bool // accepting ends at a time that is set
	closed atomic.Bool // it has ended
}

func (v *view) Accept() (net.Conn, error) {
	c, err := v.k.Accept()
	if err != nil && v.ending.Load() {
		return nil, net.ErrClosed
	}
	return c, err
}

func (v *view) Addr() net.Addr { return v.k.Addr() }

// SetDeadline ends accepting at a time.
func (v *view) SetDeadline(t time.Time) error {
	v.ending.Store(true)
	if v.closed.Load() {
		return nil
	}
	return v.k.SetDeadline(t)
}

// Close ends accepting; the socket stays open, unless it is the last view.
func (v *view) Close() error {
	v.ending.Store(true)
	v.closed.Store(true)
	if v.k.last.Load() {
		return v.k.Close()
	}
	return v.k.SetDeadline(time.Unix(1, 0))
}

// sockets are those of a process: opened, or handed over by the process it
// follows.
type sockets struct {
	given map[string][]handle // handed over, not asked for yet
	open  []*socket
	udps  map[string]*net.UDPConn // open; whoever uses one closes it
}

// handle is what can change hands: a listener, or a *net.UDPConn.
type handle interface {
	io.Closer
	syscall.Conn
}

// tcp returns the socket for an address: the one that was handed over, or a
// fresh one.
func (s *sockets) tcp(addr, setting string) (*socket, error) {
	key := "tcp " + addr
	l, _ := s.take(key).(listener)
	if l == nil {
		fresh, err := listenTCP(addr, setting)
		if err != nil {
			return nil, err
		}
		l = fresh.(listener)
	}
	return s.keep(&socket{listener: l, key: key}), nil
}

// unix is the same for a socket of mode 0600 in the data directory.
func (s *sockets) unix(dir, name string) (*socket, error) {
	key := "unix " + name
	l, _ := s.take(key).(listener)
	path := dir + "/" + name
	if l == nil {
		fresh, err := listenSocket(dir, name)
		if err != nil {
			return nil, err
		}
		l = fresh
	}
	return s.keep(&socket{listener: l, key: key, path: path}), nil
}

// has says whether a unix socket was handed over.
func (s *sockets) has(name string) bool { return len(s.given["unix "+name]) > 0 }

// udp returns the socket for an address of HTTP/3.
func (s *sockets) udp(addr, setting string) (*net.UDPConn, error) {
	key := "udp " + addr
	c, _ := s.take(key).(*net.UDPConn)
	if c == nil {
		fresh, err := listen.UDP(context.Background(), addr)
		if err != nil {
			return nil, &busyPort{addr + " (udp)", setting, err}
		}
		c = fresh.(*net.UDPConn)
	}
	if s.udps == nil {
		s.udps = map[string]*net.UDPConn{}
	}
	s.udps[key] = c
	return c, nil
}

// all returns what is handed over, and its names.
func (s *sockets) all() (keys []string, files []syscall.Conn) {
	for _, k := range s.open {
		keys, files = append(keys, k.key), append(files, k.listener)
	}
	for key, c := range s.udps {
		keys, files = append(keys, key), append(files, c)
	}
	return keys, files
}

// adopt makes of a descriptor what its name says.
func adopt(key string, f *os.File) (handle, error) {
	if strings.HasPrefix(key, "udp ") {
		c, err := net.FilePacketConn(f)
		if err != nil {
			return nil, err
		}
		if u, ok := c.(*net.UDPConn); ok {
			return u, nil
		}
		c.Close()
		return nil, errors.New("this is no UDP socket")
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	switch l := l.(type) {
	case *net.TCPListener:
		return l, nil
	case *net.UnixListener:
		return l, nil
	}
	l.Close()
	return nil, errors.New("this is no listening socket we know")
}

func (s *sockets) take(key string) handle {
	l := s.given[key]
	if len(l) == 0 {
		return nil
	}
	s.given[key] = l[1:]
	return l[0]
}

func (s *sockets) keep(k *socket) *socket {
	s.open = append(s.open, k)
	return k
}

// closeGiven closes what was handed over and nobody asked for: its address is
// not configured any more.
func (s *sockets) closeGiven() {
	for _, ls := range s.given {
		for _, l := range ls {
			l.Close()
		}
	}
	s.given = nil
}

// lastViews says that this process stops and nobody follows: a client that
// connects from now on is refused at once, and goes elsewhere.
func (s *sockets) lastViews() {
	for _, k := range s.open {
		if k.path == "" { // closing a unix socket removes its name: see close
			k.last.Store(true)
		}
	}
}

// handedOver closes our copies of what listens, another process has its own: an
// address that it does not use must not look served until our last client goes.
func (s *sockets) handedOver() {
	for _, k := range s.open {
		k.listener.Close()
	}
	s.open = nil
}

// close closes all. The names of unix sockets go too, unless another process
// has them.
func (s *sockets) close(ours bool) error {
	s.closeGiven()
	var errs []error
	for _, k := range s.open {
		if k.path != "" && ours {
			os.Remove(k.path)
		}
		if err := k.listener.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	s.open = nil
	for _, c := range s.udps {
		c.Close() // again, if it was used
	}
	return errors.Join(errs...)
}
