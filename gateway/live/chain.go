package live

import (
	"encoding/json"
	"maps"
	"slices"

	"gatehouse/gateway"
	"gatehouse/lib/expr"
	"gatehouse/lib/fault"
	"gatehouse/resource"
)

// when is an expression over the variables of an exchange.
type when struct{ e *expr.Expr }

// Holds evaluates it.
func (w when) Holds(x *gateway.Exchange) bool { return w.e.Eval(x.Var) }

// meta is a compiled _meta. Immutable.
type meta struct {
	disable  bool
	priority *int
	filter   *expr.Expr
	body     []byte // error_response; nil: none
	json     bool   // error_response is an object
}

func readMeta(raw json.RawMessage) (meta, error) {
	var c struct {
		Meta *resource.PluginMeta `json:"_meta"`
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return meta{}, fault.Wrap(fault.Invalid, "a plugin's configuration is an object", err)
	}
	if c.Meta == nil {
		return meta{}, nil
	}
	m := meta{disable: c.Meta.Disable, priority: c.Meta.Priority}
	if c.Meta.PreFunction != "" {
		return m, invalid("_meta.pre_function is not supported")
	}
	if present(c.Meta.Filter) {
		e, err := expr.Parse(c.Meta.Filter)
		if err != nil {
			return m, fault.Wrap(fault.Invalid, "failed to validate the 'vars' expression: "+err.Error(), err)
		}
		m.filter = e
	}
	if er := c.Meta.ErrorResponse; present(er) {
		var s string
		if json.Unmarshal(er, &s) == nil {
			m.body = []byte(s)
		} else {
			m.body, m.json = append(slices.Clone(er), '\n'), true
		}
	}
	return m, nil
}

// member is a plugin in its place in a chain. Immutable.
type member struct {
	plugin   *plugin
	instance any
	priority int
	meta     meta
}

// use is a configuration and the resource it stands in.
type use struct {
	raw   json.RawMessage
	owner string
}

// member makes or finds the instance of a configuration; ok is false for one
// that is disabled.
func (l *Live) member(name string, u use, metadata metadata) (m member, ok bool, err error) {
	p := l.plugins[name]
	if p == nil {
		return m, false, unknownPlugin(name)
	}
	m = member{plugin: p, priority: p.Priority}
	if m.meta, err = readMeta(u.raw); err != nil || m.meta.disable {
		return m, false, err
	}
	if m.meta.priority != nil {
		m.priority = *m.meta.priority
	}
	m.instance, err = l.instances.get(p, u, metadata)
	return m, err == nil, err
}

// members makes a set in running order: larger priority first, then by name.
func (l *Live) members(set map[string]use, metadata metadata) ([]member, error) {
	list := make([]member, 0, len(set))
	for _, name := range sortedNames(set) {
		m, ok, err := l.member(name, set[name], metadata)
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, "plugin "+name+" in "+set[name].owner+": "+err.Error(), err)
		}
		if ok {
			list = append(list, m)
		}
	}
	slices.SortStableFunc(list, func(a, b member) int { return b.priority - a.priority })
	return list, nil
}

func sortedNames[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// chainOf cuts members by phase.
func chainOf(list []member) *gateway.Chain {
	c := &gateway.Chain{}
	for _, m := range list {
		m.addTo(c)
	}
	return c
}

func (m *member) addTo(c *gateway.Chain) {
	if m.meta.filter == nil && m.meta.body == nil {
		c.Add(m.instance)
		return
	}
	var own gateway.Chain
	own.Add(m.instance)
	w := wrapped{m}
	for range own.Rewrite {
		c.Rewrite = append(c.Rewrite, w)
	}
	for range own.Access {
		c.Access = append(c.Access, w)
	}
	for range own.BeforeProxy {
		c.BeforeProxy = append(c.BeforeProxy, w)
	}
	for range own.HeaderFilter {
		c.HeaderFilter = append(c.HeaderFilter, w)
	}
	for range own.BodyFilter {
		c.BodyFilter = append(c.BodyFilter, w)
	}
	for range own.Log {
		c.Log = append(c.Log, w)
	}
}

// wrapped runs an instance under its _meta. It stands only in the phases the
// instance has.
type wrapped struct{ m *member }

func (w wrapped) runs(x *gateway.Exchange) bool {
	return w.m.meta.filter == nil || w.m.meta.filter.Eval(x.Var)
}

func (w wrapped) reply(r *gateway.Reply) *gateway.Reply {
	if r == nil || r.Status < 400 || w.m.meta.body == nil {
		return r
	}
	c := *r
	c.Body = w.m.meta.body
	typ := "text/plain; charset=utf-8"
	if w.m.meta.json {
		typ = "application/json"
	}
	c.Header = append(slices.Clone(r.Header), gateway.Field{Name: "Content-Type", Value: typ})
	return &c
}

func (w wrapped) Rewrite(x *gateway.Exchange) *gateway.Reply {
	if !w.runs(x) {
		return nil
	}
	return w.reply(w.m.instance.(gateway.Rewriter).Rewrite(x))
}

func (w wrapped) Access(x *gateway.Exchange) *gateway.Reply {
	if !w.runs(x) {
		return nil
	}
	return w.reply(w.m.instance.(gateway.Guard).Access(x))
}

func (w wrapped) BeforeProxy(x *gateway.Exchange) *gateway.Reply {
	if !w.runs(x) {
		return nil
	}
	return w.reply(w.m.instance.(gateway.Preparer).BeforeProxy(x))
}

func (w wrapped) FilterHeader(x *gateway.Exchange) {
	if w.runs(x) {
		w.m.instance.(gateway.HeaderFilter).FilterHeader(x)
	}
}

func (w wrapped) FilterBody(x *gateway.Exchange, chunk []byte, last bool) []byte {
	if !w.runs(x) {
		return chunk
	}
	return w.m.instance.(gateway.BodyFilter).FilterBody(x, chunk, last)
}

func (w wrapped) Log(x *gateway.Exchange) {
	if w.runs(x) {
		w.m.instance.(gateway.Logger).Log(x)
	}
}
