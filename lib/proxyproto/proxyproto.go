// Package proxyproto is the PROXY protocol, versions 1 and 2, as HAProxy's
// proxy-protocol.txt has it: a header before the first byte of a connection
// that says whose connection it is.
//
// It knows no sockets and trusts nobody: who may send a header is the caller's
// to decide, before it reads one.
package proxyproto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

// Header is what a header says. Without addresses (version 1: UNKNOWN; version
// 2: LOCAL, AF_UNSPEC, AF_UNIX) the connection is its peer's own.
type Header struct {
	Src, Dst netip.AddrPort
}

// ErrHeader says that a connection does not begin with a header that can be
// read in one way only.
var ErrHeader = errors.New("no valid PROXY protocol header")

const (
	maxV1 = 107     // bytes of a line, section 2.1
	maxV2 = 8 << 10 // bytes behind the fixed part; the addresses take 216 at most, the rest are TLVs
	fixed = 16      // bytes of the fixed part of version 2
	least = 15      // bytes of the shortest header: "PROXY UNKNOWN\r\n"
)

const signature = "\r\n\r\n\x00\r\nQUIT\n"

// Read reads a header and not a byte more: what follows it is still to be
// read. A header is required; an error is ErrHeader or the reader's.
func Read(r io.Reader) (Header, error) {
	var room [maxV1]byte
	b := room[:least]
	if _, err := io.ReadFull(r, b); err != nil {
		return Header{}, err
	}
	switch {
	case strings.HasPrefix(string(b), "PROXY "):
		return readV1(r, &room)
	case strings.HasPrefix(string(b), signature):
		return readV2(r, &room)
	}
	return Header{}, ErrHeader
}

// readV1 reads the line in steps, none longer than what a valid line still
// must have.
func readV1(r io.Reader, room *[maxV1]byte) (Header, error) {
	n := least
	for {
		b := room[:n]
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			if i != n-1 || b[n-2] != '\r' {
				return Header{}, ErrHeader
			}
			return parseV1(string(b[:n-2]))
		}
		more := missing(b)
		if more <= 0 || n+more > maxV1 {
			return Header{}, ErrHeader
		}
		if _, err := io.ReadFull(r, room[n:n+more]); err != nil {
			return Header{}, err
		}
		n += more
	}
}

// missing is the least number of bytes before the end of a line that begins
// with b; 0: no valid line does.
func missing(b []byte) int {
	switch i := bytes.IndexByte(b, '\r'); {
	case i == len(b)-1:
		return 1
	case i >= 0:
		return 0
	}
	if strings.HasPrefix(string(b), "PROXY UNKNOWN") {
		return 2
	}
	const spaces = 5 // of a whole line
	left := spaces - bytes.Count(b, []byte{' '})
	if left < 0 {
		return 0
	}
	n := 2*left + 2 // " x" for each field, CR and LF
	if b[len(b)-1] == ' ' {
		n++
	}
	return n
}

func parseV1(line string) (Header, error) {
	f := strings.Split(line, " ")
	if f[1] == "UNKNOWN" { // what follows is to be ignored
		return Header{}, nil
	}
	if len(f) != 6 || f[1] != "TCP4" && f[1] != "TCP6" {
		return Header{}, ErrHeader
	}
	src, ok1 := endpoint(f[2], f[4], f[1] == "TCP4")
	dst, ok2 := endpoint(f[3], f[5], f[1] == "TCP4")
	if !ok1 || !ok2 {
		return Header{}, ErrHeader
	}
	return Header{src, dst}, nil
}

func endpoint(addr, port string, v4 bool) (netip.AddrPort, bool) {
	a, err := netip.ParseAddr(addr)
	if err != nil || a.Is4() != v4 || a.Zone() != "" {
		return netip.AddrPort{}, false
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil || strconv.FormatUint(p, 10) != port { // no sign, no leading zero
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), true
}

// Family and transport of version 2.
const (
	unspec     = 0x00
	tcp4       = 0x11
	tcp6       = 0x21
	unixStream = 0x31
)

func readV2(r io.Reader, room *[maxV1]byte) (Header, error) {
	if _, err := io.ReadFull(r, room[least:fixed]); err != nil {
		return Header{}, err
	}
	command, family, length := room[12], room[13], int(binary.BigEndian.Uint16(room[14:16]))
	if command != 0x20 && command != 0x21 || length > maxV2 {
		return Header{}, ErrHeader
	}
	size := 0
	if command == 0x21 { // PROXY; LOCAL has nothing to say
		switch family {
		case unspec:
		case tcp4:
			size = 2 * (4 + 2)
		case tcp6:
			size = 2 * (16 + 2)
		case unixStream:
			if length < 2*108 {
				return Header{}, ErrHeader
			}
		default: // datagrams are not what we serve
			return Header{}, ErrHeader
		}
	}
	if length < size {
		return Header{}, ErrHeader
	}
	b := room[:size]
	if _, err := io.ReadFull(r, b); err != nil {
		return Header{}, err
	}
	if _, err := io.CopyN(io.Discard, r, int64(length-size)); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return Header{}, err
	}
	if size == 0 {
		return Header{}, nil
	}
	n := size/2 - 2 // of an address
	src, _ := netip.AddrFromSlice(b[:n])
	dst, _ := netip.AddrFromSlice(b[n : 2*n])
	return Header{
		netip.AddrPortFrom(src.Unmap(), binary.BigEndian.Uint16(b[2*n:])),
		netip.AddrPortFrom(dst.Unmap(), binary.BigEndian.Uint16(b[2*n+2:])),
	}, nil
}

// pair brings both addresses to one family; false: there is nothing to say.
func (h Header) pair() (src, dst netip.Addr, ok bool) {
	src, dst = h.Src.Addr().Unmap().WithZone(""), h.Dst.Addr().Unmap().WithZone("")
	if !src.IsValid() || !dst.IsValid() {
		return src, dst, false
	}
	if src.Is4() != dst.Is4() {
		src, dst = netip.AddrFrom16(src.As16()), netip.AddrFrom16(dst.As16())
	}
	return src, dst, true
}

// AppendV1 appends the header as version 1.
func (h Header) AppendV1(b []byte) []byte {
	src, dst, ok := h.pair()
	if !ok {
		return append(b, "PROXY UNKNOWN\r\n"...)
	}
	family := "PROXY TCP6 "
	if src.Is4() {
		family = "PROXY TCP4 "
	}
	b = append(src.AppendTo(append(b, family...)), ' ')
	b = append(dst.AppendTo(b), ' ')
	b = append(strconv.AppendUint(b, uint64(h.Src.Port()), 10), ' ')
	b = strconv.AppendUint(b, uint64(h.Dst.Port()), 10)
	return append(b, "\r\n"...)
}

// AppendV2 appends the header as version 2, without TLVs.
func (h Header) AppendV2(b []byte) []byte {
	b = append(b, signature...)
	src, dst, ok := h.pair()
	if !ok {
		return append(b, 0x20, unspec, 0, 0)
	}
	family := byte(tcp6)
	if src.Is4() {
		family = tcp4
	}
	s, d := src.AsSlice(), dst.AsSlice()
	b = append(b, 0x21, family, 0, byte(2*len(s)+4))
	b = append(append(b, s...), d...)
	b = binary.BigEndian.AppendUint16(b, h.Src.Port())
	return binary.BigEndian.AppendUint16(b, h.Dst.Port())
}
