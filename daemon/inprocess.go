package daemon

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
)

// inProcess calls a handler without a network: for the command line when the
// process that usually serves it does not run.
type inProcess struct{ http.Handler }

func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	in := r.Clone(r.Context())
	in.RequestURI, in.RemoteAddr, in.Host = r.URL.RequestURI(), "127.0.0.1:0", r.URL.Host
	if in.Body == nil {
		in.Body = http.NoBody
	}
	w := httptest.NewRecorder()
	t.ServeHTTP(w, in)
	res := w.Result()
	res.Request = r
	raw, err := io.ReadAll(res.Body)
	res.Body = io.NopCloser(bytes.NewReader(raw))
	return res, err
}
