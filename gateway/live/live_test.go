package live

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/gateway"
	"gatehouse/lib/fault"
	"gatehouse/resource"
	"gatehouse/store/memory"
)

type conf struct {
	N int `json:"n" min:"1"`
}

type plain struct{ n int }

func (plain) Access(*gateway.Exchange) *gateway.Reply { return nil }

// counting counts how many instances were made.
func counting(made *atomic.Int32, keeps *[]any) []gateway.Plugin {
	return []gateway.Plugin{
		gateway.Define("count", 1, func(c conf, env *gateway.Env) (any, error) {
			made.Add(1)
			if keeps != nil {
				*keeps = append(*keeps, gateway.Kept(env.Keep, "count", func() *int { return new(int) }))
			}
			return plain{c.N}, nil
		}),
		gateway.Define("with-meta", 1, func(c conf, env *gateway.Env) (any, error) {
			m, err := gateway.Metadata[conf](env, "with-meta")
			return plain{m.N}, err
		}, gateway.WithMetadata[conf]()),
		gateway.Define("key", 1, func(conf, *gateway.Env) (any, error) { return plain{}, nil },
			gateway.Authenticates(func(k struct {
				Key string `json:"key" required:"true" min:"1"`
			}) (string, error) {
				return k.Key, nil
			})),
	}
}

func running(t testing.TB, plugins []gateway.Plugin, now func() time.Time) (*Live, func(k resource.Kind, id, doc string)) {
	t.Helper()
	store := memory.NewResources()
	l, err := New(Config{Store: store, Plugins: plugins, Env: gateway.Env{Now: now}})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); l.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return l, func(k resource.Kind, id, doc string) {
		t.Helper()
		c := resource.Change{Kind: k, ID: id}
		if doc != "" {
			c.JSON = json.RawMessage(doc)
		}
		rev, err := store.Apply(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Wait(ctx, rev); err != nil {
			t.Fatal(err)
		}
	}
}

func find(l *Live, path string) *Target {
	x := &gateway.Exchange{}
	x.Req.Path = path
	t, _, _ := l.Current().Match(x)
	return t
}

func TestOnlyWhatChangedIsCompiledAgain(t *testing.T) {
	var made atomic.Int32
	l, put := running(t, counting(&made, nil), nil)
	put(resource.Upstreams, "u", `{"nodes":{"a:1":1}}`)
	put(resource.Routes, "1", `{"uri":"/1","plugins":{"count":{"n":1}},"upstream_id":"u"}`)
	put(resource.Routes, "2", `{"uri":"/2","plugins":{"count":{"n":1}},"upstream":{"nodes":{"b:1":1}}}`)
	one, two := find(l, "/1"), find(l, "/2")
	if made.Load() != 2 {
		t.Fatalf("%d instances, want 2", made.Load())
	}
	put(resource.Routes, "2", `{"uri":"/2","desc":"x","plugins":{"count":{"n":1}},"upstream":{"nodes":{"b:1":1}}}`)
	if find(l, "/1") != one {
		t.Error("route 1 was compiled again")
	}
	if again := find(l, "/2"); again == two || again.Route.Upstream != two.Route.Upstream {
		t.Error("route 2 must be new and keep its upstream")
	}
	if made.Load() != 2 {
		t.Errorf("%d instances, an unchanged configuration keeps its own", made.Load())
	}
	put(resource.Upstreams, "u", `{"nodes":{"c:1":1}}`)
	if u := find(l, "/1").Route.Upstream; u.Nodes[0].Host != "c" {
		t.Error("change of an upstream does not reach its route")
	}
	for i := range 4 { // unused builds must not drop what runs
		put(resource.Routes, "x", fmt.Sprintf(`{"uri":"/x%d"}`, i))
	}
	put(resource.Routes, "1", `{"uri":"/1","desc":"y","plugins":{"count":{"n":1}},"upstream_id":"u"}`)
	if made.Load() != 2 {
		t.Errorf("%d instances after unrelated changes", made.Load())
	}
	put(resource.Routes, "1", `{"uri":"/1","plugins":{"count":{"n":2}},"upstream_id":"u"}`)
	if made.Load() != 3 {
		t.Errorf("%d instances, a new configuration needs a new one", made.Load())
	}
}

