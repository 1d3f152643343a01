package limitcount

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/gateway"
	"gatehouse/lib/schema"
)

// keeper keeps for ever.
type keeper map[string]any

func (k keeper) Keep(key string, make func() any) any {
	if _, ok := k[key]; !ok {
		k[key] = make()
	}
	return k[key]
}

// clock is a time that tests move.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func newEnv() (*gateway.Env, *clock) {
	c := &clock{time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)}
	return &gateway.Env{Now: c.now, Owner: "routes/1", Keep: keeper{}}, c
}

func instance(t testing.TB, env *gateway.Env, conf string) gateway.Guard {
	t.Helper()
	p, err := Plugin.New(json.RawMessage(conf), env)
	if err != nil {
		t.Fatal(err)
	}
	return p.(gateway.Guard)
}

func exchange(query string) *gateway.Exchange {
	x := &gateway.Exchange{}
	x.Req.Client = netip.MustParseAddr("192.0.2.1")
	x.Req.Path, x.Req.Query = "/hello", query
	return x
}

// run sends one request and returns the status of the refusal, or 200.
func run(p gateway.Guard, query string) (int, *gateway.Exchange, *gateway.Reply) {
	x := exchange(query)
	if r := p.Access(x); r != nil {
		return r.Status, x, r
	}
	return 200, x, nil
}

func TestSchemaIsTheStructs(t *testing.T) {
	derived, err := schema.Derive(reflect.TypeFor[Config]())
	if err != nil {
		t.Fatal(err)
	}
	diff, err := schema.Differences(schemaJSON, derived)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range diff {
		t.Error(d)
	}
}

func TestConfig(t *testing.T) {
	s, err := schema.Compile(Plugin.Schema())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ conf, want string }{
		{`{"count":2,"time_window":60}`, ""},
		{`{"count":"${http_x ?? 3}","time_window":"60"}`, ""},
		{`{"count":2,"time_window":60,"redis_host":"127.0.0.1","sentinel_password":"x"}`, ""},
		{`{"rules":[{"count":1,"time_window":2,"key":"$remote_addr"}]}`, ""},
		{`{"count":2,"time_window":60,"_meta":{"disable":true}}`, ""},
		{`{"time_window":60}`, "schema"},
		{`{"count":2}`, "schema"},
		{`{"count":0,"time_window":60}`, "schema"},
		{`{"count":1.5,"time_window":60}`, "schema"},
		{`{"count":1,"time_window":60,"rejected_code":199}`, "schema"},
		{`{"count":1,"time_window":60,"key_type":"x"}`, "schema"},
		{`{"count":1,"time_window":60,"policy":"memory"}`, "schema"},
		{`{"count":1,"time_window":60,"typo":1}`, "schema"},
		{`{"count":1,"time_window":60,"rules":[{"count":1,"time_window":2,"key":"a"}]}`, "schema"},
		{`{"rules":[{"count":1,"time_window":2}]}`, "schema"},
		{`{"count":1,"time_window":60,"policy":"redis","redis_host":"127.0.0.1"}`, `policy "redis" is not supported yet`},
		{`{"count":1,"time_window":999999999999}`, "at most"},
		{`{"count":"none","time_window":60}`, "whole number"},
	} {
		err := s.ValidateJSON([]byte(c.conf))
		if c.want == "schema" {
			if err == nil {
				t.Errorf("%s: the schema accepts it", c.conf)
			}
			if Plugin.Check(json.RawMessage(c.conf)) == nil && !strings.Contains(c.conf, "key_type") && !strings.Contains(c.conf, "rejected") && !strings.Contains(c.conf, `"key"`) && !strings.Contains(c.conf, "rules") {
				t.Errorf("%s: the struct accepts it", c.conf)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: the schema refuses it: %v", c.conf, err)
		}
		err = Plugin.Check(json.RawMessage(c.conf))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", c.conf, err, c.want)
		}
	}
}

