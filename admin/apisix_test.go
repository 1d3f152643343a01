package admin

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/gateway"
	"gatehouse/lib/fault"
	"gatehouse/resource"
	"gatehouse/store/memory"
)

var apisixUpdate = flag.Bool("update-apisix", false, "rewrite testdata/apisix.txt from what the API answers")

const apisixTestKey, apisixTestViewer = "the-admin-key", "the-viewer-key"

func apisixTestPlugins() []gateway.Plugin {
	doc := func(s string) func() json.RawMessage { return func() json.RawMessage { return json.RawMessage(s) } }
	return []gateway.Plugin{
		{Name: "limit-count", Priority: 1002, Version: 0.5, Schema: doc(`{"type":"object","properties":{
			"count":{"oneOf":[{"type":"integer","exclusiveMinimum":0},{"type":"string"}]},"time_window":{"type":"integer","exclusiveMinimum":0},
			"rejected_code":{"type":"integer","minimum":200,"maximum":599}},"oneOf":[{"required":["count","time_window"]},{"required":["rules"]}]}`)},
		{Name: "key-auth", Priority: 2500, Version: 0.1, Auth: true, Schema: doc(`{"type":"object","properties":{"header":{"type":"string"}},"additionalProperties":false}`),
			ConsumerSchema: doc(`{"type":"object","properties":{"key":{"type":"string"}},"required":["key"],"additionalProperties":false}`),
			ConsumerKey: func(raw json.RawMessage) (string, error) {
				var c struct{ Key string }
				return c.Key, json.Unmarshal(raw, &c)
			}},
		{Name: "request-id", Priority: 12015, Version: 0.1, Schema: doc(`{"type":"object","properties":{"header_name":{"type":"string"}}}`),
			Check: func(raw json.RawMessage) error {
				if bytes.Contains(raw, []byte("Forbidden-Name")) {
					return fault.New(fault.Invalid, "this header is the gateway's")
				}
				return nil
			}},
		{Name: "prometheus", Priority: 500, Version: 0.2, Schema: doc(`{"type":"object"}`)},
		{Name: "http-logger", Priority: 410, Version: 0.1, Schema: doc(`{"type":"object"}`),
			MetadataSchema: doc(`{"type":"object","properties":{"log_format":{"type":"object"}}}`)},
	}
}

// apisixTest returns an API over an empty store.
func apisixTest(t *testing.T, change func(*APISIX)) (http.Handler, *memory.Resources) {
	t.Helper()
	store := memory.NewResources()
	a := &APISIX{
		Store: store, Plugins: apisixTestPlugins(), Log: slog.New(slog.DiscardHandler),
		Keys: []AdminKey{{Key: apisixTestKey, Role: RoleAdmin}, {Key: apisixTestViewer, Role: RoleViewer}, {Key: "", Role: RoleAdmin}},
		Now:  func() time.Time { return time.Unix(1_800_000_000, 0) },
	}
	store.Now = a.Now
	if change != nil {
		change(a)
	}
	h, err := a.Handler()
	if err != nil {
		t.Fatal(err)
	}
	return h, store
}

func apisixDo(h http.Handler, method, target, body string, edits ...func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.RemoteAddr = "127.0.0.1:5000"
	r.Header.Set("X-API-KEY", apisixTestKey)
	for _, e := range edits {
		e(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func apisixPair(t *testing.T) (cert, key string) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test.com"}, DNSNames: []string{"test.com"},
		NotBefore: time.Unix(1_700_000_000, 0), NotAfter: time.Unix(1_900_000_000, 0)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &priv.PublicKey, priv)
	if err != nil {
		t.Fatal(err)
	}
	pk, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pk}))
}

