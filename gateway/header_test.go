package gateway

import "testing"

func TestDropOwnCookies(t *testing.T) {
	for in, want := range map[string]string{
		"":              "",
		"a=1; b=2":      "a=1; b=2",
		"session=gh1.x": "",
		"a=1;session=gh1.x; session_2=gh1.y ;b=2": "a=1; b=2",
		`a="gh1.x"; b=2`: "b=2",
		"a=xgh1.y":       "a=xgh1.y",
	} {
		var h Header
		if in != "" {
			h.Add("Cookie", in)
		}
		h.DropOwnCookies()
		if got := h.Get("cookie"); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestNoSplitting(t *testing.T) {
	var h Header
	h.Set("A", "x\r\nB: y\x00")
	if got := h.Get("a"); got != "x  B: y " {
		t.Errorf("got %q", got)
	}
}

func TestHeaderNoAllocation(t *testing.T) {
	var h Header
	h.Add("Cookie", "a=1")
	h.Add("Accept", "*/*")
	if n := testing.AllocsPerRun(100, func() { h.Get("accept"); h.DropOwnCookies(); h.Set("Accept", "x") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
