package proxyproto

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"

	theirs "github.com/pires/go-proxyproto"
)

func ap(s string) netip.AddrPort {
	if s == "" {
		return netip.AddrPort{}
	}
	return netip.MustParseAddrPort(s)
}

func v2(command, family byte, body string) string {
	return signature + string([]byte{command, family, byte(len(body) >> 8), byte(len(body))}) + body
}

const (
	body4 = "\x01\x02\x03\x04\x05\x06\x07\x08\x00\x50\x01\xbb"
	ip6   = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"
	body6 = ip6 + ip6 + "\xff\xff\x00\x00"
)

var headers = []struct {
	name, in string
	src, dst string
	bad      bool
}{
	{"v1", "PROXY TCP4 1.2.3.4 5.6.7.8 80 443\r\n", "1.2.3.4:80", "5.6.7.8:443", false},
	{"v1 shortest", "PROXY TCP4 1.1.1.1 2.2.2.2 0 1\r\n", "1.1.1.1:0", "2.2.2.2:1", false},
	{"v1 longest", "PROXY TCP4 255.255.255.255 255.255.255.254 65535 65534\r\n", "255.255.255.255:65535", "255.255.255.254:65534", false},
	{"v1 six", "PROXY TCP6 2001:db8::1 :: 1 2\r\n", "[2001:db8::1]:1", "[::]:2", false},
	{"v1 six, long", "PROXY TCP6 ffff:f:ffff:ffff:ffff:ffff:ffff:ffff ffff:f:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n", "[ffff:f:ffff:ffff:ffff:ffff:ffff:ffff]:65535", "[ffff:f:ffff:ffff:ffff:ffff:ffff:ffff]:65535", false},
	{"v1 mapped", "PROXY TCP6 ::ffff:1.2.3.4 ::1 1 2\r\n", "1.2.3.4:1", "[::1]:2", false},
	{"v1 unknown", "PROXY UNKNOWN\r\n", "", "", false},
	{"v1 unknown with more", "PROXY UNKNOWN ffff:f::1 is ignored 1 2\r\n", "", "", false},
	{"v1 other word", "PROXY UNKNOWNS\r\n", "", "", true},
	{"v1 no protocol", "PROXY \r\n0123456789", "", "", true},
	{"v1 bare LF", "PROXY TCP4 1.2.3.4 5.6.7.8 80 443\n", "", "", true},
	{"v1 CR within", "PROXY TCP4 1.2.3.4\r5.6.7.8 80 443\r\n", "", "", true},
	{"v1 two spaces", "PROXY TCP4  1.2.3.4 5.6.7.8 80 443\r\n", "", "", true},
	{"v1 more fields", "PROXY TCP4 1.2.3.4 5.6.7.8 80 443 1\r\n", "", "", true},
	{"v1 fewer fields", "PROXY TCP4 1.2.3.4 5.6.7.8 80\r\nGET / HTTP/1.1\r\n", "", "", true},
	{"v1 leading zero", "PROXY TCP4 1.2.3.4 5.6.7.8 080 443\r\n", "", "", true},
	{"v1 octal", "PROXY TCP4 01.2.3.4 5.6.7.8 80 443\r\n", "", "", true},
	{"v1 sign", "PROXY TCP4 1.2.3.4 5.6.7.8 +80 443\r\n", "", "", true},
	{"v1 port", "PROXY TCP4 1.2.3.4 5.6.7.8 65536 443\r\n", "", "", true},
	{"v1 wrong family", "PROXY TCP4 ::1 ::1 1 2\r\n", "", "", true},
	{"v1 wrong family", "PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n", "", "", true},
	{"v1 zone", "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", "", "", true},
	{"v1 lower case", "proxy tcp4 1.2.3.4 5.6.7.8 1 2\r\n", "", "", true},
	{"v1 too long", "PROXY UNKNOWN " + strings.Repeat("x", 92) + "\r\n", "", "", true},
	{"v1 as long as may be", "PROXY UNKNOWN " + strings.Repeat("x", 91) + "\r\n", "", "", false},
	{"no header", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "", "", true},
	{"v2", v2(0x21, 0x11, body4), "1.2.3.4:80", "5.6.7.8:443", false},
	{"v2 six", v2(0x21, 0x21, body6), "[2001:db8::1]:65535", "[2001:db8::1]:0", false},
	{"v2 TLVs", v2(0x21, 0x11, body4+"\x04\x00\x03abc\x20\xff\xff"), "1.2.3.4:80", "5.6.7.8:443", false},
	{"v2 local", v2(0x20, 0x11, body4), "", "", false},
	{"v2 local without addresses", v2(0x20, 0x00, ""), "", "", false},
	{"v2 unspec", v2(0x21, 0x00, "whatever"), "", "", false},
	{"v2 unix", v2(0x21, 0x31, strings.Repeat("\x00", 216)), "", "", false},
	{"v2 unix, short", v2(0x21, 0x31, strings.Repeat("\x00", 215)), "", "", true},
	{"v2 short", v2(0x21, 0x11, body4[:11]), "", "", true},
	{"v2 datagram", v2(0x21, 0x12, body4), "", "", true},
	{"v2 no transport", v2(0x21, 0x10, body4), "", "", true},
	{"v2 command", v2(0x22, 0x11, body4), "", "", true},
	{"v2 version", v2(0x11, 0x11, body4), "", "", true},
	{"v2 too long", v2(0x20, 0x00, strings.Repeat("x", maxV2+1)), "", "", true},
	{"v2 as long as may be", v2(0x20, 0x00, strings.Repeat("x", maxV2)), "", "", false},
	{"v2 signature", "\r\n\r\n\x00\r\nQUIX\n" + "\x21\x11\x00\x0c" + body4, "", "", true},
}

