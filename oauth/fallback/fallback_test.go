package fallback

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"errors"

	"gatehouse/oauth"
)

func pages(t *testing.T) *Pages {
	t.Helper()
	p, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPagesEscapeAndAreNotStored(t *testing.T) {
	p := pages(t)
	const evil = `"><script>alert(1)</script>`
	for name, show := range map[string]func(http.ResponseWriter){
		"error":     func(w http.ResponseWriter) { p.Error(w, 400, evil, evil) },
		"confirm":   func(w http.ResponseWriter) { p.Confirm(w, "/oauth2/sessions/logout", evil, evil, evil) },
		"signedout": func(w http.ResponseWriter) { p.SignedOut(w) },
		"stillin":   func(w http.ResponseWriter) { p.StillIn(w) },
		"missing":   func(w http.ResponseWriter) { p.Missing(w, evil) },
		"formpost": func(w http.ResponseWriter) {
			p.Post(w, "https://a.example/cb", map[string]string{"code": evil, evil: "x"})
		},
	} {
		w := httptest.NewRecorder()
		show(w)
		body, h := w.Body.String(), w.Header()
		if strings.Contains(body, "<script>alert") || !strings.Contains(body, `<html lang="en">`) || !strings.Contains(body, "<h1>") || !strings.Contains(body, "name=\"viewport\"") {
			t.Errorf("%s: %s", name, body)
		}
		if h.Get("Cache-Control") != "no-store" || h.Get("Referrer-Policy") != "no-referrer" || !strings.Contains(h.Get("Content-Security-Policy"), "frame-ancestors 'none'") {
			t.Errorf("%s: %v", name, h)
		}
	}
}

func TestFormPostGoesWhereItIsTold(t *testing.T) {
	w := httptest.NewRecorder()
	pages(t).Post(w, "myapp:/cb", map[string]string{"code": "c"})
	body := w.Body.String()
	if !strings.Contains(body, `action="myapp:/cb"`) {
		t.Errorf("form_post cannot reach an application's own scheme: %s", body)
	}
	// What the policy allows is what the page contains.
	for _, tag := range []string{"style", "script"} {
		_, rest, _ := strings.Cut(body, "<"+tag+">")
		inner, _, ok := strings.Cut(rest, "</"+tag+">")
		if !ok || !strings.Contains(w.Header().Get("Content-Security-Policy"), tag+"-src '"+hash(inner)+"'") {
			t.Errorf("%s is not what the policy allows: %q", tag, inner)
		}
	}
}

func TestErrorPageAddress(t *testing.T) {
	srv := httptest.NewServer(pages(t).Handler())
	defer srv.Close()
	res, err := http.Get(srv.URL + "/oauth2/fallbacks/error?error=invalid_request&error_description=" + strings.Repeat("x", 5000))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	if res.StatusCode != 500 || !strings.Contains(string(body), "invalid_request") || len(body) > 6000 {
		t.Errorf("%s, %d bytes", res.Status, len(body))
	}
}

func TestRedirectTellsNoSecrets(t *testing.T) {
	set := &oauth.Settings{Issuer: "http://op/", Log: slog.New(slog.DiscardHandler)}
	for _, c := range []struct {
		err  error
		code string
	}{
		{errors.New("password of the database is x"), "server_error"},
		{oauth.ErrInvalidRequest.Because(errors.New("password of the database is x")), "invalid_request"},
	} {
		w := httptest.NewRecorder()
		Redirect(w, httptest.NewRequest("GET", "/", nil), set, c.err)
		to, err := url.Parse(w.Header().Get("Location"))
		if err != nil || to.Query().Get("error") != c.code || strings.Contains(to.String(), "password") || !strings.HasPrefix(to.String(), "http://op/oauth2/fallbacks/error?") {
			t.Errorf("%v: %s", c.err, to)
		}
	}
}

func TestCut(t *testing.T) {
	if got := cut("a\u202eb\nc\x00d", 100); got != "abcd" {
		t.Errorf("%q", got)
	}
	if got := cut(strings.Repeat("ä", 10), 5); got != "ää…" {
		t.Errorf("%q", got)
	}
}
