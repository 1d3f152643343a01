package gateway

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"gatehouse/lib/fault"
	"gatehouse/lib/schema"
)

type sampleConfig struct {
	Name  string `json:"name" required:"true" min:"1"`
	Size  int    `json:"size" default:"7" min:"1"`
	Inner struct {
		On bool `json:"on" default:"true"`
	} `json:"inner"`
}

func (c *sampleConfig) Validate() error {
	if c.Name == "bad" {
		return errors.New("bad is bad")
	}
	return nil
}

type sampleMetadata struct {
	Level string `json:"level" default:"low" enum:"low|high"`
}

type sampleInstance struct{ sampleConfig }

func (*sampleInstance) Log(*Exchange) {}

func sample() Plugin {
	return Define("sample", 1, func(c sampleConfig, _ *Env) (any, error) { return &sampleInstance{c}, nil },
		WithVersion(0.3), WithMetadata[sampleMetadata](), PreferRoute(),
		Authenticates(func(c sampleConfig) (string, error) { return c.Name, nil }))
}

func TestDefine(t *testing.T) {
	p := sample()
	if p.Version != 0.3 || !p.PreferRoute || !p.Auth {
		t.Errorf("got %+v", p)
	}
	v, err := p.New(json.RawMessage(`{"name":"n","_meta":{"priority":9}}`), &Env{})
	if err != nil {
		t.Fatal(err)
	}
	if c := v.(*sampleInstance).sampleConfig; c.Name != "n" || c.Size != 7 || !c.Inner.On {
		t.Errorf("got %+v", c)
	}
	for conf, want := range map[string]string{
		`{"name":"bad"}`:                    "bad is bad",
		`{"name":"n","nmae":1}`:             "additional properties forbidden, found nmae",
		`{"Name":"n"}`:                      "found Name",
		`{"name":"n","inner":{"off":true}}`: `property "inner" validation failed`,
		`{"name":1}`:                        "wrong type",
		`[]`:                                "expected object",
		`{"name":"n"} {}`:                   "expected object",
	} {
		err := p.Check(json.RawMessage(conf))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", conf, err, want)
		}
		if fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: the error is no fault.Invalid", conf)
		}
	}
	if k, err := p.ConsumerKey(json.RawMessage(`{"name":"n"}`)); err != nil || k != "n" {
		t.Errorf("ConsumerKey: got %q, %v", k, err)
	}
}

func TestDefineSchemaAllowsMeta(t *testing.T) {
	s, err := schema.Compile(sample().Schema())
	if err != nil {
		t.Fatal(err)
	}
	for conf, good := range map[string]bool{
		`{"name":"n","_meta":{"disable":true,"priority":1,"filter":[["uri","==","/"]],"error_response":{"a":1}}}`: true,
		`{"name":"n","_meta":{"error_response":"no"}}`:                                                            true,
		`{"name":"n","_meta":{"pre_function":"return 1"}}`:                                                        false,
		`{"name":"n","_meta":1}`: false,
		`{"name":"n","x":1}`:     false,
		`{}`:                     false,
	} {
		if err := s.ValidateJSON([]byte(conf)); (err == nil) != good {
			t.Errorf("%s: got %v", conf, err)
		}
	}
}

func TestMetadata(t *testing.T) {
	env := &Env{}
	if m, err := Metadata[sampleMetadata](env, "sample"); err != nil || m.Level != "low" {
		t.Errorf("none: got %+v, %v", m, err)
	}
	env.Metadata = func(string) json.RawMessage { return json.RawMessage(`{"id":"sample","level":"high"}`) }
	if m, err := Metadata[sampleMetadata](env, "sample"); err != nil || m.Level != "high" {
		t.Errorf("got %+v, %v", m, err)
	}
}

func TestDefinePanicsOnBadTags(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a broken tag did not panic")
		}
	}()
	type broken struct {
		A bool `json:"a" min:"1"`
	}
	Define("broken", 1, func(broken, *Env) (any, error) { return nil, nil })
}
