package pages

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"gatehouse/oauth"
)

// frame is what every page has.
type frame struct {
	*language
	Title, Style, Icon string
	Challenge, CSRF    string // pages with a form
}

func (v *visit) frame(title string, args ...string) frame {
	return frame{language: v.text, Title: v.text.T(title, args...), Style: v.site.style.url, Icon: v.site.icon.url}
}

func (v *visit) form(title string, c *oauth.Challenge, args ...string) frame {
	f := v.frame(title, args...)
	f.Challenge, f.CSRF = c.ID, v.formToken(c.Kind, c.ID)
	return f
}

// render writes a page whole or, if its template breaks, a bare 500.
func (v *visit) render(status int, name string, data any) {
	var b bytes.Buffer
	if err := v.site.templates[name].Execute(&b, data); err != nil {
		v.site.Log.Error("template broke", "template", name, "request_id", v.id, "err", err)
		http.Error(v.w, "internal error", http.StatusInternalServerError)
		return
	}
	h := v.w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Language", v.text.Tag)
	h.Set("Vary", "Accept-Language")
	h.Set("Content-Length", strconv.Itoa(b.Len()))
	v.w.WriteHeader(status)
	v.w.Write(b.Bytes())
}

// readTemplates parses each page together with the layout around it.
func readTemplates(files fs.FS) (map[string]*template.Template, error) {
	out := map[string]*template.Template{}
	for _, name := range []string{"signin", "consent", "signout", "message"} {
		t, err := template.New("layout.html").Option("missingkey=error").ParseFS(files, "templates/layout.html", "templates/"+name+".html")
		if err != nil {
			return nil, fmt.Errorf("reading template %s: %w", name, err)
		}
		out[name] = t
	}
	return out, nil
}

// asset is a file that pages refer to by a name that changes with its content.
type asset struct {
	body           []byte
	kind, tag, url string
}

func readAsset(files fs.FS, name, kind string) (asset, error) {
	b, err := fs.ReadFile(files, name)
	if err != nil {
		return asset{}, err
	}
	sum := sha256.Sum256(b)
	tag := hex.EncodeToString(sum[:8])
	return asset{b, kind, tag, name + "?v=" + tag}, nil
}

func (a *asset) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", a.kind)
	h.Set("ETag", `"`+a.tag+`"`)
	h.Set("Cache-Control", "no-cache")
	if r.URL.Query().Get("v") == a.tag {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	if r.Header.Get("If-None-Match") == `"`+a.tag+`"` {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Length", strconv.Itoa(len(a.body)))
	w.Write(a.body)
}

// pageOf is the address of the page that asks a challenge, relative to these pages.
func pageOf(k oauth.ChallengeKind, challenge string) string {
	return string(k) + "?" + url.Values{string(k) + "_challenge": {challenge}}.Encode()
}

// appName is what an application calls itself, or its client ID.
func appName(c *oauth.Challenge) string {
	if c.Client == nil {
		return ""
	}
	if name := clean(c.Client.Name, 80); name != "" {
		return name
	}
	return clean(c.Client.ID, 80)
}

// initial is the first letter or digit, for where a logo would be.
func initial(name string) string {
	for _, r := range name {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return string(unicode.ToUpper(r))
		}
	}
	return "?"
}

func webOnly(s string) string {
	if webURL(s) {
		return s
	}
	return ""
}

// clean makes text of others fit to be shown in one line: no control
// characters, none that hide or reorder what follows, at most n bytes.
func clean(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError, unicode.Is(unicode.Cf, r):
			return -1
		case unicode.IsControl(r), unicode.IsSpace(r):
			return ' '
		}
		return r
	}, s)
	s = strings.TrimSpace(s)
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
