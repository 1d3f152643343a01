package engine

import (
	"io"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"
)

// Error codes of HTTP/3 and QPACK (RFC 9114, section 8.1; RFC 9204, section 6).
const (
	h3NoError           = 0x100
	h3StreamCreation    = 0x103
	h3ClosedCritical    = 0x104
	h3FrameUnexpected   = 0x105
	h3FrameError        = 0x106
	h3ExcessiveLoad     = 0x107
	h3IDError           = 0x108
	h3SettingsError     = 0x109
	h3MissingSettings   = 0x10a
	h3RequestRejected   = 0x10b
	h3RequestCancelled  = 0x10c
	h3RequestIncomplete = 0x10d
	h3MessageError      = 0x10e
	h3InternalError     = 0x102
	qpackDecompression  = 0x200
	qpackEncoderStream  = 0x201
)

// h3ConnError ends the connection, h3StreamError the stream.
type (
	h3ConnError   quic.ApplicationErrorCode
	h3StreamError quic.StreamErrorCode
)

func (h3ConnError) Error() string   { return "the client broke the rules of HTTP/3" }
func (h3StreamError) Error() string { return "the request is malformed" }

// Types of frames (RFC 9114, section 7.2).
const (
	h3Data        = 0x0
	h3Headers     = 0x1
	h3CancelPush  = 0x3
	h3Settings    = 0x4
	h3PushPromise = 0x5
	h3GoAway      = 0x7
	h3MaxPushID   = 0xd
)

// h3Known says that a frame has a meaning, or must not be because it had one
// in HTTP/2; all others are skipped.
func h3Known(typ uint64) bool { return typ <= 0x9 || typ == h3MaxPushID }

// h3Skipped bounds the bytes of unknown frames, and of their heads, on a
// request's stream, and of one on others: they are there for extensions and for
// grease, not to fill the line.
const h3Skipped = 64 << 10

// h3reader takes the frames of a QUIC stream apart.
type h3reader struct {
	src     io.Reader
	wait    func()       // before a read that may block; nil: nothing
	spend   func() error // for each frame that is skipped; nil: h3Skipped bounds them all
	buf     []byte
	r, w    int    // buf[r:w] has come and was not taken
	left    uint64 // of the payload of the frame at hand
	skipped uint64
	err     error // what the stream ended with, after buf[r:w]
}

// fill reads more into the buffer, which must have room.
func (h *h3reader) fill() error {
	if h.err != nil {
		return h.err
	}
	if h.r == h.w {
		h.r, h.w = 0, 0
	}
	if h.r > 0 && len(h.buf)-h.w < 64 {
		h.w = copy(h.buf, h.buf[h.r:h.w])
		h.r = 0
	}
	if h.wait != nil {
		h.wait()
	}
	n, err := h.src.Read(h.buf[h.w:])
	h.w += n
	if err != nil {
		h.err = err
	}
	if n > 0 {
		return nil
	}
	return err
}

// ended says that the stream has come to its end and all of it was taken.
func (h *h3reader) ended() bool { return h.r == h.w && h.err == io.EOF }

// number reads a variable-length integer. The end of the stream before its
// first byte is io.EOF, within it io.ErrUnexpectedEOF.
func (h *h3reader) number() (uint64, error) {
	for {
		if v, n, err := quicvarint.Parse(h.buf[h.r:h.w]); err == nil {
			h.r += n
			return v, nil
		}
		some := h.r < h.w
		if err := h.fill(); err == io.EOF && some {
			return 0, io.ErrUnexpectedEOF
		} else if err != nil {
			return 0, err
		}
	}
}

// next reads the head of the next frame that has a meaning. The end of the
// stream is io.EOF between frames; within one it is an error of the connection
// (RFC 9114, section 7.1).
func (h *h3reader) next() (typ uint64, err error) {
	for {
		if typ, err = h.number(); err != nil {
			return 0, cut(err)
		}
		if h.left, err = h.number(); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return 0, cut(err)
		}
		if h3Known(typ) {
			return typ, nil
		}
		if err := h.skip(); err != nil {
			return 0, err
		}
	}
}

func cut(err error) error {
	if err == io.ErrUnexpectedEOF {
		return h3ConnError(h3FrameError)
	}
	return err
}

// skip leaves out the rest of the frame at hand.
func (h *h3reader) skip() error {
	if h.spend != nil {
		if err := h.spend(); err != nil {
			return err
		}
		h.skipped = 0
	}
	if h.left > h3Skipped {
		return h3ConnError(h3ExcessiveLoad)
	}
	if h.skipped += h.left + 2; h.skipped > h3Skipped {
		return h3ConnError(h3ExcessiveLoad)
	}
	for h.left > 0 {
		if h.r == h.w {
			if err := h.more(); err != nil {
				return err
			}
		}
		n := min(uint64(h.w-h.r), h.left)
		h.r += int(n)
		h.left -= n
	}
	return nil
}

// more is fill within a frame.
func (h *h3reader) more() error {
	err := h.fill()
	if err == io.EOF {
		return h3ConnError(h3FrameError)
	}
	return err
}

// payload reads from the frame at hand, which has something left.
func (h *h3reader) payload(p []byte) (int, error) {
	if uint64(len(p)) > h.left {
		p = p[:h.left]
	}
	n := copy(p, h.buf[h.r:h.w])
	h.r += n
	if n == 0 && len(p) >= len(h.buf) && h.err == nil { // past the buffer
		if h.wait != nil {
			h.wait()
		}
		var err error
		if n, err = h.src.Read(p); err != nil {
			h.err = err
		}
	}
	for n == 0 && len(p) > 0 {
		if err := h.more(); err != nil {
			return 0, err
		}
		n = copy(p, h.buf[h.r:h.w])
		h.r += n
	}
	h.left -= uint64(n)
	return n, nil
}

// whole reads all of the frame at hand, of which the caller has checked the
// length. Memory grows with what comes, not with what was announced.
func (h *h3reader) whole() ([]byte, error) {
	if n := int(h.left); h.w-h.r >= n {
		p := h.buf[h.r : h.r+n]
		h.r += n
		h.left = 0
		return p, nil
	}
	p := make([]byte, 0, min(int(h.left), 4<<10))
	for h.left > 0 {
		if len(p) == cap(p) {
			p = append(p, 0)[:len(p)]
		}
		n, err := h.payload(p[len(p):cap(p)])
		if p = p[:len(p)+n]; err != nil {
			return nil, err
		}
	}
	return p, nil
}

// appendFrame writes the head of a frame.
func appendFrame(b []byte, typ uint64, length int) []byte {
	return quicvarint.Append(quicvarint.Append(b, typ), uint64(length))
}
