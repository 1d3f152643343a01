package interaction

import (
	"encoding/binary"
	"errors"
)

// The compact form of what travels sealed: unsigned varints, and strings with
// their length in front. There is no type information; writer and reader
// agree by order.

var errDecode = errors.New("sealed value has an unknown form")

type writer struct{ b []byte }

func (w *writer) byte(v byte)    { w.b = append(w.b, v) }
func (w *writer) raw(v []byte)   { w.b = append(w.b, v...) }
func (w *writer) uint(v uint64)  { w.b = binary.AppendUvarint(w.b, v) }
func (w *writer) str(s string)   { w.uint(uint64(len(s))); w.b = append(w.b, s...) }
func (w *writer) bytes(s []byte) { w.uint(uint64(len(s))); w.b = append(w.b, s...) }

func (w *writer) strs(ss []string) {
	w.uint(uint64(len(ss)))
	for _, s := range ss {
		w.str(s)
	}
}

// reader reads what writer wrote. After the first mistake it returns zero
// values and bad stays set.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) raw(n int) []byte {
	if r.bad || n < 0 || n > len(r.b) {
		r.bad = true
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) byte() byte {
	if v := r.raw(1); v != nil {
		return v[0]
	}
	return 0
}

func (r *reader) uint() uint64 {
	if r.bad {
		return 0
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) length() int {
	n := r.uint()
	if n > uint64(len(r.b)) {
		r.bad = true
		return 0
	}
	return int(n)
}

func (r *reader) bytes() []byte { return r.raw(r.length()) }
func (r *reader) str() string   { return string(r.bytes()) }

func (r *reader) strs() []string {
	n := r.length() // each takes at least one byte
	if n == 0 {
		return nil
	}
	ss := make([]string, 0, n)
	for range n {
		ss = append(ss, r.str())
	}
	if r.bad {
		return nil
	}
	return ss
}

// end says whether everything was read, and nothing wrong.
func (r *reader) end() error {
	if r.bad || len(r.b) > 0 {
		return errDecode
	}
	return nil
}
