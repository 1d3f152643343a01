package daemon

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse/resource"
	"gatehouse/store/embedded"
)

// gatewayConfig is a gateway with its Admin API on the gateway's port too.
func gatewayConfig(t *testing.T) (c *Config, node string) {
	t.Helper()
	c = defaults()
	c.Data = t.TempDir()
	g := &c.Gateway
	g.APISIX.SSL.Enable = false
	g.APISIX.NodeListen = make([]Listen, 1)
	node = freeAddr(t)
	for to, addr := range map[*Listen]string{&g.APISIX.NodeListen[0]: node, &g.Deployment.Admin.AdminListen: freeAddr(t), &g.PluginAttr.Prometheus.ExportAddr: freeAddr(t)} {
		if err := to.FromScalar(addr); err != nil {
			t.Fatal(err)
		}
	}
	g.Deployment.Admin.OnNodeListen = true
	g.Deployment.Admin.AdminKey = []AdminKey{{Name: "test", Key: "0123456789abcdef", Role: "admin"}}
	return c, node
}

func putRoute(ctx context.Context, node string) (status int, err error) {
	q, err := http.NewRequestWithContext(ctx, "PUT", "http://"+node+"/apisix/admin/routes/1", strings.NewReader(`{"uri":"/*","upstream":{"nodes":{"127.0.0.1:1":1}}}`))
	if err != nil {
		return 0, err
	}
	q.Header.Set("X-API-KEY", "0123456789abcdef")
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(q)
	if err != nil {
		return 0, err
	}
	return res.StatusCode, res.Body.Close()
}

// TestOnlyOneGoesOn: the process before may take back until the end. A
// successor goes on when it hears "gone", or when the other one is no more;
// whatever else it hears, and when it hears nothing, it stops, and has not used
// a database after "ready".
func TestOnlyOneGoesOn(t *testing.T) {
	const tookBack = "waiting for serving: timeout, this process goes on"
	told := func(ch *channel) { _ = ch.send(message{Error: tookBack}) }
	for _, row := range []struct {
		name    string
		ready   func(*channel) // what the old one does then; nil: it says go
		serving func(*channel)
		want    string // of the error; "": the successor goes on
	}{
		{name: "gone", serving: func(ch *channel) { _ = ch.send(message{Say: sayGone}) }},
		{name: "dies", serving: func(ch *channel) {}},
		{name: "dies before", ready: func(ch *channel) {}},
		{name: "takes back", serving: told, want: tookBack},
		{name: "has taken back before", ready: func(ch *channel) { _ = ch.send(message{Say: sayGo}); told(ch) }, want: tookBack},
		{name: "has taken back before ready", ready: told, want: tookBack},
		{name: "says something else", serving: func(ch *channel) { _ = ch.send(message{Say: sayGo}) }, want: `it said "go"`},
		{name: "breaks off in a word", serving: func(ch *channel) { _, _ = ch.c.Write([]byte{0, 0}) }},
		{name: "says nonsense", serving: func(ch *channel) { _, _ = ch.c.Write([]byte{0, 0, 0, 1, '?'}) }, want: "invalid character"},
	} {
		t.Run(row.name, func(t *testing.T) {
			c, node := gatewayConfig(t)
			l, err := listenSocket(c.Data, controlSocket("gateway"))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			put := make(chan int, 1)
			ended := make(chan error, 1)
			go func() {
				ended <- oldEnd(l, row.ready, row.serving, func() {
					go func() {
						status, _ := putRoute(ctx, node)
						put <- status
					}()
				})
			}()
			talk := &syncBuffer{}
			d, err := start(ctx, c, Parts{Gateway: true}, Options{TakeOver: true}, true, talk)
			if err := <-ended; err != nil {
				t.Errorf("the old one: %v", err)
			}
			if row.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if status, err := putRoute(ctx, node); status/100 != 2 {
					t.Errorf("a change is answered %d, %v", status, err)
				}
				if err := d.stop(); err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil {
				_ = d.stop()
				t.Fatal("it goes on")
			}
			if !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want %q", err, row.want)
			}
			if strings.Contains(talk.String(), "msg=started") {
				t.Errorf("it said %s", talk)
			}
			if row.ready == nil {
				if status := <-put; status/100 == 2 {
					t.Errorf("a change was answered %d", status)
				}
			}
			if _, err := os.Stat(filepath.Join(c.Data, controlSocket("gateway"))); err != nil {
				t.Errorf("the old one's control socket: %v", err)
			}
			if c, err := net.Dial("tcp", node); err == nil {
				c.Close()
				t.Error("it still listens")
			}
			store, err := embedded.OpenResources(ctx, c.Data) // its lock is free
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			if list, _, err := store.List(ctx, resource.Routes); err != nil || len(list) > 0 {
				t.Errorf("the database has %d routes, %v", len(list), err)
			}
		})
	}
}

// oldEnd speaks for the process before, and then is no more. used is called
// when the successor waits for its last word.
func oldEnd(l *net.UnixListener, ready, serving func(*channel), used func()) error {
	var ch *channel
	for { // others only look whether we live
		c, err := l.AcceptUnix()
		if err != nil {
			return err
		}
		defer c.Close()
		if ch, err = newChannel(c); err != nil {
			return err
		}
		m, _, err := ch.receive(10 * time.Second)
		if err == nil && m.Say == sayTakeOver {
			break
		}
	}
	hear := func(say string) error {
		m, _, err := ch.receive(10 * time.Second)
		if err == nil && m.Say != say {
			err = errors.New("it said " + m.Say + ", not " + say)
		}
		return err
	}
	if err := errors.Join(ch.send(message{}), hear(sayLend), ch.send(message{}), hear(sayReady)); err != nil {
		return err
	}
	if ready != nil {
		ready(ch)
		return nil
	}
	if err := errors.Join(ch.send(message{Say: sayGo}), hear(sayServing)); err != nil {
		return err
	}
	used()
	serving(ch)
	return nil
}
