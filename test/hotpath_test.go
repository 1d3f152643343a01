package test

import (
	"encoding/json"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"testing"

	"gatehouse/gateway/accesslog"
	"gatehouse/gateway/engine"
	"gatehouse/gateway/proxy"
	"gatehouse/resource"
	"gatehouse/test/fixtures"
)

// hotPath is a gateway before an upstream that answers with constant bytes,
// and a client connection to it: nothing but the gateway allocates.
func hotPath(t testing.TB, objects []resource.Change, change ...func(*proxy.Config)) (ask func(request []byte)) {
	t.Helper()
	up, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { up.Close() })
	answer := []byte("HTTP/1.1 200 OK\r\nServer: up\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n")
	answer = append(answer, make([]byte, 1024)...)
	go func() {
		for {
			c, err := up.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 8192)
				for {
					if _, err := c.Read(buf); err != nil {
						return
					}
					if _, err := c.Write(answer); err != nil {
						return
					}
				}
			}()
		}
	}()
	_, port, _ := net.SplitHostPort(up.Addr().String())
	d := fixtures.StartDataPlane(t, engine.Limits{}, change...)
	d.Put(resource.Upstreams, "1", `{"type":"roundrobin","nodes":{"127.0.0.1:`+port+`":1},"keepalive_pool":{"requests":100000000}}`)
	for _, o := range objects {
		d.Put(o.Kind, o.ID, string(o.JSON))
	}
	c, err := net.Dial("tcp", d.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	buf := make([]byte, 16384)
	return func(request []byte) {
		if _, err := c.Write(request); err != nil {
			t.Fatal(err)
		}
		n := 0
		for n < 1024 {
			m, err := c.Read(buf[n:])
			if err != nil {
				t.Fatal(err)
			}
			n += m
		}
		if string(buf[9:12]) != "200" {
			t.Fatalf("%s", buf[:n])
		}
	}
}

// logged gives the gateway an access log of that format.
func logged(t testing.TB, f *accesslog.Format) func(*proxy.Config) {
	return func(c *proxy.Config) {
		if f == nil {
			return
		}
		log, err := accesslog.New(accesslog.Config{Format: f, Open: func() (io.WriteCloser, error) { return os.OpenFile(os.DevNull, os.O_WRONLY, 0) }})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = log.Close() })
		c.Access = log
	}
}

func put(kind resource.Kind, id, doc string) resource.Change {
	return resource.Change{Kind: kind, ID: id, JSON: json.RawMessage(doc)}
}

const browserRequest = "GET /orders?page=2 HTTP/1.1\r\nHost: shop.example.com\r\nConnection: keep-alive\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36\r\n" +
	"Accept: application/json, text/plain, */*\r\nReferer: https://shop.example.com/\r\nAccept-Encoding: gzip, deflate, br\r\n" +
	"Accept-Language: en-US,en;q=0.9\r\nCookie: theme=dark; lang=en\r\n"

var hotPaths = []struct {
	name    string
	most    float64
	request string
	log     *accesslog.Format // nil: no access log
	objects []resource.Change
}{
	{"plain route", 0, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", nil, []resource.Change{
		put(resource.Routes, "1", `{"uri":"/*","upstream_id":"1"}`)}},
	{"plain route, browser header, metrics", 0, browserRequest + "\r\n", nil, []resource.Change{
		put(resource.Routes, "1", `{"uri":"/*","upstream_id":"1"}`),
		put(resource.GlobalRules, "1", `{"plugins":{"prometheus":{}}}`)}},
	{"plain route, browser header, metrics, access log", 0, browserRequest + "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n", accesslog.JSON(nil), []resource.Change{
		put(resource.Routes, "1", `{"uri":"/*","upstream_id":"1"}`),
		put(resource.GlobalRules, "1", `{"plugins":{"prometheus":{}}}`)}},
	{"key-auth and limit-count", 2, browserRequest + "apikey: secret-of-jack\r\n\r\n", nil, []resource.Change{
		put(resource.Consumers, "jack", `{"username":"jack","plugins":{"key-auth":{"key":"secret-of-jack"}}}`),
		put(resource.Routes, "1", `{"uri":"/*","upstream_id":"1","plugins":{"key-auth":{},"limit-count":{"count":100000000,"time_window":3600,"key":"consumer_name","rejected_code":429}}}`)}},
}

// blockShare is what a request may use up of the blocks of 16 KiB that heads
// are read into, two of them, one for many requests.
const blockShare = 0.2

// TestHotPathAllocations counts what a request costs the collector, all rooms
// together.
func TestHotPathAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, row := range hotPaths {
		ask := hotPath(t, row.objects, logged(t, row.log))
		request := []byte(row.request)
		for range 200 {
			ask(request)
		}
		const runs = 5000
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range runs {
			ask(request)
		}
		runtime.ReadMemStats(&after)
		if got := float64(after.Mallocs-before.Mallocs) / runs; got > row.most+blockShare {
			t.Errorf("%s: %.3f allocations, want at most %v", row.name, got, row.most)
		}
	}
}

func BenchmarkHotPath(b *testing.B) {
	for i, row := range hotPaths {
		b.Run(strconv.Itoa(i)+" "+row.name, func(b *testing.B) {
			ask := hotPath(b, row.objects, logged(b, row.log))
			request := []byte(row.request)
			b.ReportAllocs()
			for b.Loop() {
				ask(request)
			}
		})
	}
}
