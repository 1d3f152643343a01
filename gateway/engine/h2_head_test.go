package engine

import (
	"bytes"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"

	"gatehouse/gateway"
)

// headOf judges fields: name, value, name, value.
func headOf(lim *Limits, fields ...string) (b headBlock, q gateway.Request, ok bool) {
	b.begin(1, true, lim)
	for i := 0; i < len(fields); i += 2 {
		b.emit(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	ok = b.request(&q)
	return b, q, ok
}

// TestHeadBlockCrumbs: crumbs of a cookie are joined as they came.
func TestHeadBlockCrumbs(t *testing.T) {
	var lim Limits
	lim.defaults()
	for _, row := range []struct {
		crumbs []string
		want   string
	}{
		{nil, "none"},
		{[]string{""}, ""},
		{[]string{"a=1"}, "a=1"},
		{[]string{"a=1", "b=2", "c=3"}, "a=1; b=2; c=3"},
		{[]string{"", "b=2"}, "; b=2"},
		{[]string{"a=1", ""}, "a=1; "},
	} {
		fields := append([]string{}, getRoot...)
		for _, c := range row.crumbs {
			fields = append(fields, "cookie", c)
		}
		_, q, ok := headOf(&lim, fields...)
		got := "none"
		for _, f := range q.Header.Fields() {
			if f.Name == "cookie" {
				got = f.Value
			}
		}
		if !ok || got != row.want {
			t.Errorf("%q: %q, %v, want %q", row.crumbs, got, ok, row.want)
		}
	}
}

// TestHeadBlockCountsEveryField: those too that do not become fields of the
// request.
func TestHeadBlockCountsEveryField(t *testing.T) {
	lim := Limits{Fields: 3}
	lim.defaults()
	for _, row := range []struct {
		fields []string
		want   int
	}{
		{[]string{"x", "1", "y", "2", "z", "3"}, 0},
		{[]string{"x", "1", "y", "2", "z", "3", "x", "4"}, 431},
		{[]string{"cookie", "1", "cookie", "2", "cookie", "3"}, 0},
		{[]string{"cookie", "1", "cookie", "2", "cookie", "3", "cookie", "4"}, 431},
		{[]string{"host", "a", "content-length", "0", "expect", "100-continue"}, 0},
		{[]string{"host", "a", "content-length", "0", "expect", "100-continue", "x", "1"}, 431},
		{[]string{"expect", "100-continue", "expect", "100-continue", "expect", "100-continue", "expect", "100-continue"}, 431},
	} {
		b, _, ok := headOf(&lim, append(append([]string{}, getRoot...), row.fields...)...)
		if !ok || b.fail != row.want {
			t.Errorf("%q: %d, %v, want %d", row.fields, b.fail, ok, row.want)
		}
	}
}

// TestHeadBlockCrumbsCostWhatTheyAre: many crumbs cost no more than in
// proportion.
func TestHeadBlockCrumbsCostWhatTheyAre(t *testing.T) {
	const n = 10_000
	lim := Limits{Fields: 2 * n, Head: 1 << 20}
	lim.defaults()
	fields := append([]string{}, getRoot...)
	for range n {
		fields = append(fields, "cookie", "a")
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, q, ok := headOf(&lim, fields...)
	runtime.ReadMemStats(&after)
	if got := len(q.Header.Get("Cookie")); !ok || got != 3*n-2 {
		t.Fatalf("%d bytes of a cookie, %v", got, ok)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 4<<20 {
		t.Errorf("%d bytes were allocated for %d crumbs", got, n)
	}
}

// FuzzHeadBlock: whatever a header block says, what becomes a request is clean:
// nothing in it can split a message of HTTP/1.1, and nothing is said twice.
func FuzzHeadBlock(f *testing.F) {
	add := func(fields ...string) {
		var buf bytes.Buffer
		enc := hpack.NewEncoder(&buf)
		for i := 0; i < len(fields); i += 2 {
			_ = enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
		}
		f.Add(buf.Bytes(), true)
		f.Add(buf.Bytes(), false)
	}
	add(getRoot...)
	for _, more := range [][]string{
		{"cookie", "a", "cookie", "", "cookie", "b"},
		{"host", "a"}, {"host", "b"}, {"host", "a", "host", "a"},
		{"content-length", "3"}, {"content-length", "0", "content-length", "0"},
		{"Upper", "x"}, {"x", "a\r\nb: c"}, {"x", "\x00"}, {"x", " a"}, {"a b", "c"}, {"", "x"},
		{"te", "trailers"}, {"te", "gzip"}, {"connection", "x"}, {"transfer-encoding", "chunked"},
		{"expect", "100-continue"}, {":authority", "b"}, {":path", "/b"}, {":status", "200"},
	} {
		add(append(append([]string{}, getRoot...), more...)...)
		add(append(append([]string{}, more...), getRoot...)...)
	}
	add(":method", "CONNECT", ":authority", "a")
	add(":method", "G T", ":scheme", "http", ":path", "/")
	add(":method", "GET", ":scheme", "ftp", ":path", "/")
	lim := Limits{Head: 2 << 10, Fields: 20, URI: 256}
	lim.defaults()
	f.Fuzz(func(t *testing.T, block []byte, ended bool) {
		var b headBlock
		b.begin(1, ended, &lim)
		said := map[string]int{}
		dec := hpack.NewDecoder(4096, func(f hpack.HeaderField) {
			said[f.Name]++
			b.emit(f)
		})
		dec.SetMaxStringLength(lim.Head)
		if _, err := dec.Write(block); err != nil || dec.Close() != nil {
			return
		}
		var q gateway.Request
		if !b.request(&q) || b.fail != 0 {
			return
		}
		for _, name := range []string{":method", ":scheme", ":path", ":authority", "host", "content-length"} {
			if n := said[name]; n > 1 || n == 0 && name[0] == ':' && name != ":authority" {
				t.Errorf("%s was said %d times", name, n)
			}
		}
		for name := range said {
			if strings.HasPrefix(name, ":") && name != ":method" && name != ":scheme" && name != ":path" && name != ":authority" {
				t.Errorf("%q was taken", name)
			}
		}
		if q.Method == "" || q.Target == "" || len(q.Target) > lim.URI || strings.ContainsAny(q.Method, " \t") {
			t.Errorf("%q %q", q.Method, q.Target)
		}
		if ended && q.Length != 0 || q.Length < -1 {
			t.Errorf("length %d, ended %v", q.Length, ended)
		}
		if strings.ContainsAny(q.Method+q.Target+q.Authority, "\r\n\x00") {
			t.Errorf("%q %q %q", q.Method, q.Target, q.Authority)
		}
		size, cookies := 0, 0
		for _, field := range q.Header.Fields() {
			size += len(field.Name) + len(field.Value)
			switch field.Name {
			case "cookie":
				cookies++
			case "host", "content-length", "expect", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "http2-settings":
				t.Errorf("%q is a field", field.Name)
			case "te":
				if field.Value != "trailers" {
					t.Errorf("te: %q", field.Value)
				}
			}
			if field.Name == "" || field.Name != strings.ToLower(field.Name) || strings.ContainsAny(field.Name, " \t:()\"\r\n\x00") {
				t.Errorf("name %q", field.Name)
			}
			if strings.ContainsAny(field.Value, "\r\n\x00") {
				t.Errorf("%s: %q", field.Name, field.Value)
			}
			if field.Name != "cookie" && field.Value != strings.Trim(field.Value, " \t") {
				t.Errorf("%s: %q", field.Name, field.Value)
			}
		}
		if cookies > 1 || size > lim.Head || len(q.Header.Fields()) > lim.Fields {
			t.Errorf("%d cookies, %d bytes, %d fields", cookies, size, len(q.Header.Fields()))
		}
	})
}
