package engine

import (
	"bytes"
	"io"
	"testing"

	"gatehouse/gateway"
)

// FuzzHTTP3 feeds whatever comes to everything that reads a stream of QUIC:
// nothing panics, reads more than has come or goes on for ever.
func FuzzHTTP3(f *testing.F) {
	f.Add(head3("GET", "/"))
	f.Add(append(head3("POST", "/", "cookie", "a=b"), h3frame(h3Data, []byte("abc"))...))
	f.Add(append(append(head3("POST", "/"), h3frame(0x21, nil)...), heads("a", "b")...))
	f.Add(varints(h3Settings, 4, 0x6, 5, 0x1, 0, h3MaxPushID, 1, 7, h3GoAway, 1, 0))
	f.Add([]byte{h3Headers, 5, 0, 0, 0x51, 0x82, 0x34, 0xff})
	f.Add([]byte{0x20, 0x20, 0x3f})
	f.Add([]byte{0xc0, 0, 0, 0, 0, 0, 0, 0x21, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	lim := Limits{Head: 4 << 10}
	lim.defaults()
	f.Fuzz(func(t *testing.T, p []byte) {
		c := &h3conn{srv: NewServer(ServerConfig{Limits: lim})}
		reader := func() h3reader {
			return h3reader{src: io.MultiReader(bytes.NewReader(p[:len(p)/2]), bytes.NewReader(p[len(p)/2:])), buf: make([]byte, 64)}
		}
		in := reader()
		for total := 0; ; {
			typ, err := in.next()
			if err != nil {
				break
			}
			if !h3Known(typ) {
				t.Fatalf("frame of type %d", typ)
			}
			if in.left > uint64(lim.Head) {
				if in.skip() != nil {
					break
				}
				continue
			}
			b, err := in.whole()
			if total += len(b); total > len(p) {
				t.Fatalf("%d bytes of %d", total, len(p))
			}
			if err != nil {
				break
			}
			var head headBlock
			head.begin(0, true, &lim)
			if c.decode(&head, b) != nil {
				continue
			}
			var q gateway.Request
			if head.request(&q) && head.fail == 0 {
				for _, field := range q.Header.Fields() {
					if field.Name == "" || bytes.ContainsAny([]byte(field.Name+field.Value), "\r\n\x00") {
						t.Fatalf("field %q", field)
					}
				}
			}
		}
		in = reader()
		in.spend = c.cost
		if c.control(&in) == nil {
			t.Fatal("a control stream that ends well")
		}
		in = reader()
		if c.instructions(&in) == nil {
			t.Fatal("an encoder stream that ends well")
		}
	})
}