func TestFixedWindow(t *testing.T) {
	env, clk := newEnv()
	p := instance(t, env, `{"count":2,"time_window":60}`)
	for i, want := range []struct {
		code             int
		remaining, reset string
	}{{200, "1", "60"}, {200, "0", "28.05"}, {503, "0", "28.05"}, {200, "1", "60"}} {
		switch i {
		case 1:
			clk.t = clk.t.Add(31*time.Second + 944*time.Millisecond)
		case 3:
			clk.t = clk.t.Add(28*time.Second + 56*time.Millisecond)
		}
		code, x, r := run(p, "")
		if code != want.code {
			t.Fatalf("request %d: got %d, want %d", i, code, want.code)
		}
		if r != nil && r.Body != nil {
			t.Errorf("request %d: got body %q, want the page of the status", i, r.Body)
		}
		for name, v := range map[string]string{"X-RateLimit-Limit": "2", "X-RateLimit-Remaining": want.remaining, "X-RateLimit-Reset": want.reset} {
			if got := x.Answer.Get(name); got != v {
				t.Errorf("request %d: %s: got %q, want %q", i, name, got, v)
			}
		}
	}
}

func TestSlidingWindow(t *testing.T) {
	env, clk := newEnv()
	p := instance(t, env, `{"count":10,"time_window":60,"window_type":"sliding"}`)
	send := func(n int) (passed int) {
		for range n {
			if code, _, _ := run(p, ""); code == 200 {
				passed++
			}
		}
		return passed
	}
	clk.t = clk.t.Add(30 * time.Second)
	if got := send(12); got != 10 {
		t.Errorf("first window: %d passed, want 10", got)
	}
	clk.t = clk.t.Add(30 * time.Second) // the next begins: all ten still count
	if got := send(3); got != 0 {
		t.Errorf("at the border: %d passed, want 0", got)
	}
	clk.t = clk.t.Add(30 * time.Second) // half of the ten counts
	if got := send(12); got != 5 {
		t.Errorf("half way: %d passed, want 5", got)
	}
	clk.t = clk.t.Add(3 * time.Minute)
	if got := send(12); got != 10 {
		t.Errorf("long after: %d passed, want 10", got)
	}
}

func TestKeys(t *testing.T) {
	for _, c := range []struct {
		conf    string
		queries []string
		want    []int
	}{
		{`{"count":1,"time_window":60,"rejected_code":429,"key":"arg_u"}`, []string{"u=1", "u=1", "u=2", "", "u=", "u=192.0.2.1"}, []int{200, 429, 200, 200, 429, 429}},
		{`{"count":1,"time_window":60,"key":"all","key_type":"constant"}`, []string{"u=1", "u=2"}, []int{200, 503}},
		{`{"count":1,"time_window":60,"key":"$arg_u $arg_v","key_type":"var_combination"}`, []string{"u=1&v=1", "u=1&v=2", "u=1&v=1", "", ""}, []int{200, 200, 503, 200, 503}},
		{`{"count":1,"time_window":60,"key":"","key_type":"constant"}`, []string{"", ""}, []int{200, 503}},
		{`{"count":"${arg_n ?? 1}","time_window":60}`, []string{"n=2", "n=2", "n=2", ""}, []int{200, 200, 503, 503}},
		{`{"count":"$arg_n","time_window":60}`, []string{"n=0", "n=-1", "n=x", "", "n=1"}, []int{500, 500, 500, 500, 200}},
		{`{"count":"$arg_n","time_window":60,"allow_degradation":true}`, []string{"", ""}, []int{200, 200}},
		{`{"count":1,"time_window":60,"key":"arg_u"}`, []string{"u=" + strings.Repeat("a", 200) + "1", "u=" + strings.Repeat("a", 200) + "2", "u=" + strings.Repeat("a", 200) + "1"}, []int{200, 200, 503}},
	} {
		env, _ := newEnv()
		p := instance(t, env, c.conf)
		for i, q := range c.queries {
			if got, _, _ := run(p, q); got != c.want[i] {
				t.Errorf("%s: request %d (%.20s): got %d, want %d", c.conf, i, q, got, c.want[i])
			}
		}
	}
}

func TestRejectedMessage(t *testing.T) {
	env, _ := newEnv()
	p := instance(t, env, `{"count":1,"time_window":60,"rejected_code":429,"rejected_msg":"slow down","show_limit_quota_header":false}`)
	run(p, "")
	code, x, r := run(p, "")
	if code != 429 || string(r.Body) != "{\"error_msg\":\"slow down\"}\n" {
		t.Errorf("got %d %s", code, r.Body)
	}
	if len(x.Answer.Fields()) != 0 {
		t.Errorf("got %v, want no fields", x.Answer.Fields())
	}
}

