package live

import (
	"encoding/json"
	"strings"

	"gatehouse/gateway/router"
	"gatehouse/gateway/upstream"
	"gatehouse/lib/expr"
	"gatehouse/lib/fault"
	"gatehouse/resource"
)

// stored is an object of the store and what it says. Immutable.
type stored struct {
	resource.Object
	value any   // *resource.Route, ...; json.RawMessage for plugin_metadata
	err   error // it cannot be read
}

func (l *Live) decode(o resource.Object) *stored {
	s := &stored{Object: o}
	if s.value, s.err = read(o.Kind, o.JSON); s.err != nil {
		l.log.Error("stored resource cannot be read and is left out", "resource", string(o.Kind)+"/"+o.ID, "err", s.err)
	}
	return s
}

// read decodes a resource; errors are fault.Invalid.
func read(k resource.Kind, raw json.RawMessage) (v any, err error) {
	switch k {
	case resource.Routes:
		v, err = into[resource.Route](raw)
	case resource.Services:
		v, err = into[resource.Service](raw)
	case resource.Upstreams:
		v, err = into[resource.Upstream](raw)
	case resource.Consumers:
		v, err = into[resource.Consumer](raw)
	case resource.ConsumerGroups:
		v, err = into[resource.ConsumerGroup](raw)
	case resource.PluginConfigs:
		v, err = into[resource.PluginConfig](raw)
	case resource.GlobalRules:
		v, err = into[resource.GlobalRule](raw)
	case resource.SSLs:
		v, err = into[resource.SSL](raw)
	case resource.PluginMetadata:
		v, err = into[json.RawMessage](raw)
	default:
		return nil, invalid("unknown kind of resource " + string(k))
	}
	return v, err
}

func into[T any](raw json.RawMessage) (*T, error) {
	v := new(T)
	if err := json.Unmarshal(raw, v); err != nil {
		return nil, fault.Wrap(fault.Invalid, "invalid configuration: "+strings.TrimPrefix(err.Error(), "json: "), err)
	}
	return v, nil
}

func invalid(msg string) error { return fault.New(fault.Invalid, msg) }

// Check says what would keep a resource from running, as a fault.Invalid whose
// text names the field: unknown plugins, configurations that do not fit, load
// balancing that is not built, broken certificates. References to other
// resources are the caller's to check. id is the name it is to be stored
// under; of a plugin_metadata that is the plugin's.
func (l *Live) Check(k resource.Kind, id string, raw json.RawMessage) error {
	v, err := read(k, raw)
	if err != nil {
		return err
	}
	switch v := v.(type) {
	case *resource.Route:
		return l.checkRoute(v)
	case *resource.Service:
		if present(v.Script) {
			return invalid("scripts are not supported")
		}
		if _, err := router.Check(nil, v.Hosts, nil); err != nil {
			return err
		}
		if err := l.checkUpstream(v.Upstream); err != nil {
			return err
		}
		return l.checkPlugins(v.Plugins, false)
	case *resource.Upstream:
		_, err := l.maker().New(id, v)
		return err
	case *resource.Consumer:
		return l.checkPlugins(v.Plugins, true)
	case *resource.ConsumerGroup:
		return l.checkPlugins(v.Plugins, false)
	case *resource.PluginConfig:
		return l.checkPlugins(v.Plugins, false)
	case *resource.GlobalRule:
		return l.checkPlugins(v.Plugins, false)
	case *resource.SSL:
		_, err := l.tls.compile(v)
		return err
	case *json.RawMessage:
		p := l.plugins[id]
		if p == nil {
			return unknownPlugin(id)
		}
		if p.metadata == nil {
			return invalid("plugin " + id + " has no metadata")
		}
		return p.metadata.ValidateJSON(raw)
	}
	return nil
}

func (l *Live) maker() *upstream.Maker { return &upstream.Maker{Roots: l.roots} }

func (l *Live) checkRoute(r *resource.Route) error {
	if _, err := conditions(r, nil); err != nil {
		return err
	}
	if err := l.checkUpstream(r.Upstream); err != nil {
		return err
	}
	return l.checkPlugins(r.Plugins, false)
}

func (l *Live) checkUpstream(raw json.RawMessage) error {
	if !present(raw) {
		return nil
	}
	u, err := upstream.Decode(raw)
	if err == nil {
		_, err = l.maker().New("", u)
	}
	return err
}

func present(raw json.RawMessage) bool { return len(raw) > 0 && string(raw) != "null" }

// conditions makes the rule of a route; hosts are the service's, for a route
// that names none.
func conditions(r *resource.Route, hosts []string) (rule router.Rule[*Target], err error) {
	if r.FilterFunc != "" {
		return rule, invalid("filter_func is not supported, use vars")
	}
	if present(r.Script) || present(r.ScriptID) {
		return rule, invalid("scripts are not supported")
	}
	rule = router.Rule[*Target]{URIs: r.AllURIs(), Hosts: r.AllHosts(), Methods: r.Methods, RemoteAddrs: r.AllRemoteAddrs(), Priority: r.Priority}
	if len(rule.Hosts) == 0 {
		rule.Hosts = hosts
	}
	if len(rule.URIs) == 0 {
		return rule, invalid("a route needs uri or uris")
	}
	if _, err = router.Check(rule.URIs, rule.Hosts, rule.RemoteAddrs); err != nil {
		return rule, err
	}
	if present(r.Vars) {
		e, err := expr.Parse(r.Vars)
		if err != nil {
			return rule, fault.Wrap(fault.Invalid, "failed to validate the 'vars' expression: "+err.Error(), err)
		}
		rule.When = when{e}
	}
	return rule, nil
}

// checkPlugins checks configurations; consumer says that those of plugins that
// authenticate are a consumer's credentials.
func (l *Live) checkPlugins(set resource.Plugins, consumer bool) error {
	for _, name := range sortedNames(set) {
		raw := set[name]
		p := l.plugins[name]
		if p == nil {
			return unknownPlugin(name)
		}
		s := p.route
		credential := consumer && p.Auth
		if credential {
			s = p.consumer
		}
		var err error
		if s != nil {
			err = s.ValidateJSON(withoutMeta(raw, credential))
		}
		if err == nil && credential && p.ConsumerKey != nil {
			_, err = p.ConsumerKey(raw)
		}
		if err == nil && !credential && p.Check != nil {
			err = p.Check(raw)
		}
		if err == nil {
			_, err = readMeta(raw)
		}
		if err != nil {
			return fault.Wrap(fault.Invalid, "failed to check the configuration of plugin "+name+" err: "+err.Error(), err)
		}
	}
	return nil
}

func unknownPlugin(name string) error { return invalid("unknown plugin [" + name + "]") }

// withoutMeta drops _meta for a schema that does not know it.
func withoutMeta(raw json.RawMessage, drop bool) json.RawMessage {
	if !drop || !strings.Contains(string(raw), `"_meta"`) {
		return raw
	}
	var m map[string]json.RawMessage
	if json.Unmarshal(raw, &m) != nil {
		return raw
	}
	delete(m, "_meta")
	b, err := json.Marshal(m)
	if err != nil {
		return raw
	}
	return b
}
