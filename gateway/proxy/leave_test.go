package proxy

import (
	"io"
	"net"
	"net/http"
	"sync"
	"testing"

	"golang.org/x/net/http2"

	"gatehouse/resource"
)

// TestNextGRPCNodeGetsTheWholeBody: a node takes the beginning of a body, says
// that it did not look at it, and listens no more.
func TestNextGRPCNodeGetsTheWholeBody(t *testing.T) {
	first, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	began := make(chan struct{}, 10) // DATA frames
	wg.Go(func() {
		c, err := first.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.ReadFull(c, make([]byte, len(http2.ClientPreface)))
		fr := http2.NewFramer(c, c)
		_ = fr.WriteSettings()
		for {
			f, err := fr.ReadFrame()
			if err != nil {
				return
			}
			if d, ok := f.(*http2.DataFrame); ok && len(d.Data()) > 0 {
				first.Close()
				_ = fr.WriteGoAway(0, http2.ErrCodeNo, nil)
				began <- struct{}{}
			}
		}
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	next := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = w.Write(b)
	})}
	next.Protocols.SetUnencryptedHTTP2(true)
	wg.Go(func() { _ = next.Serve(l) })
	defer next.Close()

	r := newRig(t, nil)
	defer r.tr.Close()
	r.put(resource.Routes, "1", `{"uri":"/*","upstream":{"type":"roundrobin","scheme":"grpc","nodes":{"`+first.Addr().String()+`":1,"`+l.Addr().String()+`":1}}}`)
	for {
		status, _, body := r.ask("POST /s/m HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nthe start, \r\n7\r\nthe end\r\n0\r\n\r\n")
		if status != 200 || body != "the start, the end" {
			t.Errorf("%d %q", status, body)
		}
		select {
		case <-began:
			return
		default: // the turn was the other's
		}
		if t.Failed() {
			return
		}
	}
}
