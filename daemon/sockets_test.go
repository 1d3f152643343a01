package daemon

import (
	"errors"
	"net"
	"syscall"
	"testing"
)

// TestLastViewRefusesClients: between two views the kernel queues clients, after
// the last it refuses them.
func TestLastViewRefusesClients(t *testing.T) {
	s := &sockets{}
	k, err := s.tcp("127.0.0.1:0", "")
	if err != nil {
		t.Fatal(err)
	}
	dial := func() error {
		c, err := net.Dial("tcp", k.Addr().String())
		if err == nil {
			c.Close()
		}
		return err
	}
	if err := errors.Join(k.view().Close(), dial()); err != nil {
		t.Errorf("between two views: %v", err)
	}
	v := k.view()
	s.lastViews()
	if err := v.Close(); err != nil {
		t.Error(err)
	}
	if err := dial(); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after the last: %v", err)
	}
	if err := s.close(true); err != nil {
		t.Error(err)
	}
}
