package admin

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"gatehouse/gateway"
	"gatehouse/lib/schema"
	"gatehouse/resource"
)

// apisixMeta is the schema of _meta, which every plugin's configuration may
// have. It is not part of a plugin's own schema.
const apisixMeta = `{
	"type": "object",
	"properties": {
		"disable": {"type": "boolean", "description": "do not run the plugin here"},
		"priority": {"type": "integer", "description": "instead of the plugin's own"},
		"filter": {"type": "array", "description": "run the plugin only when this expression holds"},
		"error_response": {"oneOf": [{"type": "string"}, {"type": "object"}], "description": "body instead of the plugin's own when it refuses"}
	},
	"additionalProperties": false
}`

// apisixPlugins are the plugins, compiled.
type apisixPlugins struct {
	byName map[string]*apisixPlugin
	order  []*apisixPlugin // larger priority first
	meta   *schema.Schema
}

type apisixPlugin struct {
	gateway.Plugin
	route, consumer, metadata          *schema.Schema // nil: none
	routeDoc, consumerDoc, metadataDoc *schema.Value
}

func apisixCompilePlugins(list []gateway.Plugin) (*apisixPlugins, error) {
	ps := &apisixPlugins{byName: map[string]*apisixPlugin{}}
	metaDoc, err := schema.Parse([]byte(apisixMeta))
	if err != nil {
		return nil, err
	}
	if ps.meta, err = schema.Compile([]byte(apisixMeta)); err != nil {
		return nil, err
	}
	for _, pl := range list {
		p := &apisixPlugin{Plugin: pl}
		if p.route, p.routeDoc, err = apisixCompile(pl.Schema, metaDoc); err != nil {
			return nil, fmt.Errorf("plugin %s: %w", pl.Name, err)
		}
		if p.consumer, p.consumerDoc, err = apisixCompile(pl.ConsumerSchema, metaDoc); err != nil {
			return nil, fmt.Errorf("plugin %s, for consumers: %w", pl.Name, err)
		}
		if p.metadata, p.metadataDoc, err = apisixCompile(pl.MetadataSchema, nil); err != nil {
			return nil, fmt.Errorf("plugin %s, metadata: %w", pl.Name, err)
		}
		if p.route == nil {
			return nil, fmt.Errorf("plugin %s has no schema", pl.Name)
		}
		if ps.byName[pl.Name] != nil {
			return nil, fmt.Errorf("plugin %s is listed twice", pl.Name)
		}
		ps.byName[pl.Name] = p
		ps.order = append(ps.order, p)
	}
	slices.SortFunc(ps.order, func(a, b *apisixPlugin) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.Name, b.Name))
	})
	return ps, nil
}

// apisixCompile compiles a schema and returns the document to show, with
// _meta among its properties when meta is given.
func apisixCompile(f func() json.RawMessage, meta *schema.Value) (*schema.Schema, *schema.Value, error) {
	if f == nil {
		return nil, nil, nil
	}
	raw := f()
	if raw == nil {
		return nil, nil, nil
	}
	s, err := schema.Compile(raw)
	if err != nil {
		return nil, nil, err
	}
	doc, err := schema.Parse(raw)
	if err != nil {
		return nil, nil, err
	}
	if meta != nil && doc.Type == schema.Object {
		if doc.Get("properties") == nil {
			doc.Set("properties", &schema.Value{Type: schema.Object})
		}
		doc.Get("properties").Set("_meta", meta)
	}
	return s, doc, nil
}

// check checks the plugins of a resource, in the order they are written.
func (ps *apisixPlugins) check(plugins *schema.Value, onConsumer bool) error {
	if plugins == nil {
		return nil
	}
	prefix := ""
	if onConsumer {
		prefix = "invalid plugins configuration: "
	}
	for i := range plugins.Members {
		m := &plugins.Members[i]
		p := ps.byName[m.Name]
		if p == nil {
			return apisixRefuse(http.StatusBadRequest, "%sunknown plugin [%s]", prefix, m.Name)
		}
		if m.Value.Type == schema.Array && len(m.Value.Items) == 0 {
			m.Value.Type = schema.Object
		}
		if m.Value.Type != schema.Object {
			return apisixRefuse(http.StatusBadRequest, "%sinvalid plugin conf %s for plugin [%s]", prefix, m.Value.JSON(), m.Name)
		}
		if err := ps.checkOne(p, m.Value, onConsumer); err != nil {
			return apisixRefuse(http.StatusBadRequest, "%sfailed to check the configuration of plugin %s err: %s", prefix, m.Name, err)
		}
	}
	return nil
}

