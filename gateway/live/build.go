package live

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"gatehouse/gateway"
	"gatehouse/gateway/router"
	"gatehouse/gateway/upstream"
	"gatehouse/resource"
)

// builder makes snapshots and remembers what it compiled for the last one. It
// belongs to one goroutine.
type builder struct {
	live      *Live
	routes    map[string]*routeEntry
	upstreams map[string]*upstreamEntry
	consumers map[string]*consumerEntry
}

// routeEntry is a compiled route and what it was compiled from.
type routeEntry struct {
	from [5]*stored // route, service, plugin config, upstream, upstream of the service
	meta int64
	rule router.Rule[*Target]
	keys []instanceKey
	up   *upstreamEntry // nil: none
	ok   bool           // false: no rule could be made
}

type upstreamEntry struct {
	raw  []byte
	up   *gateway.Upstream
	res  *resource.Upstream
	used bool
}

// snapshot builds from the objects of live. It never fails: what cannot be
// built is logged and left out.
func (b *builder) snapshot(rev int64) *Snapshot {
	l := b.live
	s := &Snapshot{Revision: rev, live: l, merged: map[mergeKey]*Merged{}, metadata: metadata{}}
	l.instances.begin()
	defer l.instances.end()
	metaRev := int64(len(l.objects[resource.PluginMetadata]))
	for id, o := range l.objects[resource.PluginMetadata] {
		if metaRev += o.Revision; o.err == nil {
			s.metadata[id] = o
		}
	}
	for _, u := range b.upstreams {
		u.used = false
	}
	routes := inOrder(l.objects[resource.Routes])
	rules := make([]router.Rule[*Target], 0, len(routes))
	prefers := map[string]bool{}
	seen := make(map[string]*routeEntry, len(routes))
	for _, o := range routes {
		if o.err != nil || !resource.Enabled(o.value.(*resource.Route).Status) {
			continue
		}
		e := b.route(o, s.metadata, metaRev)
		if seen[o.ID] = e; e.ok {
			rules = append(rules, e.rule)
			prefers[e.rule.Value.prefers] = true
		}
	}
	b.routes = seen
	maps.DeleteFunc(b.upstreams, func(_ string, u *upstreamEntry) bool { return !u.used })
	var err error
	if s.table, err = router.New(rules); err != nil { // every rule was checked
		l.log.Error("building the routing table", "err", err)
		s.table, _ = router.New[*Target](nil)
		if cur := l.cur.Load(); cur != nil {
			s.table = cur.table
		}
	}
	b.globals(s, prefers)
	b.indexConsumers(s)
	s.certs = b.certificates()
	return s
}

// inOrder lists objects from the oldest to the youngest.
func inOrder(m map[string]*stored) []*stored {
	return slices.SortedFunc(maps.Values(m), func(a, b *stored) int {
		return cmp.Or(cmp.Compare(a.CreateRevision, b.CreateRevision), cmp.Compare(a.ID, b.ID))
	})
}

// find returns a resource that can be read.
func (b *builder) find(k resource.Kind, id resource.ID) *stored {
	if id == "" {
		return nil
	}
	if o := b.live.objects[k][string(id)]; o != nil && o.err == nil {
		return o
	}
	return nil
}

func (b *builder) route(o *stored, md metadata, metaRev int64) *routeEntry {
	r := o.value.(*resource.Route)
	from := [5]*stored{o, b.find(resource.Services, r.ServiceID), b.find(resource.PluginConfigs, r.PluginConfigID), b.find(resource.Upstreams, r.UpstreamID)}
	if from[1] != nil {
		from[4] = b.find(resource.Upstreams, from[1].value.(*resource.Service).UpstreamID)
	}
	if old := b.routes[o.ID]; old != nil && old.from == from && old.meta == metaRev {
		if len(old.keys) > 0 {
			b.live.instances.touch(old.keys)
		}
		if old.up != nil {
			old.up.used = true
		}
		return old
	}
	e := &routeEntry{from: from, meta: metaRev}
	var svc *resource.Service
	var hosts []string
	if from[1] != nil {
		svc = from[1].value.(*resource.Service)
		hosts = svc.Hosts
	}
	rule, err := conditions(r, hosts)
	if err != nil {
		b.live.log.Error("stored route cannot run and is left out", "route_id", o.ID, "err", err)
		return e
	}
	t := &Target{}
	e.ok, e.rule = true, rule
	e.rule.Value = t
	if err := b.target(e, t, o, r, svc, from, md); err != nil {
		b.live.log.Error("stored route cannot run and answers with an error", "route_id", o.ID, "status", t.Fault, "err", err)
	}
	e.keys = keysOf(t.uses, md)
	return e
}

