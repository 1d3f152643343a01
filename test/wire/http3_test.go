package wire

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"gatehouse/gateway/engine"
	"gatehouse/test/fixtures"
)

// http3Client is quic-go's own client.
func http3Client(t *testing.T, d *fixtures.DataPlane) *http.Client {
	t.Helper()
	tr := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: d.Roots, ServerName: "localhost"}, DisableCompression: true}
	t.Cleanup(func() { tr.Close() })
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

// TestHTTP3 takes requests over HTTP/3 through the whole gateway to a service
// that speaks HTTP/1.1.
func TestHTTP3(t *testing.T) {
	const size = 16 << 20
	gone := make(chan struct{})
	next := make(chan struct{})
	d := fixtures.StartDataPlane(t, engine.Limits{})
	route(d, upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/sum":
			sum := sha256.New()
			n, _ := io.Copy(sum, r.Body)
			fmt.Fprintf(w, "%d %x %s %s", n, sum.Sum(nil), r.Trailer.Get("X-Sum"), r.Header.Get("X-Forwarded-Proto"))
		case "/big":
			w.Header().Set("Content-Length", fmt.Sprint(size))
			for range size / (64 << 10) {
				_, _ = w.Write(bytes.Repeat([]byte("b"), 64<<10))
			}
		case "/events":
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 3 {
				fmt.Fprintf(w, "data: %d\n\n", i)
				_ = http.NewResponseController(w).Flush()
				<-next
			}
			w.Header().Set(http.TrailerPrefix+"X-End", "yes")
		case "/cut":
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case "/wait":
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			close(gone)
		case "/head":
			w.Header().Set("Content-Length", "5")
		case "/early":
			w.Header().Set("Link", "</style.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusNoContent)
		}
	})), "")
	cl := http3Client(t, d)
	at := "https://" + d.TLSAddr
	ask := func(method, path string, body io.Reader) *http.Response {
		t.Helper()
		r, _ := http.NewRequestWithContext(t.Context(), method, at+path, body)
		r.Host = "localhost"
		res, err := cl.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { res.Body.Close() })
		return res
	}
	body := func(res *http.Response) string {
		t.Helper()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Error(err)
		}
		return string(b)
	}

	up := bytes.Repeat([]byte("u"), size)
	want := fmt.Sprintf("%d %x  https", size, sha256.Sum256(up))
	if got := body(ask("POST", "/sum", bytes.NewReader(up))); got != want {
		t.Errorf("with a length: got %q, want %q", got, want)
	}
	if got := body(ask("POST", "/sum", io.MultiReader(bytes.NewReader(up)))); got != want {
		t.Errorf("without: got %q, want %q", got, want)
	}
	r, _ := http.NewRequestWithContext(t.Context(), "PUT", at+"/sum", io.MultiReader(strings.NewReader("x")))
	r.Host, r.Trailer = "localhost", http.Header{"X-Sum": {"7"}}
	res, err := cl.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if got := body(res); !strings.HasSuffix(got, " 7 https") {
		t.Errorf("trailer: got %q", got)
	}
	if got := body(ask("GET", "/big", nil)); len(got) != size {
		t.Errorf("%d bytes", len(got))
	}
	if res := ask("HEAD", "/head", nil); res.ContentLength != 5 || body(res) != "" {
		t.Errorf("HEAD: length %d", res.ContentLength)
	}
	if res := ask("GET", "/early", nil); res.StatusCode != 204 {
		t.Errorf("early hints: %d", res.StatusCode)
	}

	res = ask("GET", "/events", nil)
	buf := make([]byte, 100)
	for i := range 3 {
		want := fmt.Sprintf("data: %d\n\n", i)
		n, err := io.ReadFull(res.Body, buf[:len(want)])
		if got := string(buf[:n]); got != want || err != nil {
			t.Fatalf("event %d: got %q %v", i, got, err)
		}
		next <- struct{}{}
	}
	if got := body(res); got != "" || res.Trailer.Get("X-End") != "yes" {
		t.Errorf("the end of events: %q, trailers %v", got, res.Trailer)
	}

	// A reset overtakes what was sent before it: the head may not arrive.
	if res, err = cl.Get(at + "/cut"); err == nil {
		if b, err := io.ReadAll(res.Body); err == nil {
			t.Errorf("an answer that was cut off looks whole: %q", b)
		}
		res.Body.Close()
	}

	ctx, cancel := context.WithCancel(t.Context())
	r, _ = http.NewRequestWithContext(ctx, "GET", at+"/wait", nil)
	r.Host = "localhost"
	if res, err = cl.Do(r); err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case <-gone:
	case <-time.After(20 * time.Second):
		t.Error("the service was not told that the client has left")
	}
	res.Body.Close()
}
