package h1

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/http/httputil"
	"strings"
	"testing"
)

func parse(b string, l *Limits) (*Head, error) {
	h := &Head{}
	n, err := h.ReadRequest(b, 0, l)
	if n == 0 {
		return nil, err
	}
	return h, err
}

// TestRequestsRefused has a row for each shape by which a request was ever
// read in two ways, and for what RFC 9112 forbids.
func TestRequestsRefused(t *testing.T) {
	const ok = "Host: a\r\n"
	for _, row := range []struct {
		name, head string
		want       *Error
	}{
		// Section 2.2: line ends, bare CR, NUL.
		{"bare lf after the request line", "GET / HTTP/1.1\n" + ok + "\r\n", ErrLine},
		{"bare lf in a field", "GET / HTTP/1.1\r\n" + ok + "X: a\nY: b\r\n\r\n", ErrByte},
		{"bare cr in a value", "GET / HTTP/1.1\r\n" + ok + "X: a\rY: b\r\n\r\n", ErrByte},
		{"cr cr lf", "GET / HTTP/1.1\r\n" + ok + "X: a\r\r\n\r\n", ErrByte},
		{"nul in a value", "GET / HTTP/1.1\r\n" + ok + "X: a\x00b\r\n\r\n", ErrByte},
		{"nul in the target", "GET /\x00 HTTP/1.1\r\n" + ok + "\r\n", ErrLine},
		{"control character", "GET / HTTP/1.1\r\n" + ok + "X: a\x0bb\r\n\r\n", ErrByte},
		{"delete character", "GET / HTTP/1.1\r\n" + ok + "X: a\x7f\r\n\r\n", ErrByte},
		// Section 3: the request line.
		{"0.9", "GET /\r\n\r\n", ErrLine},
		{"two spaces", "GET  / HTTP/1.1\r\n" + ok + "\r\n", ErrLine},
		{"space at the end", "GET / HTTP/1.1 \r\n" + ok + "\r\n", ErrLine},
		{"tab", "GET\t/ HTTP/1.1\r\n" + ok + "\r\n", ErrLine},
		{"space before", " GET / HTTP/1.1\r\n" + ok + "\r\n", ErrLine},
		{"lower case version", "GET / http/1.1\r\n" + ok + "\r\n", ErrLine},
		{"version 1.2", "GET / HTTP/1.2\r\n" + ok + "\r\n", ErrVersion},
		{"version 2.0", "GET / HTTP/2.0\r\n" + ok + "\r\n", ErrVersion},
		{"version 1.10", "GET / HTTP/1.10\r\n" + ok + "\r\n", ErrLine},
		{"odd method", "G(T / HTTP/1.1\r\n" + ok + "\r\n", ErrLine},
		{"connect", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", ErrMethod},
		{"trace", "TRACE / HTTP/1.1\r\n" + ok + "\r\n", ErrMethod},
		{"fragment", "GET /#a HTTP/1.1\r\n" + ok + "\r\n", ErrLine},
		{"space in the target", "GET /a b HTTP/1.1\r\n" + ok + "\r\n", ErrLine},
		{"no slash", "GET a HTTP/1.1\r\n" + ok + "\r\n", ErrTarget},
		{"asterisk", "GET * HTTP/1.1\r\n" + ok + "\r\n", ErrTarget},
		{"other scheme", "GET ftp://a/ HTTP/1.1\r\n" + ok + "\r\n", ErrTarget},
		// Section 3.2: Host.
		{"no host", "GET / HTTP/1.1\r\n\r\n", ErrHost},
		{"two hosts", "GET / HTTP/1.1\r\n" + ok + ok + "\r\n", ErrHost},
		{"absolute against host", "GET http://b/ HTTP/1.1\r\n" + ok + "\r\n", ErrHost},
		{"absolute with another port", "GET http://a:8080/ HTTP/1.1\r\n" + ok + "\r\n", ErrHost},
		{"absolute with user", "GET http://u@a/ HTTP/1.1\r\n" + ok + "\r\n", ErrHost},
		{"absolute without authority", "GET http:///x HTTP/1.1\r\n" + ok + "\r\n", ErrHost},
		// Section 5: fields.
		{"space before colon", "GET / HTTP/1.1\r\n" + ok + "X : a\r\n\r\n", ErrField},
		{"tab before colon", "GET / HTTP/1.1\r\n" + ok + "X\t: a\r\n\r\n", ErrField},
		{"no colon", "GET / HTTP/1.1\r\n" + ok + "X\r\n\r\n", ErrField},
		{"empty name", "GET / HTTP/1.1\r\n" + ok + ": a\r\n\r\n", ErrField},
		{"folded", "GET / HTTP/1.1\r\n" + ok + "X: a\r\n b\r\n\r\n", ErrField},
		{"folded first", "GET / HTTP/1.1\r\n X: a\r\n" + ok + "\r\n", ErrField},
		{"odd name", "GET / HTTP/1.1\r\n" + ok + "X(: a\r\n\r\n", ErrField},
		// Section 6: framing.
		{"length and coding", "POST / HTTP/1.1\r\n" + ok + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", ErrFraming},
		{"coding and length", "POST / HTTP/1.1\r\n" + ok + "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", ErrFraming},
		{"coding twice", "POST / HTTP/1.1\r\n" + ok + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", ErrFraming},
		{"coding list", "POST / HTTP/1.1\r\n" + ok + "Transfer-Encoding: chunked, chunked\r\n\r\n", ErrFraming},
		{"chunked, identity", "POST / HTTP/1.1\r\n" + ok + "Transfer-Encoding: chunked, identity\r\n\r\n", ErrFraming},
		{"gzip, chunked", "POST / HTTP/1.1\r\n" + ok + "Transfer-Encoding: gzip, chunked\r\n\r\n", ErrFraming},
		{"xchunked", "POST / HTTP/1.1\r\n" + ok + "Transfer-Encoding: xchunked\r\n\r\n", ErrFraming},
		{"quoted chunked", "POST / HTTP/1.1\r\n" + ok + "Transfer-Encoding: \"chunked\"\r\n\r\n", ErrFraming},
		{"empty coding", "POST / HTTP/1.1\r\n" + ok + "Transfer-Encoding:\r\n\r\n", ErrFraming},
		{"gzip alone", "POST / HTTP/1.1\r\n" + ok + "Transfer-Encoding: gzip\r\n\r\n", ErrCoding},
		{"identity", "POST / HTTP/1.1\r\n" + ok + "Transfer-Encoding: identity\r\n\r\n", ErrCoding},
		{"chunked in 1.0", "POST / HTTP/1.0\r\n" + ok + "Transfer-Encoding: chunked\r\n\r\n", ErrFraming},
		{"vertical tab", "POST / HTTP/1.1\r\n" + ok + "Transfer-Encoding: \x0bchunked\r\n\r\n", ErrByte},
		{"length twice", "POST / HTTP/1.1\r\n" + ok + "Content-Length: 1\r\nContent-Length: 1\r\n\r\n", ErrLength},
		{"length list", "POST / HTTP/1.1\r\n" + ok + "Content-Length: 1, 1\r\n\r\n", ErrLength},
		{"length with sign", "POST / HTTP/1.1\r\n" + ok + "Content-Length: +1\r\n\r\n", ErrLength},
		{"negative length", "POST / HTTP/1.1\r\n" + ok + "Content-Length: -1\r\n\r\n", ErrLength},
		{"hexadecimal length", "POST / HTTP/1.1\r\n" + ok + "Content-Length: 0x1\r\n\r\n", ErrLength},
		{"length with space", "POST / HTTP/1.1\r\n" + ok + "Content-Length: 1 1\r\n\r\n", ErrLength},
		{"huge length", "POST / HTTP/1.1\r\n" + ok + "Content-Length: 9999999999999999999\r\n\r\n", ErrLength},
		{"empty length", "POST / HTTP/1.1\r\n" + ok + "Content-Length:\r\n\r\n", ErrLength},
		{"expectation", "POST / HTTP/1.1\r\n" + ok + "Expect: 200-ok\r\n\r\n", ErrExpect},
		// Limits.
		{"long target", "GET /" + strings.Repeat("a", 300) + " HTTP/1.1\r\n" + ok + "\r\n", ErrLongLine},
		{"long line without an end", "GET /" + strings.Repeat("a", 400), ErrLongLine},
		{"large head", "GET / HTTP/1.1\r\n" + ok + "X: " + strings.Repeat("a", 1024) + "\r\n\r\n", ErrLarge},
		{"large head without an end", "GET / HTTP/1.1\r\n" + ok + "X: " + strings.Repeat("a", 1024), ErrLarge},
		{"many fields", "GET / HTTP/1.1\r\n" + ok + strings.Repeat("X: a\r\n", 20) + "\r\n", ErrMany},
	} {
		if _, err := parse(row.head, &Limits{Head: 1024, Target: 256, Fields: 20}); err != row.want {
			t.Errorf("%s: %v, want %v", row.name, err, row.want)
		}
	}
}

func TestRequestsRead(t *testing.T) {
	for _, row := range []struct {
		name, head string
		want       Head
		kept       string // names of Fields
	}{
		{"plain", "GET /a?b HTTP/1.1\r\nHost: x\r\n\r\n", Head{Method: "GET", Target: "/a?b", OriginTarget: "/a?b", Authority: "x", Minor: 1, Length: -1}, ""},
		{"1.0 without host", "GET / HTTP/1.0\r\n\r\n", Head{Method: "GET", Target: "/", OriginTarget: "/", Length: -1, Close: true}, ""},
		{"1.0 kept", "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", Head{Method: "GET", Target: "/", OriginTarget: "/", Length: -1}, ""},
		{"absolute", "GET HTTP://X:80?q HTTP/1.1\r\nHost: x\r\n\r\n", Head{Method: "GET", Target: "HTTP://X:80?q", OriginTarget: "/?q", Authority: "X:80", Minor: 1, Length: -1}, ""},
		{"options", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", Head{Method: "OPTIONS", Target: "*", OriginTarget: "*", Authority: "x", Minor: 1, Length: -1}, ""},
		{"length", "POST / HTTP/1.1\r\nHost: x\r\ncontent-length: 12\r\n\r\n", Head{Method: "POST", Target: "/", OriginTarget: "/", Authority: "x", Minor: 1, Length: 12}, ""},
		{"chunked", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \tChunked \r\nExpect: 100-Continue\r\n\r\n",
			Head{Method: "POST", Target: "/", OriginTarget: "/", Authority: "x", Minor: 1, Length: -1, Chunked: true, Expect: true}, ""},
		{"connection", "GET / HTTP/1.1\r\nHost: x\r\nConnection: close, X-Mine ,cookie\r\nx-mine: 1\r\nCookie: a=b\r\nX-Mine: 2\r\n\r\n",
			Head{Method: "GET", Target: "/", OriginTarget: "/", Authority: "x", Minor: 1, Length: -1, Close: true}, "Cookie"},
		{"upgrade", "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
			Head{Method: "GET", Target: "/", OriginTarget: "/", Authority: "x", Minor: 1, Length: -1, Upgrade: "websocket"}, ""},
		{"upgrade not named", "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nTE: trailers, gzip\r\n\r\n",
			Head{Method: "GET", Target: "/", OriginTarget: "/", Authority: "x", Minor: 1, Length: -1, Trailers: true}, ""},
	} {
		h, err := parse(row.head, &Limits{})
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		var kept []string
		for _, f := range h.Fields {
			kept = append(kept, f.Name)
		}
		h.Fields = nil
		if got, want := *h, row.want; got.Method != want.Method || got.Target != want.Target || got.OriginTarget != want.OriginTarget || got.Authority != want.Authority ||
			got.Minor != want.Minor || got.Length != want.Length || got.Chunked != want.Chunked || got.Close != want.Close || got.Expect != want.Expect ||
			got.Upgrade != want.Upgrade || got.Trailers != want.Trailers {
			t.Errorf("%s: %+v, want %+v", row.name, got, want)
		}
		if got := strings.Join(kept, " "); got != row.kept {
			t.Errorf("%s: fields %q, want %q", row.name, got, row.kept)
		}
	}
}

func TestResponses(t *testing.T) {
	for _, row := range []struct {
		name, head string
		want       *Error
		status     int
		length     int64
	}{
		{"plain", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", nil, 200, 2},
		{"no reason", "HTTP/1.1 204\r\n\r\n", nil, 204, -1},
		{"equal lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n", nil, 200, 2},
		{"other lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n", ErrLength, 0, 0},
		{"both framings", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", ErrFraming, 0, 0},
		{"bare lf", "HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\n", ErrStatus, 0, 0},
		{"two digits", "HTTP/1.1 20 OK\r\n\r\n", ErrStatus, 0, 0},
		{"600", "HTTP/1.1 600 X\r\n\r\n", ErrStatus, 0, 0},
		{"four digits", "HTTP/1.1 2000 X\r\n\r\n", ErrStatus, 0, 0},
		{"version", "HTTP/2.0 200 OK\r\n\r\n", ErrStatus, 0, 0},
		{"garbage", "hello world it is\r\n\r\n", ErrStatus, 0, 0},
	} {
		var h Head
		_, err := h.ReadResponse(row.head, 0, &Limits{})
		if row.want != nil {
			if err != row.want {
				t.Errorf("%s: %v, want %v", row.name, err, row.want)
			}
			continue
		}
		if err != nil || h.Status != row.status || h.Length != row.length {
			t.Errorf("%s: %v %+v", row.name, err, h)
		}
	}
}

// byBytes reads a head that comes byte by byte.
func byBytes(b string, l *Limits) (h Head, n int, err error) {
	for i, seen := 1, 0; i <= len(b) && n == 0 && err == nil; i++ {
		n, err = h.ReadRequest(b[:i], seen, l)
		seen = i
	}
	return h, n, err
}

// TestReadIsIncremental: wherever the bytes are cut, the answer is the same.
func TestReadIsIncremental(t *testing.T) {
	l := &Limits{Head: 256, Target: 64}
	for _, head := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest",
		"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: b\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\n\r\n\r\n",
		"GET / HTTP/1.1\r\nX: \x00\r\n\r\n",
		"GET /" + strings.Repeat("a", 300),
		"GET / HTTP/1.1\r\nX: " + strings.Repeat("a", 300),
	} {
		var whole Head
		wantN, wantErr := whole.ReadRequest(head, 0, l)
		h, n, err := byBytes(head, l)
		if n != wantN || (err == nil) != (wantErr == nil) || err == nil && h.Authority != whole.Authority {
			t.Errorf("%q: %d %v, want %d %v", head, n, err, wantN, wantErr)
		}
	}
}

func decode(body string, step int) (data string, used int, trailer []Field, err error) {
	var c Chunks
	c.Reset()
	var out bytes.Buffer
	dst := make([]byte, 7)
	for used < len(body) && !c.Done() {
		end := min(used+step, len(body))
		nd, ns, err := c.Decode(dst, []byte(body[used:end]))
		out.Write(dst[:nd])
		used += ns
		if err != nil {
			return out.String(), used, nil, err
		}
	}
	if !c.Done() {
		return out.String(), used, nil, io.ErrUnexpectedEOF
	}
	return out.String(), used, c.Trailer(), nil
}

func TestChunks(t *testing.T) {
	for _, row := range []struct {
		name, body, data, trailer string
		want                      error
	}{
		{"two chunks", "5\r\nhello\r\n1\r\n!\r\n0\r\n\r\nGET", "hello!", "", nil},
		{"extension", "5;a=b;c=\"d\"\r\nhello\r\n0;x\r\n\r\n", "hello", "", nil},
		{"leading zeros", "0005\r\nhello\r\n000\r\n\r\n", "hello", "", nil},
		{"trailers", "1\r\nx\r\n0\r\nX-Sum: 12 \r\nContent-Length: 5\r\nHost: b\r\nSet-Cookie: a\r\n\r\n", "x", "X-Sum=12;", nil},
		{"bare lf after size", "5\nhello\r\n0\r\n\r\n", "", "", ErrChunk},
		{"bare lf in extension", "5;a\nhello\r\n0\r\n\r\n", "", "", ErrChunk},
		{"prefix", "0x5\r\nhello\r\n0\r\n\r\n", "", "", ErrChunk},
		{"space before size", " 5\r\nhello\r\n0\r\n\r\n", "", "", ErrChunk},
		{"space after size", "5 \r\nhello\r\n0\r\n\r\n", "", "", ErrChunk},
		{"sign", "+5\r\nhello\r\n0\r\n\r\n", "", "", ErrChunk},
		{"no size", "\r\nhello\r\n0\r\n\r\n", "", "", ErrChunk},
		{"overflow", "1000000000000000\r\nx", "", "", ErrChunk},
		{"longer than said", "1\r\nxy\r\n0\r\n\r\n", "", "", ErrChunk},
		{"no line end after data", "1\r\nx0\r\n\r\n", "", "", ErrChunk},
		{"bare lf in trailer", "0\r\nX: a\n\r\n", "", "", ErrTrailer},
		{"folded trailer", "0\r\nX: a\r\n b\r\n\r\n", "", "", ErrTrailer},
		{"long extension", "5;" + strings.Repeat("a", 2000) + "\r\nhello\r\n0\r\n\r\n", "", "", ErrChunkExt},
		{"many extensions", strings.Repeat("1;"+strings.Repeat("a", 1000)+"\r\nx\r\n", 20) + "0\r\n\r\n", "", "", ErrChunkExt},
		{"long trailers", "0\r\n" + strings.Repeat("X: "+strings.Repeat("a", 1000)+"\r\n", 20) + "\r\n", "", "", ErrTrailers},
	} {
		for _, step := range []int{1, 3, len(row.body)} {
			data, used, trailer, err := decode(row.body, step)
			if row.want != nil {
				if err != row.want {
					t.Errorf("%s by %d: %v, want %v", row.name, step, err, row.want)
				}
				continue
			}
			got := ""
			for _, f := range trailer {
				got += f.Name + "=" + f.Value + ";"
			}
			if err != nil || data != row.data || got != row.trailer || used != strings.LastIndex(row.body, "\r\n\r\n")+4 {
				t.Errorf("%s by %d: %q %q used %d %v", row.name, step, data, got, used, err)
			}
		}
	}
}

var heads = map[string]string{
	"small": "GET / HTTP/1.1\r\nHost: 127.0.0.1:9080\r\nUser-Agent: curl/8.0\r\nAccept: */*\r\n\r\n",
	"browser": "GET /orders?page=2 HTTP/1.1\r\nHost: shop.example.com\r\nConnection: keep-alive\r\nsec-ch-ua: \"Chromium\";v=\"126\"\r\n" +
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36\r\n" +
		"Accept: application/json, text/plain, */*\r\nSec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\n" +
		"Referer: https://app.example.com/orders\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\n" +
		"Cookie: session=" + strings.Repeat("A", 300) + "; theme=dark\r\n\r\n",
}

const answer = "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Tue, 24 Nov 2026 16:00:00 GMT\r\nContent-Type: text/plain\r\n" +
	"Content-Length: 1024\r\nConnection: keep-alive\r\n\r\n"

func TestParsingAllocatesNothing(t *testing.T) {
	var h Head
	l := &Limits{}
	for name, head := range heads {
		if n := testing.AllocsPerRun(100, func() {
			if n, err := h.ReadRequest(head, 0, l); n != len(head) || err != nil {
				t.Fatal(n, err)
			}
			if n, err := h.ReadResponse(answer, 0, l); n != len(answer) || err != nil {
				t.Fatal(n, err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkHead(b *testing.B) {
	bench := func(head string, read func(*Head, string, int, *Limits) (int, error)) func(*testing.B) {
		return func(b *testing.B) {
			var h Head
			l := &Limits{}
			for b.Loop() {
				if _, err := read(&h, head, 0, l); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	for name, head := range heads {
		b.Run(name, bench(head, (*Head).ReadRequest))
	}
	b.Run("answer", bench(answer, (*Head).ReadResponse))
}

// FuzzRequest holds the parser against net/http's: what we accept it reads the
// same, but for what it is stricter about: hosts, and targets with bytes that
// belong escaped.
func FuzzRequest(f *testing.F) {
	for _, h := range heads {
		f.Add(h)
	}
	f.Add("POST http://a:80/b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close, x\r\n\r\n")
	f.Add("POST / HTTP/1.0\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
	f.Fuzz(func(t *testing.T, s string) {
		l := &Limits{Head: 4096, Target: 1024, Fields: 20}
		h := &Head{}
		n, err := h.ReadRequest(s, 0, l)
		if _, pieces, perr := byBytes(s, l); pieces != n || (perr == nil) != (err == nil) {
			t.Fatalf("%q: by bytes %d %v, at once %d %v", s, pieces, perr, n, err)
		}
		if n == 0 || err != nil {
			return
		}
		for _, x := range h.Fields {
			if !IsToken(x.Name) || strings.ContainsAny(x.Value, "\r\n\x00") || strings.Trim(x.Value, " \t") != x.Value {
				t.Fatalf("%q: field %+v", s, x)
			}
		}
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(s[:n])))
		if err != nil {
			if m := err.Error(); strings.Contains(m, "malformed Host") || strings.Contains(m, "parse ") || strings.Contains(m, "invalid URI") || strings.Contains(m, "too many Host") || strings.Contains(m, "fold") {
				return
			}
			t.Fatalf("%q accepted, but net/http: %v", s, err)
		}
		if r.Method != h.Method || r.RequestURI != h.Target || r.ContentLength != max(h.Length, map[bool]int64{true: -1, false: 0}[h.Chunked]) || r.Close != h.Close && h.Minor == 1 {
			t.Fatalf("%q: we read %+v, net/http %s %s %d close %v", s, h, r.Method, r.RequestURI, r.ContentLength, r.Close)
		}
	})
}

// FuzzResponse holds the parser against net/http's: what we accept ends where
// net/http says it ends, whatever was asked.
func FuzzResponse(f *testing.F) {
	f.Add("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", byte(0))
	f.Add("HTTP/1.0 404\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", byte(0))
	f.Add("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\nTrailer: X\r\n\r\n0\r\n\r\n", byte(1))
	f.Add("HTTP/1.1 304 Not Modified\r\nContent-Length: 12\r\nContent-Length: 12\r\n\r\n", byte(0))
	f.Add("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", byte(0))
	f.Fuzz(func(t *testing.T, s string, asked byte) {
		l := &Limits{Head: 4096, Fields: 20}
		var h Head
		n, err := h.ReadResponse(s, 0, l)
		var cut Head
		seen, cutN := 0, 0
		var cutErr error
		for i := 1; i <= len(s) && cutN == 0 && cutErr == nil; i++ {
			cutN, cutErr = cut.ReadResponse(s[:i], seen, l)
			seen = i
		}
		if len(s) > 0 && (cutN != n || (cutErr == nil) != (err == nil)) {
			t.Fatalf("%q: by bytes %d %v, at once %d %v", s, cutN, cutErr, n, err)
		}
		if n == 0 || err != nil {
			return
		}
		for _, x := range h.Fields {
			if !IsToken(x.Name) || strings.ContainsAny(x.Value, "\r\n\x00") || strings.Trim(x.Value, " \t") != x.Value {
				t.Fatalf("%q: field %+v", s, x)
			}
		}
		method := [...]string{"GET", "HEAD", "POST"}[asked%3]
		r, err := http.ReadResponse(bufio.NewReader(strings.NewReader(s[:n])), &http.Request{Method: method})
		if err != nil {
			t.Fatalf("%q accepted, but net/http: %v", s, err)
		}
		if r.StatusCode != h.Status || r.ProtoMinor != h.Minor {
			t.Fatalf("%q: %d, net/http %d", s, h.Status, r.StatusCode)
		}
		if method == "HEAD" || h.Status < 200 || h.Status == 204 || h.Status == 304 {
			return // no body, whatever the fields say
		}
		want := h.Length
		if h.Chunked {
			want = -1
		}
		if r.ContentLength != want || (len(r.TransferEncoding) > 0) != h.Chunked || r.Close && !h.Close && want != -1 {
			t.Fatalf("%q: we read length %d chunked %v close %v, net/http %d %v %v", s, h.Length, h.Chunked, h.Close, r.ContentLength, r.TransferEncoding, r.Close)
		}
	})
}

// FuzzChunksWritten reads back what AppendChunkSize frames, cut anywhere and
// followed by anything.
func FuzzChunksWritten(f *testing.F) {
	f.Add([]byte("hello world"), byte(3), byte(2), "GET / HTTP/1.1\r\n")
	f.Add([]byte{}, byte(0), byte(1), "")
	f.Fuzz(func(t *testing.T, data []byte, size, step byte, rest string) {
		var b []byte
		for left := data; len(left) > 0; {
			n := min(int(size)+1, len(left))
			b = AppendChunkSize(b, n)
			b = append(append(b, left[:n]...), "\r\n"...)
			left = left[n:]
		}
		b = append(b, "0\r\nX-Sum: 1\r\n\r\n"...)
		got, used, trailer, err := decode(string(b)+rest, int(step)+1)
		if err != nil || got != string(data) || used != len(b) || len(trailer) != 1 {
			t.Fatalf("%q by %d: %q, used %d of %d, %v %v", b, step, got, used, len(b), trailer, err)
		}
	})
}

// FuzzChunks holds the decoder against net/http's: what we accept it decodes
// to the same, however the bytes are cut.
func FuzzChunks(f *testing.F) {
	f.Add("5\r\nhello\r\n0\r\n\r\nrest", 3)
	f.Add("1;a=b\r\nx\r\n0\r\nT: v\r\n\r\n", 1)
	f.Fuzz(func(t *testing.T, body string, step int) {
		if step < 1 || len(body) > 4096 {
			return
		}
		data, used, _, err := decode(body, step)
		whole, usedWhole, _, errWhole := decode(body, len(body)+1)
		if (err == nil) != (errWhole == nil) || err == nil && (data != whole || used != usedWhole) {
			t.Fatalf("%q: by %d %q %d %v, at once %q %d %v", body, step, data, used, err, whole, usedWhole, errWhole)
		}
		if err != nil {
			return
		}
		got, err := io.ReadAll(httputil.NewChunkedReader(strings.NewReader(body)))
		if err != nil || string(got) != data {
			t.Fatalf("%q: %q, net/http %q %v", body, data, got, err)
		}
	})
}
