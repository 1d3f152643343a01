package daemon

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"gatehouse/gateway/live"
	"gatehouse/lib/strict"
)

// Config is gatehouse.yaml: one strict struct. Key names below gateway are
// those of APISIX's config.yaml, below provider those of Hydra. The zero file
// works. `gatehouse check` says everything wrong at once.
type Config struct {
	Data string `yaml:"data" default:"./gatehouse-data" doc:"directory for everything kept on disk; also --data and GATEHOUSE_DATA"`
	Log  struct {
		Level  string `yaml:"level" enum:"debug|info|warn|error" default:"info" doc:"least level that is logged"`
		Format string `yaml:"format" enum:"text|json" default:"text" doc:"form of a log line"`
	} `yaml:"log"`
	Gateway  GatewayConfig  `yaml:"gateway"`
	Provider ProviderConfig `yaml:"provider"`
	Login    LoginConfig    `yaml:"login"`
}

// Listen is an address: a port, or ip and port.
type Listen struct {
	IP   string `yaml:"ip"`
	Port int    `yaml:"port" min:"0" max:"65535"`
}

// FromScalar reads "9080" or "127.0.0.1:9080".
func (l *Listen) FromScalar(s string) error {
	if port, err := strconv.Atoi(s); err == nil {
		if port < 0 || port > 65535 {
			return fmt.Errorf("a port is between 0 and 65535, got %d", port)
		}
		l.Port = port
		return nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return fmt.Errorf("expected a port or ip:port, got %q", s)
	}
	l.IP, l.Port = ap.Addr().String(), int(ap.Port())
	return nil
}

// Addr is the address for net.Listen.
func (l Listen) Addr() string { return net.JoinHostPort(l.IP, strconv.Itoa(l.Port)) }

// TLSListen is an address that serves HTTPS: a port, or ip and port.
type TLSListen struct {
	IP          string `yaml:"ip"`
	Port        int    `yaml:"port" min:"0" max:"65535"`
	EnableHTTP3 bool   `yaml:"enable_http3"`
}

// FromScalar reads "9443" or "127.0.0.1:9443".
func (l *TLSListen) FromScalar(s string) error {
	var plain Listen
	err := plain.FromScalar(s)
	l.IP, l.Port = plain.IP, plain.Port
	return err
}

// Addr is the address for net.Listen.
func (l TLSListen) Addr() string { return Listen{l.IP, l.Port}.Addr() }

// AdminKey is one key of the gateway's Admin API.
type AdminKey struct {
	Name string `yaml:"name"`
	Key  string `yaml:"key"`
	Role string `yaml:"role" enum:"admin|viewer" default:"admin"`
}

// FromScalar reads a key of the role admin.
func (k *AdminKey) FromScalar(s string) error {
	k.Key, k.Role = s, "admin"
	return nil
}

