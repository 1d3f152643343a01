package schema

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

type embedded struct {
	Shared string `json:"shared" doc:"From the embedded struct."`
}

type own struct{ n int }

func (*own) JSONSchema() json.RawMessage      { return json.RawMessage(`{"type":"integer"}`) }
func (o *own) UnmarshalJSON(raw []byte) error { return json.Unmarshal(raw, &o.n) }

type element struct {
	A string `json:"a" required:"true"`
	B int    `json:"b" default:"2"`
}

type everything struct {
	embedded
	Text    string            `json:"text" required:"true" min:"1" max:"9" pattern:"^a" doc:"A text."`
	Choice  string            `json:"choice" default:"x" enum:"x|y"`
	Whole   int               `json:"whole" default:"3" min:"1" max:"5"`
	Code    int               `json:"code" enum:"1|2"`
	Part    float64           `json:"part,omitempty" over:"0"`
	On      bool              `json:"on" default:"true" secret:"true"`
	List    []string          `json:"list" min:"1" max:"3" unique:"true" items:"min=1,pattern=^[a,b]$"`
	Objects []element         `json:"objects"`
	Map     map[string]int    `json:"map" min:"1" keys:"^k" items:"min=0"`
	Free    map[string]string `json:"free"`
	Any     json.RawMessage   `json:"any"`
	Own     own               `json:"own" default:"4"`
	Written string            `json:"written" schema:"{\"oneOf\":[{\"type\":\"string\"},{\"type\":\"null\"}]}" doc:"By hand."`
	Nested  struct {
		Deep string `json:"deep" default:"d"`
	} `json:"nested"`
	Pointer *element `json:"pointer"`
	hidden  int      //lint:ignore U1000 an unexported field is left out
	Skipped int      `json:"-"`
}

const everythingSchema = `{"type":"object","properties":{` +
	`"shared":{"type":"string","description":"From the embedded struct."},` +
	`"text":{"type":"string","minLength":1,"maxLength":9,"pattern":"^a","description":"A text."},` +
	`"choice":{"type":"string","enum":["x","y"],"default":"x"},` +
	`"whole":{"type":"integer","minimum":1,"maximum":5,"default":3},` +
	`"code":{"type":"integer","enum":[1,2]},` +
	`"part":{"type":"number","exclusiveMinimum":0},` +
	`"on":{"type":"boolean","default":true,"writeOnly":true},` +
	`"list":{"type":"array","minItems":1,"maxItems":3,"uniqueItems":true,"items":{"type":"string","minLength":1,"pattern":"^[a,b]$"}},` +
	`"objects":{"type":"array","items":{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"integer","default":2}},"required":["a"],"additionalProperties":false}},` +
	`"map":{"type":"object","minProperties":1,"patternProperties":{"^k":{"type":"integer","minimum":0}},"additionalProperties":false},` +
	`"free":{"type":"object","additionalProperties":{"type":"string"}},` +
	`"any":{},` +
	`"own":{"type":"integer","default":4},` +
	`"written":{"oneOf":[{"type":"string"},{"type":"null"}],"description":"By hand."},` +
	`"nested":{"type":"object","properties":{"deep":{"type":"string","default":"d"}},"additionalProperties":false},` +
	`"pointer":{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"integer","default":2}},"required":["a"],"additionalProperties":false}` +
	`},"required":["text"],"additionalProperties":false}`

func TestDerive(t *testing.T) {
	got, err := Derive(reflect.TypeFor[*everything]())
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != everythingSchema {
		t.Errorf("got\n%s\nwant\n%s", got, everythingSchema)
	}
	if _, err := Compile(got); err != nil {
		t.Error(err)
	}
}

func TestDeriveRefuses(t *testing.T) {
	type loop struct {
		L []loop `json:"l"`
	}
	for _, c := range []struct {
		typ  reflect.Type
		want string
	}{
		{reflect.TypeFor[int](), "not a struct"},
		{reflect.TypeFor[struct{ C chan int }](), "no schema for chan int"},
		{reflect.TypeFor[struct{ M map[int]int }](), "keys must be strings"},
		{reflect.TypeFor[struct {
			A int `min:"x"`
		}](), "is no number"},
		{reflect.TypeFor[struct {
			A int `pattern:"x"`
		}](), "tag pattern means nothing here"},
		{reflect.TypeFor[struct {
			A []int `items:"mim=1"`
		}](), "tag mim means nothing here"},
		{reflect.TypeFor[struct {
			A int `default:"x"`
		}](), "is not JSON"},
		{reflect.TypeFor[struct {
			A int `schema:"[]"`
		}](), "tag schema"},
		{reflect.TypeFor[loop](), "nested too deeply"},
	} {
		if _, err := Derive(c.typ); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.typ, err, c.want)
		}
	}
}

