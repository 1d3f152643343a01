package gateway

import (
	"errors"
	"io"
)

// ErrClient says that the client's body could not be read: it went away, was
// too slow, or sent what is no body.
var ErrClient = errors.New("reading the request body")

// ErrSlow says that a client took too long to send its body.
var ErrSlow = errors.New("the client was too slow")

// ErrTooLarge says that the client's body is larger than is allowed.
var ErrTooLarge = errors.New("the request body is too large")

// maxBody is what WholeBody takes at most, whatever limit is asked for.
const maxBody = 64 << 20

// WholeBody reads the body to its end, for a plugin that decides by it, and
// leaves it to be read again: by other plugins and by the upstream. Its trailer
// is in Trailer then. A plugin that does not need the body never asks: it
// streams past. limit is in bytes, at most 64 MiB.
//
// A Reply ends the request: 413 when the body is larger than limit, 408 when
// the client took too long, 400 when it sent no body that can be read. The
// slice is everybody's: do not change it, and keep it no longer than the
// exchange.
func (r *Request) WholeBody(limit int) ([]byte, *Reply) {
	limit = min(limit, maxBody)
	if r.Body == nil {
		return nil, nil
	}
	h, ok := r.Body.(*heldBody)
	if !ok {
		if r.Length > int64(limit) {
			return nil, &Reply{Status: 413}
		}
		b, err := io.ReadAll(io.LimitReader(r.Body, int64(limit)+1))
		switch {
		case errors.Is(err, ErrTooLarge):
			return nil, &Reply{Status: 413}
		case errors.Is(err, ErrSlow):
			return nil, &Reply{Status: 408}
		case err != nil:
			return nil, &Reply{Status: 400, Err: err}
		}
		if len(b) > limit {
			return nil, &Reply{Status: 413}
		}
		h = &heldBody{all: b}
		r.Body = h
	}
	if len(h.all) > limit {
		return nil, &Reply{Status: 413}
	}
	return h.all, nil
}

// SetBody gives the request another body, for a plugin that rewrites it.
func (r *Request) SetBody(b []byte) {
	r.Body, r.Length = &heldBody{all: b}, int64(len(b))
	if len(b) == 0 {
		r.Body = nil
	}
	r.Trailer.Reset()
}

// heldBody is a body in memory.
type heldBody struct {
	all  []byte
	read int
}

func (h *heldBody) Read(p []byte) (int, error) {
	if h.read == len(h.all) {
		return 0, io.EOF
	}
	n := copy(p, h.all[h.read:])
	h.read += n
	return n, nil
}

// Whole returns the body, each time: a call that was not sent is made again.
func (h *heldBody) Whole() ([]byte, bool) { return h.all, h.read == 0 }
