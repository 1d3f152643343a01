package pages

import (
	"regexp"
	"strings"
	"testing"
)

func TestLanguages(t *testing.T) {
	ls, err := readLanguages(files)
	if err != nil {
		t.Fatal(err)
	}
	for tag, l := range ls {
		for key, text := range l.words {
			if ls["en"].words[key] == "" {
				t.Errorf("%s has %q, English has not", tag, key)
			}
			if strings.Contains(text, "{0}") != strings.Contains(ls["en"].words[key], "{0}") {
				t.Errorf("%s: %q differs in placeholders", tag, key)
			}
		}
	}
	for _, c := range []struct {
		asked        []string
		accept, want string
	}{
		{nil, "", "en"},
		{nil, "de-AT,de;q=0.9,en;q=0.8", "de"},
		{nil, "fr,en;q=0.5,de;q=0.8", "de"},
		{nil, "de;q=0,en", "en"},
		{nil, "fr, *;q=0.1", "en"},
		{nil, "de;q=nonsense", "en"},
		{[]string{"fr", "DE-ch"}, "en", "de"},
		{[]string{"xx"}, "de", "de"},
	} {
		if got := ls.pick(c.asked, c.accept).Tag; got != c.want {
			t.Errorf("%v and %q: %s, want %s", c.asked, c.accept, got, c.want)
		}
	}
}

// TestEveryTextExists finds keys in templates and code that no message has.
func TestEveryTextExists(t *testing.T) {
	ls, err := readLanguages(files)
	if err != nil {
		t.Fatal(err)
	}
	names, err := files.ReadDir("templates")
	if err != nil {
		t.Fatal(err)
	}
	key := regexp.MustCompile(`\.T "([^"]+)"`)
	for _, n := range names {
		b, err := files.ReadFile("templates/" + n.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range key.FindAllStringSubmatch(string(b), -1) {
			if ls["en"].words[m[1]] == "" {
				t.Errorf("%s uses %q", n.Name(), m[1])
			}
		}
	}
	for _, k := range []string{"missing", "expired", "spent", "invalid", "toolarge", "forged", "unavailable", "internal", "nopage"} {
		if ls["en"].T("problem."+k+".title") == "" || ls["en"].T("problem."+k+".lead") == "" {
			t.Errorf("problem.%s has no text", k)
		}
	}
	b, _, _ := setup(t)
	for _, code := range []string{"", "access_denied", "invalid_request", "invalid_client", "login_required", "server_error", "temporarily_unavailable", "invalid_state", "x"} {
		if r := b.get("/error?error=" + code); strings.Contains(r.body, `role="alert"></p>`) {
			t.Errorf("%q has no text", code)
		}
	}
}

func FuzzAcceptLanguage(f *testing.F) {
	f.Add("de-AT,de;q=0.9,*;q=0")
	f.Add(",;q=,")
	f.Fuzz(func(t *testing.T, s string) {
		if n := len(acceptable(s)); n > 20 {
			t.Errorf("%d tags", n)
		}
	})
}
