package proxy

import (
	"strings"
	"testing"
)

// A trace context goes on untouched when it is well formed, and not at all
// when it is not; the gateway makes none.
func TestTraceContext(t *testing.T) {
	r := newRig(t, nil)
	r.route("", echo(t).addr)
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for _, c := range []struct {
		name string
		send []string
		want []string
	}{
		{"none", nil, nil},
		{"well formed", []string{"TraceParent: " + parent, "tracestate: rojo=1", "TRACESTATE: congo=2", "b3: 0"},
			[]string{"TraceParent: " + parent, "tracestate: rojo=1", "TRACESTATE: congo=2", "b3: 0"}},
		{"malformed", []string{"traceparent: 00-" + strings.Repeat("0", 32) + "-00f067aa0ba902b7-01", "tracestate: rojo=1", "X-B3-TraceId: 1"}, []string{"X-B3-TraceId: 1"}},
		{"twice", []string{"traceparent: " + parent, "tracestate: rojo=1", "Traceparent: " + parent}, nil},
		{"too much state", []string{"traceparent: " + parent, "tracestate: a=" + strings.Repeat("x", 250), "tracestate: b=" + strings.Repeat("x", 250), "tracestate: c=" + strings.Repeat("x", 250)},
			[]string{"traceparent: " + parent}},
	} {
		_, _, body := r.get("/", c.send...)
		var got []string
		for l := range strings.SplitSeq(strings.TrimSpace(body), "\r\n") {
			if n := strings.ToLower(l); strings.HasPrefix(n, "trace") || strings.Contains(n, "b3") {
				got = append(got, l)
			}
		}
		if strings.Join(got, "\n") != strings.Join(c.want, "\n") {
			t.Errorf("%s: the upstream got %q, want %q", c.name, got, c.want)
		}
	}
}
