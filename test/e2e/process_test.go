package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/test/fixtures"
)

// TestThreeProcesses runs the parts apart on one data directory.
func TestThreeProcesses(t *testing.T) {
	s := newStack(t, "")
	provider := s.serve("provider")
	s.serve("login")
	s.serve("gateway")
	s.addUser()
	out := shell(t, s.env, "hydra --data "+s.data+" clients create --id cli --callbacks http://127.0.0.1/callback --scope openid --grant-types authorization_code")
	if !strings.Contains(out, "OAuth 2.0 Client Secret: ") {
		t.Errorf("clients create said %s", out)
	}
	a := newAgent(t, testCallback)
	p := a.walk(s.provider + "/oauth2/auth?client_id=cli&response_type=code&scope=openid&redirect_uri=" + testCallback + "&state=0123456789")
	if p.location.Query().Get("code") == "" {
		t.Errorf("no code: %s", p.location)
	}

	t.Run("SecondIsRefused", func(t *testing.T) {
		for _, part := range []string{"provider", "login", "gateway"} {
			cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "gatehouse"), "serve", part, "-c", s.config)
			cmd.Env = append(environ(), s.env...)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "in use by another") {
				t.Errorf("a second %s: %v, said %s", part, err, out)
			}
		}
	})
	t.Run("SocketIsPrivate", func(t *testing.T) {
		for _, name := range []string{"provider.sock", "login.sock"} {
			fi, err := os.Stat(filepath.Join(s.data, name))
			if err != nil || fi.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v, %v", name, fi, err)
			}
		}
	})
	provider.stop()
	// The command line works on the database when nobody serves it.
	if out := shell(t, append(s.env, "SECRETS_SYSTEM=a-secret-for-tests-only"), "hydra --data "+s.data+" clients list"); !strings.Contains(out, "| cli ") {
		t.Errorf("clients list said %s", out)
	}
}

// TestSecondProviderOnPostgres shares the database: a code of one is redeemed at the other.
func TestSecondProviderOnPostgres(t *testing.T) {
	s := startAll(t, fixtures.Postgres(t))
	s.client(testClient)
	ports := freePorts(t, 2)
	text := strings.NewReplacer(
		"serve: {public: {host: 127.0.0.1, port: "+s.provider[len("http://127.0.0.1:"):]+"}", fmt.Sprintf("serve: {public: {host: 127.0.0.1, port: %d}", ports[0]),
		"admin: {port: "+s.hydraAdmin[len("http://127.0.0.1:"):]+"}", fmt.Sprintf("admin: {port: %d}", ports[1]),
	).Replace(readFile(t, s.config))
	config := filepath.Join(t.TempDir(), "second.yaml")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	other := *s
	other.provider, other.config = fmt.Sprintf("http://127.0.0.1:%d", ports[0]), config
	second := start(t, []string{"GATEHOUSE_DATA=" + t.TempDir()}, "gatehouse", "serve", "provider", "-c", config)
	second.wait("the second provider", answers(http.DefaultClient, other.provider+"/health/ready"))

	p := newAgent(t, testCallback).walk(s.provider + "/oauth2/auth?client_id=rp&response_type=code&scope=openid&redirect_uri=" + testCallback + "&state=0123456789")
	form := map[string][]string{"grant_type": {"authorization_code"}, "code": {p.location.Query().Get("code")}, "redirect_uri": {testCallback}}
	if status, body := redeem(t, &other, form); status != http.StatusOK {
		t.Errorf("redeeming at the other: %d %s", status, body)
	}
	if status, _ := redeem(t, s, form); status != http.StatusBadRequest {
		t.Errorf("redeeming again: %d", status)
	}
}

func TestBusyPortIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
	for part, env := range map[string]string{"login": "LOGIN_PORT", "provider": "SERVE_PUBLIC_PORT"} {
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "gatehouse"), "serve", part)
		cmd.Env = append(environ(), "GATEHOUSE_DATA="+t.TempDir(), env+"="+port, "SERVE_PUBLIC_HOST=127.0.0.1", "SERVE_ADMIN_PORT=0")
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), port+" is in use") || !strings.Contains(string(out), "hint: set "+part+".") {
			t.Errorf("%s on a busy port: %v, said %s", part, err, out)
		}
	}
}

// TestKillLosesNothing kills everything while clients and routes are being
// created: what was answered with success is there afterwards.
func TestKillLosesNothing(t *testing.T) {
	s := startAll(t, "")
	for round := range 3 {
		var mu sync.Mutex
		var clients, routes []string
		var wg sync.WaitGroup
		enough := make(chan struct{}, 1024)
		key := readFile(t, filepath.Join(s.data, "admin.key"))
		post := func(method, url, key, body string) bool {
			req, err := http.NewRequest(method, url, strings.NewReader(body))
			if err != nil {
				return false
			}
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("X-API-KEY", key)
			res, err := (&http.Client{Timeout: 5 * time.Second}).Do(req)
			if err != nil {
				return false
			}
			res.Body.Close()
			return res.StatusCode == http.StatusCreated
		}
		for w := range 4 {
			wg.Go(func() {
				for i := 0; ; i++ {
					id := fmt.Sprintf("r%dw%di%d", round, w, i)
					ok := false
					if w%2 == 0 {
						if ok = post("POST", s.hydraAdmin+"/admin/clients", "", `{"client_id":"`+id+`","client_secret":"generated-`+id+`","redirect_uris":["http://127.0.0.1/c"]}`); ok {
							mu.Lock()
							clients = append(clients, id)
							mu.Unlock()
						}
					} else if ok = post("PUT", s.admin+"/apisix/admin/routes/"+id, key, `{"uri":"/`+id+`","upstream":{"nodes":{"127.0.0.1:1":1}}}`); ok {
						mu.Lock()
						routes = append(routes, id)
						mu.Unlock()
					}
					if !ok {
						return
					}
					select {
					case enough <- struct{}{}:
					default:
					}
				}
			})
		}
		for range 20 {
			<-enough
		}
		s.process.kill()
		wg.Wait()
		s.process = s.serve("all")
		for _, id := range clients {
			if status, _ := send(t, "GET", s.hydraAdmin+"/admin/clients/"+id, "", ""); status != http.StatusOK {
				t.Errorf("round %d: client %s is gone: %d", round, id, status)
			}
		}
		for _, id := range routes {
			if status, _ := send(t, "GET", s.admin+"/apisix/admin/routes/"+id, key, ""); status != http.StatusOK {
				t.Errorf("round %d: route %s is gone: %d", round, id, status)
			}
		}
	}
}
