package engine

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"gatehouse/gateway"
)

// echo3 answers what it has understood, after the body.
func echo3(x *gateway.Exchange, w *Writer) {
	var body []byte
	if x.Req.Body != nil {
		var err error
		if body, err = io.ReadAll(x.Req.Body); err != nil {
			w.Refuse(400)
			return
		}
	}
	say(x, w, fmt.Sprintf("%s %s [%s]", x.Req.Method, x.Req.Path, body))
}

// TestHTTP3Heads holds heads against RFC 9114, sections 4.2 and 4.3.
func TestHTTP3Heads(t *testing.T) {
	url, _ := startQUIC(t, echo3)
	p := newH3Peer(t, url)
	p.control()
	malformed := fmt.Sprintf("reset %#x", h3MessageError)
	ok := []string{":method", "GET", ":scheme", "https", ":authority", "localhost", ":path", "/"}
	with := func(more ...string) []string { return append(slices.Clone(ok), more...) }
	for _, c := range []struct {
		name   string
		fields []string
		want   string
	}{
		{"good", ok, "200"},
		{"host instead of authority", []string{":method", "GET", ":scheme", "https", ":path", "/", "host", "localhost"}, "200"},
		{"both alike", with("host", "localhost"), "200"},
		{"both differ", with("host", "other"), malformed},
		{"host twice", with("host", "localhost", "host", "localhost"), malformed},
		{"no authority", []string{":method", "GET", ":scheme", "https", ":path", "/"}, "400"},
		{"empty authority", []string{":method", "GET", ":scheme", "https", ":authority", "", ":path", "/"}, "400"},
		{"user in authority", []string{":method", "GET", ":scheme", "https", ":authority", "a@localhost", ":path", "/"}, "400"},
		{"no method", ok[2:], malformed},
		{"no path", ok[:6], malformed},
		{"empty path", append(slices.Clone(ok[:6]), ":path", ""), malformed},
		{"no scheme", []string{":method", "GET", ":authority", "localhost", ":path", "/"}, malformed},
		{"strange scheme", []string{":method", "GET", ":scheme", "ftp", ":authority", "localhost", ":path", "/"}, malformed},
		{"absolute path", append(slices.Clone(ok[:6]), ":path", "https://x/"), "400"},
		{"path with space", append(slices.Clone(ok[:6]), ":path", "/a b"), "400"},
		{"asterisk", []string{":method", "OPTIONS", ":scheme", "https", ":authority", "localhost", ":path", "*"}, "404"},
		{"method twice", with(":method", "GET"), malformed},
		{"path twice", with(":path", "/"), malformed},
		{"authority twice", with(":authority", "localhost"), malformed},
		{"unknown pseudo-header", append([]string{":x", "y"}, ok...), malformed},
		{"status in a request", append([]string{":status", "200"}, ok...), malformed},
		{"pseudo-header after a field", append([]string{"a", "b"}, ok...), malformed},
		{"upper case", with("X-Upper", "a"), malformed},
		{"space in a name", with("a b", "c"), malformed},
		{"colon in a name", with("a:b", "c"), malformed},
		{"empty name", with("", "c"), malformed},
		{"line feed in a value", with("a", "b\r\nc: d"), malformed},
		{"nul in a value", with("a", "b\x00"), malformed},
		{"blank around a value", with("a", " b"), malformed},
		{"bad method", append([]string{":method", "G T"}, ok[2:]...), malformed},
		{"connection", with("connection", "close"), malformed},
		{"keep-alive", with("keep-alive", "1"), malformed},
		{"proxy-connection", with("proxy-connection", "x"), malformed},
		{"transfer-encoding", with("transfer-encoding", "chunked"), malformed},
		{"upgrade", with("upgrade", "websocket"), malformed},
		{"te", with("te", "gzip"), malformed},
		{"te trailers", with("te", "trailers"), "200"},
		{"length without a body", with("content-length", "3"), malformed},
		{"two lengths", with("content-length", "0", "content-length", "0"), malformed},
		{"negative length", with("content-length", "-1"), malformed},
		{"list of lengths", with("content-length", "0, 0"), malformed},
		{"unknown expectation", with("expect", "tea"), "417"},
		{"connect", []string{":method", "CONNECT", ":authority", "localhost:443"}, "405"},
		{"extended connect", []string{":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":authority", "localhost", ":path", "/"}, malformed},
		{"trace", append([]string{":method", "TRACE"}, ok[2:]...), "405"},
	} {
		a := p.answer(p.request(heads(c.fields...), true))
		got := a.status()
		if got == "" {
			got = fmt.Sprintf("reset %#x", streamCode(a.err))
		}
		if got != c.want {
			t.Errorf("%s: got %s %v, want %s", c.name, got, a.err, c.want)
		}
	}
}

// TestHTTP3Bodies holds the frames of a request against RFC 9114, sections
// 4.1 and 7.1. A code below 0x200 of the connection is "end", of the stream
// "reset".
func TestHTTP3Bodies(t *testing.T) {
	url, _ := startQUIC(t, echo3)
	post := func(more ...string) []byte { return head3("POST", "/", more...) }
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	data := func(s string) []byte { return h3frame(h3Data, []byte(s)) }
	const grease = 0x21 + 31*7
	for _, c := range []struct {
		name string
		send []byte
		want string
	}{
		{"no body", post(), "200 POST / []"},
		{"body", join(post(), data("a"), data("bc")), "200 POST / [abc]"},
		{"length", join(post("content-length", "3"), data("a"), data("bc")), "200 POST / [abc]"},
		{"empty frames", join(post(), data(""), data("a"), data("")), "200 POST / [a]"},
		{"grease", join(h3frame(grease, []byte("x")), post(), h3frame(grease, nil), data("a"), h3frame(grease, make([]byte, 300)), data("b")), "200 POST / [ab]"},
		{"trailers", join(post(), data("a"), heads("x-sum", "1")), "200 POST / [a]"},
		{"shorter than its length", join(post("content-length", "3"), data("ab")), "reset 0x10e"},
		{"longer than its length", join(post("content-length", "3"), data("abcd")), "reset 0x10e"},
		{"longer by a frame", join(post("content-length", "3"), data("abc"), data("d")), "reset 0x10e"},
		{"pseudo-header in trailers", join(post(), heads(":path", "/")), "reset 0x10e"},
		{"connection in trailers", join(post(), heads("connection", "close")), "reset 0x10e"},
		{"nothing", nil, "reset 0x10d"},
		{"half a head", post()[:9], "end 0x106"},
		{"half a frame", join(post(), data("abc")[:3]), "end 0x106"},
		{"data first", data("a"), "end 0x105"},
		{"data after trailers", join(post(), heads("a", "b"), data("a")), "end 0x105"},
		{"trailers twice", join(post(), heads("a", "b"), heads("a", "b")), "end 0x105"},
		{"settings", join(post(), h3frame(h3Settings, nil)), "end 0x105"},
		{"goaway first", h3frame(h3GoAway, varints(0)), "end 0x105"},
		{"push promise", join(post(), h3frame(h3PushPromise, varints(0))), "end 0x105"},
		{"cancel push", join(post(), h3frame(h3CancelPush, varints(0))), "end 0x105"},
		{"ping of http/2", join(post(), h3frame(0x6, make([]byte, 8))), "end 0x105"},
		{"dynamic table", join(h3frame(h3Headers, []byte{0x02, 0x00, 0x80})), "end 0x200"},
		{"unknown static entry", h3frame(h3Headers, []byte{0, 0, 0xff, 0xff, 0x01}), "end 0x200"},
		{"truncated section", h3frame(h3Headers, []byte{0, 0, 0x51, 0x85}), "end 0x200"},
		{"empty section", h3frame(h3Headers, nil), "end 0x200"},
		{"bad huffman", h3frame(h3Headers, []byte{0, 0, 0x51, 0x81, 0x00}), "end 0x200"},
		{"much grease", join(post(), h3frame(grease, make([]byte, 40<<10)), h3frame(grease, make([]byte, 40<<10))), "end 0x107"},
		{"huge grease", join(post(), appendFrame(nil, grease, 1<<30)), "end 0x107"},
		{"many empty frames", join(post(), bytes.Repeat(data(""), 200)), "end 0x107"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newH3Peer(t, url)
			a := p.answer(p.request(c.send, true))
			got := a.status() + " " + string(a.body)
			if code := streamCode(a.err); code >= 0 {
				got = fmt.Sprintf("reset %#x", code)
			} else if a.err != nil {
				got = fmt.Sprintf("end %#x", p.ends())
			}
			if got != c.want {
				t.Errorf("got %s %v, want %s", got, a.err, c.want)
			}
		})
	}
}

// TestHTTP3Streams holds the streams that carry no request against RFC 9114,
// section 6.2, and RFC 9204, section 4.2.
func TestHTTP3Streams(t *testing.T) {
	url, _ := startQUIC(t, echo3)
	const grease = 0x21 + 31*7
	for _, c := range []struct {
		name string
		send [][]uint64
		end  bool
		want int64 // 0: the connection serves a request
	}{
		{"settings", [][]uint64{{h3Control, h3Settings, 4, 0x1, 0, 0x6, 5}}, false, 0},
		{"qpack", [][]uint64{{h3Control, h3Settings, 0}, {h3QPACKEncoder}, {h3QPACKDecoder}}, false, 0},
		{"capacity of nothing", [][]uint64{{h3QPACKEncoder, 0x20}}, false, 0},
		{"grease", [][]uint64{{h3Control, h3Settings, 0, grease, 1, 7, h3MaxPushID, 1, 9, h3GoAway, 1, 0}, {grease, 1, 2, 3}}, false, 0},
		{"unknown stream that ends", [][]uint64{{grease}}, true, 0},
		{"data first", [][]uint64{{h3Control, h3Data, 0}}, false, h3MissingSettings},
		{"goaway first", [][]uint64{{h3Control, h3GoAway, 1, 0}}, false, h3MissingSettings},
		{"settings twice", [][]uint64{{h3Control, h3Settings, 0, h3Settings, 0}}, false, h3FrameUnexpected},
		{"a setting twice", [][]uint64{{h3Control, h3Settings, 4, 0x6, 5, 0x6, 5}}, false, h3SettingsError},
		{"a setting of http/2", [][]uint64{{h3Control, h3Settings, 2, 0x4, 1}}, false, h3SettingsError},
		{"half a setting", [][]uint64{{h3Control, h3Settings, 1, 0x6}}, false, h3FrameError},
		{"large settings", [][]uint64{{h3Control, h3Settings, 1 << 20}}, false, h3ExcessiveLoad},
		{"headers on control", [][]uint64{{h3Control, h3Settings, 0, h3Headers, 0}}, false, h3FrameUnexpected},
		{"ping of http/2 on control", [][]uint64{{h3Control, h3Settings, 0, 0x6, 0}}, false, h3FrameUnexpected},
		{"cancel push", [][]uint64{{h3Control, h3Settings, 0, h3CancelPush, 1, 0}}, false, h3IDError},
		{"less pushes", [][]uint64{{h3Control, h3Settings, 0, h3MaxPushID, 1, 9, h3MaxPushID, 1, 8}}, false, h3IDError},
		{"long goaway", [][]uint64{{h3Control, h3Settings, 0, h3GoAway, 2, 0, 0}}, false, h3FrameError},
		{"two controls", [][]uint64{{h3Control, h3Settings, 0}, {h3Control, h3Settings, 0}}, false, h3StreamCreation},
		{"two encoders", [][]uint64{{h3QPACKEncoder}, {h3QPACKEncoder}}, false, h3StreamCreation},
		{"two decoders", [][]uint64{{h3QPACKDecoder}, {h3QPACKDecoder}}, false, h3StreamCreation},
		{"push", [][]uint64{{h3Push, 0}}, false, h3StreamCreation},
		{"control ends", [][]uint64{{h3Control, h3Settings, 0}}, true, h3ClosedCritical},
		{"encoder ends", [][]uint64{{h3QPACKEncoder}}, true, h3ClosedCritical},
		{"decoder ends", [][]uint64{{h3QPACKDecoder}}, true, h3ClosedCritical},
		{"control ends in a frame", [][]uint64{{h3Control, h3Settings, 4, 0x6}}, true, h3FrameError},
		{"insert", [][]uint64{{h3QPACKEncoder, 0x3f}}, false, qpackEncoderStream},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newH3Peer(t, url)
			for _, numbers := range c.send {
				if s := p.uni(numbers...); c.end {
					_ = s.Close()
				}
			}
			if c.want != 0 {
				if got := p.ends(); got != c.want {
					t.Errorf("ended with %#x, want %#x", got, c.want)
				}
				return
			}
			if a := p.answer(p.request(head3("GET", "/"), true)); a.status() != "200" {
				t.Errorf("got %q %v", a.status(), a.err)
			}
		})
	}
}

