package e2e

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// TestDemo opens what the demo prints, signs in as it says, and signs out.
func TestDemo(t *testing.T) {
	data := t.TempDir()
	demo := start(t, nil, "gatehouse", "demo", "--data", data)
	said := map[string]string{}
	for line := range demo.line {
		name, value, _ := strings.Cut(line, " ")
		said[name] = value
		if line == "ready" {
			break
		}
	}
	for _, name := range []string{"gateway", "provider", "login", "admin", "open", "user", "password", "ready"} {
		if _, ok := said[name]; !ok {
			t.Fatalf("the demo did not say %q:\n%s", name, demo.output())
		}
	}
	// Without signing in there is no page, and a forged identity does not help.
	req, _ := http.NewRequestWithContext(t.Context(), "GET", said["open"], nil)
	req.Header.Set("X-Userinfo", "eyJzdWIiOiJldmlsIn0=")
	req.Header.Set("Cookie", "session=forged")
	res, err := (&http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, res.Body)
	res.Body.Close()
	if res.StatusCode != http.StatusFound || !strings.HasPrefix(res.Header.Get("Location"), said["provider"]) {
		t.Errorf("without a session: %d to %s", res.StatusCode, res.Header.Get("Location"))
	}

	tab := browser(t, "")
	do(t, tab, "opening", chromedp.Navigate(said["open"]))
	signIn(t, tab, said["user"], said["password"])
	bodyHas(t, tab, "the sample page", "You are in")
	bodyHas(t, tab, "who signed in", said["user"])
	do(t, tab, "picture", picture("page"))
	do(t, tab, "reloading", chromedp.Reload())
	bodyHas(t, tab, "the sample page again", "You are in")
	do(t, tab, "signing out", chromedp.Click(chromedp.CSS("#logout")), chromedp.WaitVisible(chromedp.CSS("#accept")), picture("logout"), chromedp.Click(chromedp.CSS("#accept")))
	do(t, tab, "back at the page, which asks to sign in", chromedp.WaitVisible(chromedp.CSS("#email")))
	do(t, tab, "opening again", chromedp.Navigate(said["open"]), chromedp.WaitVisible(chromedp.CSS("#email")))

	if fi, err := os.Stat(filepath.Join(data, "admin.key")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("admin.key: %v, %v", fi, err)
	}
	if strings.Contains(demo.output(), readFile(t, filepath.Join(data, "session.secret"))) {
		t.Error("the session secret was printed")
	}
}