// GatewayConfig is the gateway's part.
type GatewayConfig struct {
	APISIX struct {
		NodeListen         []Listen `yaml:"node_listen" default:"9080" doc:"where HTTP is served: ports or {ip, port}"`
		EnableServerTokens bool     `yaml:"enable_server_tokens" default:"false" doc:"name the version in the Server header"`
		ShowUpstreamStatus bool     `yaml:"show_upstream_status_in_response_header" default:"false" doc:"always answer X-APISIX-Upstream-Status, not only for 5xx"`
		TrustedAddresses   []string `yaml:"trusted_addresses" doc:"addresses or networks of proxies whose X-Forwarded-* are believed"`
		DNSResolver        []string `yaml:"dns_resolver" doc:"DNS servers for the names of nodes, asked in turn: addresses, with a port or without; none: the system's"`
		DNSResolverValid   int      `yaml:"dns_resolver_valid" min:"1" max:"86400" default:"10" doc:"seconds for which an answer about a name is good"`
		DNSResolverStale   int      `yaml:"dns_resolver_stale" min:"1" max:"86400" default:"600" doc:"seconds for which an old answer serves while no DNS server answers"`
		ResolverTimeout    int      `yaml:"resolver_timeout" min:"1" max:"60" default:"5" doc:"longest time for looking up a name, in seconds"`
		SSL                struct {
			Enable      bool        `yaml:"enable" default:"true" doc:"serve HTTPS with the certificates of the ssls resource"`
			Listen      []TLSListen `yaml:"listen" default:"9443" doc:"where HTTPS is served: ports or {ip, port, enable_http3}; enable_http3: true (default false) serves HTTP/3 on the UDP port of the same number and says so in Alt-Svc"`
			FallbackSNI string      `yaml:"fallback_sni" doc:"server name assumed when a client sends none"`
			Protocols   string      `yaml:"ssl_protocols" default:"TLSv1.2 TLSv1.3" doc:"TLS versions where an ssl resource names none"`
			Ciphers     string      `yaml:"ssl_ciphers" doc:"cipher suites of TLS 1.2, OpenSSL's names with colons between them; empty: ECDHE with AES-GCM or ChaCha20-Poly1305. Those of TLS 1.3 are not chosen"`
			Tickets     bool        `yaml:"ssl_session_tickets" default:"true" doc:"let clients resume TLS sessions, across restarts too; the keys change every day"`
		} `yaml:"ssl"`
		ProxyProtocol struct {
			ListenHTTP  []Listen `yaml:"listen_http_port" doc:"where HTTP behind the PROXY protocol (version 1 or 2) is served: ports or {ip, port}; the header is required there"`
			ListenHTTPS []Listen `yaml:"listen_https_port" doc:"where HTTPS behind the PROXY protocol is served"`
			Trusted     []string `yaml:"trusted_addresses" default:"127.0.0.0/8,::1/128" doc:"addresses or networks of the proxies that may connect to these ports; others are closed unread"`
		} `yaml:"proxy_protocol"`
	} `yaml:"apisix"`
	NginxConfig struct {
		WorkerShutdownTimeout time.Duration `yaml:"worker_shutdown_timeout" default:"30s" doc:"longest wait for requests and WebSockets under way when the process stops or is replaced, of all its ports"`
		HTTP                  struct {
			EnableAccessLog     bool          `yaml:"enable_access_log" default:"true" doc:"one line per request"`
			AccessLog           string        `yaml:"access_log" default:"stderr" doc:"where the lines go: stderr, stdout, or a file, relative to the data directory; it is opened again on SIGUSR1"`
			AccessLogFormat     string        `yaml:"access_log_format" doc:"a line, with nginx's and APISIX's variables; none: a ready form, see docs/logs.md"`
			AccessLogEscape     string        `yaml:"access_log_format_escape" enum:"default|json" doc:"how values are escaped; without a format, json is one JSON object a line. When not set: json without a format and with log.format: json, else default"`
			AccessLogRedact     []string      `yaml:"access_log_redact" default:"access_token,api_key,apikey,assertion,client_assertion,client_secret,code,code_verifier,consent_challenge,consent_verifier,device_code,id_token,id_token_hint,jwt,login_challenge,login_verifier,logout_challenge,logout_token,logout_verifier,password,refresh_token,secret,signature,subject_token,token,user_code,x_amz_security_token,x_amz_signature,x_api_key" doc:"query parameters, header fields and cookies that are written as [redacted]; case does not count, - is _"`
			KeepaliveTimeout    time.Duration `yaml:"keepalive_timeout" default:"75s" doc:"longest wait for the next request on a connection"`
			KeepaliveRequests   int           `yaml:"keepalive_requests" min:"0" default:"0" doc:"requests on one connection; 0: no limit"`
			ClientHeaderTimeout time.Duration `yaml:"client_header_timeout" default:"60s" doc:"longest time for a whole request head; beyond: 408"`
			ClientBodyTimeout   time.Duration `yaml:"client_body_timeout" default:"60s" doc:"longest wait between two parts of a request body; beyond: 408"`
			SendTimeout         time.Duration `yaml:"send_timeout" default:"60s" doc:"longest time in which a client takes nothing of an answer"`
			ClientMinRate       int           `yaml:"client_min_rate" min:"0" default:"240" doc:"bytes in a second that a client sends of a body, or takes of an answer, while it is waited for; 0: no limit, beyond: 408, or cut off"`
			ClientMinRateWindow time.Duration `yaml:"client_min_rate_window" default:"30s" doc:"time over which client_min_rate is measured"`
			RequestTimeout      time.Duration `yaml:"request_timeout" default:"0s" doc:"longest time for a request and its answer, upgraded connections excepted; 0: no limit, beyond: 504, or cut off"`
			ClientMaxBodySize   int           `yaml:"client_max_body_size" min:"0" default:"0" doc:"bytes of a request body; 0: no limit, beyond: 413"`
			ClientMaxHeaderSize int           `yaml:"client_max_header_size" min:"1024" default:"65536" doc:"bytes of a request head; beyond: 431"`
			ClientMaxHeaders    int           `yaml:"client_max_headers" min:"1" default:"200" doc:"header fields of a request; beyond: 431"`
			ClientMaxURISize    int           `yaml:"client_max_uri_size" min:"64" default:"16384" doc:"bytes of a request target; beyond: 414"`
			TunnelTimeout       time.Duration `yaml:"tunnel_timeout" default:"1h" doc:"longest silence of an upgraded connection (WebSocket)"`
			HTTP2MaxStreams     int           `yaml:"http2_max_concurrent_streams" min:"1" default:"100" doc:"requests at once on one connection of HTTP/2 or HTTP/3"`
			MaxConnections      int           `yaml:"max_connections" min:"0" default:"0" doc:"open connections of a listener; 0: no limit, beyond: closed at once"`
			MaxConnectionsPeer  int           `yaml:"max_connections_per_address" min:"0" default:"0" doc:"open connections of one client address; 0: no limit, beyond: closed at once"`
			Upstream            struct {
				MaxConnections int           `yaml:"max_connections" min:"0" default:"20000" doc:"open connections to one node, idle or not; 0: no limit, beyond: a request waits for its connect timeout, then 503"`
				KeepaliveTime  time.Duration `yaml:"keepalive_time" default:"1h" doc:"life of a connection to a node, however busy"`
			} `yaml:"upstream"`
		} `yaml:"http"`
	} `yaml:"nginx_config"`
	Deployment struct {
		Admin struct {
			AdminKey     []AdminKey `yaml:"admin_key" doc:"keys of the Admin API; none: one is generated and kept in admin.key"`
			AllowAdmin   []string   `yaml:"allow_admin" default:"127.0.0.0/8,::1/128" doc:"addresses of TCP peers that may use the Admin API"`
			AdminListen  Listen     `yaml:"admin_listen" default:"127.0.0.1:9180" doc:"where the Admin API is served"`
			OnNodeListen bool       `yaml:"admin_on_node_listen" default:"false" doc:"serve the Admin API on node_listen too, to loopback peers only"`
		} `yaml:"admin"`
	} `yaml:"deployment"`
	PluginAttr struct {
		Prometheus struct {
			EnableExport bool   `yaml:"enable_export_server" default:"true" doc:"serve metrics"`
			ExportAddr   Listen `yaml:"export_addr" default:"127.0.0.1:9091" doc:"where metrics are served"`
			ExportURI    string `yaml:"export_uri" default:"/apisix/prometheus/metrics" doc:"path of the metrics"`
		} `yaml:"prometheus"`
	} `yaml:"plugin_attr"`
	// TrustedCertificate is apisix.ssl.ssl_trusted_certificate's sibling.
	TrustedCertificate string `yaml:"ssl_trusted_certificate" doc:"PEM file of more authorities for calls to upstreams and providers"`
}

