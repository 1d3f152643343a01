package daemon

import (
	"encoding/base64"
	"encoding/json"
	"html/template"
	"net/http"
	"strings"
)

// samplePage is what the demo's upstream shows: that the request came through
// the gateway, and as whom.
var samplePage = template.Must(template.New("").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>You are in</title>
<style>
:root{color-scheme:light dark;font:1rem/1.6 system-ui,sans-serif;--line:#d5d9e0;--soft:#f4f6f9;--ink:#17202c;--link:#1d4fd8}
@media (prefers-color-scheme:dark){:root{--line:#333c49;--soft:#1a212b;--ink:#e8ecf2;--link:#8fb4ff}}
body{margin:0;color:var(--ink)}main{max-width:40rem;margin:12vh auto;padding:0 1.25rem}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .5rem}table{border-collapse:collapse;width:100%;margin:1.5rem 0}
th,td{text-align:left;vertical-align:top;padding:.5rem .25rem;border-bottom:1px solid var(--line)}th{width:9rem;font-weight:600}
code{background:var(--soft);padding:.1rem .3rem;border-radius:.25rem;overflow-wrap:anywhere}a{color:var(--link)}
</style></head><body><main>
<h1>You are in{{if .Name}}, {{.Name}}{{end}}.</h1>
<p>This page is an ordinary web service that knows nothing of signing in. The gateway asked for it, and tells it who you are.</p>
<table><tr><th>Path</th><td><code>{{.Path}}</code></td></tr>{{range .Rows}}<tr><th>{{.Name}}</th><td><code>{{.Value}}</code></td></tr>{{end}}</table>
<p><a id="logout" href="/logout">Sign out</a></p>
</main></body></html>`))

// sampleUpstream is the demo's service behind the gateway.
func sampleUpstream() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		type row struct{ Name, Value string }
		v := struct {
			Name, Path string
			Rows       []row
		}{Path: r.URL.Path}
		claims := userinfo(r.Header.Get("X-Userinfo"))
		for _, name := range []string{"name", "email", "sub"} {
			s, _ := claims[name].(string)
			if s == "" {
				continue
			}
			if v.Name == "" && name != "sub" {
				v.Name = s
			}
			v.Rows = append(v.Rows, row{strings.ToUpper(name[:1]) + name[1:], s})
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
		samplePage.Execute(w, v)
	})
}

// userinfo reads the identity the gateway tells: base64 of JSON.
func userinfo(header string) map[string]any {
	raw, err := base64.StdEncoding.DecodeString(header)
	if err != nil {
		return nil
	}
	var claims map[string]any
	if json.Unmarshal(raw, &claims) != nil {
		return nil
	}
	return claims
}
