package daemon

import (
	"strings"
	"testing"
)

// TestFailedSuccessorsAreForgotten: their process ids will be others'.
func TestFailedSuccessorsAreForgotten(t *testing.T) {
	c, _ := gatewayConfig(t)
	talk := &syncBuffer{}
	d, err := start(t.Context(), c, Parts{Gateway: true}, Options{Argv: []string{"false"}}, true, talk)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := d.respawn(); err == nil || !strings.Contains(err.Error(), "the successor ended: exit status 1") {
			t.Errorf("respawn: %v", err)
		}
	}
	d.control.mu.Lock()
	if n := len(d.control.followers); n > 0 {
		t.Errorf("%d successors are expected", n)
	}
	d.control.mu.Unlock()
	if err := d.stop(); err != nil {
		t.Error(err)
	}
}
