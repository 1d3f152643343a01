package gateway

import (
	"strings"
	"testing"
)

func TestTemplate(t *testing.T) {
	x := fullExchange()
	for in, want := range map[string]string{
		"":                           "",
		"plain":                      "plain",
		"$uri":                       "/a b",
		"${uri}":                     "/a b",
		"<$arg_x$arg_y>":             "<1a+b c>",
		"${ arg_x }":                 "1",
		"$arg_none":                  "",
		"${arg_none ?? 10}":          "10",
		"${arg_none??10}":            "10",
		"${arg_flag ?? 10}":          "",
		"${arg_none ??}":             "",
		"$arg_x-y":                   "1-y",
		`\$uri`:                      "$uri",
		`\\$uri`:                     `\$uri`,
		"$":                          "$",
		"100$ $":                     "100$ $",
		"${":                         "${",
		"${}":                        "${}",
		"${a b}":                     "${a b}",
		"${arg_x":                    "${arg_x",
		"$1st":                       "st",
		"{$arg_x}":                   "{1}",
		"$remote_addr $http_x_many!": "192.0.2.1 1, 2!",
	} {
		tpl, err := ParseTemplate(in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		if got := tpl.Expand(x); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestTemplateLimits(t *testing.T) {
	for _, s := range []string{strings.Repeat("x", maxTemplate+1), strings.Repeat("$a", maxParts+1)} {
		if _, err := ParseTemplate(s); err == nil {
			t.Errorf("%.10s… of %d bytes: accepted", s, len(s))
		}
	}
}

func TestTemplateEscapesValuesOnly(t *testing.T) {
	tpl, _ := ParseTemplate("&$a&${b ?? &}")
	got := tpl.Append(nil, func(n string) (string, bool) { return "&", n == "a" }, func(dst []byte, v string) []byte { return append(dst, "amp"...) })
	if string(got) != "&amp&&" {
		t.Errorf("got %q", got)
	}
}

func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"$a", "${a ?? b}", `\${`, "$$1", "${"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tpl, err := ParseTemplate(s)
		if err != nil {
			return
		}
		none := func(string) (string, bool) { return "", false }
		if got := tpl.Append(nil, none, nil); len(got) > len(s) {
			t.Errorf("%q grew to %q without a value", s, got)
		}
		if !strings.ContainsAny(s, "$") {
			if p, plain := tpl.Plain(); !plain || p != s {
				t.Errorf("%q: got %q", s, p)
			}
		}
	})
}
