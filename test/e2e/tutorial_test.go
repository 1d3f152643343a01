package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/jackc/pgx/v5"

	"gatehouse/test/fixtures"
)

// TestTutorial is docs/tutorial.md, step by step, on its own ports.
func TestTutorial(t *testing.T) {
	data := t.TempDir()

	// Step 1: the database hydra of the user hydra with the password secret.
	admin := fixtures.Postgres(t)
	conn, err := pgx.Connect(t.Context(), admin)
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{`create role hydra login password 'secret'`, `create database hydra owner hydra`} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	conn.Close(t.Context())
	u, err := url.Parse(admin)
	if err != nil {
		t.Fatal(err)
	}

	// Step 2: secret, DSN, migration, provider.
	secret := strings.TrimSpace(shell(t, nil, `export SECRETS_SYSTEM=$(export LC_CTYPE=C; cat /dev/urandom | tr -dc 'a-zA-Z0-9' | fold -w 32 | head -n 1)
echo $SECRETS_SYSTEM`))
	env := []string{
		"GATEHOUSE_DATA=" + data, "SECRETS_SYSTEM=" + secret,
		"DSN=postgres://hydra:secret@127.0.0.1:" + u.Port() + "/hydra?sslmode=disable",
	}
	shell(t, env, `hydra migrate sql --yes $DSN`)
	provider := start(t, append(env,
		"SERVE_PUBLIC_PORT=5444", "SERVE_ADMIN_PORT=5445",
		"URLS_SELF_ISSUER=https://localhost:5444/",
		"URLS_CONSENT=http://localhost:9020/consent",
		"URLS_LOGIN=http://localhost:9020/login",
	), "hydra", "serve", "all")
	https := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, Timeout: 5 * time.Second}
	provider.wait("readiness", answers(https, "https://127.0.0.1:5444/health/ready"))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(readFile(t, filepath.Join(data, "ca.crt"))))
	https.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	if help := shell(t, env, `hydra help serve`); !strings.Contains(help, "SECRETS_SYSTEM") {
		t.Errorf("help serve does not help: %s", help)
	}

	// Step 3: the login app.
	app := start(t, append(env, "HYDRA_ADMIN_URL=https://127.0.0.1:5445", "NODE_TLS_REJECT_UNAUTHORIZED=0"),
		"gatehouse", "serve", "login", "--port", "9020")
	app.wait("readiness", answers(http.DefaultClient, "http://127.0.0.1:9020/health/ready"))
	const email, password = "foo@bar.com", "correct horse battery"
	shell(t, env, `echo '`+password+`' | gatehouse users add `+email+` --password-stdin`)

	// Step 4: the client, and the flow by the command line's own client.
	out := shell(t, append(env, "HYDRA_ADMIN_URL=https://127.0.0.1:5445"), `hydra \
  clients create --skip-tls-verify \
    --id facebook-photo-backup \
    --secret some-secret \
    --grant-types authorization_code,refresh_token,client_credentials,implicit \
    --response-types token,code,id_token \
    --scope openid,offline,photos.read \
    --callbacks http://127.0.0.1:9010/callback`)
	if !strings.Contains(out, "OAuth 2.0 Client ID: facebook-photo-backup") {
		t.Errorf("clients create said %q", out)
	}
	user := start(t, env, "hydra",
		"token", "user", "--skip-tls-verify",
		"--port", "9010",
		"--auth-url", "https://localhost:5444/oauth2/auth",
		"--token-url", "https://localhost:5444/oauth2/token",
		"--client-id", "facebook-photo-backup",
		"--client-secret", "some-secret",
		"--scope", "openid,offline,photos.read")
	for _, want := range []string{"Setting up home route on http://127.0.0.1:9010/", "Setting up callback listener on http://127.0.0.1:9010/callback",
		"Press ctrl + c on Linux / Windows or cmd + c on OSX to end the process.", "If your browser doesn't open automatically, navigate to:"} {
		user.wait(want, func() bool { return strings.Contains(user.output(), want) })
	}
	first := browser(t, data)
	do(t, first, "home of token user", chromedp.Navigate("http://127.0.0.1:9010/"), chromedp.WaitVisible(chromedp.CSS("#authorize")), chromedp.Click(chromedp.CSS("#authorize")))
	signIn(t, first, email, password)
	bodyHas(t, first, "tokens", "Access Token")
	select {
	case <-user.done:
	case <-time.After(20 * time.Second):
		t.Fatal("token user did not end after success")
	}
	for _, want := range []string{"Access Token:\n\tory_at_", "Refresh Token:\n\tory_rt_", "ID Token:\n\tey"} {
		if !strings.Contains(user.output(), want) {
			t.Errorf("token user did not print %q:\n%s", want, user.output())
		}
	}

	// Step 5: nginx, the gateway, the route.
	root := t.TempDir()
	page := "<!doctype html><title>Welcome</title><h1>Welcome to nginx!</h1>"
	if err := os.WriteFile(filepath.Join(root, "index.html"), []byte(page), 0o644); err != nil {
		t.Fatal(err)
	}
	os.Chmod(root, 0o755)
	os.Chmod(filepath.Dir(root), 0o755)
	upstream, err := url.Parse(fixtures.Nginx(t, root))
	if err != nil {
		t.Fatal(err)
	}
	gateway := start(t, append(env, "GATEWAY_DEPLOYMENT_ADMIN_ADMIN_ON_NODE_LISTEN=true"), "gatehouse", "serve", "gateway")
	gateway.wait("readiness", answers(http.DefaultClient, "http://127.0.0.1:9080/"))
	answer := shell(t, env, `curl -sS -w '\n%{http_code}' http://127.0.0.1:9080/apisix/admin/routes/1 \
-H 'X-API-KEY: `+readFile(t, filepath.Join(data, "admin.key"))+`' -X PUT -d '
{
    "uri":"/*",
    "plugins":{
        "openid-connect":{
            "client_id":"facebook-photo-backup",
            "client_secret":"some-secret",
            "discovery":"https://127.0.0.1:5444/.well-known/openid-configuration",
            "scope":"openid",
            "token_endpoint_auth_method": "client_secret_basic",
            "bearer_only": false,
            "redirect_uri":"http://127.0.0.1:9080/callback"
        }
    },
    "upstream":{
        "type":"roundrobin",
        "nodes":{
            "`+upstream.Host+`":1
        }
    }
}'`)
	if !strings.HasSuffix(answer, "\n201") {
		t.Fatalf("creating the route: %s", answer)
	}

	// Step 6: a browser.
	tab := browser(t, data)
	const open = "http://127.0.0.1:9080/index.html"
	do(t, tab, "opening the page", chromedp.Navigate(open))
	signIn(t, tab, email, password)
	bodyHas(t, tab, "the upstream's page", "Welcome to nginx!")
	do(t, tab, "reloading", chromedp.Reload())
	bodyHas(t, tab, "the upstream's page after a reload, without a sign-in", "Welcome to nginx!")
	if at, err := chromedp.Run(tab, chromedp.Location()); err != nil || at != open {
		t.Errorf("the browser is at %s (%v), want %s", at, err, open)
	}
	do(t, tab, "signing out", chromedp.Navigate("http://127.0.0.1:9080/logout"), chromedp.WaitVisible(chromedp.CSS("#accept")), picture("logout"), chromedp.Click(chromedp.CSS("#accept")))
	bodyHas(t, tab, "the signed-out page", "signed out")
	do(t, tab, "opening the page again", chromedp.Navigate(open), chromedp.WaitVisible(chromedp.CSS("#email")))
}
