package gateway

import (
	"crypto/tls"
	"net/netip"
	"testing"
	"time"
)

func fullExchange() *Exchange {
	start := time.Date(2026, 11, 23, 8, 3, 36, 0, time.FixedZone("", 3600))
	x := &Exchange{
		MatchedURI:   "/a/*",
		Params:       map[string]string{"id": "7"},
		Consumer:     &Consumer{Username: "jack", GroupID: "g1"},
		Node:         &Node{Host: "10.0.0.9", Port: 1980, Addr: "10.0.0.9:1980"},
		Route:        &Route{ID: "r1", Name: "shop", ServiceID: "s1", ServiceName: "store", Upstream: &Upstream{Scheme: "http"}},
		Start:        start,
		Now:          func() time.Time { return start.Add(5 * time.Millisecond) },
		UpstreamTime: 1500 * time.Millisecond, FromUpstream: true, BytesIn: 90, BytesOut: 278,
	}
	x.Req = Request{
		Method: "GET", Scheme: "https", Proto: "HTTP/1.1", Authority: "Example.com:9080", Host: "example.com",
		Target: "/a%20b?x=1&y=a%2Bb+c&x=2&%7a=&flag", Path: "/a b", Query: "x=1&y=a%2Bb+c&x=2&%7a=&flag&bad=%zz",
		Length: 3, Peer: netip.MustParseAddrPort("[::ffff:127.0.0.1]:40000"), Local: netip.MustParseAddrPort("127.0.0.1:9443"),
		Client: netip.MustParseAddr("192.0.2.1"), TLS: &tls.ConnectionState{ServerName: "example.com"},
	}
	for _, f := range [][2]string{{"X-Api-Key", "k"}, {"X_Api_Key", "forged"}, {"X-Many", "1"}, {"x-many", "2"}, {"Content-Type", "text/plain"},
		{"Cookie", "a=1; b=2"}, {"Cookie", "c=3=4 ;a=5"}} {
		x.Req.Header.Add(f[0], f[1])
	}
	x.Resp.Status = 200
	x.Resp.Header.Add("X-From", "upstream")
	return x
}

func TestVar(t *testing.T) {
	x := fullExchange()
	for name, want := range map[string]string{
		"uri": "/a b", "document_uri": "/a b", "request_uri": "/a b?" + x.Req.Query, "real_request_uri": x.Req.Target,
		"args": x.Req.Query, "query_string": x.Req.Query, "is_args": "?", "host": "example.com", "http_host": "Example.com:9080",
		"scheme": "https", "https": "on", "method": "GET", "request_method": "GET", "server_protocol": "HTTP/1.1",
		"request": "GET " + x.Req.Target + " HTTP/1.1", "content_type": "text/plain", "content_length": "3",
		"remote_addr": "192.0.2.1", "realip_remote_addr": "127.0.0.1", "remote_port": "40000", "server_addr": "127.0.0.1", "server_port": "9443",
		"ssl_server_name": "example.com", "status": "200", "request_length": "90", "bytes_sent": "278",
		"route_id": "r1", "route_name": "shop", "service_id": "s1", "service_name": "store", "matched_uri": "/a/*",
		"consumer_name": "jack", "consumer_group_id": "g1", "balancer_ip": "10.0.0.9", "balancer_port": "1980", "upstream_addr": "10.0.0.9:1980",
		"upstream_unresolved_host": "10.0.0.9", "upstream_status": "200", "upstream_host": "Example.com:9080", "upstream_uri": x.Req.Target,
		"upstream_scheme": "http", "upstream_response_time": "1.500",
		"request_time": "0.005", "msec": "1795417416.005", "time_iso8601": "2026-11-23T08:03:36+01:00", "time_local": "23/Nov/2026:08:03:36 +0100",
		"arg_x": "1", "arg_y": "a+b c", "arg_z": "", "arg_flag": "", "arg_bad": "%zz",
		"http_x_api_key": "k", "http_X_API_KEY": "k", "http_x_many": "1, 2", "http_cookie": "a=1; b=2; c=3=4 ;a=5",
		"cookie_a": "1", "cookie_b": "2", "cookie_c": "3=4", "uri_param_id": "7", "sent_http_x_from": "upstream",
	} {
		if got, ok := x.Var(name); !ok || got != want {
			t.Errorf("%s: got %q, %v, want %q", name, got, ok, want)
		}
	}
	for _, name := range []string{"", "nothing", "arg_", "arg_none", "arg_X", "http_", "http_none", "cookie_", "cookie_A", "cookie_none", "uri_param_none", "sent_http_none", "$uri"} {
		if got, ok := x.Var(name); ok {
			t.Errorf("%s: got %q, want none", name, got)
		}
	}
	empty := &Exchange{}
	for _, name := range []string{"args", "host", "https", "remote_addr", "remote_port", "status", "route_id", "consumer_name", "balancer_ip",
		"upstream_status", "upstream_response_time", "content_length", "ssl_server_name", "upstream_scheme", "matched_uri"} {
		if got, ok := empty.Var(name); ok {
			t.Errorf("%s of an empty exchange: got %q, want none", name, got)
		}
	}
}