func TestKeptStateOutlastsInstances(t *testing.T) {
	var made atomic.Int32
	var keeps []any
	var clock atomic.Int64
	l, put := running(t, counting(&made, &keeps), func() time.Time { return time.Unix(clock.Load(), 0) })
	put(resource.Routes, "1", `{"uri":"/1","plugins":{"count":{"n":1}}}`)
	put(resource.Routes, "1", `{"uri":"/1","plugins":{"count":{"n":2}}}`)
	if keeps[0] != keeps[1] {
		t.Error("state lost over a change")
	}
	clock.Add(3600) // in use: stays, however long
	for i := range 3 {
		put(resource.Routes, "x", fmt.Sprintf(`{"uri":"/x%d"}`, i))
	}
	put(resource.Routes, "1", `{"uri":"/1","plugins":{"count":{"n":3}}}`)
	if keeps[2] != keeps[0] {
		t.Error("state of a running instance was dropped")
	}
	put(resource.Routes, "1", "")
	for i := range 3 {
		put(resource.Routes, "x", fmt.Sprintf(`{"uri":"/x%d"}`, i))
	}
	clock.Add(3600)
	put(resource.Routes, "x", "")
	l.keeper.mu.Lock()
	n := len(l.keeper.entries)
	l.keeper.mu.Unlock()
	if n != 0 {
		t.Errorf("%d entries nobody uses", n)
	}
}

func TestMetadataReachesInstances(t *testing.T) {
	l, put := running(t, counting(new(atomic.Int32), nil), nil)
	put(resource.PluginMetadata, "with-meta", `{"n":7}`)
	put(resource.Routes, "1", `{"uri":"/1","plugins":{"with-meta":{"n":1}}}`)
	n := func() int { return find(l, "/1").Chain.Access[0].(plain).n }
	if n() != 7 {
		t.Errorf("n = %d", n())
	}
	put(resource.PluginMetadata, "with-meta", `{"n":8}`)
	if n() != 8 {
		t.Errorf("after a change: n = %d", n())
	}
}

func TestConsumers(t *testing.T) {
	l, put := running(t, counting(new(atomic.Int32), nil), nil)
	put(resource.Consumers, "jack", `{"username":"jack","labels":{"custom_id":"j-1"},"plugins":{"key":{"key":"k1"}}}`)
	put(resource.Consumers, "jill", `{"username":"jill","plugins":{"key":{"key":"k1"}}}`)
	c, ok := l.Current().FindConsumer("key", "k1")
	if !ok || c.Username != "jack" || c.CustomID != "j-1" || !strings.Contains(string(c.Config), "k1") {
		t.Errorf("%+v %v", c, ok)
	}
	if _, ok := l.Current().FindConsumer("other", "k1"); ok {
		t.Error("found by another plugin")
	}
	if c, ok := l.Current().ConsumerNamed("jill"); !ok || c.Config != nil {
		t.Errorf("%+v", c)
	}
	put(resource.Consumers, "jack", "")
	if c, ok := l.Current().FindConsumer("key", "k1"); !ok || c.Username != "jill" {
		t.Errorf("%+v", c)
	}
}

func TestCheck(t *testing.T) {
	l, _ := running(t, counting(new(atomic.Int32), nil), nil)
	rows := []struct {
		kind     resource.Kind
		id, doc  string
		complain string // "": fine
	}{
		{resource.Routes, "1", `{"uri":"/a","plugins":{"count":{"n":1}}}`, ""},
		{resource.Routes, "1", `{"uri":"/a","plugins":{"count":{"n":1,"_meta":{"priority":3,"filter":[["arg_a","==","b"]]}}}}`, ""},
		{resource.Routes, "1", `{"uri":"/a","plugins":{"nope":{}}}`, "unknown plugin [nope]"},
		{resource.Routes, "1", `{"uri":"/a","plugins":{"count":{"n":0}}}`, "plugin count err: "},
		{resource.Routes, "1", `{"uri":"/a","plugins":{"count":{"n":1,"_meta":{"filter":[["a","??","b"]]}}}}`, "'vars' expression"},
		{resource.Routes, "1", `{"uri":"/a","plugins":{"count":{"n":1,"_meta":{"pre_function":"return 1"}}}}`, "pre_function"},
		{resource.Routes, "1", `{"uri":"/a","vars":[["a","??","b"]]}`, "'vars' expression"},
		{resource.Routes, "1", `{"uri":"/a","filter_func":"function() end"}`, "filter_func"},
		{resource.Routes, "1", `{"uri":"/a","remote_addr":"x"}`, "remote_addr"},
		{resource.Routes, "1", `{}`, "uri"},
		{resource.Routes, "1", `{"uri":"/a","upstream":{"type":"chash","nodes":{}}}`, "chash"},
		{resource.Services, "1", `{"upstream":{"type":"ewma","nodes":{}}}`, "ewma"},
		{resource.Upstreams, "1", `{"nodes":{"a:1":1},"scheme":"ftp"}`, "ftp"},
		{resource.Upstreams, "1", `{"nodes":{"a:1":1}}`, ""},
		{resource.Consumers, "j", `{"username":"j","plugins":{"key":{"key":"x"}}}`, ""},
		{resource.Consumers, "j", `{"username":"j","plugins":{"key":{}}}`, "plugin key err: "},
		{resource.PluginMetadata, "with-meta", `{"n":1}`, ""},
		{resource.PluginMetadata, "with-meta", `{"n":0}`, "n"},
		{resource.PluginMetadata, "count", `{}`, "metadata"},
		{resource.SSLs, "1", `{"sni":"a","cert":"x","key":"y"}`, "pair"},
		{"nonsense", "1", `{}`, "nonsense"},
	}
	for _, r := range rows {
		err := l.Check(r.kind, r.id, json.RawMessage(r.doc))
		if r.complain == "" {
			if err != nil {
				t.Errorf("%s: %v", r.doc, err)
			}
			continue
		}
		if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), r.complain) {
			t.Errorf("%s: %v, want something of %q", r.doc, err, r.complain)
		}
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	l, _ := running(t, nil, nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := l.Wait(ctx, 1000); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("%v", err)
	}
}