// ServeConfig is one listener of the provider.
type ServeConfig struct {
	Host string `yaml:"host" doc:"interface; empty: all of them for public, loopback for admin"`
	Port int    `yaml:"port" min:"0" max:"65535"`
	TLS  struct {
		Enabled bool   `yaml:"enabled" default:"true" doc:"serve HTTPS"`
		Cert    string `yaml:"cert" doc:"PEM file of the certificate; empty: one of the data directory's own authority"`
		Key     string `yaml:"key" doc:"PEM file of the key"`
	} `yaml:"tls"`
}

// ProviderConfig is the provider's part.
type ProviderConfig struct {
	DSN   string `yaml:"dsn" doc:"postgres://… ; empty or sqlite: embedded database in the data directory; memory: nothing is kept"`
	Dev   bool   `yaml:"dev" default:"false" doc:"plain HTTP and cookies without Secure; also --dev"`
	Serve struct {
		Public  ServeConfig `yaml:"public"`
		Admin   ServeConfig `yaml:"admin"`
		Cookies struct {
			SameSite string `yaml:"same_site_mode" enum:"Lax|Strict|None" default:"Lax" doc:"SameSite of our cookies"`
			Domain   string `yaml:"domain" doc:"Domain of our cookies"`
		} `yaml:"cookies"`
	} `yaml:"serve"`
	URLs struct {
		Self struct {
			Issuer string `yaml:"issuer" doc:"issuer of tokens; default https://localhost:4444/"`
			Public string `yaml:"public" doc:"base of the public endpoints; default the issuer"`
		} `yaml:"self"`
		Login              string `yaml:"login" doc:"page that signs users in; default the embedded login app"`
		Consent            string `yaml:"consent" doc:"page that asks for consent; default the embedded login app"`
		Logout             string `yaml:"logout" doc:"page that asks before signing out; default our own page"`
		Error              string `yaml:"error" doc:"page that shows errors which cannot go to the client; default our own"`
		PostLogoutRedirect string `yaml:"post_logout_redirect" doc:"where the browser goes after signing out; default our own page"`
	} `yaml:"urls"`
	Secrets struct {
		System []string `yaml:"system" doc:"secrets of at least 16 characters; the first seals, all open; generated for an embedded database, required for a shared one"`
	} `yaml:"secrets"`
	TTL struct {
		LoginConsentRequest   time.Duration `yaml:"login_consent_request" default:"30m" doc:"how long signing in and consenting may take"`
		AuthenticationSession time.Duration `yaml:"authentication_session" default:"720h" doc:"longest life of a remembered sign-in"`
		AccessToken           time.Duration `yaml:"access_token" default:"1h" doc:"life of an access token"`
		RefreshToken          time.Duration `yaml:"refresh_token" default:"720h" doc:"life of a refresh token; negative: for ever"`
		IDToken               time.Duration `yaml:"id_token" default:"1h" doc:"life of an ID token"`
		AuthCode              time.Duration `yaml:"auth_code" default:"10m" doc:"life of an authorization code"`
	} `yaml:"ttl"`
	Strategies struct {
		Scope       string `yaml:"scope" enum:"wildcard|exact" default:"wildcard" doc:"how a client's scopes match"`
		AccessToken string `yaml:"access_token" enum:"opaque|jwt" default:"opaque" doc:"form of access tokens"`
		IDTokenAlg  string `yaml:"id_token_alg" enum:"RS256|ES256|EdDSA|PS256" default:"RS256" doc:"algorithm of the signing key made at first start"`
	} `yaml:"strategies"`
	OAuth2 struct {
		ExposeInternalErrors bool `yaml:"expose_internal_errors" default:"false" doc:"tell clients the causes of errors"`
		PKCE                 struct {
			Enforced bool `yaml:"enforced" default:"false" doc:"demand PKCE of confidential clients too; public ones always need it"`
		} `yaml:"pkce"`
		Grant struct {
			RefreshToken struct {
				Grace time.Duration `yaml:"rotation_grace_period" default:"0s" doc:"how long a used refresh token gives the same successor again"`
			} `yaml:"refresh_token"`
		} `yaml:"grant"`
	} `yaml:"oauth2"`
}

