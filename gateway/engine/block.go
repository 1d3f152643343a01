package engine

import "unsafe"

// block is memory that messages are received into. Heads are given out as
// strings that point into it, without a copy; what was given out is never
// written again. When a block is full a new one takes its place and the
// collector frees the old one with the last string that points into it. So a
// string of an exchange stays what it is for as long as somebody holds it.
type block struct {
	b          []byte
	start, end int // b[start:end] was received and not consumed
	kept       int // below it strings may point into b
}

const (
	blockSize = 16 << 10
	minSpace  = 4 << 10 // a smaller rest is not worth a system call
)

// space returns room to receive into, at least minSpace bytes.
func (k *block) space() []byte {
	if k.start == k.end {
		k.start, k.end = k.kept, k.kept
	}
	if len(k.b)-k.end < minSpace {
		fresh := make([]byte, max(blockSize, 2*(k.end-k.start)))
		k.end = copy(fresh, k.b[k.start:k.end])
		k.b, k.start, k.kept = fresh, 0, 0
	}
	return k.b[k.end:]
}

// got says that n bytes were received into space.
func (k *block) got(n int) { k.end += n }

// pending is what was received and not consumed.
func (k *block) pending() []byte { return k.b[k.start:k.end] }

// skip consumes n bytes.
func (k *block) skip(n int) { k.start += n }

// text is pending as a string, good until the next call of space but for what
// keep makes stay.
func (k *block) text() string {
	if k.start == k.end {
		return ""
	}
	return unsafe.String(&k.b[k.start], k.end-k.start)
}

// keep consumes n bytes, which stay what they are.
func (k *block) keep(n int) {
	k.start += n
	k.kept = k.start
}

// drop forgets what was not consumed.
func (k *block) drop() { k.start = k.end }
