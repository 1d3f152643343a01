package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func environ(kv ...string) Environ {
	m := map[string]string{}
	for i := 0; i < len(kv); i += 2 {
		m[kv[i]] = kv[i+1]
	}
	return func(name string) (string, bool) { v, ok := m[name]; return v, ok }
}

func TestLoadConfig(t *testing.T) {
	for _, c := range []struct {
		name, file string
		env        Environ
		want       string // in the error; "" none
	}{
		{"defaults", "", environ(), ""},
		{"typo", "gateway:\n  apisix:\n    node_listne: 9080", environ(), `gatehouse.yaml:3: gateway.apisix.node_listne: unknown key; did you mean "gateway.apisix.node_listen"?`},
		{"listen forms", "gateway: {apisix: {node_listen: [9080, '127.0.0.1:9081', {ip: 127.0.0.1, port: 9082}]}}", environ(), ""},
		{"bad listen", "gateway: {apisix: {node_listen: [somewhere]}}", environ(), "expected a port or ip:port"},
		{"shared database without a secret", "provider: {dsn: 'postgres://x@y/z'}", environ(), "provider.secrets.system: a shared database needs a secret"},
		{"with one from the environment", "provider: {dsn: 'postgres://x@y/z'}", environ("SECRETS_SYSTEM", "0123456789abcdef"), ""},
		{"short secret", "", environ("SECRETS_SYSTEM", "short"), "at least 16 characters"},
		{"relative URL", "", environ("URLS_LOGIN", "/login"), "provider.urls.login: expected an absolute"},
		{"another database", "", environ("DSN", "mysql://x"), "mysql is not supported"},
		{"bad number", "", environ("SERVE_PUBLIC_PORT", "x"), "$SERVE_PUBLIC_PORT: provider.serve.public.port: expected a number"},
		{"bad network", "gateway: {deployment: {admin: {allow_admin: [home]}}}", environ(), "expected an address or network"},
		{"weak admin key", "gateway: {deployment: {admin: {admin_key: [{name: a, key: short}]}}}", environ(), "admin_key[0].key: a key has at least 16 characters"},
		{"unknown variable", "gateway: {nginx_config: {http: {access_log_format: '$uri $request_hash'}}}", environ(), "gateway.nginx_config.http.access_log_format: unknown variable $request_hash"},
		{"bad escape", "gateway: {nginx_config: {http: {access_log_format_escape: none}}}", environ(), "access_log_format_escape"},
		{"log off", "gateway: {nginx_config: {http: {access_log: 'off'}}}", environ(), "use enable_access_log: false"},
		{"APISIX's format", "gateway: {nginx_config: {http: {access_log_format: '$remote_addr - $remote_user [$time_local] $http_host \"$request\" $status $body_bytes_sent $request_time \"$http_referer\" \"$http_user_agent\" $upstream_addr $upstream_status $upstream_response_time \"$upstream_scheme://$upstream_host$upstream_uri\" \"$apisix_request_id\"'}}}", environ(), ""},
		{"half a certificate", "provider: {serve: {public: {tls: {cert: a.pem}}}}", environ(), "cert and key belong together"},
	} {
		path := ""
		if c.file != "" {
			path = filepath.Join(t.TempDir(), "gatehouse.yaml")
			if err := os.WriteFile(path, []byte(c.file), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err := LoadConfig(path, c.env)
		if got := ""; err != nil {
			got = err.Error()
			if c.want == "" || !strings.Contains(got, c.want) {
				t.Errorf("%s: got %q, want %q", c.name, got, c.want)
			}
		} else if c.want != "" {
			t.Errorf("%s: no error, want %q", c.name, c.want)
		}
	}
}

func TestEnvironmentAsInTheTutorial(t *testing.T) {
	c, err := LoadConfig("", environ(
		"DSN", "postgres://hydra:secret@db:5432/hydra?sslmode=disable", "SECRETS_SYSTEM", "0123456789abcdef0123456789abcdef",
		"URLS_SELF_ISSUER", "https://localhost:5444/", "URLS_LOGIN", "http://localhost:9020/login", "URLS_CONSENT", "http://localhost:9020/consent",
		"SERVE_PUBLIC_PORT", "5444", "HYDRA_ADMIN_URL", "https://127.0.0.1:5445", "NODE_TLS_REJECT_UNAUTHORIZED", "0", "GATEHOUSE_DATA", "/tmp/x",
	))
	if err != nil {
		t.Fatal(err)
	}
	p := c.Provider
	if !p.shared() || p.URLs.Self.Issuer != "https://localhost:5444/" || p.URLs.Login != "http://localhost:9020/login" || p.Serve.Public.Port != 5444 ||
		p.Serve.Admin.Port != 4445 || p.Serve.Admin.Host != "127.0.0.1" || c.Login.HydraAdminURL == "" || !c.Login.SkipTLSVerify || c.Data != "/tmp/x" {
		t.Errorf("got %+v", c)
	}
}

func TestHydraFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hydra.yml")
	if err := os.WriteFile(path, []byte("dsn: memory\nurls:\n  self: {issuer: 'http://localhost:4444/'}\nserve: {public: {port: 4000}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadHydraConfig([]string{path}, environ("SERVE_PUBLIC_PORT", "4001"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Provider.DSN != "memory" || c.Provider.Serve.Public.Port != 4001 || c.PublicURL() != "http://localhost:4444/" {
		t.Errorf("got %+v", c.Provider)
	}
}
