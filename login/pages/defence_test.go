package pages

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
)

type slow struct{}

func (slow) Error() string             { return "slow down" }
func (slow) RetryAfter() time.Duration { return 29500 * time.Millisecond }

func TestRefusedSignIn(t *testing.T) {
	for _, c := range []struct {
		name   string
		err    error
		status int
		after  string
		text   string
	}{
		{"too many failures", fault.Wrap(fault.Unavailable, "no", slow{}), 429, "30", "wait 30 seconds"},
		{"too many checks", fault.New(fault.Unavailable, "full"), 503, "5", "Many people"},
		{"store down", errors.New("secret disk"), 500, "", "not your fault"},
	} {
		b, _, p := setup(t)
		form := b.fill("login", "in", right)
		p.err = c.err
		r := b.do("POST", "/login", form.Encode())
		r.has(t, c.status, c.text)
		if got := r.header.Get("Retry-After"); got != c.after {
			t.Errorf("%s: Retry-After %q, want %q", c.name, got, c.after)
		}
		if strings.Contains(r.body, "secret disk") {
			t.Errorf("%s: the cause is shown", c.name)
		}
	}
}

func TestForgedForms(t *testing.T) {
	type attack struct {
		name   string
		header http.Header
		change func(b *browser, d *desk, form url.Values)
	}
	site := func(s string) http.Header { return http.Header{"Sec-Fetch-Site": {s}} }
	for _, a := range []attack{
		{"no cookie", site("same-origin"), func(b *browser, _ *desk, _ url.Values) { b.cookies = nil }},
		{"no token", site("same-origin"), func(_ *browser, _ *desk, f url.Values) { f.Del("_csrf") }},
		{"token cut to nothing useful", site("same-origin"), func(_ *browser, _ *desk, f url.Values) { f.Set("_csrf", f.Get("_csrf")[:20]) }},
		{"token of another challenge", site("same-origin"), func(_ *browser, _ *desk, f url.Values) { f.Set("challenge", "in2") }},
		{"token of another page", site("same-origin"), func(b *browser, d *desk, f url.Values) {
			in := d.challenges["in"]
			d.challenges["in"] = d.challenges["ask"]
			f.Set("_csrf", b.fill("consent", "in", nil).Get("_csrf"))
			d.challenges["in"] = in
		}},
		{"cookie and token of another browser mixed", site("same-origin"), func(b *browser, _ *desk, _ url.Values) {
			b.cookies = map[string]string{}
			b.get("/login?login_challenge=in")
		}},
		{"planted cookie that we did not make", site("same-origin"), func(b *browser, _ *desk, _ url.Values) {
			b.cookies["__Host-gatehouse_form"] = "AAAAAAAAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAA"
		}},
		{"cross-site", site("cross-site"), nil},
		{"same-site neighbour", site("same-site"), nil},
		{"old browser, another origin", http.Header{"Origin": {"https://evil.example"}}, nil},
		{"opaque origin", http.Header{"Origin": {"null"}}, nil},
	} {
		b, d, p := setup(t)
		form := b.fill("login", "in", right)
		if a.change != nil {
			a.change(b, d, form)
		}
		b.header = a.header
		r := b.do("POST", "/login", form.Encode())
		if r.status != 403 || len(d.accepted) != 0 || len(p.from) != 0 {
			t.Errorf("%s: status %d, accepted %d, passwords checked %d", a.name, r.status, len(d.accepted), len(p.from))
		}
	}

	// The same form passes when nothing is wrong, in two tabs at a time.
	b, d, _ := setup(t)
	one, two := b.fill("login", "in", right), b.fill("login", "in2", right)
	b.do("POST", "/login", two.Encode()).leads(t, "https://id.example/next")
	b.header = http.Header{"Origin": {"https://login.example"}}
	b.do("POST", "/login", one.Encode()).leads(t, "https://id.example/next")
	if len(d.accepted) != 2 {
		t.Errorf("accepted %d", len(d.accepted))
	}
}

func TestNothingIsInjected(t *testing.T) {
	b, _, _ := setup(t)
	const x = "%3Cscript%3Ealert(1)%3C/script%3E"
	for _, r := range []reply{
		b.get("/consent?consent_challenge=evil"),
		b.get("/error?error=" + x + "&error_description=%22%3E" + x + "&error_hint=%3Cimg+src%3Dx%3E"),
		b.get("/login?login_challenge=" + x),
		b.submit("login", "in", url.Values{"email": {`"><script>alert(1)</script>`}, "password": {"x"}}),
		b.do("POST", "/login", "challenge=%22%3E"+x+"&_csrf=x"),
		b.get("/" + x),
	} {
		for _, bad := range []string{"<script", "<img", "javascript:", "\u202e", `"onmouseover="`} {
			if strings.Contains(r.body, bad) {
				t.Errorf("page has %q:\n%s", bad, r.body)
			}
		}
	}
	long := b.get("/error?error=x&error_description=" + strings.Repeat("call+0900-PAY+", 500))
	if len(long.body) > 6000 {
		t.Errorf("error page has %d bytes", len(long.body))
	}
}

