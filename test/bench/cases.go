package main

// load is how a case asks.
type load struct {
	conns  int
	path   string
	header []string
	h2     bool // h2load, 32 streams on each connection
	tls    bool
	close  bool // a new connection for each request
}

// benchCase is one row of the report.
type benchCase struct {
	name, title string
	load        load
	peers       []string // besides gatehouse and nginx
	bar         float64  // the ratio to nginx that must not be passed; 0: none
	p99         bool     // the p99 must not be worse than nginx's
	plugin      string   // path prefix of gatehouse's route, for plugin cases
	idle        int      // connections that wait, instead of a load
}

// browser is the header of a browser's request.
var browser = []string{
	`sec-ch-ua: "Chromium";v="126", "Not=A?Brand";v="24"`, `sec-ch-ua-mobile: ?0`, `sec-ch-ua-platform: "Linux"`,
	`User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36`,
	`Accept: application/json, text/plain, */*`, `Sec-Fetch-Site: same-origin`, `Sec-Fetch-Mode: cors`, `Sec-Fetch-Dest: empty`,
	`Referer: https://app.example.com/orders`, `Accept-Encoding: gzip, deflate, br, zstd`, `Accept-Language: en-US,en;q=0.9`,
	`Cookie: session=` + thirtyTimes("AAAAAAAAAA") + `; theme=dark`,
}

func thirtyTimes(s string) (out string) {
	for range 30 {
		out += s
	}
	return out
}

var theCases = []benchCase{
	{name: "small", title: "1 KiB, 64 connections, 1 route, metrics on", load: load{conns: 64, path: "/"}, peers: []string{"haproxy", "caddy", "reverseproxy"}, bar: 0.85, p99: true},
	{name: "small8", title: "1 KiB, 8 connections", load: load{conns: 8, path: "/"}, peers: []string{"haproxy"}},
	{name: "small512", title: "1 KiB, 512 connections", load: load{conns: 512, path: "/"}, peers: []string{"haproxy"}},
	{name: "browser", title: "1 KiB, browser-sized header, 64 connections", load: load{conns: 64, path: "/", header: browser}, peers: []string{"haproxy", "caddy", "reverseproxy"}, bar: 0.85},
	{name: "body64k", title: "64 KiB bodies, 64 connections", load: load{conns: 64, path: "/f/64k"}, peers: []string{"haproxy"}, bar: 1.00},
	{name: "body1m", title: "1 MiB bodies, 16 connections", load: load{conns: 16, path: "/f/1m"}, peers: []string{"haproxy"}, bar: 0.90},
	{name: "plugins", title: "key-auth and limit-count", load: load{conns: 64, path: "/"}, plugin: "/guarded", bar: 0.95},
	{name: "session", title: "a valid openid-connect session cookie", load: load{conns: 64, path: "/"}, plugin: "/session", bar: 1.00},
	{name: "bearer", title: "a JWT bearer token seen before", load: load{conns: 64, path: "/"}, plugin: "/bearer", bar: 1.00},
	{name: "tls", title: "TLS keep-alive, 64 connections", load: load{conns: 64, path: "/", tls: true}, peers: []string{"haproxy", "caddy", "reverseproxy"}, bar: 0.90},
	{name: "handshake", title: "TLS, a new connection for each request", load: load{conns: 16, path: "/", tls: true, close: true}},
	{name: "h2", title: "HTTP/2 over TLS to an HTTP/1.1 upstream, 8 connections of 32 streams", load: load{conns: 8, path: "/", tls: true, h2: true}, peers: []string{"caddy", "reverseproxy"}, bar: 1.30},
	{name: "idle", title: "9,400 idle connections", idle: 9400, peers: []string{"haproxy"}},
	{name: "routes", title: "1 KiB, 64 connections, 10,000 routes", load: load{conns: 64, path: "/"}, plugin: "/r7777", bar: 0.88},
}