// TestHTTP3FieldsStayInOrder shows that the order of fields is the wire's, and
// that crumbs of cookies are one field (RFC 9114, section 4.2.1).
func TestHTTP3FieldsStayInOrder(t *testing.T) {
	url, _ := startQUIC(t, func(x *gateway.Exchange, w *Writer) {
		var b strings.Builder
		for _, f := range x.Req.Header.Fields() {
			fmt.Fprintf(&b, "%s=%s ", f.Name, f.Value)
		}
		x.Resp.Header.Add("Z-First", "1")
		x.Resp.Header.Add("A-Second", "2")
		x.Resp.Header.Add("Z-First", "3")
		say(x, w, b.String())
	})
	p := newH3Peer(t, url)
	a := p.answer(p.request(head3("GET", "/", "z", "1", "cookie", "a=b", "a", "2", "z", "3", "cookie", "c=d"), true))
	if got, want := string(a.body), "z=1 a=2 z=3 cookie=a=b; c=d "; got != want {
		t.Errorf("request: got %q, want %q", got, want)
	}
	var got []string
	for _, f := range a.sections[0] {
		if f.Name == "z-first" || f.Name == "a-second" {
			got = append(got, f.Name+"="+f.Value)
		}
	}
	if want := []string{"z-first=1", "a-second=2", "z-first=3"}; !slices.Equal(got, want) {
		t.Errorf("answer: got %v, want %v", got, want)
	}
}
