package engine

import (
	"io"
	"strings"
	"testing"
	"time"

	"gatehouse/gateway"
)

// TestTunnelOutlivesALateDeadline: a look of tick at the request that became a
// tunnel may come when the tunnel is there.
func TestTunnelOutlivesALateDeadline(t *testing.T) {
	t.Parallel()
	addr, s := start(t, func(x *gateway.Exchange, w *Writer) {
		c, err := w.Upgrade("websocket")
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_, _ = io.Copy(c, c)
	})
	ws := dial(t, addr)
	_, _ = io.WriteString(ws, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	b := make([]byte, 1)
	for head := ""; !strings.HasSuffix(head, "\r\n\r\n"); head += string(b) {
		if _, err := io.ReadFull(ws, b); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		for _, k := range s.all() {
			_ = k.(*client).nc.SetReadDeadline(time.Unix(1, 0))
		}
		_, _ = io.WriteString(ws, "\x82\x01x")
		got := make([]byte, 3)
		if _, err := io.ReadFull(ws, got); err != nil || string(got) != "\x82\x01x" {
			t.Fatalf("%q, %v", got, err)
		}
	}
}