func TestDecode(t *testing.T) {
	var v everything
	err := Decode(json.RawMessage(`{"text":"a","shared":"s","objects":[{"a":"1"},{"a":"2","b":5}],"map":{"k":1},"pointer":{"a":"p"},"any":{"x":[1]}}`), &v)
	if err != nil {
		t.Fatal(err)
	}
	if v.Text != "a" || v.Shared != "s" || v.Choice != "x" || v.Whole != 3 || !v.On || v.Own.n != 4 || v.Nested.Deep != "d" ||
		!reflect.DeepEqual(v.Objects, []element{{"1", 2}, {"2", 5}}) || *v.Pointer != (element{"p", 2}) || string(v.Any) != `{"x":[1]}` {
		t.Errorf("got %+v", v)
	}
	v = everything{}
	if err := Decode(json.RawMessage(`{"on":false,"whole":0,"choice":""}`), &v); err != nil || v.On || v.Whole != 0 || v.Choice != "" || v.Pointer != nil || v.Objects != nil {
		t.Errorf("what is given must stay: got %+v, %v", v, err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for raw, want := range map[string]string{
		``:                         "reading JSON",
		`{"text":`:                 "reading JSON",
		`{} {}`:                    "text after the object",
		`null`:                     "expected object",
		`{"Text":"a"}`:             "found Text",
		`{"nested":{"x":1}}`:       `property "nested" validation failed`,
		`{"objects":[{},{"c":1}]}`: `property "objects[1]" validation failed`,
		`{"pointer":{"c":1}}`:      `property "pointer"`,
		`{"text":1}`:               "wrong type",
		`{"objects":{}}`:           "wrong type",
		`{"nested":1}`:             "wrong type",
		`{"whole":1.5}`:            "wrong type",
	} {
		var v everything
		if err := Decode(json.RawMessage(raw), &v); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", raw, err, want)
		}
	}
}

func TestAddProperty(t *testing.T) {
	got, err := AddProperty(json.RawMessage(`{"type":"object","properties":{"b":{},"a":{}},"oneOf":[]}`), "_meta", json.RawMessage(`{"type":"object"}`))
	if want := `{"type":"object","properties":{"b":{},"a":{},"_meta":{"type":"object"}},"oneOf":[]}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v", got, err)
	}
	got, err = AddProperty(json.RawMessage(`{}`), "p", json.RawMessage(`true`))
	if want := `{"properties":{"p":true}}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v", got, err)
	}
	for _, raw := range []string{`[]`, `{"properties":1}`, `{"properties":{"p":{}}}`} {
		if _, err := AddProperty(json.RawMessage(raw), "p", json.RawMessage(`{}`)); err == nil {
			t.Errorf("%s: accepted", raw)
		}
	}
}

func TestDifferences(t *testing.T) {
	got, err := Differences(json.RawMessage(`{"properties":{"a":{"type":"string"},"b":{},"d":{"x":1}}}`), json.RawMessage(`{"properties":{"a":{"type":"number"},"c":{},"d":{"x":1}}}`))
	if err != nil || len(got) != 3 || !strings.HasPrefix(got[0], "a: written") || got[1] != "b: not in the struct" || got[2] != "c: not in the written schema" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestAttributes(t *testing.T) {
	got, err := Attributes(json.RawMessage(everythingSchema))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| text | string | yes |  | `^a` | A text. |\n",
		"| whole | integer | no | `3` | 1 to 5 |  |\n",
		"| objects[].b | integer | no | `2` |  |  |\n",
		"| list | array of string | no |  |  |  |\n",
		"| nested.deep | string | no | `\"d\"` |  |  |\n",
		"| written | string or null | no |  |  | By hand. |\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"text":"a","objects":[{"a":"1"}],"nested":{},"pointer":null}`))
	f.Add([]byte(`{"map":{"k":{}},"own":"x"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var a, b everything
		if err := Decode(raw, &a); err != nil {
			return
		}
		if err := Decode(raw, &b); err != nil || !reflect.DeepEqual(a, b) {
			t.Errorf("%s: two readings differ", raw)
		}
	})
}
