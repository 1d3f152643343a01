package pages

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"gatehouse/oauth"
)

// house is the login application with a provider and an application around
// it, each on an origin of its own, as a browser meets them.
type house struct {
	*desk
	login, provider, app *httptest.Server
}

func openHouse(t *testing.T) *house {
	t.Helper()
	h := &house{desk: &desk{challenges: challenges()}}
	h.app = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, `<h1 id="app">Photos of `+strings.TrimPrefix(r.URL.Path, "/")+`</h1>`)
	}))
	t.Cleanup(h.app.Close)
	// After the sign-in the provider asks for consent, then it goes to the
	// application by one more redirect.
	h.provider = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		answers := len(h.accepted)
		h.mu.Unlock()
		to := h.app.URL + "/denied"
		switch {
		case r.URL.RawQuery == "rejected":
		case answers == 1:
			to = h.login.URL + "/consent?consent_challenge=ask"
		default:
			to = h.app.URL + "/ann"
		}
		http.Redirect(w, r, to, http.StatusFound)
	}))
	t.Cleanup(h.provider.Close)
	h.to = strings.Replace(h.provider.URL, "127.0.0.1", "localhost", 1) + "/next"
	pages, err := New(Config{Desk: h.desk, Users: &people{}, Secret: []byte(secret)})
	if err != nil {
		t.Fatal(err)
	}
	h.login = httptest.NewServer(pages)
	t.Cleanup(h.login.Close)
	return h
}

// chromium starts a browser of its own, or skips the test when there is none.
func chromium(t *testing.T) context.Context {
	t.Helper()
	if testing.Short() {
		t.Skip("no browser in short mode")
	}
	path := os.Getenv("GATEHOUSE_CHROMIUM")
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); path == "" && err == nil {
			path = p
		}
	}
	if path == "" {
		t.Skip("no Chromium found; GATEHOUSE_CHROMIUM names one")
	}
	opts := []chromedp.ExecAllocatorOption{chromedp.ExecPath(path)}
	for _, flag := range []string{"headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
		"disable-component-update", "disable-sync", "disable-dev-shm-usage", "no-default-browser-check"} {
		opts = append(opts, chromedp.Flag(flag, true))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, opts...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	return ctx
}

