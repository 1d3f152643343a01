package gateway

import (
	"slices"
	"strings"
	"testing"
)

const (
	traceID  = "4bf92f3577b34da6a3ce929d0e0e4736"
	parentID = "00f067aa0ba902b7"
	parent   = "00-" + traceID + "-" + parentID + "-01"
)

// fields is a header as a literal.
type fields []struct{ Name, Value string }

func TestParseTraceParent(t *testing.T) {
	for _, v := range []string{
		parent, "00-" + traceID + "-" + parentID + "-00", "00-" + traceID + "-" + parentID + "-ff",
		"01-" + traceID + "-" + parentID + "-01", "cc-" + traceID + "-" + parentID + "-01-what-the-future-brings", "fe-" + traceID + "-" + parentID + "-01-",
	} {
		tr, pa, ok := ParseTraceParent(v)
		if !ok || tr != traceID || pa != parentID {
			t.Errorf("%q: got %q, %q, %v", v, tr, pa, ok)
		}
	}
	for _, v := range []string{
		"", "00", parent[:54], parent + "-", parent + "-x", parent + "0", " " + parent, parent + " ", "ff" + parent[2:],
		"0-" + traceID + "-" + parentID + "-01", "0x" + parent[2:], strings.ToUpper(parent), "cc" + parent[2:] + ".x",
		"00-" + strings.Repeat("0", 32) + "-" + parentID + "-01", "00-" + traceID + "-" + strings.Repeat("0", 16) + "-01",
		"00-" + traceID[1:] + "g-" + parentID + "-01", "00-" + traceID + "-" + parentID + "-0G", "00_" + traceID + "-" + parentID + "-01",
		"00-" + traceID + "_" + parentID + "-01", "00-" + traceID + "-" + parentID + "_01", "cc" + parent[2:] + "-" + strings.Repeat("x", 600),
	} {
		if _, _, ok := ParseTraceParent(v); ok {
			t.Errorf("%q is taken for a traceparent", v)
		}
	}
}

func TestCheckTrace(t *testing.T) {
	many := func(n int) string {
		var l []string
		for i := range n {
			l = append(l, string(rune('a'+i/10))+string(rune('0'+i%10))+"=1")
		}
		return strings.Join(l, ",")
	}
	long := "a=" + strings.Repeat("x", 255)
	for _, c := range []struct {
		name     string
		in, want fields
	}{
		{"none", fields{{"A", "1"}}, fields{{"A", "1"}}},
		{"parent alone", fields{{"Traceparent", parent}}, fields{{"Traceparent", parent}}},
		{"both", fields{{"traceparent", parent}, {"tracestate", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"}, {"X-B3-TraceId", "1"}},
			fields{{"traceparent", parent}, {"tracestate", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"}, {"X-B3-TraceId", "1"}}},
		{"state in two fields", fields{{"traceparent", parent}, {"tracestate", "a=1"}, {"TraceState", "b=2 , , 0t@v=3"}},
			fields{{"traceparent", parent}, {"tracestate", "a=1"}, {"TraceState", "b=2 , , 0t@v=3"}}},
		{"malformed parent takes the state along", fields{{"traceparent", "00-x"}, {"tracestate", "a=1"}, {"A", "1"}}, fields{{"A", "1"}}},
		{"repeated parent", fields{{"traceparent", parent}, {"TRACEPARENT", parent}, {"tracestate", "a=1"}}, nil},
		{"state without parent", fields{{"tracestate", "a=1"}}, nil},
		{"empty parent", fields{{"traceparent", ""}, {"tracestate", "a=1"}}, nil},
		{"empty state", fields{{"traceparent", parent}, {"tracestate", ""}}, fields{{"traceparent", parent}, {"tracestate", ""}}},
		{"32 members", fields{{"traceparent", parent}, {"tracestate", many(32)}}, fields{{"traceparent", parent}, {"tracestate", many(32)}}},
		{"33 members", fields{{"traceparent", parent}, {"tracestate", many(20)}, {"tracestate", "x=1," + many(33)[20*5:]}}, fields{{"traceparent", parent}}},
		{"512 characters", fields{{"traceparent", parent}, {"tracestate", long + ",b=" + strings.Repeat("x", 252)}},
			fields{{"traceparent", parent}, {"tracestate", long + ",b=" + strings.Repeat("x", 252)}}},
		{"513 characters", fields{{"traceparent", parent}, {"tracestate", long + ",b=" + strings.Repeat("x", 253)}}, fields{{"traceparent", parent}}},
		{"a key twice", fields{{"traceparent", parent}, {"tracestate", "a=1,b=2,a=3"}}, fields{{"traceparent", parent}}},
		{"upper case key", fields{{"traceparent", parent}, {"tracestate", "A=1"}}, fields{{"traceparent", parent}}},
		{"no value", fields{{"traceparent", parent}, {"tracestate", "a="}}, fields{{"traceparent", parent}}},
		{"no key", fields{{"traceparent", parent}, {"tracestate", "a"}}, fields{{"traceparent", parent}}},
		{"equals sign in value", fields{{"traceparent", parent}, {"tracestate", "a=b=c"}}, fields{{"traceparent", parent}}},
		{"not ASCII", fields{{"traceparent", parent}, {"tracestate", "a=\x80"}}, fields{{"traceparent", parent}}},
		{"two at signs", fields{{"traceparent", parent}, {"tracestate", "a@b@c=1"}}, fields{{"traceparent", parent}}},
	} {
		r := &Request{}
		for _, f := range c.in {
			r.Header.Add(f.Name, f.Value)
		}
		r.CheckTrace()
		var got fields
		for _, f := range r.Header.Fields() {
			got = append(got, f)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestTraceVariables(t *testing.T) {
	x := &Exchange{}
	x.Req.Header.Add("Traceparent", parent)
	for name, want := range map[string]string{"opentelemetry_trace_id": traceID, "opentelemetry_span_id": parentID, "opentelemetry_context_traceparent": parent} {
		if got, ok := x.Var(name); !ok || got != want {
			t.Errorf("%s: got %q, %v, want %q", name, got, ok, want)
		}
		if got, ok := (&Exchange{}).Var(name); ok {
			t.Errorf("%s without a trace: got %q", name, got)
		}
	}
	if n := testing.AllocsPerRun(100, func() { x.Req.CheckTrace(); x.Var("opentelemetry_trace_id") }); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}

func FuzzTrace(f *testing.F) {
	f.Add(parent, "a=1,b=2", "c@d=3")
	f.Add("cc"+parent[2:]+"-x", ",,", "=")
	f.Fuzz(func(t *testing.T, p, s1, s2 string) {
		r := &Request{}
		r.Header.Append("traceparent", p)
		r.Header.Append("tracestate", s1)
		r.Header.Append("tracestate", s2)
		r.CheckTrace()
		id, span, ok := r.TraceParent()
		if ok != r.Header.Has("traceparent") || ok && (len(id) != 32 || len(span) != 16 || r.Header.Get("traceparent") != p) {
			t.Errorf("%q: got %q, %q, %v", p, id, span, ok)
		}
		n := 0
		for v := range r.Header.Values("tracestate") {
			n += len(v)
			for i := range len(v) {
				if c := v[i]; c != '\t' && (c < 0x20 || c > 0x7e) {
					t.Errorf("%q passes on", v)
				}
			}
		}
		if n > maxTraceState || n > 0 && !ok {
			t.Errorf("%d bytes of state pass on, parent %v", n, ok)
		}
	})
}