func TestChallengeErrors(t *testing.T) {
	for _, c := range []struct {
		name   string
		err    error
		status int
		link   string
	}{
		{"unknown", fault.New(fault.NotFound, ""), 404, ""},
		{"used", &oauth.SpentError{RedirectTo: begin}, 410, "client_id=c1"},
		{"used, bad link", &oauth.SpentError{RedirectTo: "javascript:alert(1)"}, 410, ""},
		{"provider away", fault.New(fault.Unavailable, ""), 503, ""},
		{"provider refuses", fault.New(fault.Invalid, ""), 400, ""},
		{"broken", errors.New("secret cause"), 500, ""},
	} {
		for _, target := range []string{"/login?login_challenge=x", "/consent?consent_challenge=x", "/logout?logout_challenge=x"} {
			b, d, _ := setup(t)
			d.openErr = c.err
			r := b.get(target)
			r.has(t, c.status)
			if got := strings.Contains(r.body, `id="restart"`); got != (c.link != "") || !strings.Contains(r.body, c.link) {
				t.Errorf("%s: link to start again: %v\n%s", c.name, got, r.body)
			}
			if strings.Contains(r.body, "secret cause") || (c.status == 503) != (r.header.Get("Retry-After") != "") {
				t.Errorf("%s: %v %s", c.name, r.header, r.body)
			}
		}
		// The challenge ends between the page and its answer.
		b, d, _ := setup(t)
		form := b.fill("login", "in", right)
		d.err = c.err
		b.do("POST", "/login", form.Encode()).has(t, c.status)
	}
	b, d, _ := setup(t)
	b.get("/login").has(t, 400)
	b.get("/login?login_challenge="+strings.Repeat("x", maxChallenge+1)).has(t, 404)
	b.get("/nowhere").has(t, 404)
	form := b.fill("login", "in", right)
	d.to = "javascript:alert(1)"
	if r := b.do("POST", "/login", form.Encode()); r.status != 500 || r.header.Get("Location") != "" {
		t.Errorf("redirect to %q", r.header.Get("Location"))
	}
}

func TestFormLimits(t *testing.T) {
	b, d, p := setup(t)
	form := b.fill("login", "in", right)
	form.Set("more", strings.Repeat("x", maxForm))
	b.do("POST", "/login", form.Encode()).has(t, 413)
	b.do("POST", "/login", "a=%zz").has(t, 400)
	b.do("POST", "/login", "email=a&email=b").has(t, 400)
	b.header.Set("Content-Type", "application/json")
	b.do("POST", "/login", "{}").has(t, 415)
	b.header.Del("Content-Type")
	b.do("PUT", "/login", "").has(t, 405)
	if len(d.accepted) != 0 || len(p.from) != 0 {
		t.Error("something was done")
	}
}

func TestHeaders(t *testing.T) {
	b, _, _ := setup(t)
	for _, target := range []string{"/", "/login?login_challenge=in", "/consent?consent_challenge=ask", "/login?login_challenge=skip", "/error", "/nowhere", "/health/alive"} {
		h := b.get(target).header
		csp := h.Get("Content-Security-Policy")
		for name, ok := range map[string]bool{
			"policy":   strings.Contains(csp, "default-src 'none'") && strings.Contains(csp, "frame-ancestors 'none'") && !strings.Contains(csp, "unsafe") && !strings.Contains(csp, "form-action"),
			"frames":   h.Get("X-Frame-Options") == "DENY",
			"sniffing": h.Get("X-Content-Type-Options") == "nosniff",
			"referrer": h.Get("Referrer-Policy") == "same-origin",
			"no cache": h.Get("Cache-Control") == "no-store",
		} {
			if !ok {
				t.Errorf("%s: %s is wrong: %v", target, name, h)
			}
		}
	}
	for _, secure := range []bool{true, false} {
		b, _, _ := setup(t, func(c *Config) { c.Secure = secure })
		got := b.get("/login?login_challenge=in").header.Get("Set-Cookie")
		if !strings.Contains(got, "HttpOnly") || !strings.Contains(got, "SameSite=Lax") ||
			strings.Contains(got, "; Secure") != secure || strings.HasPrefix(got, "__Host-") != secure {
			t.Errorf("secure %v: cookie %q", secure, got)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add("a\x00b\u202ec\xff", 2)
	f.Fuzz(func(t *testing.T, s string, n int) {
		n = max(0, min(n, 1000))
		got := clean(s, n)
		if len(got) > n+len("…") || strings.ContainsAny(got, "\x00\r\n\t\u202e\u200b") {
			t.Errorf("clean(%q, %d) = %q", s, n, got)
		}
	})
}