// LoginConfig is the login app's part.
type LoginConfig struct {
	Host          string `yaml:"host" default:"127.0.0.1" doc:"interface of the login app"`
	Port          int    `yaml:"port" min:"0" max:"65535" default:"3000" doc:"port of the login app; also --port"`
	HydraAdminURL string `yaml:"hydra_admin_url" doc:"admin API of a provider elsewhere; also HYDRA_ADMIN_URL"`
	SkipTLSVerify bool   `yaml:"skip_tls_verify" default:"false" doc:"do not verify that admin API's certificate; also NODE_TLS_REJECT_UNAUTHORIZED=0"`
	DSN           string `yaml:"dsn" doc:"postgres://… for users; default the embedded database in the data directory"`
}

// Environ answers os.LookupEnv; tests bring their own.
type Environ func(name string) (string, bool)

// LoadConfig reads the file (none when path is empty) and the environment. The
// error is strict.Problems, everything wrong at once, or about the file.
func LoadConfig(path string, env Environ) (*Config, error) {
	c := defaults()
	if path == "" {
		return c.load(nil, c, env)
	}
	return c.load([]string{path}, c, env)
}

func defaults() *Config {
	c := &Config{}
	strict.Defaults(c)
	c.Provider.Serve.Public.Port, c.Provider.Serve.Admin.Port = 4444, 4445
	c.Provider.Serve.Admin.Host = "127.0.0.1"
	return c
}

