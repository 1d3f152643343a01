package engine

import (
	"context"
	"io"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"
)

// Kinds of streams in one direction (RFC 9114, section 6.2; RFC 9204, section
// 4.2).
const (
	h3Control      = 0x0
	h3Push         = 0x1
	h3QPACKEncoder = 0x2
	h3QPACKDecoder = 0x3
)

const h3MaxFieldSection = 0x6 // the only setting we send

// openControl opens our control stream and sends SETTINGS. There is no dynamic
// table in either direction: QPACK needs no streams of ours, and no client can
// make us keep one or wait for it.
func (c *h3conn) openControl() error {
	out, err := c.qc.OpenUniStream()
	if err != nil {
		return err
	}
	setting := quicvarint.Append(quicvarint.Append(nil, h3MaxFieldSection), uint64(c.srv.cfg.Limits.Head))
	b := appendFrame(quicvarint.Append(nil, h3Control), h3Settings, len(setting))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = out
	_, err = out.Write(append(b, setting...))
	return err
}

// goAway says that requests from next on are not looked at. The caller holds
// mu. The frame is so short that quic-go keeps it when the client's window is
// closed; the deadline is for the day it does not.
func (c *h3conn) goAway(next quic.StreamID) {
	b := appendFrame(nil, h3GoAway, quicvarint.Len(uint64(next)))
	_ = c.out.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = c.out.Write(quicvarint.Append(b, uint64(next)))
}

// acceptUni looks after the streams of the client that carry no request.
func (c *h3conn) acceptUni() {
	for {
		qs, err := c.qc.AcceptUniStream(context.Background())
		if err != nil {
			return
		}
		c.wg.Go(func() {
			code := c.uni(qs)
			qs.ReleaseStreamCredit()
			if code == 0 && c.cost() != nil {
				code = h3ExcessiveLoad
			}
			if code != 0 && c.qc.Context().Err() == nil {
				c.srv.broken.Add(1)
				c.close(code)
			}
		})
	}
}

// uni reads such a stream to its end and returns the code that the connection
// ends with, or 0.
func (c *h3conn) uni(qs *quic.ReceiveStream) quic.ApplicationErrorCode {
	in := h3reader{src: qs, buf: make([]byte, 256), spend: c.cost}
	kind, err := in.number()
	if err != nil {
		return 0 // it may end before it says what it is
	}
	switch kind {
	case h3Control, h3QPACKEncoder, h3QPACKDecoder:
		if c.has[kind].Swap(true) {
			return h3StreamCreation
		}
	case h3Push:
		return h3StreamCreation
	default:
		qs.CancelRead(h3StreamCreation)
		return 0
	}
	switch kind {
	case h3Control:
		err = c.control(&in)
	case h3QPACKEncoder:
		err = c.instructions(&in)
	default: // nothing a decoder can say matters without a table
		_, err = io.Copy(io.Discard, qs)
	}
	if ce, ok := err.(h3ConnError); ok {
		return quic.ApplicationErrorCode(ce)
	}
	return h3ClosedCritical // these must stay open as long as the connection does
}

// control reads the client's control stream.
func (c *h3conn) control(in *h3reader) error {
	typ, err := in.next()
	if err != nil {
		return err
	}
	if typ != h3Settings {
		return h3ConnError(h3MissingSettings)
	}
	if err := settings(in); err != nil {
		return err
	}
	var pushes uint64
	for {
		typ, err := in.next()
		if err != nil {
			return err
		}
		if err := c.cost(); err != nil {
			return err
		}
		switch typ {
		case h3GoAway, h3MaxPushID, h3CancelPush:
		default:
			return h3ConnError(h3FrameUnexpected)
		}
		if in.left > 8 {
			return h3ConnError(h3FrameError)
		}
		p, err := in.whole()
		if err != nil {
			return err
		}
		id, n, err := quicvarint.Parse(p)
		switch {
		case err != nil || n != len(p):
			return h3ConnError(h3FrameError)
		case typ == h3CancelPush, typ == h3MaxPushID && id < pushes: // nothing was ever promised
			return h3ConnError(h3IDError)
		case typ == h3MaxPushID:
			pushes = id
		}
	}
}

// maxSettings bounds the bytes of a SETTINGS frame.
const maxSettings = 1024

// settings checks a SETTINGS frame. We follow none: what a client limits is a
// field section, and it may refuse what it does not like.
func settings(in *h3reader) error {
	if in.left > maxSettings {
		return h3ConnError(h3ExcessiveLoad)
	}
	p, err := in.whole()
	if err != nil {
		return err
	}
	seen := map[uint64]bool{}
	for len(p) > 0 {
		id, n, err := quicvarint.Parse(p)
		if err != nil {
			return h3ConnError(h3FrameError)
		}
		p = p[n:]
		if _, n, err = quicvarint.Parse(p); err != nil {
			return h3ConnError(h3FrameError)
		}
		p = p[n:]
		if seen[id] || id >= 0x2 && id <= 0x5 { // those of HTTP/2 (RFC 9114, section 7.2.4.1)
			return h3ConnError(h3SettingsError)
		}
		seen[id] = true
	}
	return nil
}

// instructions reads the client's QPACK encoder stream, which can only set the
// capacity of the table we do not have to nothing (RFC 9204, section 4.3.1).
func (c *h3conn) instructions(in *h3reader) error {
	for {
		for _, b := range in.buf[in.r:in.w] {
			if b != 0x20 {
				return h3ConnError(qpackEncoderStream)
			}
			if err := c.cost(); err != nil {
				return err
			}
		}
		in.r = in.w
		if err := in.fill(); err != nil {
			return err
		}
	}
}
