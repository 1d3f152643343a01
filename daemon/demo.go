package daemon

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

const (
	demoUser   = "demo@example.com"
	demoClient = "demo"
	demoRoute  = "demo"
)

// Demo runs everything on embedded defaults, over plain HTTP on this machine,
// with a sample service behind a sign-in, and prints what to open. It runs
// until ctx ends.
func Demo(ctx context.Context, c *Config, stdout, talk io.Writer) error {
	prepareDemo(c)
	upstream, err := listenTCP("127.0.0.1:0", "")
	if err != nil {
		return err
	}
	sample := &http.Server{Handler: sampleUpstream(), ReadHeaderTimeout: plainLimits.HeadTime, MaxHeaderBytes: 1 << 20}
	served := make(chan error, 1)
	go func() { served <- sample.Serve(upstream) }()
	defer func() { sample.Close(); <-served }()

	d, err := Start(ctx, c, Parts{Gateway: true, Provider: true, PublicAPI: true, AdminAPI: true, Login: true}, talk)
	if err != nil {
		return err
	}
	password, err := d.fillDemo(ctx, upstream.Addr().String())
	if err != nil {
		return errors.Join(err, d.stop())
	}
	node := demoURL(c.Gateway.APISIX.NodeListen[0].Port)
	for _, line := range [][2]string{
		{"gateway", node}, {"provider", strings.TrimSuffix(c.Provider.URLs.Self.Issuer, "/")}, {"login", demoURL(c.Login.Port)},
		{"admin", demoURL(c.Gateway.Deployment.Admin.AdminListen.Port)}, {"open", node + "/"}, {"user", demoUser}, {"password", password},
	} {
		fmt.Fprintf(stdout, "%s %s\n", line[0], line[1])
	}
	fmt.Fprintln(stdout, "ready")
	return d.Wait(ctx)
}

func demoURL(port int) string { return fmt.Sprintf("http://127.0.0.1:%d", port) }

// prepareDemo turns a configuration into the demo's: loopback and plain HTTP.
func prepareDemo(c *Config) {
	for i := range c.Gateway.APISIX.NodeListen {
		c.Gateway.APISIX.NodeListen[i].IP = "127.0.0.1"
	}
	c.Gateway.Deployment.Admin.AdminListen.IP, c.Gateway.PluginAttr.Prometheus.ExportAddr.IP = "127.0.0.1", "127.0.0.1"
	for i := range c.Gateway.APISIX.SSL.Listen {
		c.Gateway.APISIX.SSL.Listen[i].IP = "127.0.0.1"
	}
	p := &c.Provider
	p.Dev, p.DSN = true, ""
	p.Serve.Public.Host, p.Serve.Admin.Host = "127.0.0.1", "127.0.0.1"
	p.URLs.Self.Issuer, p.URLs.Self.Public = demoURL(p.Serve.Public.Port)+"/", ""
	c.Login.Host, c.Login.DSN, c.Login.HydraAdminURL = "127.0.0.1", "", ""
	login := demoURL(c.Login.Port)
	p.URLs.Login, p.URLs.Consent, p.URLs.Logout, p.URLs.Error = login+"/login", login+"/consent", login+"/logout", login+"/error"
	if c.Log.Level == "info" {
		c.Log.Level = "warn" // the demo's own lines are what matters
	}
}

// fillDemo makes user, client and route, or brings those of an earlier start
// up to date, and returns the user's password, new each time.
func (d *Daemon) fillDemo(ctx context.Context, upstream string) (password string, err error) {
	c := d.Config
	users, err := OpenUsers(ctx, c)
	if err != nil {
		return "", err
	}
	defer users.Close()
	password = rand.Text()[:16]
	if err := users.SetPassword(ctx, demoUser, password); err != nil {
		if _, err := users.Add(ctx, NewUser{Email: demoUser, Name: "Demo User", Password: password}); err != nil {
			return "", fmt.Errorf("adding the demo user: %w", err)
		}
	}
	node := demoURL(c.Gateway.APISIX.NodeListen[0].Port)
	secret := rand.Text()
	client := map[string]any{
		"client_id": demoClient, "client_name": "Gatehouse demo", "client_secret": secret,
		"grant_types": []string{"authorization_code", "refresh_token"}, "response_types": []string{"code"},
		"scope": "openid offline profile email", "token_endpoint_auth_method": "client_secret_basic",
		"redirect_uris": []string{node + "/.apisix/redirect"}, "post_logout_redirect_uris": []string{node + "/"},
	}
	own, err := OpenAdmin(ctx, c)
	if err != nil {
		return "", err
	}
	defer own.Close()
	err = callJSON(ctx, own.Client, http.MethodPost, own.URL+"/admin/clients", "", client)
	if errors.Is(err, errConflict) {
		err = callJSON(ctx, own.Client, http.MethodPut, own.URL+"/admin/clients/"+demoClient, "", client)
	}
	if err != nil {
		return "", fmt.Errorf("registering the demo client: %w", err)
	}
	route := map[string]any{
		"uri": "/*", "name": "demo", "desc": "the demo's page behind a sign-in",
		"plugins": map[string]any{"openid-connect": map[string]any{
			"client_id": demoClient, "client_secret": secret, "scope": "openid profile email",
			"discovery":    strings.TrimSuffix(c.Provider.URLs.Self.Issuer, "/") + "/.well-known/openid-configuration",
			"redirect_uri": node + "/.apisix/redirect", "post_logout_redirect_uri": node + "/",
		}},
		"upstream": map[string]any{"type": "roundrobin", "nodes": map[string]int{upstream: 1}},
	}
	admin := demoURL(c.Gateway.Deployment.Admin.AdminListen.Port) + "/apisix/admin/routes/" + demoRoute
	if err := callJSON(ctx, &http.Client{Timeout: 10 * time.Second}, http.MethodPut, admin, d.gateway.adminKey, route); err != nil {
		return "", fmt.Errorf("making the demo route: %w", err)
	}
	return password, nil
}

// errConflict says that what was to be made is there already.
var errConflict = errors.New("it exists already")

// callJSON sends in, and fails unless the answer is a success.
func callJSON(ctx context.Context, client *http.Client, method, url, key string, in any) error {
	raw, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(raw))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set("X-API-KEY", key)
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode == http.StatusConflict:
		return errConflict
	case res.StatusCode >= 300:
		out, _ := io.ReadAll(io.LimitReader(res.Body, 4096))
		return fmt.Errorf("%s answered %s: %s", url, res.Status, out)
	}
	return nil
}
