package engine

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"
)

// h3peer is a client that writes frames as it likes.
type h3peer struct {
	t  *testing.T
	qc *quic.Conn
}

// newH3Peer connects. It opens no stream of its own.
func newH3Peer(t *testing.T, url string, change ...func(*quic.Config)) *h3peer {
	t.Helper()
	cfg := &quic.Config{MaxIdleTimeout: 30 * time.Second}
	for _, c := range change {
		c(cfg)
	}
	tr := &quic.Transport{Conn: udp(t)}
	addr := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(strings.Replace(url, "https://localhost", "127.0.0.1", 1)))
	qc, err := tr.Dial(t.Context(), addr, h3ClientTLS(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = qc.CloseWithError(h3NoError, "")
		_ = tr.Close()
		_ = tr.Conn.Close()
	})
	return &h3peer{t, qc}
}

func h3ClientTLS() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h3"}, ServerName: "localhost"}
}

// control opens a control stream with empty SETTINGS.
func (p *h3peer) control() *quic.SendStream {
	p.t.Helper()
	return p.uni(h3Control, h3Settings, 0)
}

// uni opens a stream in one direction and writes numbers to it.
func (p *h3peer) uni(numbers ...uint64) *quic.SendStream {
	p.t.Helper()
	s, err := p.qc.OpenUniStream()
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := s.Write(varints(numbers...)); err != nil {
		p.t.Fatal(err)
	}
	return s
}

func varints(numbers ...uint64) (b []byte) {
	for _, n := range numbers {
		b = quicvarint.Append(b, n)
	}
	return b
}

// request opens a stream, writes to it as long as the server lets it, and ends
// it if asked to.
func (p *h3peer) request(b []byte, end bool) *quic.Stream {
	p.t.Helper()
	s, err := p.qc.OpenStreamSync(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	_ = s.SetReadDeadline(time.Now().Add(20 * time.Second))
	_ = s.SetWriteDeadline(time.Now().Add(20 * time.Second))
	_, _ = s.Write(b)
	if end {
		_ = s.Close()
	}
	return s
}

// h3frame makes a frame.
func h3frame(typ uint64, payload []byte) []byte {
	return append(appendFrame(nil, typ, len(payload)), payload...)
}

// section encodes fields: name, value, name, value.
func section(fields ...string) []byte {
	var b bytes.Buffer
	e := qpack.NewEncoder(&b)
	for i := 0; i < len(fields); i += 2 {
		_ = e.WriteField(qpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return b.Bytes()
}

// heads is a HEADERS frame.
func heads(fields ...string) []byte { return h3frame(h3Headers, section(fields...)) }

// head3 is the head of a request, with more fields.
func head3(method, path string, more ...string) []byte {
	return heads(append([]string{":method", method, ":scheme", "https", ":authority", "localhost", ":path", path}, more...)...)
}

// h3answer is what came back on a stream: the sections of fields, the body and
// what ended it (nil: its end).
type h3answer struct {
	sections [][]qpack.HeaderField
	body     []byte
	err      error
}

func (a h3answer) status() string {
	for _, s := range a.sections {
		if v := value(s, ":status"); len(v) > 0 && v[0] != '1' {
			return v
		}
	}
	return ""
}

func value(s []qpack.HeaderField, name string) string {
	for _, f := range s {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

// answer reads a stream to its end.
func (p *h3peer) answer(s *quic.Stream) (a h3answer) {
	p.t.Helper()
	in := h3reader{src: s, buf: make([]byte, 4096)}
	for {
		typ, err := in.next()
		if err == io.EOF {
			return a
		}
		if err != nil {
			a.err = err
			return a
		}
		b, err := in.whole()
		if err != nil {
			a.err = err
			return a
		}
		if typ == h3Data {
			a.body = append(a.body, b...)
			continue
		}
		var fields []qpack.HeaderField
		next := qpack.NewDecoder().Decode(b)
		for f, err := next(); err == nil; f, err = next() {
			fields = append(fields, f)
		}
		a.sections = append(a.sections, fields)
	}
}

// streamCode is the code a stream was reset with, or -1.
func streamCode(err error) int64 {
	var e *quic.StreamError
	if errors.As(err, &e) && e.Remote {
		return int64(e.ErrorCode)
	}
	return -1
}

// ends waits for the code the connection ends with.
func (p *h3peer) ends() int64 {
	p.t.Helper()
	select {
	case <-p.qc.Context().Done():
	case <-time.After(20 * time.Second):
		p.t.Fatal("the connection is still there")
	}
	var e *quic.ApplicationError
	if err := context.Cause(p.qc.Context()); errors.As(err, &e) && e.Remote {
		return int64(e.ErrorCode)
	} else {
		p.t.Fatalf("the connection ended with %v", err)
	}
	return -1
}

// notices reads the ids of GOAWAY, one by one.
func (p *h3peer) notices() func() quic.StreamID {
	p.t.Helper()
	s, err := p.qc.AcceptUniStream(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	_ = s.SetReadDeadline(time.Now().Add(20 * time.Second))
	in := h3reader{src: s, buf: make([]byte, 256)}
	if kind, err := in.number(); err != nil || kind != h3Control {
		p.t.Fatalf("stream of kind %d, %v", kind, err)
	}
	next := func(want uint64) []byte {
		p.t.Helper()
		typ, err := in.next()
		if err != nil || typ != want {
			p.t.Fatalf("frame of type %d, want %d; %v", typ, want, err)
		}
		b, err := in.whole()
		if err != nil {
			p.t.Fatal(err)
		}
		return b
	}
	next(h3Settings)
	return func() quic.StreamID {
		p.t.Helper()
		id, _, err := quicvarint.Parse(next(h3GoAway))
		if err != nil {
			p.t.Fatal(err)
		}
		return quic.StreamID(id)
	}
}
