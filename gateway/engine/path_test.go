package engine

import (
	"strings"
	"testing"
)

func TestNormalize(t *testing.T) {
	rows := []struct {
		target, path, query string
		plain, ok           bool
	}{
		{"/", "/", "", true, true},
		{"/a/b?x=1&y=%20z", "/a/b", "x=1&y=%20z", true, true},
		{"/a%20b", "/a b", "", true, true},
		{"/a/", "/a/", "", true, true},
		{"/.well-known/x", "/.well-known/x", "", true, true},
		{"/a/...", "/a/...", "", true, true},
		{"//a", "/a", "", false, true},
		{"/a//b", "/a/b", "", false, true},
		{"/a//", "/a/", "", false, true},
		{"/a/./b", "/a/b", "", false, true},
		{"/a/.", "/a/", "", false, true},
		{"/a/../b", "/b", "", false, true},
		{"/a/..", "/", "", false, true},
		{"/a/b/..", "/a/", "", false, true},
		{"/a/%2e%2e/b", "/b", "", false, true},
		{"/a%2Fb/../c//d?q", "/a/c/d", "q", false, true},
		{"/a%2fb", "/a/b", "", false, true},
		{"/%252e%252e/x", "/%2e%2e/x", "", true, true},
		{"/a;x=1/b", "/a;x=1/b", "", true, true},
		{`/a\b`, "", "", false, false},
		{`/a?b\c`, "/a", `b\c`, true, true},
		{"/a?b=/../c//", "/a", "b=/../c//", true, true},
		{"/..", "", "", false, false},
		{"/a/../../b", "", "", false, false},
		{"/%2e%2e/b", "", "", false, false},
		{"/a%00b", "", "", false, false},
		{"/%zz", "", "", false, false},
		{"/%2", "", "", false, false},
		{"/a#b", "", "", false, false},
		{"/a b", "", "", false, false},
		{"/a\tb", "", "", false, false},
		{"a", "", "", false, false},
		{"*", "", "", false, false},
		{"", "", "", false, false},
	}
	for _, r := range rows {
		path, query, plain, err := normalize(r.target)
		if (err == nil) != r.ok || r.ok && (path != r.path || query != r.query || plain != r.plain) {
			t.Errorf("%q = %q %q plain=%v %v, want %+v", r.target, path, query, plain, err, r)
		}
	}
}

func FuzzNormalize(f *testing.F) {
	for _, s := range []string{"/a/../b", "/a%2f..%2fb?x", "//", "/%2e/%2E%2e/", "/a/./..//b%25"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		path, query, _, err := normalize(target)
		if err != nil {
			return
		}
		if path == "" || path[0] != '/' || strings.Contains(path, "//") || strings.Contains(path, "\x00") {
			t.Fatalf("%q: path %q", target, path)
		}
		for _, seg := range strings.Split(path, "/") {
			if seg == "." || seg == ".." {
				t.Fatalf("%q: path %q keeps a dot segment", target, path)
			}
		}
		// What goes upstream means there what it means here.
		again, q, plain, err := normalize(encode(path, query))
		if err != nil || again != path || q != query || !plain {
			t.Fatalf("%q: %q encodes to %q, read as %q plain=%v %v", target, path, encode(path, query), again, plain, err)
		}
	})
}

func TestSplitHost(t *testing.T) {
	rows := map[string]string{
		"a.example": "a.example", "A.Example.": "a.example", "a:80": "a", "a.:80": "a", "a:": "a",
		"127.0.0.1:1": "127.0.0.1", "[::1]": "[::1]", "[::1]:80": "[::1]", "[FE80::1]": "[fe80::1]",
		"x_y-z~": "x_y-z~",
	}
	for in, want := range rows {
		if got, ok := splitHost(in); !ok || got != want {
			t.Errorf("%q = %q %v, want %q", in, got, ok, want)
		}
	}
	for _, in := range []string{"", ".", "u@h", "a b", "a/b", "a:b", "a:123456", "[::1", "[]", "a..b", ".a", "ä.example", "a,b", "a?b", "[::1]x", strings.Repeat("a", 256)} {
		if got, ok := splitHost(in); ok {
			t.Errorf("%q accepted as %q", in, got)
		}
	}
}
