package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"gatehouse/admin"
	"gatehouse/lib/phc"
	"gatehouse/oauth"
	"gatehouse/oauth/authorize"
	"gatehouse/oauth/clientauth"
	"gatehouse/oauth/clients"
	"gatehouse/oauth/endpoint"
	"gatehouse/oauth/fallback"
	"gatehouse/oauth/interaction"
	"gatehouse/oauth/keys"
	"gatehouse/oauth/mint"
	"gatehouse/oauth/session"
	"gatehouse/oauth/token"
	"gatehouse/store/embedded"
	"gatehouse/store/memory"
	"gatehouse/store/postgres"
)

// rotateKeys is the age at which a signing key is followed by another.
const rotateKeys = 90 * 24 * time.Hour

// provider is the OAuth 2.0 and OpenID Connect provider, without its ports.
type provider struct {
	settings *oauth.Settings
	store    recordStore
	registry *clients.Registry
	keys     *keys.Ring
	desk     *interaction.Desk
	public   http.Handler
	admin    http.Handler
}

// ready says whether the store answers.
func (p *provider) ready(ctx context.Context) error {
	_, err := p.store.Get(ctx, oauth.Ref{Kind: oauth.Clients, Key: "?"})
	return err
}

func (p *provider) close() error { return p.store.Close() }

// recordStore is a store of records that must be closed.
type recordStore interface {
	oauth.Store
	Close() error
}

type unclosed struct{ *memory.Records }

func (unclosed) Close() error { return nil }

func openRecords(ctx context.Context, c *Config, lock *os.File) (recordStore, error) {
	switch dsn := c.Provider.DSN; {
	case isPostgres(dsn):
		return postgres.OpenRecords(ctx, dsn, time.Now)
	case dsn == "memory":
		return unclosed{memory.NewRecords(time.Now)}, nil
	}
	return embedded.OpenRecords(ctx, c.Data, time.Now, embedded.WithLock(lock))
}

// openProvider opens the provider's database and keys and wires its rooms. lock
// is the database's, if another process has handed it over.
func openProvider(ctx context.Context, c *Config, lock *os.File, log *slog.Logger) (*provider, error) {
	set, err := settings(c, log)
	if err != nil {
		return nil, err
	}
	p := &provider{settings: set}
	if p.store, err = openRecords(ctx, c, lock); err != nil {
		return nil, err
	}
	if err := p.open(ctx, log); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

// open wires the provider's rooms around its store.
func (p *provider) open(ctx context.Context, log *slog.Logger) (err error) {
	set := p.settings
	if p.keys, err = keys.Open(ctx, keys.Config{Store: p.store, Secrets: set.Secrets, Alg: set.SigningAlg, RotateAfter: rotateKeys, Log: log, Now: time.Now}); err != nil {
		return err
	}
	hasher := phc.New(2, 64)
	p.registry = clients.New(clients.Config{Store: p.store, Hasher: hasher, SigningAlgs: keys.Algs(), Log: log, Now: time.Now})
	maker, err := mint.New(set, p.keys)
	if err != nil {
		return err
	}
	sessions, err := session.New(set, p.store)
	if err != nil {
		return err
	}
	if p.desk, err = interaction.New(set, p.store, p.registry, sessions); err != nil {
		return err
	}
	shown, err := fallback.New()
	if err != nil {
		return err
	}
	auth := clientauth.New(clientauth.Config{Clients: p.registry, Hasher: hasher, Upgrader: p.registry, Log: log, Now: time.Now})
	living := token.NewLiving(p.store, set)
	tokens := &token.Endpoint{Settings: set, Store: p.store, Living: living, Auth: auth, Mint: maker}
	version, _ := Version()
	info := endpoint.NewIntrospector(set, maker, living, p.registry)
	short := endpoint.New(endpoint.Config{Settings: set, Store: p.store, Clients: p.registry, Auth: auth, Mint: maker, Keys: p.keys, Introspector: info})

	mux := http.NewServeMux()
	begin := &authorize.Endpoint{Settings: set, Clients: p.registry, Desk: p.desk, Coder: maker, Hints: maker, Pages: shown}
	mux.Handle("/oauth2/auth", begin)
	mux.Handle("/oauth2/token", tokens)
	mux.Handle("/oauth2/sessions/logout", &session.Logout{Settings: set, Keeper: sessions, Desk: p.desk, Clients: p.registry, Hints: maker, Pages: shown})
	mux.Handle("/oauth2/fallbacks/", shown.Handler())
	mux.Handle("/", short)
	p.public = mux

	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	p.admin, err = (&admin.Hydra{
		Store: p.store, Desk: p.desk, Clients: p.registry, Keys: p.keys, Introspect: short.Introspection(),
		Metrics: promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}), Ready: p.ready, Version: version,
		PublicBase: strings.TrimSuffix(set.PublicURL, "/"), Secrets: set.Secrets, Log: log, Now: time.Now,
	}).Handler()
	return err
}

// run does what must be done beside serving, until ctx ends.
func (p *provider) run(ctx context.Context, d *Daemon) {
	d.task(func() { p.registry.Run(ctx) })
	d.task(func() { p.keys.Run(ctx) })
	d.task(func() {
		every(ctx, time.Minute, func() {
			if n, err := p.store.Expire(ctx, time.Now()); err != nil && ctx.Err() == nil {
				d.log.Warn("removing expired records", "err", err)
			} else if n > 0 {
				d.log.Debug("removed expired records", "count", n)
			}
		})
	})
}

// settings turns the configuration into the provider's decisions.
func settings(c *Config, log *slog.Logger) (*oauth.Settings, error) {
	p := &c.Provider
	set := &oauth.Settings{
		Issuer: p.URLs.Self.Issuer, PublicURL: c.PublicURL(),
		LoginURL: p.URLs.Login, ConsentURL: p.URLs.Consent, LogoutURL: p.URLs.Logout, ErrorURL: p.URLs.Error,
		PostLogoutRedirectURL: p.URLs.PostLogoutRedirect,
		TTLInteraction:        p.TTL.LoginConsentRequest, TTLSession: p.TTL.AuthenticationSession, TTLAccessToken: p.TTL.AccessToken,
		TTLRefreshToken: p.TTL.RefreshToken, TTLIDToken: p.TTL.IDToken, TTLCode: p.TTL.AuthCode,
		ExactScopes: p.Strategies.Scope == "exact", JWTAccessTokens: p.Strategies.AccessToken == "jwt", SigningAlg: p.Strategies.IDTokenAlg,
		PKCEEnforced: p.OAuth2.PKCE.Enforced, RefreshGrace: p.OAuth2.Grant.RefreshToken.Grace, ExposeInternalError: p.OAuth2.ExposeInternalErrors,
		Dev: p.Dev, CookieDomain: p.Serve.Cookies.Domain, Log: log, Now: time.Now,
		CookieSameSite: map[string]http.SameSite{"Lax": http.SameSiteLaxMode, "Strict": http.SameSiteStrictMode, "None": http.SameSiteNoneMode}[p.Serve.Cookies.SameSite],
	}
	if set.Issuer == "" {
		set.Issuer = c.PublicURL()
	}
	login := "http://" + hostPort(reachable(c.Login.Host), c.Login.Port)
	if set.LoginURL == "" {
		set.LoginURL = login + "/login"
	}
	if set.ConsentURL == "" {
		set.ConsentURL = login + "/consent"
	}
	for _, s := range p.Secrets.System {
		set.Secrets = append(set.Secrets, []byte(s))
	}
	if len(set.Secrets) == 0 {
		s, _, err := secretFile(c.Data, systemSecretFile, longSecret)
		if err != nil {
			return nil, err
		}
		set.Secrets = [][]byte{[]byte(s)}
	}
	return set, nil
}

// reachable is the host under which a browser on this machine finds a listener.
func reachable(host string) string {
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		return "localhost"
	}
	return host
}

// startProvider opens the provider and its ports.
func (d *Daemon) startProvider(ctx context.Context, parts Parts) error {
	c := d.Config
	lock, err := d.before.lock("provider")
	if err != nil {
		return err
	}
	p, err := openProvider(ctx, c, lock, d.log)
	if err != nil {
		return err
	}
	d.provider = p
	d.mayLend("provider", p.store)
	d.closers = append(d.closers, p.close)
	serve := func(s ServeConfig, name string, h http.Handler) error {
		tlsConf, err := d.providerTLS(s)
		if err != nil {
			return err
		}
		l, err := d.sockets.tcp(hostPort(s.Host, s.Port), fmt.Sprintf("provider.serve.%s.port (SERVE_%s_PORT)", name, strings.ToUpper(name)))
		if err != nil {
			return err
		}
		d.servers.add(l, h, tlsConf)
		d.log.Info("provider "+name, "addr", l.Addr().String(), "tls", tlsConf != nil)
		return nil
	}
	if parts.PublicAPI {
		if err := serve(c.Provider.Serve.Public, "public", p.public); err != nil {
			return err
		}
	}
	if parts.AdminAPI {
		if ip := net.ParseIP(c.Provider.Serve.Admin.Host); c.Provider.Serve.Admin.Host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			d.log.Warn("the provider's admin API asks for no password and listens beyond this machine", "host", c.Provider.Serve.Admin.Host)
		}
		if err := serve(c.Provider.Serve.Admin, "admin", p.admin); err != nil {
			return err
		}
	}
	// Of several processes on one database and directory, the first has the socket.
	if !c.Provider.shared() || d.sockets.has(providerSocket) || !socketAlive(c.Data, providerSocket) {
		s, err := d.sockets.unix(c.Data, providerSocket)
		if err != nil {
			return err
		}
		d.servers.add(s, p.admin, nil)
	}
	p.run(ctx, d)
	return nil
}

// providerTLS is the certificate a port of the provider serves; nil: plain HTTP.
func (d *Daemon) providerTLS(s ServeConfig) (*tls.Config, error) {
	c := d.Config
	if c.Provider.Dev || !s.TLS.Enabled {
		return nil, nil
	}
	if s.TLS.Cert != "" {
		pair, err := tls.LoadX509KeyPair(s.TLS.Cert, s.TLS.Key)
		if err != nil {
			return nil, fmt.Errorf("reading the provider's certificate: %w", err)
		}
		return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
	}
	hosts := []string{"localhost", "127.0.0.1", "::1"}
	if u := c.issuerHost(); u != "" && u != "localhost" && u != "127.0.0.1" && u != "::1" {
		hosts = append(hosts, u)
	}
	return &tls.Config{GetCertificate: d.localCertificates(hosts), MinVersion: tls.VersionTLS12}, nil
}