// target compiles what runs behind the conditions. When it fails the target
// refuses every request: a route whose plugins cannot run must not let its
// requests through, nor leave them to a route that protects less.
func (b *builder) target(e *routeEntry, t *Target, o *stored, r *resource.Route, svc *resource.Service, from [5]*stored, md metadata) error {
	t.Route = &gateway.Route{ID: o.ID, Name: r.Name, Labels: r.Labels, Timeout: upstream.Timeout(r.Timeout, nil)}
	t.Chain = &gateway.Chain{}
	t.uses = map[string]use{}
	add := func(set resource.Plugins, owner string) {
		for name, raw := range set {
			t.uses[name] = use{raw, owner}
		}
	}
	if r.ServiceID != "" {
		if svc == nil {
			t.Fault = 404
			return invalid("service " + string(r.ServiceID) + " is missing")
		}
		t.Route.ServiceID, t.Route.ServiceName = string(r.ServiceID), svc.Name
		add(svc.Plugins, "services/"+string(r.ServiceID))
		if svc.EnableWebSocket != nil {
			t.Route.WebSocket = *svc.EnableWebSocket
		}
	}
	if r.EnableWebSocket != nil {
		t.Route.WebSocket = *r.EnableWebSocket
	}
	if r.PluginConfigID != "" {
		if from[2] == nil {
			t.Fault = 503
			return invalid("plugin config " + string(r.PluginConfigID) + " is missing")
		}
		add(from[2].value.(*resource.PluginConfig).Plugins, "plugin_configs/"+string(r.PluginConfigID))
	}
	add(r.Plugins, "routes/"+o.ID)
	list, err := b.live.members(t.uses, md)
	if err != nil {
		t.Fault = 503
		return err
	}
	t.members = list
	t.Chain = chainOf(list)
	var prefer []string
	for _, m := range list {
		if m.plugin.PreferRoute {
			prefer = append(prefer, m.plugin.Name)
		}
	}
	slices.Sort(prefer)
	t.prefers = strings.Join(prefer, " ")

	up, err := b.upstreamOf(o, r, svc, from)
	if err != nil {
		t.Fault = 502
		return err
	}
	if e.up = up; up != nil {
		t.Route.Upstream = up.up
		t.Route.Timeout = upstream.Timeout(r.Timeout, up.res.Timeout)
	}
	return nil
}

// upstreamOf finds the upstream: the route's before the service's, in place
// before by id.
func (b *builder) upstreamOf(o *stored, r *resource.Route, svc *resource.Service, from [5]*stored) (*upstreamEntry, error) {
	switch {
	case present(r.Upstream):
		return b.upstream("routes/"+o.ID, "", r.Upstream)
	case r.UpstreamID != "":
		if from[3] == nil {
			return nil, invalid("upstream " + string(r.UpstreamID) + " is missing")
		}
		return b.upstream("upstreams/"+from[3].ID, from[3].ID, from[3].JSON)
	case svc != nil && present(svc.Upstream):
		return b.upstream("services/"+string(r.ServiceID), "", svc.Upstream)
	case svc != nil && svc.UpstreamID != "":
		if from[4] == nil {
			return nil, invalid("upstream " + string(svc.UpstreamID) + " is missing")
		}
		return b.upstream("upstreams/"+from[4].ID, from[4].ID, from[4].JSON)
	}
	return nil, nil
}

// upstream makes an instance, or goes on with the one of the same text: its
// balancer keeps its place and its connections stay.
func (b *builder) upstream(name, id string, raw []byte) (*upstreamEntry, error) {
	if e := b.upstreams[name]; e != nil && bytes.Equal(e.raw, raw) {
		e.used = true
		return e, nil
	}
	res, err := upstream.Decode(raw)
	if err != nil {
		return nil, err
	}
	up, err := b.live.maker().New(id, res)
	if err != nil {
		return nil, err
	}
	e := &upstreamEntry{raw: raw, up: up, res: res, used: true}
	b.upstreams[name] = e
	return e, nil
}

// globals builds the chains of the global rules: rule by rule, the oldest
// first, each in the order of its plugins. A plugin stands in one rule only.
// A rule that cannot run may be what protects everything: while there is one,
// every request is refused.
func (b *builder) globals(s *Snapshot, prefers map[string]bool) {
	l := b.live
	var list []member
	var broken error
	have := map[string]string{}
	for _, o := range inOrder(l.objects[resource.GlobalRules]) {
		if o.err != nil {
			l.log.Error("stored global rule cannot be read, every request is refused", "rule_id", o.ID, "err", o.err)
			broken = fmt.Errorf("reading global rule %s: %w", o.ID, o.err)
			continue
		}
		set := map[string]use{}
		for name, raw := range o.value.(*resource.GlobalRule).Plugins {
			if other, dup := have[name]; dup {
				l.log.Error("plugin stands in two global rules, one is left out", "plugin", name, "rule_id", o.ID, "other", other)
				continue
			}
			set[name] = use{raw, "global_rules/" + o.ID}
		}
		ms, err := l.members(set, s.metadata)
		if err != nil {
			l.log.Error("stored global rule cannot run, every request is refused", "rule_id", o.ID, "err", err)
			broken = fmt.Errorf("running global rule %s: %w", o.ID, err)
			continue
		}
		for name := range set {
			have[name] = o.ID
		}
		list = append(list, ms...)
	}
	if broken != nil {
		list = []member{{plugin: &plugin{}, instance: closed{broken}}}
	}
	s.all = chainOf(list)
	s.globals = map[string]*gateway.Chain{}
	for p := range prefers {
		skip := strings.Fields(p)
		s.globals[p] = chainOf(slices.DeleteFunc(slices.Clone(list), func(m member) bool {
			return m.plugin.PreferRoute && slices.Contains(skip, m.plugin.Name)
		}))
	}
}

// closed stands for a global rule that cannot run: it lets nothing through.
type closed struct{ err error }

var _ gateway.Rewriter = closed{}

func (c closed) Rewrite(*gateway.Exchange) *gateway.Reply {
	return &gateway.Reply{Status: 503, Err: c.err}
}