func (ps *apisixPlugins) checkOne(p *apisixPlugin, conf *schema.Value, onConsumer bool) error {
	if meta := conf.Get("_meta"); meta != nil {
		if err := ps.meta.Validate(meta); err != nil {
			return fmt.Errorf("property \"_meta\" validation failed: %w", err)
		}
		if d := meta.Get("disable"); d != nil && d.Bool {
			return nil // what does not run may be unfinished
		}
	}
	if path := apisixReferenceIn(conf, ""); path != "" {
		return fmt.Errorf("property \"%s\": references to secrets are not supported yet", path)
	}
	own := *conf // without _meta, sharing the rest
	own.Members = slices.DeleteFunc(slices.Clone(conf.Members), func(m schema.Member) bool { return m.Name == "_meta" })
	s := p.route
	if onConsumer && p.Auth {
		if s = p.consumer; s == nil {
			return fmt.Errorf("the plugin takes no consumers")
		}
	}
	if err := s.Validate(&own); err != nil {
		return err
	}
	if p.Check != nil && s == p.route {
		return p.Check(own.JSON())
	}
	return nil
}

// apisixReferenceIn finds a string that stands for a secret kept elsewhere.
func apisixReferenceIn(v *schema.Value, path string) string {
	if v.Type == schema.String && apisixIsReference(v.Text) {
		return strings.TrimPrefix(path, ".")
	}
	for i, item := range v.Items {
		if found := apisixReferenceIn(item, fmt.Sprintf("%s[%d]", path, i)); found != "" {
			return found
		}
	}
	for _, m := range v.Members {
		if found := apisixReferenceIn(m.Value, path+"."+m.Name); found != "" {
			return found
		}
	}
	return ""
}

func apisixIsReference(s string) bool {
	s = strings.ToLower(s[:min(len(s), len("$secret://"))])
	return strings.HasPrefix(s, "$secret://") || strings.HasPrefix(s, "$env://")
}

func (ps *apisixPlugins) checkMetadata(name string, conf *schema.Value) error {
	p := ps.byName[name]
	if p == nil {
		return apisixRefuse(http.StatusBadRequest, "invalid plugin name")
	}
	own := *conf
	own.Members = slices.DeleteFunc(slices.Clone(conf.Members), func(m schema.Member) bool { return m.Name == "id" })
	if conf.Type != schema.Object {
		return apisixRefuse(http.StatusBadRequest, "invalid configuration: wrong type: expected object")
	}
	if p.metadata == nil {
		return nil
	}
	if err := p.metadata.Validate(&own); err != nil {
		return apisixRefuse(http.StatusBadRequest, "invalid configuration: %s", err)
	}
	return nil
}

// credential returns by what a consumer with this plugin is found.
func (ps *apisixPlugins) credential(m schema.Member) (key string, ok bool, err error) {
	p := ps.byName[m.Name]
	if p == nil || !p.Auth || p.ConsumerKey == nil {
		return "", false, nil
	}
	if d := m.Value.At("_meta", "disable"); d != nil && d.Bool {
		return "", false, nil
	}
	own := m.Value.Clone()
	own.Delete("_meta")
	key, err = p.ConsumerKey(own.JSON())
	return key, err == nil && key != "", err
}

// servePlugins answers below /plugins.
func (s *apisixServer) servePlugins(c *apisixCall, method string) (*apisixAnswer, error) {
	name := c.segment(1)
	if name == "reload" {
		if method != http.MethodPut {
			return nil, apisixRefuse(http.StatusMethodNotAllowed, "please use PUT method to reload the plugins, %s method is not allowed.", method)
		}
		return &apisixAnswer{status: http.StatusOK, text: "done"}, nil // plugins are part of the program
	}
	if method != http.MethodGet {
		return nil, apisixRefuse(http.StatusNotFound, "not found")
	}
	subsystem := c.query.Get("subsystem")
	switch subsystem {
	case "":
		subsystem = "http"
	case "http", "stream":
	default:
		return nil, apisixRefuse(http.StatusBadRequest, "unsupported subsystem: %s", subsystem)
	}
	plugins := s.plugins.order
	if subsystem == "stream" {
		plugins = nil
	}
	switch {
	case name == "list":
		list := &schema.Value{Type: schema.Array}
		for _, p := range plugins {
			list.Items = append(list.Items, schema.Text(p.Name))
		}
		return &apisixAnswer{status: http.StatusOK, body: list}, nil
	case name == "" && c.query.Get("all") == "true":
		all := apisixObject()
		for _, p := range plugins {
			all.Set(p.Name, p.describe())
		}
		return &apisixAnswer{status: http.StatusOK, body: all}, nil
	}
	return s.pluginSchema(c, plugins, name, subsystem)
}

