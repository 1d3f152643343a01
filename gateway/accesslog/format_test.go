package accesslog

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"gatehouse/gateway"
)

const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

var secret = []string{"access_token", "apikey", "code"}

// answered is an exchange that has ended.
func answered() *gateway.Exchange {
	start := time.Date(2026, 11, 23, 8, 3, 36, 0, time.FixedZone("", 3600))
	x := &gateway.Exchange{
		MatchedURI: "/a/*", Params: map[string]string{"id": "7"}, Consumer: &gateway.Consumer{Username: "jack", GroupID: "g1"},
		Node:  &gateway.Node{Host: "10.0.0.9", Port: 1980, Addr: "10.0.0.9:1980"},
		Route: &gateway.Route{ID: "r1", Name: "shop", ServiceID: "s1", Upstream: &gateway.Upstream{Scheme: "http"}},
		Start: start, End: start.Add(5 * time.Millisecond), UpstreamTime: 1500 * time.Millisecond, FromUpstream: true, BytesIn: 90, BytesOut: 278, HeadOut: 200,
	}
	x.Req = gateway.Request{
		Method: "GET", Scheme: "https", Proto: "HTTP/1.1", Authority: "Example.com:9080", Host: "example.com",
		Target: "/a%20b?x=1&access_token=t0p&y=2", Path: "/a b", Query: "x=1&access_token=t0p&y=2",
		Peer: netip.MustParseAddrPort("127.0.0.1:40000"), Local: netip.MustParseAddrPort("127.0.0.1:9443"), Client: netip.MustParseAddr("192.0.2.1"), ClientIP: "192.0.2.1",
	}
	for _, f := range [][2]string{{"User-Agent", `curl/8 "q"`}, {"Referer", "https://a.example/p?reset=t0p"}, {"Authorization", "Bearer t0p"}, {"ApiKey", "t0p"},
		{"Cookie", "theme=dark; sid=gh1.t0p"}, {"traceparent", parent}, {"X-Request-Id", "id-1"}} {
		x.Req.Header.Add(f[0], f[1])
	}
	x.Resp.Status = 200
	x.Resp.Header.Add("Location", "https://a.example/cb?code=t0p&state=s#access_token=t0p")
	x.Resp.Header.Add("Set-Cookie", "sid=t0p")
	return x
}

