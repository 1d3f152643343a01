package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

const adminKey = "0123456789abcdef0123456789abcdef"

// gate is the Gatehouse under measurement and what it needs to be asked.
type gate struct {
	admin string
	op    *openIDProvider
	token string // a bearer token
}

// startGatehouse starts the binary and stores routes: one for everything, and
// one for each plugin case.
func (b *bench) startGatehouse(ctx context.Context, p *peer) (*gate, error) {
	g := &gate{admin: address(freePort())}
	var err error
	if g.op, err = newProvider(); err != nil {
		return nil, err
	}
	conf := b.file("gatehouse.yaml", fmt.Sprintf(`data: %s/data
gateway:
  nginx_config: {http: {enable_access_log: false}}
  apisix: {node_listen: ["%s"], ssl: {listen: ["%s"], fallback_sni: localhost}}
  deployment: {admin: {admin_key: [{name: bench, key: %s, role: admin}], admin_listen: "%s"}}
  plugin_attr: {prometheus: {export_addr: "%s"}}
`, b.dir, p.http, p.https, adminKey, g.admin, address(freePort())))
	if p.process, err = b.launch(ctx, "gatehouse", 0, g.admin, b.o.binary, "serve", "gateway", "-c", conf); err != nil {
		return nil, err
	}
	cert, key := b.read("cert.pem"), b.read("key.pem")
	up := fmt.Sprintf(`{"type":"roundrobin","nodes":{%q:1},"keepalive_pool":{"size":1024,"idle_timeout":600,"requests":1000000000}}`, b.upstream)
	oidc := fmt.Sprintf(`"client_id":"bench","client_secret":"bench-secret","discovery":%q,"ssl_verify":false`, g.op.issuer+"/.well-known/openid-configuration")
	for _, o := range [][2]string{
		{"upstreams/1", up},
		{"global_rules/1", `{"plugins":{"prometheus":{}}}`},
		{"routes/1", `{"uri":"/*","upstream_id":"1"}`},
		{"consumers/jack", `{"username":"jack","plugins":{"key-auth":{"key":"secret-of-jack"}}}`},
		{"routes/guarded", `{"uri":"/guarded/*","upstream_id":"1","plugins":{"key-auth":{},"limit-count":{"count":1000000000,"time_window":3600,"key":"consumer_name","rejected_code":429}}}`},
		{"routes/session", `{"uri":"/session/*","upstream_id":"1","plugins":{"openid-connect":{` + oidc + `,"redirect_uri":"http://` + p.http + `/session/callback","session":{"secret":"0123456789abcdef0123456789abcdef"}}}}`},
		{"routes/bearer", `{"uri":"/bearer/*","upstream_id":"1","plugins":{"openid-connect":{` + oidc + `,"bearer_only":true,"use_jwks":true}}}`},
		{"ssls/1", string(must(json.Marshal(map[string]any{"cert": cert, "key": key, "snis": []string{"localhost"}})))},
	} {
		if err := g.put(o[0], o[1]); err != nil {
			return nil, err
		}
	}
	g.token, err = g.op.sign(map[string]any{"scope": "openid"})
	return g, err
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func (b *bench) read(name string) string {
	return string(must(os.ReadFile(filepath.Join(b.dir, name))))
}

func (g *gate) put(path, doc string) error {
	r, err := http.NewRequest(http.MethodPut, "http://"+g.admin+"/apisix/admin/"+path, strings.NewReader(doc))
	if err != nil {
		return err
	}
	r.Header.Set("X-API-KEY", adminKey)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	if res.StatusCode >= 300 {
		return fmt.Errorf("storing %s: %s: %s", path, res.Status, text)
	}
	return nil
}

// manyRoutes stores 10,000 routes.
func (g *gate) manyRoutes() error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	next := make(chan int)
	for range 16 {
		wg.Go(func() {
			for i := range next {
				if err := g.put(fmt.Sprintf("routes/r%d", i), fmt.Sprintf(`{"uri":"/r%d/*","upstream_id":"1"}`, i)); err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
				}
			}
		})
	}
	for i := range 10_000 {
		next <- i
	}
	close(next)
	wg.Wait()
	return failed
}

// login walks through a login as a browser does and returns its cookies.
func login(at string) (string, error) {
	jar, _ := cookiejar.New(nil)
	c := &http.Client{Jar: jar, Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	res, err := c.Get(at)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	if body, _ := io.ReadAll(res.Body); res.StatusCode != 200 {
		return "", fmt.Errorf("signing in: %s: %s", res.Status, body)
	}
	u, _ := url.Parse(at)
	var pairs []string
	for _, k := range jar.Cookies(u) {
		pairs = append(pairs, k.Name+"="+k.Value)
	}
	if len(pairs) == 0 {
		return "", errors.New("signing in left no cookie")
	}
	return strings.Join(pairs, "; "), nil
}

// openIDProvider is as much of a provider as a login and a token need.
type openIDProvider struct {
	issuer string
	key    *rsa.PrivateKey
	mu     sync.Mutex
	nonce  string // guarded by mu; of the login under way
}

func newProvider() (*openIDProvider, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	o := &openIDProvider{issuer: "http://" + l.Addr().String(), key: key}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"issuer": o.issuer, "authorization_endpoint": o.issuer + "/auth", "token_endpoint": o.issuer + "/token", "jwks_uri": o.issuer + "/jwks",
			"userinfo_endpoint": o.issuer + "/userinfo", "introspection_endpoint": o.issuer + "/introspect",
			"id_token_signing_alg_values_supported": []string{"RS256"}, "response_types_supported": []string{"code"}, "token_endpoint_auth_methods_supported": []string{"client_secret_basic", "client_secret_post"}})
	})
	mux.HandleFunc("/jwks", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "1", Algorithm: "RS256", Use: "sig"}}})
	})
	mux.HandleFunc("/userinfo", func(w http.ResponseWriter, _ *http.Request) { answer(w, map[string]any{"sub": "ann", "name": "Ann"}) })
	mux.HandleFunc("/auth", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		o.mu.Lock()
		o.nonce = q.Get("nonce")
		o.mu.Unlock()
		http.Redirect(w, r, q.Get("redirect_uri")+"?"+url.Values{"code": {"c"}, "state": {q.Get("state")}, "iss": {o.issuer}}.Encode(), http.StatusFound)
	})
	mux.HandleFunc("/token", func(w http.ResponseWriter, _ *http.Request) {
		o.mu.Lock()
		nonce := o.nonce
		o.mu.Unlock()
		id, err := o.sign(map[string]any{"nonce": nonce, "name": "Ann"})
		if err != nil {
			http.Error(w, err.Error(), 500)
			return
		}
		answer(w, map[string]any{"access_token": id, "id_token": id, "token_type": "Bearer", "expires_in": 86400, "refresh_token": "r"})
	})
	go func() { _ = http.Serve(l, mux) }()
	return o, nil
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	var b bytes.Buffer
	_ = json.NewEncoder(&b).Encode(v)
	_, _ = w.Write(b.Bytes())
}

func (o *openIDProvider) sign(more map[string]any) (string, error) {
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: o.key, KeyID: "1"}}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", err
	}
	now := time.Now()
	claims := map[string]any{"iss": o.issuer, "sub": "ann", "aud": "bench", "iat": now.Unix(), "exp": now.Add(24 * time.Hour).Unix()}
	for k, v := range more {
		claims[k] = v
	}
	return jwt.Signed(s).Claims(claims).Serialize()
}