// TestAPISIX runs testdata/apisix.txt: calls in order over one store. A case
// is a title (==), a request (> method and target, > body) and an answer
// (< status, < body).
func TestAPISIX(t *testing.T) {
	path := "testdata/apisix.txt"
	if p := os.Getenv("APISIX_CASES"); p != "" {
		path = p
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := apisixPair(t)
	_, other := apisixPair(t)
	quote := func(s string) string { b, _ := json.Marshal(s); return strings.Trim(string(b), `"`) }
	in := strings.NewReplacer("${CERT}", quote(cert), "${KEY}", quote(key), "${OTHERKEY}", quote(other))
	out := strings.NewReplacer(quote(cert), "${CERT}", quote(key), "${KEY}", quote(other), "${OTHERKEY}")
	h, _ := apisixTest(t, nil)
	var file strings.Builder
	var title, method, target, want string
	var body []string
	flush := func() {
		if method == "" {
			return
		}
		w := apisixDo(h, method, target, in.Replace(strings.Join(body, "\n")))
		got := fmt.Sprintf("< %d\n", w.Code)
		if text := strings.TrimSuffix(out.Replace(w.Body.String()), "\n"); text != "" {
			got += "< " + text + "\n"
		}
		if got != want && !*apisixUpdate {
			t.Errorf("%s\n got %swant %s", title, got, want)
		}
		file.WriteString(got + "\n")
		method, want, body = "", "", nil
	}
	for line := range strings.Lines(string(raw)) {
		switch text := strings.TrimSuffix(line, "\n"); {
		case strings.HasPrefix(text, "> ") && method == "":
			method, target, _ = strings.Cut(text[2:], " ")
			file.WriteString(line)
		case strings.HasPrefix(text, "> "):
			body = append(body, text[2:])
			file.WriteString(line)
		case strings.HasPrefix(text, "< "):
			want += line
		case text != "":
			flush()
			if title = text; strings.HasPrefix(text, "#") {
				line += "\n"
			}
			file.WriteString(line)
		}
	}
	flush()
	if *apisixUpdate {
		if err := os.WriteFile(path, []byte(strings.TrimSuffix(file.String(), "\n")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAPISIXKeys(t *testing.T) {
	h, _ := apisixTest(t, nil)
	with := func(name, value string) func(*http.Request) {
		return func(r *http.Request) {
			r.Header.Del("X-API-KEY")
			if name != "" {
				r.Header.Set(name, value)
			}
		}
	}
	const wrong, missing = "wrong apikey", "missing apikey"
	for _, c := range []struct {
		name, method, target string
		edit                 func(*http.Request)
		status               int
		want                 string
	}{
		{"header", "GET", "/apisix/admin/routes", with("X-API-KEY", apisixTestKey), 200, ""},
		{"query", "GET", "/apisix/admin/routes?api_key=" + apisixTestKey, with("", ""), 200, ""},
		{"none", "GET", "/apisix/admin/routes", with("", ""), 401, missing},
		{"wrong", "GET", "/apisix/admin/routes", with("X-API-KEY", "wrong"), 401, wrong},
		{"prefix of the key", "GET", "/apisix/admin/routes", with("X-API-KEY", apisixTestKey[:5]), 401, wrong},
		{"in a cookie", "GET", "/apisix/admin/routes", with("Cookie", "x_api_key="+apisixTestKey), 401, missing},
		{"as a bearer token", "GET", "/apisix/admin/routes", with("Authorization", "Bearer "+apisixTestKey), 401, missing},
		{"empty although an empty key is configured", "GET", "/apisix/admin/routes", with("X-API-KEY", ""), 401, missing},
		{"viewer reads", "GET", "/apisix/admin/routes", with("X-API-KEY", apisixTestViewer), 200, ""},
		{"viewer heads", "HEAD", "/apisix/admin/routes", with("X-API-KEY", apisixTestViewer), 200, ""},
		{"viewer writes", "PUT", "/apisix/admin/routes/1", with("X-API-KEY", apisixTestViewer), 401, "invalid method for role viewer"},
		{"viewer validates", "POST", "/apisix/admin/schema/validate/routes", with("X-API-KEY", apisixTestViewer), 401, "invalid method for role viewer"},
		{"unknown path without key", "GET", "/apisix/admin/nosuch", with("", ""), 401, missing},
		{"reload without key", "PUT", "/apisix/admin/plugins/reload", with("", ""), 401, missing},
		{"root without key", "HEAD", "/apisix/admin", with("", ""), 200, ""},
		{"preflight without key", "OPTIONS", "/apisix/admin/routes", with("", ""), 200, ""},
	} {
		w := apisixDo(h, c.method, c.target, "", c.edit)
		if w.Code != c.status || c.want != "" && !strings.Contains(w.Body.String(), `"description":"`+c.want+`"`) {
			t.Errorf("%s: got %d %s, want %d %s", c.name, w.Code, w.Body, c.status, c.want)
		}
		if w.Header().Get("Access-Control-Allow-Credentials") != "" || w.Header().Get("Server") != "gatehouse" || w.Header().Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s: headers %v", c.name, w.Header())
		}
	}
}

func TestAPISIXPeers(t *testing.T) {
	ten, _ := apisixTest(t, func(a *APISIX) { a.AllowAdmin = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} })
	local, _ := apisixTest(t, nil)
	for _, c := range []struct {
		h      http.Handler
		peer   string
		status int
	}{
		{local, "127.0.0.1:1", 200}, {local, "[::1]:1", 200}, {local, "[::ffff:127.0.0.1]:1", 200},
		{local, "10.0.0.1:1", 403}, {local, "192.168.0.1:1", 403}, {local, "@", 403}, {local, "", 403},
		{ten, "10.1.2.3:1", 200}, {ten, "[::ffff:10.1.2.3]:1", 200}, {ten, "127.0.0.1:1", 403}, {ten, "11.0.0.1:1", 403},
	} {
		for _, method := range []string{"GET", "HEAD", "OPTIONS"} {
			w := apisixDo(c.h, method, "/apisix/admin/routes", "", func(r *http.Request) {
				r.RemoteAddr = c.peer
				r.Header.Set("X-Forwarded-For", "127.0.0.1")
				r.Header.Set("X-Real-IP", "10.0.0.1")
				r.Header.Set("Forwarded", "for=127.0.0.1")
			})
			if w.Code != c.status {
				t.Errorf("%s from %q: got %d, want %d", method, c.peer, w.Code, c.status)
			}
		}
	}
}

func TestAPISIXHostileBodies(t *testing.T) {
	h, store := apisixTest(t, nil)
	for _, c := range []struct{ name, body, want string }{
		{"deep", strings.Repeat(`{"a":`, 100_000), "too many nested data structures"},
		{"10 MB", `{"uri":"` + strings.Repeat("x", 10<<20) + `"}`, "is greater than the maximum size 1572864 allowed"},
		{"duplicate", `{"uri":"/a","uri":"/b","plugins":{}}`, `Found the object key \"uri\" twice at character 13`},
		{"duplicate in an escape", `{"plugins":{"key-auth":{},"key\u002dauth":{}},"uri":"/b"}`, "twice"},
		{"not UTF-8", "{\"uri\":\"/\xff\"}", "invalid UTF-8"},
		{"case", `{"URI":"/a","uri":"/a","plugins":{}}`, "additional properties forbidden, found URI"},
		{"id that climbs", `{"id":"..","uri":"/a","plugins":{}}`, "wrong route id"},
	} {
		target := "/apisix/admin/routes/1"
		if strings.Contains(c.name, "climbs") {
			target = "/apisix/admin/routes"
		}
		w := apisixDo(h, "PUT", target, c.body)
		if w.Code != 400 || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s: got %d %.200s, want %s", c.name, w.Code, w.Body, c.want)
		}
		// Length unknown: the limit holds all the same.
		w = apisixDo(h, "PUT", target, c.body, func(r *http.Request) { r.ContentLength = -1 })
		if w.Code != 400 {
			t.Errorf("%s, chunked: got %d", c.name, w.Code)
		}
	}
	for _, target := range []string{"/apisix/admin/routes/%2e%2e", "/apisix/admin/routes/..%2f..%2fetc", "/apisix/admin/routes/a%00b", "/apisix/adminx/routes"} {
		for _, method := range []string{"GET", "DELETE", "PATCH"} {
			if w := apisixDo(h, method, target, `{"desc":"x"}`); w.Code != 404 {
				t.Errorf("%s %s: got %d", method, target, w.Code)
			}
		}
	}
	if objs, _, _ := store.List(context.Background(), ""); len(objs) != 0 {
		t.Errorf("something was stored: %v", objs)
	}
}

const apisixTestRoute = `{"uri":"/x","upstream":{"nodes":{"127.0.0.1:1980":1}}}`

// TestAPISIXChangesAddUp: no row of changes makes a resource that cannot be
// read again.
func TestAPISIXChangesAddUp(t *testing.T) {
	h, _ := apisixTest(t, nil)
	if w := apisixDo(h, "PUT", "/apisix/admin/routes/1", `{"uri":"/x","plugins":{"prometheus":{}}}`); w.Code != 201 {
		t.Fatal(w.Code, w.Body)
	}
	w := apisixDo(h, "PATCH", "/apisix/admin/routes/1/plugins/prometheus"+strings.Repeat("/a", 200), `1`)
	if w.Code != 400 || !strings.Contains(w.Body.String(), "too many nested") {
		t.Errorf("deep: got %d %s", w.Code, w.Body)
	}
	for i := range 3 {
		w = apisixDo(h, "PATCH", "/apisix/admin/routes/1", fmt.Sprintf(`{"plugins":{"prometheus":{"a%d":"%s"}}}`, i, strings.Repeat("x", 1<<20)))
	}
	if w.Code != 400 || !strings.Contains(w.Body.String(), "bytes, at most") {
		t.Errorf("large: got %d %.100s", w.Code, w.Body)
	}
	if w := apisixDo(h, "GET", "/apisix/admin/routes/1", ""); w.Code != 200 {
		t.Errorf("read: got %d %.100s", w.Code, w.Body)
	}
}

// TestAPISIXConcurrentPatch: no change is lost, whoever wins.
func TestAPISIXConcurrentPatch(t *testing.T) {
	// Two APIs over one store, as two processes would be.
	a, store := apisixTest(t, nil)
	b, _ := apisixTest(t, func(o *APISIX) { o.Store = store })
	if w := apisixDo(a, "PUT", "/apisix/admin/routes/1", apisixTestRoute); w.Code != 201 {
		t.Fatal(w.Code, w.Body)
	}
	const n = 24
	var wg sync.WaitGroup
	var refused atomic.Int64
	for i := range n {
		wg.Go(func() {
			h := []http.Handler{a, b}[i%2]
			for {
				w := apisixDo(h, "PATCH", "/apisix/admin/routes/1", fmt.Sprintf(`{"labels":{"l%d":"v"}}`, i))
				if w.Code == 200 {
					return
				}
				if w.Code != 503 || !strings.Contains(w.Body.String(), "value changed before overwritten") {
					refused.Add(1)
					return
				}
			}
		})
	}
	wg.Wait()
	var got struct {
		Value struct{ Labels map[string]string }
	}
	if err := json.Unmarshal(apisixDo(a, "GET", "/apisix/admin/routes/1", "").Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Value.Labels) != n || refused.Load() != 0 {
		t.Errorf("got %d labels of %d, %d refused", len(got.Value.Labels), n, refused.Load())
	}
}

// TestAPISIXNoDanglingReference: a delete and a reference to what it deletes,
// at the same time: one of them is refused.
func TestAPISIXNoDanglingReference(t *testing.T) {
	for range 50 {
		h, _ := apisixTest(t, nil)
		apisixDo(h, "PUT", "/apisix/admin/upstreams/u", `{"nodes":{"127.0.0.1:1980":1}}`)
		var put, del int
		var wg sync.WaitGroup
		wg.Go(func() { put = apisixDo(h, "PUT", "/apisix/admin/routes/1", `{"uri":"/x","upstream_id":"u"}`).Code })
		wg.Go(func() { del = apisixDo(h, "DELETE", "/apisix/admin/upstreams/u", "").Code })
		wg.Wait()
		if (put == 201) == (del == 200) {
			t.Fatalf("put %d, delete %d", put, del)
		}
	}
}

func TestAPISIXConcurrentCredentials(t *testing.T) {
	h, _ := apisixTest(t, nil)
	var wg sync.WaitGroup
	var stored atomic.Int64
	for i := range 16 {
		wg.Go(func() {
			w := apisixDo(h, "PUT", "/apisix/admin/consumers", fmt.Sprintf(`{"username":"u%d","plugins":{"key-auth":{"key":"same"}}}`, i))
			if w.Code == 201 {
				stored.Add(1)
			}
		})
	}
	wg.Wait()
	if stored.Load() != 1 {
		t.Errorf("%d consumers have the same key", stored.Load())
	}
}

type apisixTestLive struct {
	waited []int64
	err    error
	refuse error
}

func (l *apisixTestLive) Wait(ctx context.Context, revision int64) error {
	if _, ok := ctx.Deadline(); !ok {
		return errors.New("no deadline")
	}
	l.waited = append(l.waited, revision)
	return l.err
}

func (l *apisixTestLive) Check(kind resource.Kind, id string, raw json.RawMessage) error {
	return l.refuse
}

func TestAPISIXLive(t *testing.T) {
	live := &apisixTestLive{}
	h, store := apisixTest(t, func(a *APISIX) { a.Live, a.Check = live, live })
	for _, c := range []struct {
		method, target, body string
	}{
		{"PUT", "/apisix/admin/routes/1", apisixTestRoute},
		{"POST", "/apisix/admin/routes", apisixTestRoute},
		{"PATCH", "/apisix/admin/routes/1", `{"desc":"x"}`},
		{"DELETE", "/apisix/admin/routes/1", ""},
	} {
		before := len(live.waited)
		if w := apisixDo(h, c.method, c.target, c.body); w.Code > 201 {
			t.Fatal(c.method, w.Code, w.Body)
		}
		_, rev, _ := store.List(context.Background(), "")
		if len(live.waited) != before+1 || live.waited[before] != rev {
			t.Errorf("%s: waited for %v, stored as %d", c.method, live.waited[before:], rev)
		}
	}
	live.refuse = fault.New(fault.Invalid, "the certificate is for another name")
	w := apisixDo(h, "PUT", "/apisix/admin/routes/1", apisixTestRoute)
	if w.Code != 400 || !strings.Contains(w.Body.String(), "the certificate is for another name") {
		t.Errorf("refused by the data plane: got %d %s", w.Code, w.Body)
	}
	live.refuse = errors.New("secret detail")
	w = apisixDo(h, "PUT", "/apisix/admin/routes/1", apisixTestRoute)
	if w.Code < 500 || strings.Contains(w.Body.String(), "secret detail") {
		t.Errorf("internal error: got %d %s", w.Code, w.Body)
	}
	if _, err := store.Get(context.Background(), resource.Routes, "1"); fault.KindOf(err) != fault.NotFound {
		t.Error("what was refused is stored")
	}
	live.refuse, live.err = nil, context.DeadlineExceeded
	w = apisixDo(h, "PUT", "/apisix/admin/routes/1", apisixTestRoute)
	if w.Code != 503 || !strings.Contains(w.Body.String(), "not live on this node yet") {
		t.Errorf("not live: got %d %s", w.Code, w.Body)
	}
}

// apisixDown is a store that fails.
type apisixDown struct {
	resource.Store
	err error
}

func (d apisixDown) Get(context.Context, resource.Kind, string) (resource.Object, error) {
	return resource.Object{}, d.err
}
func (d apisixDown) List(context.Context, resource.Kind) ([]resource.Object, int64, error) {
	return nil, 0, d.err
}

func TestAPISIXStoreFails(t *testing.T) {
	h, _ := apisixTest(t, func(a *APISIX) { a.Store = apisixDown{err: errors.New("disk path /secret")} })
	for _, c := range []struct{ method, target, body string }{
		{"GET", "/apisix/admin/routes", ""}, {"GET", "/apisix/admin/routes/1", ""}, {"PUT", "/apisix/admin/routes/1", apisixTestRoute},
		{"POST", "/apisix/admin/routes", apisixTestRoute}, {"PATCH", "/apisix/admin/routes/1", `{"a":1}`}, {"DELETE", "/apisix/admin/routes/1", ""},
		{"PUT", "/apisix/admin/routes/1", `{"uri":"/x","upstream_id":"u"}`},
	} {
		w := apisixDo(h, c.method, c.target, c.body)
		if w.Code != 503 || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%s %s: got %d %s", c.method, c.target, w.Code, w.Body)
		}
	}
}

func TestAPISIXExpiry(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	h, store := apisixTest(t, func(a *APISIX) { a.Now = func() time.Time { return now } })
	store.Now = func() time.Time { return now }
	if w := apisixDo(h, "PUT", "/apisix/admin/routes/1?ttl=10", apisixTestRoute); w.Code != 201 {
		t.Fatal(w.Code, w.Body)
	}
	if w := apisixDo(h, "PATCH", "/apisix/admin/routes/1", `{"desc":"still expires"}`); w.Code != 200 {
		t.Fatal(w.Code, w.Body)
	}
	if w := apisixDo(h, "GET", "/apisix/admin/routes/1", ""); w.Code != 200 {
		t.Errorf("before: %d", w.Code)
	}
	now = now.Add(11 * time.Second)
	if w := apisixDo(h, "GET", "/apisix/admin/routes/1", ""); w.Code != 404 {
		t.Errorf("after: %d", w.Code)
	}
}

func TestAdminKeyIsNotPrinted(t *testing.T) {
	k := AdminKey{Key: "hidden", Role: RoleAdmin}
	var b bytes.Buffer
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "key", k)
	fmt.Fprintf(&b, "%v %+v %#v %s", k, k, k, []AdminKey{k})
	if strings.Contains(b.String(), "hidden") {
		t.Error(b.String())
	}
}

func TestAPISIXRefusesBrokenPlugins(t *testing.T) {
	doc := func(s string) func() json.RawMessage { return func() json.RawMessage { return json.RawMessage(s) } }
	for name, list := range map[string][]gateway.Plugin{
		"no schema":       {{Name: "a"}},
		"schema is wrong": {{Name: "a", Schema: doc(`{"type":"thing"}`)}},
		"listed twice":    {{Name: "a", Schema: doc(`{}`)}, {Name: "a", Schema: doc(`{}`)}},
		"metadata":        {{Name: "a", Schema: doc(`{}`), MetadataSchema: doc(`{"contains":{}}`)}},
	} {
		if _, err := (&APISIX{Plugins: list}).Handler(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
