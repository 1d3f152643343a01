package oauth

import (
	"net/http/httptest"
	"strings"
	"testing"
)

func TestParseForm(t *testing.T) {
	const form = "application/x-www-form-urlencoded"
	for _, c := range []struct {
		name, kind, body, want string
		ok                     bool
	}{
		{"plain", form, "a=1&b=2", "a=1&b=2", true},
		{"charset", form + ";charset=utf-8", "a=1", "a=1", true},
		{"empty ones", form, "a=&b=2", "b=2", true},
		{"repeated", form, "a=1&a=1", "", false},
		{"repeated, one empty", form, "a=1&a=", "", false},
		{"repeatable", form, "audience=x&audience=y", "audience=x&audience=y", true},
		{"JSON", "application/json", `{"a":1}`, "", false},
		{"no type", "", "a=1", "", false},
		{"broken escape", form, "a=%zz", "", false},
		{"semicolon", form, "a=1;b=2", "", false},
		{"too many", form, strings.Repeat("a=&", maxParameters+1), "", false},
		{"too large", form, "a=" + strings.Repeat("x", MaxForm), "", false},
	} {
		r := httptest.NewRequest("POST", "/?b=query", strings.NewReader(c.body))
		r.Header.Set("Content-Type", c.kind)
		got, err := ParseForm(httptest.NewRecorder(), r, "audience")
		if (err == nil) != c.ok || (c.ok && got.Encode() != c.want) {
			t.Errorf("%s: %q, %v", c.name, got.Encode(), err)
		}
		if err != nil && AsError(err).Code != "invalid_request" {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