// load reads files into a part of the configuration, lets the environment
// override, and checks the whole.
func (c *Config) load(files []string, part any, env Environ) (*Config, error) {
	var ps strict.Problems
	path := ""
	for _, path = range files {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("reading the configuration: %w", err)
		}
		ps = append(ps, strict.Decode(filepath.Base(path), data, part)...)
	}
	ps = append(ps, strict.Override(c, envLookup(env))...)
	if v, ok := env("NODE_TLS_REJECT_UNAUTHORIZED"); ok && v == "0" {
		c.Login.SkipTLSVerify = true
	}
	ps = append(ps, c.validate(path)...)
	if len(ps) > 0 {
		return nil, ps
	}
	return c, nil
}

// envLookup finds the text of a key in the environment.
func envLookup(env Environ) func(key string) (text, source string, ok bool) {
	return func(key string) (string, string, bool) {
		for _, name := range EnvNames(key) {
			if v, ok := env(name); ok {
				return v, "$" + name, true
			}
		}
		return "", "", false
	}
}

// EnvNames lists the environment variables that override a key, best first.
// The rule: upper case, dots to underscores; provider keys as Hydra has them,
// without prefix.
func EnvNames(key string) []string {
	up := func(s string) string { return strings.ToUpper(strings.ReplaceAll(s, ".", "_")) }
	switch rest, provider := strings.CutPrefix(key, "provider."); {
	case provider:
		return []string{up(key), up(rest)}
	case key == "login.hydra_admin_url":
		return []string{up(key), "HYDRA_ADMIN_URL"}
	case key == "data", strings.HasPrefix(key, "log."):
		return []string{"GATEHOUSE_" + up(key)}
	}
	return []string{up(key)}
}