func compile(t testing.TB, format, escape string) *Format {
	t.Helper()
	f, err := Compile(format, escape, secret)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestDefaultFormat(t *testing.T) {
	f := compile(t, Default, EscapeText)
	want := `192.0.2.1 - jack [23/Nov/2026:08:03:36 +0100] Example.com:9080 "GET /a b HTTP/1.1" 200 78 0.005 "https://a.example/p" "curl/8 \x22q\x22" 10.0.0.9:1980 200 1.500 "http://Example.com:9080" "r1" "4bf92f3577b34da6a3ce929d0e0e4736"` + "\n"
	if got := string(f.Append(nil, answered())); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	want = `- - - [01/Jan/0001:00:00:00 +0000] - "- - -" - 0 0.000 "-" "-" - - - "-://-" "-" "-"` + "\n"
	if got := string(f.Append(nil, &gateway.Exchange{})); got != want {
		t.Errorf("an empty exchange: got\n%swant\n%s", got, want)
	}
}

func TestJSON(t *testing.T) {
	x := answered()
	x.Failed = "client gone"
	want := `{"time":"2026-11-23T08:03:36.005+01:00","client":"192.0.2.1","method":"GET","scheme":"https","host":"Example.com:9080","path":"/a b","protocol":"HTTP/1.1","status":200,` +
		`"bytes_in":90,"bytes_out":278,"body_bytes_out":78,"request_time":0.005,"route_id":"r1","service_id":"s1","consumer":"jack","upstream":"10.0.0.9:1980","upstream_status":200,` +
		`"upstream_time":1.500,"user_agent":"curl/8 \"q\"","referer":"https://a.example/p","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","failed":"client gone"}` + "\n"
	if got := string(JSON(secret).Append(nil, x)); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	want = `{"time":"0001-01-01T00:00:00.000Z","bytes_in":0,"bytes_out":0,"body_bytes_out":0,"request_time":0.000}` + "\n"
	if got := string(JSON(secret).Append(nil, &gateway.Exchange{})); got != want {
		t.Errorf("an empty exchange: got\n%swant\n%s", got, want)
	}
}

func TestVariables(t *testing.T) {
	for format, want := range map[string]string{
		"$request": "GET /a%20b?x=1&access_token=[redacted]&y=2 HTTP/1.1", "$request_uri": "/a b?x=1&access_token=[redacted]&y=2",
		"$real_request_uri": "/a%20b?x=1&access_token=[redacted]&y=2", "$upstream_uri": "/a%20b?x=1&access_token=[redacted]&y=2",
		"$args": "x=1&access_token=[redacted]&y=2", "${query_string}x": "x=1&access_token=[redacted]&y=2x", "$arg_x$arg_access_token$arg_none": "1[redacted]-",
		"$http_authorization": "[redacted]", "$http_proxy_authorization": "-", "$http_apikey": "[redacted]", "$http_cookie": "[redacted]", "$sent_http_set_cookie": "[redacted]",
		"$cookie_theme $cookie_sid $cookie_no": "dark [redacted] -", "$sent_http_location": "https://a.example/cb?code=[redacted]&state=s#access_token=[redacted]",
		"$http_referer": "https://a.example/p", "$remote_user": "jack", "$uri_param_id": "7", "$remote_port $server_port $balancer_port": "40000 9443 1980",
		"$realip_remote_addr $server_addr": "127.0.0.1 127.0.0.1", "$apisix_request_id": "id-1", "$msec": "1795417416.005", "$time_iso8601": "2026-11-23T08:03:36+01:00",
		"$opentelemetry_span_id": "00f067aa0ba902b7", "$opentelemetry_context_traceparent": parent, "$failed": "-", "$content_length": "-", "100%": "100%",
		"$bytes_sent-$body_bytes_sent": "278-78", "$is_args": "?", "$scheme $https": "https on", "$matched_uri": "/a/*",
	} {
		if got := string(compile(t, format, EscapeText).Append(nil, answered())); got != want+"\n" {
			t.Errorf("%s: got %q, want %q", format, got, want)
		}
	}
	empty := &gateway.Exchange{}
	for _, name := range []string{"request", "request_uri", "args", "realip_remote_addr", "server_addr", "remote_port", "balancer_port", "upstream_status", "content_length"} {
		if got := string(compile(t, "<$"+name+">", EscapeText).Append(nil, empty)); got != "<->\n" {
			t.Errorf("%s of an empty exchange: got %q", name, got)
		}
		if got := string(compile(t, "<$"+name+">", EscapeJSON).Append(nil, empty)); got != "<>\n" {
			t.Errorf("%s of an empty exchange, JSON: got %q", name, got)
		}
	}
}

// Secrets do not get past odd spellings.
func TestSecrets(t *testing.T) {
	for query, want := range map[string]string{
		"ACCESS_TOKEN=t0p": "ACCESS_TOKEN=[redacted]", "access-token=t0p": "access-token=[redacted]", "access%5ftoken=t0p": "access%5ftoken=[redacted]",
		"%61ccess_token=t0p&a": "%61ccess_token=[redacted]&a", "a=1;code=t0p;b=2": "a=1;code=[redacted];b=2", "code=t0p=t0p": "code=[redacted]", "code": "code", "code=": "code=[redacted]",
		"xcode=1": "xcode=1", "a=code": "a=code", "&&=": "&&=", strings.Repeat("n", 100) + "=1": strings.Repeat("n", 100) + "=1",
	} {
		x := &gateway.Exchange{}
		x.Req.Query = query
		if got := string(compile(t, "$args", EscapeText).Append(nil, x)); got != want+"\n" {
			t.Errorf("%s: got %q, want %q", query, got, want)
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	for _, c := range []struct{ format, escape, want string }{
		{"$nothing", EscapeText, "unknown variable $nothing"}, {"a $ b", EscapeText, "a $ without a name at byte 3"}, {"${uri", EscapeText, "without a name"}, {"$", EscapeText, "without a name"},
		{"a\nb", EscapeText, "one line"}, {"", EscapeText, "not empty"}, {" \n", EscapeText, "not empty"}, {"$uri", "none", "unknown escape"}, {"$arg_", EscapeText, "unknown variable"},
		{strings.Repeat("x", maxFormat+1), EscapeText, "at most"},
	} {
		if _, err := Compile(c.format, c.escape, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %q", c.format, err, c.want)
		}
	}
	if got := string(compile(t, "$status\n", EscapeText).Append(nil, answered())); got != "200\n" {
		t.Errorf("a line break at the end: got %q", got)
	}
}

// Every variable that plugins know can be logged.
func TestEveryVariable(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../vars.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	ast.Inspect(file, func(node ast.Node) bool {
		f, ok := node.(*ast.FuncDecl)
		if ok && f.Name.Name != "Var" && !strings.HasSuffix(f.Name.Name, "Var") {
			return false
		}
		if c, ok := node.(*ast.CaseClause); ok {
			for _, e := range c.List {
				if lit, ok := e.(*ast.BasicLit); ok {
					name, _ := strconv.Unquote(lit.Value)
					n++
					if _, err := Compile("$"+name, EscapeText, nil); err != nil {
						t.Error(err)
					}
				}
			}
		}
		return true
	})
	if n < 40 {
		t.Errorf("found %d variables only", n)
	}
}

// everything is a format with all variables, each in quotes.
func everything() string {
	var b strings.Builder
	b.WriteString("{")
	add := func(name string) { b.WriteString(`"` + name + `":"$` + name + `",`) }
	for name := range (&compiler{esc: escapeText, secrets: newSecrets(nil)}).own() {
		add(name)
	}
	for _, name := range append(plain, "arg_x", "http_x", "http_user_agent", "sent_http_x", "cookie_x", "uri_param_x") {
		add(name)
	}
	return b.String() + `"end":""}`
}

// hostile is an exchange where all that comes from outside is v.
func hostile(v string) *gateway.Exchange {
	x := answered()
	q := &x.Req
	q.Method, q.Proto, q.Authority, q.Host, q.Target, q.Path, q.Query, q.ClientIP = v, v, v, v, v, v, v, v
	x.Route, x.Consumer, x.Node = &gateway.Route{ID: v, Name: v, ServiceID: v, ServiceName: v}, &gateway.Consumer{Username: v, GroupID: v}, &gateway.Node{Host: v, Addr: v}
	x.Params, x.MatchedURI, x.Failed = map[string]string{"x": v}, v, v
	x.Out.Host, x.Out.Target, x.Out.Scheme = v, v, v
	for _, n := range []string{"Referer", "User-Agent", "X", "Content-Type", "X-Request-Id"} {
		q.Header.Append(n, v)
	}
	q.Header.Append("Cookie", "x="+v)
	x.Resp.Header.Append("X", v)
	x.Resp.Header.Append("Location", v)
	return x
}

func FuzzLine(f *testing.F) {
	for _, s := range []string{"", "plain", "a\nb\r\n", `"\`, "\x00\x1b[31m\x7f", "\xff\xfe", "\u2028\u0085\u202e", "a=1&access_token=x;y#z", "\U000e0001\U0001f600", `\u000a`, strings.Repeat("\xe2", 5000)} {
		f.Add(s)
	}
	text, asJSON, ready := compile(f, everything(), EscapeText), compile(f, everything(), EscapeJSON), JSON(secret)
	quotes := strings.Count(everything(), `"`)
	f.Fuzz(func(t *testing.T, v string) {
		x := hostile(v)
		line := string(text.Append(nil, x))
		for i := range len(line) - 1 {
			if c := line[i]; c < 0x20 || c > 0x7e {
				t.Fatalf("%q holds the byte %#x", line, c)
			}
		}
		if got := strings.Count(line, `"`); got != quotes || line[len(line)-1] != '\n' {
			t.Fatalf("%q: %d quotes, want %d, and a line break at the end", line, got, quotes)
		}
		for _, f := range []*Format{asJSON, ready} {
			line := f.Append(nil, x)
			for i, r := range string(line[:len(line)-1]) {
				if !unicode.IsPrint(r) || r == utf8.RuneError && line[i] != 0xef {
					t.Fatalf("%q holds %q", line, r)
				}
			}
			var m map[string]any
			if err := json.Unmarshal(line, &m); err != nil || line[len(line)-1] != '\n' {
				t.Fatalf("%q: %v", line, err)
			}
			if f == ready && len(v) <= maxValue && v != "" {
				if want := strings.ToValidUTF8(v, "\ufffd"); m["failed"] != want && utf8.ValidString(v) {
					t.Errorf("got %q, want %q", m["failed"], want)
				}
			}
			if len(line) > 64*6*maxValue {
				t.Errorf("a line of %d bytes", len(line))
			}
		}
	})
}

func TestLinesDoNotAllocate(t *testing.T) {
	x := answered()
	buf := make([]byte, 0, 4096)
	for name, f := range map[string]*Format{"default": compile(t, Default, EscapeText), "json": JSON(secret),
		"apisix": compile(t, apisixFormat, EscapeText)} {
		if n := testing.AllocsPerRun(1000, func() { buf = f.Append(buf[:0], x) }); n != 0 {
			t.Errorf("%s: got %v allocations, want 0", name, n)
		}
	}
}

// apisixFormat is the one APISIX has when none is configured.
const apisixFormat = `$remote_addr - $remote_user [$time_local] $http_host "$request" $status $body_bytes_sent $request_time "$http_referer" "$http_user_agent" ` +
	`$upstream_addr $upstream_status $upstream_response_time "$upstream_scheme://$upstream_host$upstream_uri" "$apisix_request_id"`

func BenchmarkLine(b *testing.B) {
	x := answered()
	for name, f := range map[string]*Format{"default": compile(b, Default, EscapeText), "json": JSON(secret), "apisix": compile(b, apisixFormat, EscapeText)} {
		b.Run(name, func(b *testing.B) {
			buf := make([]byte, 0, 4096)
			b.ReportAllocs()
			for b.Loop() {
				buf = f.Append(buf[:0], x)
			}
		})
	}
	b.Run("slog", func(b *testing.B) { // for comparison: log/slog's JSON
		log := slog.New(slog.NewJSONHandler(discard{}, nil))
		b.ReportAllocs()
		for b.Loop() {
			log.LogAttrs(b.Context(), slog.LevelInfo, "request", slog.String("client", x.Req.ClientIP), slog.String("method", x.Req.Method), slog.String("host", x.Req.Authority),
				slog.String("path", x.Req.Path), slog.Int("status", x.Resp.Status), slog.Int64("bytes_in", x.BytesIn), slog.Int64("bytes_out", x.BytesOut), slog.Duration("took", x.End.Sub(x.Start)),
				slog.String("route_id", x.Route.ID), slog.String("consumer", x.Consumer.Username), slog.String("upstream", x.Node.Addr), slog.Duration("upstream_took", x.UpstreamTime))
		}
	})
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// docs/logs.md lists every variable there is, and no other.
func TestVariablesPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/logs.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "### Variables")
	table, _, _ = strings.Cut(table, "\n## ")
	documented := map[string]bool{}
	for l := range strings.Lines(table) {
		cell, _, _ := strings.Cut(strings.TrimPrefix(l, "|"), "|")
		for _, word := range strings.Fields(cell) {
			if name, ok := strings.CutPrefix(strings.Trim(word, "`"), "$"); ok && strings.HasPrefix(l, "| ") {
				documented[name] = true
			}
		}
	}
	known := append([]string{"arg_NAME", "http_NAME", "sent_http_NAME", "cookie_NAME", "uri_param_NAME"}, plain...)
	for name := range (&compiler{esc: escapeText, secrets: newSecrets(nil)}).own() {
		known = append(known, name)
	}
	for _, name := range known {
		if !documented[name] {
			t.Errorf("docs/logs.md does not name $%s", name)
		}
		delete(documented, name)
	}
	for name := range documented {
		t.Errorf("docs/logs.md names $%s, which is not there", name)
	}
}