func TestTransactionIsLiveWhole(t *testing.T) {
	store := memory.NewResources()
	l, err := New(Config{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); l.Run(ctx) }()
	defer func() { cancel(); <-done }()
	for round := range 20 {
		var changes []resource.Change
		for i := range 200 {
			changes = append(changes, resource.Change{Kind: resource.Routes, ID: fmt.Sprint(i), JSON: json.RawMessage(fmt.Sprintf(`{"uri":"/%d/%d"}`, round, i))})
		}
		rev, err := store.Apply(ctx, changes...)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Wait(ctx, rev); err != nil {
			t.Fatal(err)
		}
		for i := range 200 {
			if find(l, fmt.Sprintf("/%d/%d", round, i)) == nil {
				t.Fatalf("round %d: change %d of the transaction is missing", round, i)
			}
		}
	}
}

func BenchmarkChangeWith10kRoutes(b *testing.B) {
	l, err := New(Config{Store: memory.NewResources()})
	if err != nil {
		b.Fatal(err)
	}
	for i := range 10_000 {
		l.apply(resource.Change{Kind: resource.Routes, ID: fmt.Sprint(i), Revision: int64(i), CreateRevision: int64(i),
			JSON: json.RawMessage(fmt.Sprintf(`{"uri":"/api/%d/*","upstream":{"nodes":{"127.0.0.1:%d":1}}}`, i, i+1))})
	}
	l.publish(10_000)
	rev := int64(10_000)
	for b.Loop() {
		rev++
		l.apply(resource.Change{Kind: resource.Routes, ID: "77", Revision: rev, CreateRevision: 77, JSON: json.RawMessage(`{"uri":"/api/77/*"}`)})
		l.publish(rev)
	}
}

// pausing yields the changes of a transaction one by one, each when it is
// asked to.
type pausing struct {
	resource.Store
	next chan struct{}
}

func (p pausing) Watch(ctx context.Context, after int64) iter.Seq2[resource.Change, error] {
	return func(yield func(resource.Change, error) bool) {
		for c, err := range p.Store.Watch(ctx, after) {
			select {
			case <-p.next:
			case <-ctx.Done():
				return
			}
			if !yield(c, err) {
				return
			}
		}
	}
}

// TestHalfATransactionIsNotLive: however slowly its changes come.
func TestHalfATransactionIsNotLive(t *testing.T) {
	store := pausing{memory.NewResources(), make(chan struct{})}
	l, err := New(Config{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); l.Run(ctx) }()
	defer func() { cancel(); <-done }()
	rev, err := store.Apply(ctx,
		resource.Change{Kind: resource.Routes, ID: "1", JSON: json.RawMessage(`{"uri":"/1"}`)},
		resource.Change{Kind: resource.Routes, ID: "2", JSON: json.RawMessage(`{"uri":"/2"}`)})
	if err != nil {
		t.Fatal(err)
	}
	store.next <- struct{}{}
	half, end := context.WithTimeout(ctx, 50*settle)
	defer end()
	if err := l.Wait(half, rev); err == nil || find(l, "/1") != nil {
		t.Errorf("half of the transaction is live: %v", err)
	}
	store.next <- struct{}{}
	if err := l.Wait(ctx, rev); err != nil || find(l, "/1") == nil || find(l, "/2") == nil {
		t.Errorf("the transaction is not live: %v", err)
	}
}