func (c *Config) validate(path string) (ps strict.Problems) {
	where := filepath.Base(path)
	if path == "" {
		where = "configuration"
	}
	bad := func(key, format string, args ...any) {
		ps = append(ps, strict.Problem{Where: where, Key: key, Text: fmt.Sprintf(format, args...)})
	}
	p := &c.Provider
	for key, u := range map[string]string{
		"provider.urls.self.issuer": p.URLs.Self.Issuer, "provider.urls.self.public": p.URLs.Self.Public,
		"provider.urls.login": p.URLs.Login, "provider.urls.consent": p.URLs.Consent, "provider.urls.logout": p.URLs.Logout,
		"provider.urls.error": p.URLs.Error, "provider.urls.post_logout_redirect": p.URLs.PostLogoutRedirect,
		"login.hydra_admin_url": c.Login.HydraAdminURL,
	} {
		if u == "" {
			continue
		}
		if v, err := url.Parse(u); err != nil || v.Scheme != "http" && v.Scheme != "https" || v.Host == "" || v.Fragment != "" || v.User != nil {
			bad(key, "expected an absolute http(s) URL such as https://localhost:4444/, got %q", u)
		}
	}
	for i, s := range p.Secrets.System {
		if len(s) < 16 {
			bad(fmt.Sprintf("provider.secrets.system[%d]", i), "a secret has at least 16 characters; try `openssl rand -hex 16`")
		}
	}
	if scheme, _, ok := strings.Cut(p.DSN, "://"); ok && scheme != "postgres" && scheme != "postgresql" && scheme != "sqlite" {
		bad("provider.dsn", "%s is not supported; use postgres://user:password@host:5432/name, or leave it out for the embedded database", scheme)
	} else if !ok && p.DSN != "" && p.DSN != "memory" && p.DSN != "sqlite" {
		bad("provider.dsn", "expected postgres://…, sqlite or memory")
	}
	if c.Login.DSN != "" && !isPostgres(c.Login.DSN) {
		bad("login.dsn", "expected postgres://user:password@host:5432/name, or nothing for the embedded database")
	}
	if p.shared() && len(p.Secrets.System) == 0 {
		bad("provider.secrets.system", "a shared database needs a secret that every process knows; set SECRETS_SYSTEM")
	}
	for key, l := range map[string][]string{
		"gateway.deployment.admin.allow_admin": c.Gateway.Deployment.Admin.AllowAdmin,
		"gateway.apisix.trusted_addresses":     c.Gateway.APISIX.TrustedAddresses,

		"gateway.apisix.proxy_protocol.trusted_addresses": c.Gateway.APISIX.ProxyProtocol.Trusted,
	} {
		if _, err := Prefixes(l); err != nil {
			bad(key, "%v", err)
		}
	}
	if key, err := c.Gateway.checkAccessLog(); err != nil {
		bad("gateway.nginx_config.http."+key, "%v", err)
	}
	if _, err := nameservers(c.Gateway.APISIX.DNSResolver); err != nil {
		bad("gateway.apisix.dns_resolver", "%v", err)
	}
	if _, err := live.ParseProtocols(c.Gateway.APISIX.SSL.Protocols); err != nil {
		bad("gateway.apisix.ssl.ssl_protocols", "%v", err)
	}
	if _, err := live.ParseCiphers(c.Gateway.APISIX.SSL.Ciphers); err != nil {
		bad("gateway.apisix.ssl.ssl_ciphers", "%v", err)
	}
	for i, k := range c.Gateway.Deployment.Admin.AdminKey {
		if len(k.Key) < 16 {
			bad(fmt.Sprintf("gateway.deployment.admin.admin_key[%d].key", i), "a key has at least 16 characters")
		}
	}
	for name, s := range map[string]ServeConfig{"public": p.Serve.Public, "admin": p.Serve.Admin} {
		if (s.TLS.Cert == "") != (s.TLS.Key == "") {
			bad("provider.serve."+name+".tls", "cert and key belong together")
		}
	}
	return ps
}

// shared says whether several processes may use the provider's database.
func (p *ProviderConfig) shared() bool {
	return strings.HasPrefix(p.DSN, "postgres://") || strings.HasPrefix(p.DSN, "postgresql://")
}

// nameservers reads addresses of DNS servers: "10.0.0.2", "10.0.0.2:5353".
func nameservers(list []string) ([]string, error) {
	var out []string
	for _, s := range list {
		if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
			out = append(out, netip.AddrPortFrom(a, 53).String())
			continue
		}
		ap, err := netip.ParseAddrPort(s)
		if err != nil {
			return nil, fmt.Errorf("expected the address of a DNS server such as 10.0.0.2 or 10.0.0.2:53, got %q", s)
		}
		out = append(out, ap.String())
	}
	return out, nil
}

// Prefixes reads addresses and networks.
func Prefixes(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range list {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
			continue
		}
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("expected an address or network such as 10.0.0.0/8, got %q", s)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}