func (p *apisixPlugin) describe() *schema.Value {
	v := apisixObject("version", &schema.Value{Type: schema.Number, Text: fmt.Sprint(p.Version)}, "priority", schema.Int(int64(p.Priority)), "schema", p.routeDoc)
	if p.consumerDoc != nil {
		v.Set("consumer_schema", p.consumerDoc)
	}
	if p.metadataDoc != nil {
		v.Set("metadata_schema", p.metadataDoc)
	}
	if p.Auth {
		v.Set("type", schema.Text("auth"))
	}
	return v
}

func (s *apisixServer) pluginSchema(c *apisixCall, plugins []*apisixPlugin, name, subsystem string) (*apisixAnswer, error) {
	i := slices.IndexFunc(plugins, func(p *apisixPlugin) bool { return p.Name == name })
	if i < 0 {
		return nil, apisixRefuse(http.StatusNotFound, "plugin not found in subsystem %s", subsystem)
	}
	doc := plugins[i].routeDoc
	switch c.query.Get("schema_type") {
	case "consumer":
		doc = plugins[i].consumerDoc
	case "metadata":
		doc = plugins[i].metadataDoc
	}
	if doc == nil {
		return nil, apisixRefuse(http.StatusNotFound, "plugin %s has no such schema", name)
	}
	return &apisixAnswer{status: http.StatusOK, body: doc}, nil
}

// serveSchema answers below /schema.
func (s *apisixServer) serveSchema(c *apisixCall, method string) (*apisixAnswer, error) {
	name := c.segment(1)
	switch {
	case name == "validate" && method == http.MethodPost:
		return s.validate(c)
	case method != http.MethodGet:
		return nil, apisixRefuse(http.StatusNotFound, "not found")
	case name == "plugins":
		return s.pluginSchema(c, s.plugins.order, c.segment(2), "http")
	}
	for _, k := range s.kinds {
		if k.name == name {
			return &apisixAnswer{status: http.StatusOK, text: string(k.doc) + "\n"}, nil
		}
	}
	return nil, apisixRefuse(http.StatusBadRequest, "not found schema: %s", name)
}

// validate checks a body against the schema of a kind, and no more than that.
func (s *apisixServer) validate(c *apisixCall) (*apisixAnswer, error) {
	k := s.kinds[c.segment(2)]
	if k == nil {
		return nil, apisixRefuse(http.StatusNotFound, "Unsupported resource type: %s", c.segment(2))
	}
	conf, err := s.readBody(c)
	if err != nil {
		return nil, err
	}
	if conf == nil {
		return nil, apisixRefuse(http.StatusBadRequest, "missing configurations")
	}
	if err := k.schema.Validate(conf); err != nil {
		return nil, apisixRefuse(http.StatusBadRequest, "%s", err)
	}
	return &apisixAnswer{status: http.StatusOK}, nil
}

// validateConfigs checks a whole set of resources, each by itself.
func (s *apisixServer) validateConfigs(c *apisixCall) (*apisixAnswer, error) {
	all, err := s.readBody(c)
	if err != nil {
		return nil, err
	}
	if all == nil || all.Type != schema.Object {
		return nil, apisixRefuse(http.StatusBadRequest, "missing configurations")
	}
	problems := &schema.Value{Type: schema.Array}
	for _, m := range all.Members {
		k := s.kinds[m.Name]
		if k == nil {
			continue
		}
		for i, conf := range m.Value.Items {
			id := conf.Get("id").String()
			if k.kind == resource.Consumers {
				id = conf.Get("username").String()
			}
			err := s.checkAlone(k, id, conf)
			if err == nil {
				continue
			}
			answer := s.problem(c.Request, err)
			problems.Items = append(problems.Items, apisixObject("resource_type", schema.Text(m.Name), "resource_id", schema.Text(id),
				"index", schema.Int(int64(i)), "error", answer.body.Get("error_msg")))
		}
	}
	if len(problems.Items) == 0 {
		return &apisixAnswer{status: http.StatusOK, body: apisixObject()}, nil
	}
	return &apisixAnswer{status: http.StatusBadRequest,
		body: apisixObject("error_msg", schema.Text("Configuration validation failed"), "errors", problems)}, nil
}