func TestVarDoesNotAllocate(t *testing.T) {
	x := fullExchange()
	for _, name := range []string{"uri", "arg_x", "http_x_api_key", "cookie_c", "host", "route_id"} {
		if n := testing.AllocsPerRun(100, func() { x.Var(name) }); n != 0 {
			t.Errorf("%s: got %v allocations, want 0", name, n)
		}
	}
}

func TestSetConsumer(t *testing.T) {
	x := fullExchange()
	x.Req.Header.Add("x-consumer_USERNAME", "forged")
	x.Req.Header.Add("X-Consumer-Custom-Id", "forged")
	x.SetConsumer(&Consumer{Username: "jill"})
	n := 0
	for _, f := range x.Req.Header.Fields() {
		if len(f.Name) > 10 && f.Name[1] == '-' && (f.Name[2] == 'C' || f.Name[2] == 'c') {
			n++
		}
	}
	if n != 1 || x.Req.Header.Get("X-Consumer-Username") != "jill" || x.Consumer.Username != "jill" {
		t.Errorf("got %v", x.Req.Header.Fields())
	}
}

func TestDropQuery(t *testing.T) {
	for _, c := range []struct{ target, out, name, query, want string }{
		{"/a?x=1&k=2", "", "k", "x=1", "/a?x=1"},
		{"/a?k=2&k&%6B=3", "", "k", "", "/a"},
		{"/a?k=2&y", "/b?k=2&z=1", "k", "y", "/b?z=1"},
		{"/a?x=1", "", "k", "x=1", ""},
		{"/a", "", "k", "", ""},
	} {
		x := &Exchange{}
		x.Req.Target, x.Out.Target = c.target, c.out
		for i := range c.target {
			if c.target[i] == '?' {
				x.Req.Query = c.target[i+1:]
			}
		}
		x.DropQuery(c.name)
		if x.Req.Query != c.query || x.Out.Target != c.want {
			t.Errorf("%s: got %q and %q, want %q and %q", c.target, x.Req.Query, x.Out.Target, c.query, c.want)
		}
	}
}

func FuzzVar(f *testing.F) {
	f.Add("arg_x", "x=%", "a=b;;=")
	f.Add("cookie_x", "%x&=&", "x")
	f.Fuzz(func(t *testing.T, name, query, cookie string) {
		x := &Exchange{}
		x.Req.Query, x.Req.Target = query, "/?"+query
		x.Req.Header.Add("Cookie", cookie)
		x.Var(name)
		x.DropQuery(name)
		if _, still := x.Req.QueryValue(name); still {
			t.Errorf("%q is still in %q", name, x.Req.Query)
		}
	})
}
