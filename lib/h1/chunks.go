package h1

import "strings"

// Bounds of a chunked body besides its data.
const (
	maxChunkExt  = 1 << 10  // of one chunk
	maxChunkExts = 16 << 10 // of a body
	maxTrailers  = 16 << 10
	maxSizeDigit = 15
)

// Chunks decodes a chunked body (RFC 9112, section 7.1), incrementally and
// strictly: CRLF only, bounded sizes, extensions and trailers. The zero value
// is ready.
type Chunks struct {
	state   byte
	left    int64 // of the chunk's data
	count   int   // digits of a size, or bytes of an extension
	exts    int   // bytes of extensions in the body
	lines   []byte
	trailer []Field
}

const (
	chunkSize byte = iota
	chunkExt
	chunkSizeLF
	chunkData
	chunkDataCR
	chunkDataLF
	chunkTrailer
	chunkDone
)

// Reset begins another body.
func (c *Chunks) Reset() {
	clear(c.trailer)
	*c = Chunks{lines: c.lines[:0], trailer: c.trailer[:0]}
}

// Done says that the end of the body was reached.
func (c *Chunks) Done() bool { return c.state == chunkDone }

// Trailer returns the fields after the body, those left out that a trailer
// must not hold (RFC 9110, section 6.5.1): framing, routing, authentication,
// content.
func (c *Chunks) Trailer() []Field { return c.trailer }

// Decode reads from src and writes the data in it to dst, which may be the
// start of src. It returns the bytes written and read; it stops when dst is
// full, src is empty, or the body has ended.
func (c *Chunks) Decode(dst, src []byte) (nd, ns int, err error) {
	for ns < len(src) && c.state != chunkDone {
		b := src[ns]
		switch c.state {
		case chunkSize:
			switch d := unhex[b]; {
			case d < 16:
				if c.count++; c.count > maxSizeDigit {
					return nd, ns, ErrChunk
				}
				c.left = c.left<<4 | int64(d)
			case c.count == 0:
				return nd, ns, ErrChunk
			case b == ';':
				c.state, c.count = chunkExt, 0
			case b == '\r':
				c.state = chunkSizeLF
			default:
				return nd, ns, ErrChunk
			}
		case chunkExt:
			c.count++
			c.exts++
			switch {
			case b == '\r':
				c.state = chunkSizeLF
			case b < ' ' && b != '\t' || b == 0x7f:
				return nd, ns, ErrChunk
			case c.count > maxChunkExt || c.exts > maxChunkExts:
				return nd, ns, ErrChunkExt
			}
		case chunkSizeLF:
			if b != '\n' {
				return nd, ns, ErrChunk
			}
			c.count = 0
			if c.state = chunkData; c.left == 0 {
				c.state = chunkTrailer
			}
		case chunkData:
			if nd == len(dst) {
				return nd, ns, nil
			}
			n := copy(dst[nd:], src[ns:ns+int(min(int64(len(src)-ns), c.left))])
			nd += n
			ns += n
			if c.left -= int64(n); c.left == 0 {
				c.state = chunkDataCR
			}
			continue
		case chunkDataCR:
			if b != '\r' {
				return nd, ns, ErrChunk
			}
			c.state = chunkDataLF
		case chunkDataLF:
			if b != '\n' {
				return nd, ns, ErrChunk
			}
			c.state = chunkSize
		case chunkTrailer:
			if len(c.lines) >= maxTrailers {
				return nd, ns, ErrTrailers
			}
			c.lines = append(c.lines, b)
			if n := len(c.lines); b == '\n' && n >= 2 && c.lines[n-2] == '\r' && (n == 2 || n >= 4 && c.lines[n-3] == '\n') {
				if err := c.parseTrailer(); err != nil {
					return nd, ns, err
				}
				c.state = chunkDone
			} else if b == 0 || b == '\n' && (n < 2 || c.lines[n-2] != '\r') || b != '\n' && n >= 2 && c.lines[n-2] == '\r' {
				return nd, ns, ErrTrailer
			}
		}
		ns++
	}
	return nd, ns, nil
}

// parseTrailer reads the lines after the last chunk. What framing fields among
// them say is not followed: they are left out.
func (c *Chunks) parseTrailer() error {
	if len(c.lines) == 2 {
		return nil
	}
	var l Limits
	for count, rest := 0, string(c.lines); rest != "\r\n"; count++ {
		line, next, ok := strings.Cut(rest, "\r\n")
		name, value, colon := strings.Cut(line, ":")
		if !ok || !colon || !IsToken(name) || !ValidValue(value) {
			return ErrTrailer
		}
		if count == l.fields() {
			return ErrTrailers
		}
		if rest = next; classify(name) == other && !EqualFold(name, "Proxy-Authenticate") && !neverTrailer(name) {
			c.trailer = append(c.trailer, Field{Name: name, Value: strings.Trim(value, " \t")})
		}
	}
	return nil
}

// neverTrailer are fields whose meaning is spent when the body comes, or that
// would change who asks, for what, or where it goes.
func neverTrailer(name string) bool {
	for _, p := range [...]string{
		"Authorization", "Cookie", "Set-Cookie", "Cache-Control", "Age", "Date", "Location", "Vary", "Range", "Max-Forwards",
		"WWW-Authenticate", "Forwarded", "X-Real-IP",
	} {
		if EqualFold(name, p) {
			return true
		}
	}
	for _, p := range [...]string{"Content-", "If-", "X-Forwarded-", "X-Consumer-"} {
		if len(name) >= len(p) && EqualFold(name[:len(p)], p) {
			return true
		}
	}
	return strings.IndexByte(name, '_') >= 0
}

var unhex = hexTable()

func hexTable() (t [256]byte) {
	for i := range t {
		t[i] = 16
	}
	for i := range byte(10) {
		t['0'+i] = i
	}
	for i := range byte(6) {
		t['a'+i], t['A'+i] = 10+i, 10+i
	}
	return t
}
