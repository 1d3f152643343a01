package engine

import (
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"gatehouse/gateway"
	"gatehouse/lib/fault"
)

func TestCaller(t *testing.T) {
	release := make(chan struct{})
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		case "/large":
			io.WriteString(w, strings.Repeat("x", 2000))
		case "/slow":
			<-release
		default:
			b, _ := io.ReadAll(r.Body)
			w.Header().Set("X-Host", r.Host)
			io.WriteString(w, r.Method+" "+r.Header.Get("X-A")+" "+string(b))
		}
	}))
	defer srv.Close()
	defer close(release)
	own := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	c := NewCaller(own)
	defer c.Close()
	a, err := c.Call(t.Context(), gateway.Call{Method: "POST", URL: srv.URL + "/x", Header: []gateway.Field{{Name: "X-A", Value: "b"}, {Name: "Host", Value: "example.com"}}, Body: []byte("hi")})
	if err != nil || string(a.Body) != "POST b hi" || a.Header.Get("x-host") != "example.com" {
		t.Fatalf("%+v %v", a, err)
	}
	if a, err := c.Call(t.Context(), gateway.Call{Method: "GET", URL: srv.URL + "/redirect"}); err != nil || a.Status != 302 {
		t.Errorf("a redirect is an answer: %+v %v", a, err)
	}
	stranger := NewCaller(nil)
	defer stranger.Close()
	for name, err := range map[string]error{
		"too large":   second(c.Call(t.Context(), gateway.Call{Method: "GET", URL: srv.URL + "/large", MaxBody: 1000})),
		"too slow":    second(c.Call(t.Context(), gateway.Call{Method: "GET", URL: srv.URL + "/slow", Timeout: 50 * time.Millisecond})),
		"not trusted": second(stranger.Call(t.Context(), gateway.Call{Method: "GET", URL: srv.URL})),
		"refused":     second(c.Call(t.Context(), gateway.Call{Method: "GET", URL: "http://127.0.0.1:1/"})),
	} {
		if fault.KindOf(err) != fault.Unavailable {
			t.Errorf("%s: %v, want unavailable", name, err)
		}
	}
	for _, u := range []string{"file:///etc/passwd", "::", "ftp://a/"} {
		if _, err := c.Call(t.Context(), gateway.Call{Method: "GET", URL: u}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v, want invalid", u, err)
		}
	}
	if _, err := stranger.Call(t.Context(), gateway.Call{Method: "GET", URL: srv.URL, Insecure: true}); err != nil {
		t.Errorf("insecure: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }
