package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"gatehouse/login/pages"
	"gatehouse/login/remote"
	"gatehouse/oauth"
)

// startLogin serves the login app. Its desk is the provider of this process,
// or the one hydra_admin_url names, or the one of the data directory.
func (d *Daemon) startLogin(ctx context.Context) error {
	c := d.Config
	lock, err := d.before.lock("login")
	if err != nil {
		return err
	}
	store, err := openUsers(ctx, c, lock)
	if err != nil {
		return err
	}
	api, users, closeUsers, err := openDirectory(ctx, store, d.log)
	if err != nil {
		return err
	}
	d.mayLend("login", store)
	d.closers = append(d.closers, closeUsers)
	if some, err := users.List(ctx, "", 1); err == nil && len(some) == 0 {
		d.log.Info("no user can sign in yet; add one with: gatehouse users add you@example.com --password-stdin")
	}
	secret, _, err := secretFile(c.Data, loginSecretFile, longSecret)
	if err != nil {
		return err
	}
	desk, ready, err := d.desk()
	if err != nil {
		return err
	}
	app, err := pages.New(pages.Config{Desk: desk, Users: users, Secret: []byte(secret), Secure: strings.HasPrefix(c.Provider.URLs.Login, "https://"), Ready: ready, Log: d.log, Now: time.Now})
	if err != nil {
		return err
	}
	l, err := d.sockets.tcp(hostPort(c.Login.Host, c.Login.Port), "login.port (--port, LOGIN_PORT)")
	if err != nil {
		return err
	}
	d.servers.add(l, app, nil)
	if c.Login.DSN == "" {
		s, err := d.sockets.unix(c.Data, loginSocket)
		if err != nil {
			return err
		}
		d.servers.add(s, api, nil)
	}
	d.log.Info("login app", "url", "http://"+l.Addr().String())
	return nil
}

// desk is how the login app talks to the provider, and what keeps it from doing so.
func (d *Daemon) desk() (oauth.Desk, func(context.Context) error, error) {
	c := d.Config
	if d.provider != nil && c.Login.HydraAdminURL == "" {
		return d.provider.desk, nil, nil
	}
	if c.Login.HydraAdminURL == "" {
		ready := func(context.Context) error {
			if !socketAlive(c.Data, providerSocket) {
				return fmt.Errorf("no provider serves the data directory %s; start one, or set HYDRA_ADMIN_URL", c.Data)
			}
			return nil
		}
		return remote.New("http://provider", socketClient(c.Data, providerSocket)), ready, nil
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	roots.AppendCertsFromPEM(c.LocalRoots())
	if c.Login.SkipTLSVerify {
		d.log.Warn("certificates of the provider's admin API are not verified", "url", c.Login.HydraAdminURL)
	}
	client := &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSClientConfig:     &tls.Config{RootCAs: roots, InsecureSkipVerify: c.Login.SkipTLSVerify},
		MaxIdleConnsPerHost: 16, IdleConnTimeout: 30 * time.Second, ForceAttemptHTTP2: true,
	}}
	return remote.New(c.Login.HydraAdminURL, client), nil, nil
}
