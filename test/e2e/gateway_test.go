package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// TestBadInput is what wrong requests get, on the wire.
func TestBadInput(t *testing.T) {
	s := startAll(t, "")
	key := readFile(t, filepath.Join(s.data, "admin.key"))
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer slow.Close()
	closed := freePorts(t, 1)[0]
	host := strings.TrimPrefix(slow.URL, "http://")
	s.put("routes/refused", fmt.Sprintf(`{"uri":"/refused","upstream":{"nodes":{"127.0.0.1:%d":1}}}`, closed))
	s.put("routes/slow", `{"uri":"/slow","timeout":{"connect":1,"send":1,"read":0.2},"upstream":{"nodes":{"`+host+`":1}}}`)
	s.put("routes/nobody", `{"uri":"/nobody","upstream":{"nodes":{"`+host+`":0,"127.0.0.1:1":0}}}`)
	s.put("routes/far", fmt.Sprintf(`{"uri":"/far","plugins":{"openid-connect":{"client_id":"c","client_secret":"s","discovery":"http://127.0.0.1:%d/.well-known/openid-configuration"}},"upstream":{"nodes":{"%s":1}}}`, closed, host))
	admin := s.admin + "/apisix/admin/"
	for _, c := range []struct {
		name, method, url, key, body string
		status                       int
		want                         string
	}{
		{"no key", "GET", admin + "routes", "", "", 401, "missing apikey"},
		{"wrong key", "GET", admin + "routes", "wrong", "", 401, "wrong apikey"},
		{"broken JSON", "PUT", admin + "routes/x", key, `{"uri":`, 400, "invalid request body"},
		{"schema", "PUT", admin + "routes/x", key, `{"uri":5,"upstream":{"nodes":{"a:1":1}}}`, 400, `property \"uri\" validation failed`},
		{"unknown plugin", "PUT", admin + "routes/x", key, `{"uri":"/x","plugins":{"nope":{}}}`, 400, "unknown plugin [nope]"},
		{"plugin's schema", "PUT", admin + "routes/x", key, `{"uri":"/x","plugins":{"limit-count":{"time_window":1}}}`, 400, "failed to check the configuration of plugin limit-count"},
		{"dangling reference", "PUT", admin + "routes/x", key, `{"uri":"/x","upstream_id":"no"}`, 400, "failed to fetch upstream info"},
		{"no route", "GET", s.gateway + "/nothing", "", "", 404, "404 Route Not Found"},
		{"Admin API on the data port unasked", "GET", s.gateway + "/apisix/admin/routes", key, "", 404, "404 Route Not Found"},
		{"no node", "GET", s.gateway + "/nobody", "", "", 503, ""},
		{"refused", "GET", s.gateway + "/refused", "", "", 502, ""},
		{"timeout", "GET", s.gateway + "/slow", "", "", 504, ""},
		{"unreachable provider", "GET", s.gateway + "/far", "", "", 503, ""},
	} {
		status, body := send(t, c.method, c.url, c.key, c.body)
		if status != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s: %d %s, want %d %s", c.name, status, body, c.status, c.want)
		}
	}
	res, err := http.Get(s.gateway + "/far")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.Header.Get("Retry-After") == "" {
		t.Error("an unreachable provider without Retry-After")
	}
	req, _ := http.NewRequestWithContext(t.Context(), "GET", admin+"routes", nil)
	req.AddCookie(&http.Cookie{Name: "x_api_key", Value: key})
	if res, err = http.DefaultClient.Do(req); err != nil || res.StatusCode != 401 {
		t.Errorf("a key in a cookie: %v, %v", res, err)
	}
	res.Body.Close()
}

// TestChangesUnderLoad changes a route again and again while requests run:
// each change is live when it is answered, and no request is lost.
func TestChangesUnderLoad(t *testing.T) {
	s := startAll(t, "")
	var ups []string
	for i := range 2 {
		u := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, i) }))
		defer u.Close()
		ups = append(ups, strings.TrimPrefix(u.URL, "http://"))
	}
	set := func(i int) { s.put("routes/r", `{"uri":"/r","upstream":{"nodes":{"`+ups[i]+`":1}}}`) }
	set(0)
	ctx, stop := context.WithCancel(t.Context())
	var served atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				res, err := http.Get(s.gateway + "/r")
				if err != nil {
					t.Errorf("lost a request: %v", err)
					return
				}
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
				if res.StatusCode != 200 {
					t.Errorf("lost a request: %d", res.StatusCode)
					return
				}
				served.Add(1)
			}
		})
	}
	for n := range 100 {
		set(n % 2)
		if _, body := send(t, "GET", s.gateway+"/r", "", ""); body != fmt.Sprint(n%2) {
			t.Errorf("change %d is not live: %s answered", n, body)
		}
	}
	stop()
	wg.Wait()
	if served.Load() == 0 {
		t.Error("nothing was served")
	}
}

// TestIdentityAndTunnels checks what a consumer's request carries, and WebSocket.
func TestIdentityAndTunnels(t *testing.T) {
	s := startAll(t, "")
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ws" {
			c, err := websocket.Accept(w, r, nil)
			if err != nil {
				return
			}
			kind, b, err := c.Read(r.Context())
			if err == nil {
				c.Write(r.Context(), kind, b)
			}
			c.Close(websocket.StatusNormalClosure, "")
			return
		}
		for _, name := range []string{"X-Consumer-Username", "X_consumer_username", "Cookie", "Apikey"} {
			fmt.Fprintf(w, "%s=%s\n", name, r.Header.Get(name))
		}
	}))
	defer up.Close()
	host := strings.TrimPrefix(up.URL, "http://")
	s.put("consumers", `{"username":"ann","plugins":{"key-auth":{"key":"anns-key"}}}`)
	s.put("routes/k", `{"uri":"/k","plugins":{"key-auth":{"hide_credentials":true},"limit-count":{"count":3,"time_window":60,"rejected_code":429}},"upstream":{"nodes":{"`+host+`":1}}}`)
	s.put("routes/ws", `{"uri":"/ws","enable_websocket":true,"upstream":{"nodes":{"`+host+`":1}}}`)
	get := func(key string) (int, string) {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", s.gateway+"/k", nil)
		req.Header.Set("Apikey", key)
		req.Header["X_consumer_username"] = []string{"root"}
		req.Header.Set("X-Consumer-Username", "root")
		req.Header.Set("Cookie", "theirs=1; session=gh1.1abc; session_2=gh1.def")
		p := (&agent{t, http.DefaultClient}).read(http.DefaultClient.Do(req))
		return p.status, p.body
	}
	if status, _ := get("wrong"); status != 401 {
		t.Errorf("wrong key: %d", status)
	}
	if status, body := get("anns-key"); status != 200 || !strings.Contains(body, "X-Consumer-Username=ann\nX_consumer_username=\nCookie=theirs=1\n") || !strings.Contains(body, "Apikey=\n") {
		t.Errorf("got %d %s", status, body)
	}
	get("anns-key")
	get("anns-key")
	if status, _ := get("anns-key"); status != 429 {
		t.Errorf("the fourth request: %d, want 429", status)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, _, err := websocket.Dial(ctx, strings.Replace(s.gateway, "http", "ws", 1)+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, b, err := c.Read(ctx); err != nil || string(b) != "hello" {
		t.Errorf("websocket: %q, %v", b, err)
	}
	c.CloseNow()
}