func run(t *testing.T, ctx context.Context, what string, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(ctx, steps...); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func value[T any](t *testing.T, ctx context.Context, a chromedp.Action[T]) T {
	t.Helper()
	v, err := chromedp.Run(ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// focused is the ID of the element that has the focus.
func focused(t *testing.T, ctx context.Context) string {
	t.Helper()
	return value(t, ctx, chromedp.Evaluate[string](`document.activeElement.id`))
}

func press(t *testing.T, ctx context.Context, keys string) {
	t.Helper()
	run(t, ctx, "pressing a key", chromedp.KeyEvent(keys))
}

// look sets the size of the window and the colour scheme.
func look(t *testing.T, ctx context.Context, width int64, scheme string) {
	t.Helper()
	_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
	if err != nil {
		t.Fatal(err)
	}
	if width < 500 {
		run(t, ctx, "telephone", chromedp.EmulateViewport(width, 800, chromedp.EmulateMobile))
		return
	}
	run(t, ctx, "window", chromedp.EmulateViewport(width, 800))
}

// TestKeyboardOnly signs in and consents without a mouse, through redirects
// across three origins after each form.
func TestKeyboardOnly(t *testing.T) {
	ctx, h := chromium(t), openHouse(t)

	run(t, ctx, "sign-in page", chromedp.Navigate(h.login.URL+"/login?login_challenge=in"), chromedp.WaitVisible(chromedp.ID("submit")))
	if got := focused(t, ctx); got != "email" {
		t.Errorf("focus begins at %q", got)
	}
	press(t, ctx, "ann@example.com")
	press(t, ctx, kb.Tab)
	press(t, ctx, "wrong horse")
	press(t, ctx, kb.Enter)
	run(t, ctx, "error", chromedp.WaitVisible(chromedp.ID("error")))
	if got := focused(t, ctx); got != "password" {
		t.Errorf("after a wrong password the focus is at %q", got)
	}
	press(t, ctx, "correct horse")
	for _, want := range []string{"remember", "submit"} {
		press(t, ctx, kb.Tab)
		if got := focused(t, ctx); got != want {
			t.Errorf("focus is at %q, want %q", got, want)
		}
		if want == "remember" {
			press(t, ctx, " ")
		}
	}
	press(t, ctx, kb.Enter)

	run(t, ctx, "consent page", chromedp.WaitVisible(chromedp.ID("accept")))
	for range 30 {
		if focused(t, ctx) == "scope-4" {
			press(t, ctx, " ") // not the photos
		}
		if focused(t, ctx) == "accept" {
			break
		}
		press(t, ctx, kb.Tab)
	}
	press(t, ctx, kb.Enter)
	run(t, ctx, "application", chromedp.WaitVisible(chromedp.ID("app")))
	if text := value(t, ctx, chromedp.Text(chromedp.ID("app"))); text != "Photos of ann" {
		t.Errorf("the application shows %q", text)
	}

	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.accepted) != 2 || !h.accepted[0].Remember || h.accepted[0].Subject != "u1" {
		t.Fatalf("accepted %+v", h.accepted)
	}
	if got := strings.Join(h.accepted[1].Scopes, " "); got != "openid email profile offline_access" {
		t.Errorf("granted %q", got)
	}
}

func TestDenyAndSignOutInBrowser(t *testing.T) {
	ctx, h := chromium(t), openHouse(t)
	run(t, ctx, "deny", chromedp.Navigate(h.login.URL+"/consent?consent_challenge=ask"), chromedp.Click(chromedp.ID("reject")),
		chromedp.WaitVisible(chromedp.ID("app")))
	if text := value(t, ctx, chromedp.Text(chromedp.ID("app"))); text != "Photos of denied" {
		t.Errorf("the application shows %q", text)
	}
	run(t, ctx, "cancel", chromedp.Navigate(h.login.URL+"/login?login_challenge=in"), chromedp.Click(chromedp.ID("cancel")),
		chromedp.WaitVisible(chromedp.ID("app")))
	run(t, ctx, "stay", chromedp.Navigate(h.login.URL+"/logout?logout_challenge=out"), chromedp.Click(chromedp.ID("reject")),
		chromedp.WaitNotPresent(chromedp.ID("accept")))
	if text := value(t, ctx, chromedp.Text(chromedp.CSS("h1"))); text != "You are still signed in" {
		t.Errorf("page says %q", text)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.accepted) != 0 || len(h.rejected) != 3 {
		t.Errorf("accepted %d, rejected %d", len(h.accepted), len(h.rejected))
	}
}

// TestLooks checks what can be measured: nothing sticks out at 320 pixels, the
// style sheet passes the page's own policy, in light and in dark. With
// GATEHOUSE_SHOTS=dir it leaves pictures there.
func TestLooks(t *testing.T) {
	ctx, h := chromium(t), openHouse(t)
	h.challenges["wide"] = &oauth.Challenge{Kind: oauth.AskConsent, Subject: "u1",
		Client:          &oauth.Client{Name: strings.Repeat("Donaudampfschiff", 4)},
		RequestedScopes: []string{"https://api.example/" + strings.Repeat("verylong", 12)},
		RequestURL:      "https://id.example/?client_id=x&redirect_uri=https://" + strings.Repeat("sub.", 20) + "example/"}
	for _, page := range [][2]string{
		{"signin", "/login?login_challenge=in"},
		{"consent", "/consent?consent_challenge=ask"},
		{"wide", "/consent?consent_challenge=wide"},
		{"signout", "/logout?logout_challenge=out"},
		{"error", "/error?error=invalid_request&error_description=The+redirect+URI+is+not+registered+" + strings.Repeat("x", 100)},
		{"expired", "/login?login_challenge=gone"},
		{"home", "/"},
	} {
		name, target := page[0], page[1]
		for _, l := range []struct {
			name   string
			width  int64
			scheme string
		}{{"light", 1100, "light"}, {"dark", 1100, "dark"}, {"narrow", 360, "light"}, {"smallest", 320, "dark"}} {
			look(t, ctx, l.width, l.scheme)
			run(t, ctx, name, chromedp.Navigate(h.login.URL+target), chromedp.WaitVisible(chromedp.CSS("h1")))
			if wide := value(t, ctx, chromedp.Evaluate[int64](`document.documentElement.scrollWidth`)); wide > l.width {
				t.Errorf("%s at %d pixels is %d wide", name, l.width, wide)
			}
			if got := value(t, ctx, chromedp.Evaluate[string](`getComputedStyle(document.querySelector(".card")).borderRadius`)); got != "16px" {
				t.Errorf("%s: no style sheet (corners of %q)", name, got)
			}
			shoot(t, ctx, name+"-"+l.name)
		}
	}
	look(t, ctx, 1100, "light")
	run(t, ctx, "wrong password", chromedp.Navigate(h.login.URL+"/login?login_challenge=in"), chromedp.SendKeys(chromedp.ID("email"), "ann@example.com"),
		chromedp.SendKeys(chromedp.ID("password"), "x"), chromedp.Click(chromedp.ID("submit")), chromedp.WaitVisible(chromedp.ID("error")))
	shoot(t, ctx, "wrong-light")
}

// shoot leaves a picture in the directory GATEHOUSE_SHOTS, if set.
func shoot(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	dir := os.Getenv("GATEHOUSE_SHOTS")
	if dir == "" {
		return
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), value(t, ctx, chromedp.FullScreenshot(100)), 0o644); err != nil {
		t.Error(err)
	}
}

// TestContrast holds both palettes against WCAG 2.2: 4.5 for text (1.4.3), 3
// for the edges of controls (1.4.11).
func TestContrast(t *testing.T) {
	css, err := files.ReadFile("style.css")
	if err != nil {
		t.Fatal(err)
	}
	light, rest, _ := strings.Cut(string(css), "@media (prefers-color-scheme: dark)")
	dark, _, _ := strings.Cut(rest, "\n}\n")
	for name, block := range map[string]string{"light": light, "dark": dark} {
		colour := map[string]string{}
		for _, m := range regexp.MustCompile(`--([a-z-]+): (#[0-9a-f]{6});`).FindAllStringSubmatch(block, -1) {
			colour[m[1]] = m[2]
		}
		for _, c := range []struct {
			front, back string
			least       float64
		}{
			{"text", "card", 4.5}, {"text", "ground", 4.5}, {"text", "glow", 4.5}, {"text", "tint", 4.5},
			{"muted", "card", 4.5}, {"muted", "ground", 4.5}, {"muted", "tint", 4.5},
			{"accent", "card", 4.5}, {"accent-strong", "card", 4.5}, {"accent", "tint", 4.5}, {"accent", "glow", 3},
			{"on-accent", "accent", 4.5}, {"on-accent", "accent-strong", 4.5},
			{"alert", "alert-ground", 4.5}, {"edge", "card", 3},
		} {
			if got := contrast(t, colour[c.front], colour[c.back]); got < c.least {
				t.Errorf("%s: %s on %s is %.2f, want %.1f", name, c.front, c.back, got, c.least)
			}
		}
	}
}

func contrast(t *testing.T, a, b string) float64 {
	t.Helper()
	luminance := func(hex string) float64 {
		var sum float64
		for i, weight := range []float64{.2126, .7152, .0722} {
			if len(hex) != 7 {
				t.Fatalf("colour %q", hex)
			}
			n, err := strconv.ParseUint(hex[1+2*i:3+2*i], 16, 8)
			if err != nil {
				t.Fatal(err)
			}
			c := float64(n) / 255
			if c <= .04045 {
				c /= 12.92
			} else {
				c = math.Pow((c+.055)/1.055, 2.4)
			}
			sum += weight * c
		}
		return sum
	}
	x, y := luminance(a), luminance(b)
	return (max(x, y) + .05) / (min(x, y) + .05)
}
