package strict

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

type port struct{ N int }

func (p *port) FromScalar(s string) error {
	_, err := fmt.Sscanf(s, "%d", &p.N)
	return err
}

type conf struct {
	Name  string        `yaml:"name" default:"x"`
	Wait  time.Duration `yaml:"wait" default:"30m"`
	Level string        `yaml:"level" enum:"info|debug" default:"info"`
	Inner struct {
		Port  int      `yaml:"port" min:"1" max:"65535" default:"80"`
		Names []string `yaml:"names"`
		Ports []port   `yaml:"ports"`
	} `yaml:"inner"`
}

func TestDecode(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"empty", "", ""},
		{"good", "name: a\nwait: 5s\ninner: {port: 8080, names: [a, b], ports: [1, 2]}", ""},
		{"single value for a list", "inner: {names: a}", ""},
		{"typo", "inner:\n  prot: 1", `f:2: inner.prot: unknown key; did you mean "inner.port"?`},
		{"unknown", "zzzzzzzz: 1", "f:1: zzzzzzzz: unknown key; known here: name, wait, level, inner"},
		{"twice", "name: a\nname: b", "the key is given twice"},
		{"type", "inner: {port: x}", `expected a number, got "x"`},
		{"range", "inner: {port: 70000}", "must be at most 65535"},
		{"enum", "level: loud", "expected one of info, debug"},
		{"duration", "wait: soon", "expected a duration"},
		{"mapping", "inner: 5", "expected a mapping"},
		{"syntax", "a: [", "f: "},
		{"alias", "name: &x a\nlevel: *x", "aliases are not supported"},
	} {
		var v conf
		Defaults(&v)
		got := Decode("f", []byte(c.in), &v).Error()
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestEverythingWrongAtOnce(t *testing.T) {
	var v conf
	if ps := Decode("f", []byte("naem: a\nlevel: loud\ninner: {port: 0}"), &v); len(ps) != 3 {
		t.Errorf("got %d problems, want 3: %v", len(ps), ps)
	}
}

func TestOverride(t *testing.T) {
	var v conf
	Defaults(&v)
	env := map[string]string{"inner.port": "81", "inner.names": "a, b", "level": "loud"}
	ps := Override(&v, func(k string) (string, string, bool) { s, ok := env[k]; return s, "$X", ok })
	if v.Inner.Port != 81 || len(v.Inner.Names) != 2 || v.Wait != 30*time.Minute {
		t.Errorf("got %+v", v)
	}
	if len(ps) != 1 || !strings.Contains(ps.Error(), "$X: level") {
		t.Errorf("problems: %v", ps)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("name: a\ninner: {ports: [1]}")
	f.Fuzz(func(t *testing.T, in string) {
		var v conf
		Decode("f", []byte(in), &v)
	})
}
