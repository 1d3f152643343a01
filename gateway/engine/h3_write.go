package engine

import (
	"bytes"
	"io"
	"strconv"
	"sync"

	"github.com/quic-go/qpack"

	"gatehouse/gateway"
)

// h3out is a buffer for an answer.
type h3out struct {
	b     []byte
	block bytes.Buffer
	enc   *qpack.Encoder
}

var h3outs = sync.Pool{New: func() any {
	o := &h3out{b: make([]byte, 0, 4<<10)}
	o.enc = qpack.NewEncoder(&o.block)
	return o
}}

const (
	h3MaxOut  = 16 << 10 // of an answer is kept back to leave in one piece
	h3Counted = 4 << 10  // of an answer and more is counted while it leaves
	h3Tail    = 1000     // fits into one packet with the end of the stream
)

// buffer returns what waits to be sent. The caller holds mu.
func (st *h3stream) buffer() *h3out {
	if st.out == nil {
		st.out = h3outs.Get().(*h3out)
		st.out.b = st.out.b[:0]
	}
	return st.out
}

// fields writes a HEADERS frame of status (0: trailers) and fields. The caller
// holds mu.
func (st *h3stream) fields(status int, h *gateway.Header, length int64) {
	o := st.buffer()
	o.block.Reset()
	_ = o.enc.Close() // begins a field section
	if status > 0 {
		_ = o.enc.WriteField(qpack.HeaderField{Name: ":status", Value: statusText(status)})
	}
	dated := status < 200
	for _, f := range h.Fields() {
		switch specialField(f.Name) {
		case kept:
			continue
		case date:
			dated = true
		}
		name := f.Name
		if hasUpper(name) {
			name = lowerName(name)
		}
		_ = o.enc.WriteField(qpack.HeaderField{Name: name, Value: f.Value})
	}
	if !dated {
		_ = o.enc.WriteField(qpack.HeaderField{Name: "date", Value: *st.c.srv.date.Load()})
	}
	if length >= 0 {
		_ = o.enc.WriteField(qpack.HeaderField{Name: "content-length", Value: strconv.FormatInt(length, 10)})
	}
	o.b = append(appendFrame(o.b, h3Headers, o.block.Len()), o.block.Bytes()...)
}

func (st *h3stream) head(w *Writer) {
	r := &w.x.Resp
	length := r.Length
	if r.Status == 204 || r.Status == 304 && length == 0 {
		length = -1
	}
	st.left = r.Length
	if w.none {
		st.left = 0
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.begun.Store(true)
	before := len(st.buffer().b)
	st.fields(r.Status, &r.Header, length)
	w.x.BytesOut += int64(len(st.out.b) - before)
}

func (st *h3stream) info(status int, h *gateway.Header) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.fields(status, h, -1)
	_ = st.flushLocked()
}

func (st *h3stream) write(w *Writer, p []byte) (int, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.left >= 0 {
		if int64(len(p)) > st.left {
			p = p[:st.left]
			w.aborted = true
		}
		st.left -= int64(len(p))
	}
	if len(p) == 0 {
		return 0, nil
	}
	o := st.buffer()
	before := len(o.b)
	o.b = appendFrame(o.b, h3Data, len(p))
	w.x.BytesOut += int64(len(o.b) - before + len(p))
	if len(o.b)+len(p) <= h3MaxOut {
		o.b = append(o.b, p...)
		return len(p), nil
	}
	if err := st.flushLocked(); err != nil {
		return 0, errGone
	}
	return len(p), st.push(p)
}

func (st *h3stream) flush() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.flushLocked()
}

// flushLocked sends what waits. The caller holds mu.
func (st *h3stream) flushLocked() error {
	if st.out == nil || len(st.out.b) == 0 {
		return nil
	}
	err := st.push(st.out.b)
	st.out.b = st.out.b[:0]
	return err
}

// push sends bytes, as fast as the client takes them. The last of them wait
// for the end of the stream, which leaves in the same packet.
func (st *h3stream) push(p []byte) error {
	st.inSend.Store(st.c.srv.seconds.Load())
	defer st.inSend.Store(0)
	if len(p) >= h3Counted {
		if _, err := st.qs.WriteWithLimit(p[:len(p)-h3Tail], st.leaves); err != nil {
			return errGone
		}
		p = p[len(p)-h3Tail:]
	}
	if _, err := st.qs.Write(p); err != nil {
		return errGone
	}
	st.went.Add(int64(len(p)))
	return nil
}

// leaves counts what is put into packets. quic-go calls it with locks held.
func (st *h3stream) leaves(n int) int {
	st.went.Add(int64(n))
	return n
}

func (st *h3stream) finish(w *Writer) {
	if !w.sent {
		w.Refuse(500)
	}
	st.unwatch()
	st.mu.Lock()
	defer st.mu.Unlock()
	if w.aborted || st.left > 0 {
		st.qs.CancelWrite(h3InternalError)
		st.qs.CancelRead(h3InternalError)
		return
	}
	if len(w.x.Resp.Trailer.Fields()) > 0 && !w.none && st.left < 0 {
		st.fields(0, &w.x.Resp.Trailer, -1)
	}
	if st.flushLocked() != nil || st.qs.Close() != nil {
		st.qs.CancelWrite(h3RequestCancelled) // it is gone, this only ends the context
	}
	st.qs.CancelRead(h3NoError) // the rest of the body is not wanted (RFC 9114, section 4.1)
}

func (st *h3stream) upgrade(*Writer, string) (io.ReadWriteCloser, error) { return nil, ErrNoUpgrade }