func TestRules(t *testing.T) {
	env, _ := newEnv()
	p := instance(t, env, `{"rules":[{"count":1,"time_window":60,"key":"$arg_u"},{"count":2,"time_window":60,"key":"$arg_o","header_prefix":"Org"}]}`)
	for i, c := range []struct {
		query string
		want  int
	}{{"u=1&o=1", 200}, {"u=1&o=1", 503}, {"u=2&o=1", 200}, {"u=3&o=1", 503}, {"o=1", 503}, {"", 200}} {
		code, x, _ := run(p, c.query)
		if code != c.want {
			t.Errorf("request %d: got %d, want %d", i, code, c.want)
		}
		if i == 0 && (x.Answer.Get("X-1-RateLimit-Limit") != "1" || x.Answer.Get("X-Org-RateLimit-Remaining") != "1") {
			t.Errorf("got %v", x.Answer.Fields())
		}
	}
}

func TestMetadataNamesFields(t *testing.T) {
	env, _ := newEnv()
	env.Metadata = func(plugin string) json.RawMessage {
		return json.RawMessage(`{"id":"limit-count","limit_header":"X-Max"}`)
	}
	_, x, _ := run(instance(t, env, `{"count":3,"time_window":60}`), "")
	if x.Answer.Get("X-Max") != "3" || x.Answer.Get("X-RateLimit-Remaining") != "2" {
		t.Errorf("got %v", x.Answer.Fields())
	}
}

// What is counted outlives the instance, belongs to one owner and one
// configuration, and is shared in a group.
func TestWhoseCounters(t *testing.T) {
	const conf, other = `{"count":1,"time_window":60}`, `{"count":1,"time_window":61}`
	const group = `{"count":1,"time_window":60,"group":"g"}`
	for _, c := range []struct {
		name          string
		first, second string
		owner         string
		want          int
	}{
		{"rebuilt", conf, ` { "time_window" : 60, "count": 1 }`, "routes/1", 503},
		{"changed", conf, other, "routes/1", 200},
		{"other owner", conf, conf, "routes/2", 200},
		{"group", group, group, "routes/2", 503},
	} {
		env, _ := newEnv()
		if code, _, _ := run(instance(t, env, c.first), ""); code != 200 {
			t.Fatalf("%s: first request got %d", c.name, code)
		}
		env.Owner = c.owner
		if got, _, _ := run(instance(t, env, c.second), ""); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
	}
}

func TestExactUnderConcurrency(t *testing.T) {
	for _, kind := range []string{"fixed", "sliding"} {
		env, _ := newEnv()
		p := instance(t, env, `{"count":100,"time_window":60,"window_type":"`+kind+`"}`)
		var passed atomic.Int64
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				for range 20 {
					if p.Access(exchange("")) == nil {
						passed.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if got := passed.Load(); got != 100 {
			t.Errorf("%s: %d passed, want 100", kind, got)
		}
	}
}

func (c *counters) len() int {
	n := 0
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		n += len(s.keys)
		s.mu.Unlock()
	}
	return n
}

func TestKeysAreBounded(t *testing.T) {
	c := newCounters()
	now := time.Unix(1000, 0)
	for i := range shardCount * maxPerShard * 9 / 8 {
		c.fixed(fmt.Sprint(i), 1, time.Minute, now)
	}
	if got := c.len(); got > shardCount*maxPerShard || got < shardCount*maxPerShard/2 {
		t.Errorf("got %d keys, want at most %d", got, shardCount*maxPerShard)
	}
	now = now.Add(2 * time.Minute)
	for i := range shardCount * 64 { // reaches every shard, all but surely
		c.fixed(fmt.Sprint("late", i), 1, time.Minute, now)
	}
	if got := c.len(); got > shardCount*64 {
		t.Errorf("got %d keys after all had expired, want at most %d", got, shardCount*64)
	}
}

func TestAccessDoesNotAllocate(t *testing.T) {
	env, _ := newEnv()
	p := instance(t, env, `{"count":1000000,"time_window":60,"key":"all","key_type":"constant","show_limit_quota_header":false}`)
	x := exchange("")
	p.Access(x)
	if n := testing.AllocsPerRun(100, func() { p.Access(x) }); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
	p = instance(t, env, `{"count":1000000,"time_window":60}`)
	p.Access(x)
	if n := testing.AllocsPerRun(100, func() { p.Access(x) }); n > 4 { // the address and three values
		t.Errorf("with fields: got %v allocations, want at most 4", n)
	}
}

func BenchmarkAccess(b *testing.B) {
	env, _ := newEnv()
	p := instance(b, env, `{"count":1000000,"time_window":60}`)
	x := exchange("")
	b.ReportAllocs()
	for b.Loop() {
		p.Access(x)
	}
}