func TestHeaders(t *testing.T) {
	for _, c := range headers {
		const rest = "GET / HTTP/1.1\r\n"
		for _, r := range []io.Reader{strings.NewReader(c.in + rest), iotest.OneByteReader(strings.NewReader(c.in + rest))} {
			got, err := Read(r)
			if (err != nil) != c.bad || c.bad && !errors.Is(err, ErrHeader) {
				t.Errorf("%s: error %v", c.name, err)
				continue
			}
			if want := (Header{ap(c.src), ap(c.dst)}); err == nil && got != want {
				t.Errorf("%s: %v, want %v", c.name, got, want)
			}
			if b, _ := io.ReadAll(r); err == nil && string(b) != rest {
				t.Errorf("%s: %q left to read, want %q", c.name, b, rest)
			}
		}
	}
}

// A header that breaks off is no header.
func TestTruncated(t *testing.T) {
	for _, c := range headers {
		if c.bad {
			continue
		}
		for n := range len(c.in) {
			if h, err := Read(strings.NewReader(c.in[:n])); err == nil {
				t.Errorf("%s, %d of %d bytes: %v", c.name, n, len(c.in), h)
				break
			}
		}
	}
}

func TestAppend(t *testing.T) {
	for _, c := range []struct{ src, dst, v1 string }{
		{"1.2.3.4:80", "5.6.7.8:443", "PROXY TCP4 1.2.3.4 5.6.7.8 80 443\r\n"},
		{"[2001:db8::1]:1", "[::1]:2", "PROXY TCP6 2001:db8::1 ::1 1 2\r\n"},
		{"1.2.3.4:1", "[::1]:2", "PROXY TCP6 ::ffff:1.2.3.4 ::1 1 2\r\n"},
		{"[fe80::1%eth0]:1", "[::1]:2", "PROXY TCP6 fe80::1 ::1 1 2\r\n"},
		{"", "[::1]:2", "PROXY UNKNOWN\r\n"},
	} {
		h := Header{ap(c.src), ap(c.dst)}
		if got := string(h.AppendV1(nil)); got != c.v1 {
			t.Errorf("%q, want %q", got, c.v1)
		}
		one, err := Read(bytes.NewReader(h.AppendV1(nil)))
		if err != nil {
			t.Error(err)
		}
		two, err := Read(bytes.NewReader(h.AppendV2(nil)))
		if err != nil || one != two {
			t.Errorf("version 1 says %v, version 2 %v %v", one, two, err)
		}
		if their, err := theirs.Read(bufio.NewReader(bytes.NewReader(h.AppendV2(nil)))); err != nil || c.src != "" && addrPort(their.SourceAddr) != two.Src {
			t.Errorf("go-proxyproto reads %v %v, want %v", their, err, two)
		}
	}
}

func addrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	p := t.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

// What is read as a header is one to go-proxyproto as well, says the same and
// ends at the same byte; and it never takes more than the bounds.
func FuzzRead(f *testing.F) {
	for _, c := range headers {
		f.Add([]byte(c.in + "rest"))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		h, err := Read(r)
		used := len(in) - r.Len()
		if used > fixed+maxV2 {
			t.Fatalf("%d bytes were read", used)
		}
		if err != nil {
			return
		}
		if again, err := Read(bytes.NewReader(in[:used])); err != nil || again != h {
			t.Fatalf("%v, then %v %v", h, again, err)
		}
		if !h.Src.IsValid() {
			return
		}
		back, err := Read(bytes.NewReader(h.AppendV2(nil)))
		if err != nil || back != h {
			t.Fatalf("%v comes back as %v %v", h, back, err)
		}
		br := bufio.NewReader(bytes.NewReader(in))
		their, err := theirs.Read(br)
		if err != nil {
			t.Fatalf("%q: %v, go-proxyproto: %v", in[:used], h, err)
		}
		if src, dst := addrPort(their.SourceAddr), addrPort(their.DestinationAddr); src != h.Src || dst != h.Dst {
			t.Fatalf("%v, go-proxyproto: %v %v", h, src, dst)
		}
		if left, _ := io.ReadAll(br); len(left) != r.Len() {
			t.Fatalf("%d bytes are left, go-proxyproto leaves %d", r.Len(), len(left))
		}
	})
}
