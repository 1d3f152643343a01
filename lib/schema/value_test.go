package schema

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"gatehouse/lib/fault"
)

func TestParse(t *testing.T) {
	deep := strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth)
	for _, c := range []struct{ in, out, err string }{
		{`{"b": 1.50, "a":[true,false,null,"x"]}`, `{"b":1.50,"a":[true,false,null,"x"]}`, ""},
		{` -0 `, `-0`, ""},
		{`"\u00e9\ud83d\ude00\n\/"`, `"é😀\n/"`, ""},
		{`"\u0000\u007f"`, `"\u0000\u007f"`, ""},
		{deep, deep, ""},
		{`{"uri":`, "", "Expected value but found T_END at character 8"},
		{`{"a"`, "", "Expected colon but found T_END at character 5"},
		{`{"a":1`, "", "Expected comma or object end but found T_END at character 7"},
		{`[1`, "", "Expected comma or array end but found T_END at character 3"},
		{`{,}`, "", "Expected object key string but found T_COMMA at character 2"},
		{`{"a":1,}`, "", "Expected object key string but found T_OBJ_END at character 8"},
		{`[1,]`, "", "Expected value but found T_ARR_END at character 4"},
		{`1 2`, "", "Expected the end but found T_NUMBER at character 3"},
		{`nil`, "", "Expected value but found invalid token at character 1"},
		{``, "", "Expected value but found T_END at character 1"},
		{`01`, "", "Expected value but found invalid number at character 1"},
		{`1e999`, "", "Expected value but found invalid number at character 1"},
		{`-`, "", "Expected value but found invalid number at character 1"},
		{`"a`, "", "Expected value but found unexpected end of string at character 3"},
		{`"\x"`, "", "Expected value but found invalid escape code at character 2"},
		{`"\ud800"`, "", "Expected value but found invalid unicode escape code at character 2"},
		{"\"a\xff\"", "", "Expected value but found invalid UTF-8 at character 3"},
		{"\"a\n\"", "", "Expected value but found invalid token at character 3"},
		{`{"a":1,"\u0061":2}`, "", `Found the object key "a" twice at character 8`},
		{"[" + deep + "]", "", "Found too many nested data structures (101) at character 101"},
	} {
		v, err := Parse([]byte(c.in))
		got, text := "", ""
		if err != nil {
			text = err.Error()
			if fault.KindOf(err) != fault.Invalid {
				t.Errorf("%.60s: the error is not Invalid", c.in)
			}
		} else {
			got = string(v.JSON())
		}
		if got != c.out || text != c.err {
			t.Errorf("%.60s:\n got %s %s\nwant %s %s", c.in, got, text, c.out, c.err)
		}
	}
}

// FuzzParse: what is accepted is JSON for others too, and writing it gives
// the same document.
func FuzzParse(f *testing.F) {
	for _, s := range []string{`{"a":[1,-2.5e3,"\u00e9\ud83d\ude00",null,true]}`, `{"a":1,"a":2}`, `[[[[`, `"\ud800"`, "\xff", `1e400`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		v, err := Parse(in)
		if err != nil {
			return
		}
		var theirs, ours any
		if err := json.Unmarshal(in, &theirs); err != nil {
			t.Fatalf("accepted what is no JSON: %v", err)
		}
		out := v.JSON()
		if err := json.Unmarshal(out, &ours); err != nil {
			t.Fatalf("wrote what is no JSON: %v", err)
		}
		a, _ := json.Marshal(theirs)
		b, _ := json.Marshal(ours)
		if !bytes.Equal(a, b) {
			t.Fatalf("changed by reading and writing: %s, %s", a, b)
		}
	})
}

func TestValueEdits(t *testing.T) {
	v, err := Parse([]byte(`{"a":{"b":1},"c":2}`))
	if err != nil {
		t.Fatal(err)
	}
	c := v.Clone()
	c.Get("a").Set("b", Text("x"))
	c.Set("d", Int(3))
	c.Delete("c")
	if got, want := string(c.JSON()), `{"a":{"b":"x"},"d":3}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := string(v.JSON()), `{"a":{"b":1},"c":2}`; got != want {
		t.Errorf("the original changed: got %s, want %s", got, want)
	}
	if v.At("a", "b").String() != "1" || v.At("x", "y") != nil || v.At("c", "y").String() != "" {
		t.Error("At")
	}
}
