package admin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gatehouse/lib/fault"
	"gatehouse/lib/schema"
	"gatehouse/resource"
)

// apisixKind is a family of resources as the API knows it.
type apisixKind struct {
	kind    resource.Kind
	noun    string   // in messages
	name    string   // in schema/{name}
	without []string // methods it does not have
	hidden  []string // never shown
	timed   bool     // has create_time and update_time

	doc    json.RawMessage
	schema *schema.Schema
}

var apisixKinds = []apisixKind{
	{kind: resource.Routes, noun: "route", name: "route", timed: true},
	{kind: resource.Services, noun: "service", name: "service", timed: true},
	{kind: resource.Upstreams, noun: "upstream", name: "upstream", timed: true},
	{kind: resource.Consumers, noun: "consumer", name: "consumer", timed: true, without: []string{"POST", "PATCH"}},
	{kind: resource.ConsumerGroups, noun: "consumer group", name: "consumer_group", timed: true, without: []string{"POST"}},
	{kind: resource.PluginConfigs, noun: "plugin config", name: "plugin_config", timed: true, without: []string{"POST"}},
	{kind: resource.GlobalRules, noun: "global rule", name: "global_rule", timed: true, without: []string{"POST"}},
	{kind: resource.SSLs, noun: "ssl", name: "ssl", timed: true, hidden: []string{"key", "keys"}},
	{kind: resource.PluginMetadata, noun: "plugin_metadata", name: "plugin_metadata", without: []string{"POST", "PATCH"}},
}

// apisixIDs are the ids and user names that can be stored at all.
var apisixIDs = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,256}$`)

// identify finds the id of what is to be stored, in the path or in the
// configuration, and writes it into the configuration.
func (k *apisixKind) identify(id string, conf *schema.Value) (string, error) {
	refuse := func(text string) (string, error) { return "", apisixRefuse(http.StatusBadRequest, "%s", text) }
	field, wrong, missing := "id", "wrong "+k.noun+" id", "missing "+k.noun+" id"
	switch k.kind {
	case resource.Consumers:
		field, wrong = "username", "wrong username"
	case resource.PluginMetadata:
		wrong, missing = "wrong plugin name", "missing plugin name"
	}
	inside := conf.Get(field).String()
	switch {
	case id != "" && inside != "" && id != inside, id == "." || id == "..", inside == "." || inside == "..":
		return refuse(wrong)
	case k.kind == resource.Consumers:
		return inside, nil // the schema asks for it
	case id == "" && inside == "":
		return refuse(missing)
	case id == "":
		id = inside
	}
	if conf.Type == schema.Object {
		conf.Set(field, schema.Text(id))
	}
	return id, nil
}

// apisixUnsupported are settings of the schema that the data plane does not
// implement. They change who may pass, or where to, so they are refused
// rather than stored and ignored.
var apisixUnsupported = []struct {
	kind resource.Kind // Upstreams: also an upstream within a route or service
	path string
	when func(*schema.Value) bool // nil: whenever it is there
}{
	{resource.Routes, "filter_func", nil},
	{resource.Routes, "script", nil},
	{resource.Routes, "script_id", nil},
	{resource.Services, "script", nil},
	{resource.Upstreams, "service_name", nil},
	{resource.Upstreams, "discovery_type", nil},
	{resource.Upstreams, "discovery_args", nil},
	{resource.Upstreams, "checks", nil},
	{resource.Upstreams, "type", func(v *schema.Value) bool { return v.Text != "roundrobin" }},
	{resource.Upstreams, "scheme", func(v *schema.Value) bool {
		return !slices.Contains([]string{"http", "https", "grpc", "grpcs"}, v.Text)
	}},
	{resource.Upstreams, "tls.client_cert_id", nil},
	{resource.Upstreams, "nodes", apisixTiers},
	{resource.SSLs, "type", func(v *schema.Value) bool { return v.Text == "client" }},
}

// apisixTiers says whether nodes have priorities.
func apisixTiers(nodes *schema.Value) bool {
	return slices.ContainsFunc(nodes.Items, func(n *schema.Value) bool { p := n.Get("priority"); return p != nil && p.Float() != 0 })
}

func apisixSupported(kind resource.Kind, conf *schema.Value, at string) error {
	for _, row := range apisixUnsupported {
		if row.kind != kind {
			continue
		}
		v := conf.At(strings.Split(row.path, ".")...)
		if v == nil || row.when != nil && !row.when(v) {
			continue
		}
		switch {
		case row.when == nil:
			return apisixRefuse(http.StatusBadRequest, "property \"%s%s\" is not supported yet", at, row.path)
		case row.path == "nodes":
			return apisixRefuse(http.StatusBadRequest, "property \"%snodes\": a priority other than 0 is not supported yet", at)
		}
		return apisixRefuse(http.StatusBadRequest, "property \"%s%s\": the value \"%s\" is not supported yet", at, row.path, v.Text)
	}
	return nil
}

// apisixReferences are the fields that name another resource.
var apisixReferences = []struct {
	from  resource.Kind
	field string
	to    resource.Kind
	noun  string
}{
	{resource.Routes, "upstream_id", resource.Upstreams, "upstream"},
	{resource.Routes, "service_id", resource.Services, "service"},
	{resource.Routes, "plugin_config_id", resource.PluginConfigs, "plugin config"},
	{resource.Services, "upstream_id", resource.Upstreams, "upstream"},
	{resource.Consumers, "group_id", resource.ConsumerGroups, "consumer group"},
}

// check says everything the API itself has against a configuration.
func (s *apisixServer) check(ctx context.Context, k *apisixKind, id string, conf *schema.Value) error {
	if err := s.checkAlone(k, id, conf); err != nil {
		return err
	}
	for _, r := range apisixReferences {
		to := conf.Get(r.field).String()
		if r.from != k.kind || to == "" {
			continue
		}
		_, err := s.Store.Get(ctx, r.to, to)
		if err != nil && fault.KindOf(err) == fault.NotFound {
			return apisixRefuse(http.StatusBadRequest, "failed to fetch %s info by %s id [%s], response code: 404", r.noun, r.noun, to)
		}
		if err != nil {
			return err
		}
	}
	switch k.kind {
	case resource.Consumers:
		return s.checkCredentials(ctx, id, conf.Get("plugins"))
	case resource.GlobalRules:
		return s.checkOneRule(ctx, id, conf.Get("plugins"))
	}
	return nil
}

// checkAlone is the part of check that needs no other resource.
func (s *apisixServer) checkAlone(k *apisixKind, id string, conf *schema.Value) error {
	if k.kind == resource.PluginMetadata {
		return s.plugins.checkMetadata(id, conf)
	}
	if err := k.schema.Validate(conf); err != nil {
		return apisixRefuse(http.StatusBadRequest, "invalid configuration: %s", err)
	}
	var err error
	if k.kind == resource.Upstreams {
		err = apisixCheckUpstream(conf, "")
	} else {
		err = apisixSupported(k.kind, conf, "")
	}
	if up := conf.Get("upstream"); up != nil && err == nil {
		err = apisixCheckUpstream(up, "upstream.")
	}
	if k.kind == resource.SSLs && err == nil {
		err = apisixCheckPairs(conf)
	}
	if err != nil {
		return err
	}
	return s.plugins.check(conf.Get("plugins"), k.kind == resource.Consumers)
}

func apisixCheckUpstream(up *schema.Value, at string) error {
	if up.Get("pass_host").String() == "rewrite" && up.Get("upstream_host").String() == "" {
		return apisixRefuse(http.StatusBadRequest, "`upstream_host` can't be empty when `pass_host` is `rewrite`")
	}
	if up.Get("type").String() == "chash" && up.Get("hash_on").String() != "consumer" && up.Get("key").String() == "" {
		return apisixRefuse(http.StatusBadRequest, "missing key")
	}
	if nodes := up.Get("nodes"); nodes != nil {
		for _, m := range nodes.Members {
			if err := apisixCheckNode(m.Name); err != nil {
				return err
			}
		}
		for _, n := range nodes.Items {
			if h := n.Get("host").String(); strings.Contains(h, ":") && !strings.HasPrefix(h, "[") {
				return apisixRefuse(http.StatusBadRequest, "IPv6 address needs to be enclosed in brackets, got %s", h)
			}
		}
	}
	return apisixSupported(resource.Upstreams, up, at)
}

// apisixCheckNode checks "host" or "host:port", an IPv6 host in brackets.
func apisixCheckNode(addr string) error {
	host, port := addr, ""
	if i := strings.LastIndexByte(addr, ':'); i > strings.LastIndexByte(addr, ']') {
		host, port = addr[:i], addr[i+1:]
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return apisixRefuse(http.StatusBadRequest, "invalid port %s", port)
		}
	}
	switch bracketed := strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]"); {
	case host == "" || strings.ContainsAny(host, " /@?#\\\"\t\r\n"):
		return apisixRefuse(http.StatusBadRequest, "invalid node %q", addr)
	case strings.Contains(host, ":") && !bracketed:
		return apisixRefuse(http.StatusBadRequest, "IPv6 address needs to be enclosed in brackets, got %s", addr)
	}
	return nil
}

// apisixCheckPairs checks that certificates and keys can be read and belong
// together.
func apisixCheckPairs(conf *schema.Value) error {
	if err := apisixCheckPair(conf.Get("cert").String(), conf.Get("key").String()); err != nil {
		return apisixRefuse(http.StatusBadRequest, "%s", err)
	}
	certs, keys := conf.Get("certs"), conf.Get("keys")
	if certs == nil {
		certs = &schema.Value{}
	}
	if keys == nil {
		keys = &schema.Value{}
	}
	if len(certs.Items) != len(keys.Items) {
		return apisixRefuse(http.StatusBadRequest, "mismatched number of certs and keys")
	}
	for i := range certs.Items {
		if err := apisixCheckPair(certs.Items[i].Text, keys.Items[i].Text); err != nil {
			return apisixRefuse(http.StatusBadRequest, "failed to handle cert-key pair[%d]: %s", i+1, err)
		}
	}
	return nil
}

func apisixCheckPair(cert, key string) error {
	for _, text := range []string{cert, key} {
		if apisixIsReference(text) {
			return fault.New(fault.Invalid, "references to secrets are not supported yet")
		}
	}
	block, _ := pem.Decode([]byte(cert))
	if block == nil || block.Type != "CERTIFICATE" {
		return fault.New(fault.Invalid, "failed to parse cert: PEM_read_bio_X509_AUX() failed")
	}
	if _, err := x509.ParseCertificate(block.Bytes); err != nil {
		return fault.New(fault.Invalid, "failed to parse cert: PEM_read_bio_X509_AUX() failed")
	}
	block, _ = pem.Decode([]byte(key))
	if block == nil || !strings.HasSuffix(block.Type, "PRIVATE KEY") && block.Type != "EC PARAMETERS" {
		return fault.New(fault.Invalid, "failed to parse key: PEM_read_bio_PrivateKey() failed")
	}
	_, err := tls.X509KeyPair([]byte(cert), []byte(key))
	switch {
	case err == nil:
		return nil
	case strings.Contains(err.Error(), "does not match"):
		return fault.New(fault.Invalid, "the key does not belong to the cert")
	}
	return fault.New(fault.Invalid, "failed to parse key: PEM_read_bio_PrivateKey() failed")
}

// checkCredentials refuses a credential that another consumer has: a request
// must not be able to be two consumers.
func (s *apisixServer) checkCredentials(ctx context.Context, id string, plugins *schema.Value) error {
	if plugins == nil {
		return nil
	}
	mine := map[string]string{}
	for _, m := range plugins.Members {
		key, ok, err := s.plugins.credential(m)
		if err != nil {
			return apisixRefuse(http.StatusBadRequest, "invalid plugins configuration: failed to check the configuration of plugin %s err: %s", m.Name, err)
		}
		if ok {
			mine[m.Name] = key
		}
	}
	if len(mine) == 0 {
		return nil
	}
	others, _, err := s.Store.List(ctx, resource.Consumers)
	if err != nil {
		return err
	}
	for _, o := range others {
		conf, err := schema.Parse(o.JSON)
		if err != nil {
			return apisixBroken(err)
		}
		if o.ID == id || conf.Get("plugins") == nil {
			continue
		}
		for _, m := range conf.Get("plugins").Members {
			key, ok, err := s.plugins.credential(m)
			if mineKey, have := mine[m.Name]; ok && err == nil && have && mineKey == key {
				return apisixRefuse(http.StatusBadRequest, "duplicate key of plugin %s found with consumer: %s", m.Name, o.ID)
			}
		}
	}
	return nil
}

// checkOneRule refuses a plugin that another global rule has.
func (s *apisixServer) checkOneRule(ctx context.Context, id string, plugins *schema.Value) error {
	rules, _, err := s.Store.List(ctx, resource.GlobalRules)
	if err != nil {
		return err
	}
	for _, o := range rules {
		conf, err := schema.Parse(o.JSON)
		if err != nil {
			return apisixBroken(err)
		}
		if o.ID == id {
			continue
		}
		for _, m := range plugins.Members {
			if conf.At("plugins", m.Name) != nil {
				return apisixRefuse(http.StatusBadRequest, "plugin '%s' already exists in global rule with id '%s'", m.Name, o.ID)
			}
		}
	}
	return nil
}

// unused refuses to remove what another resource refers to.
func (s *apisixServer) unused(ctx context.Context, k *apisixKind, id string) error {
	for _, r := range apisixReferences {
		if r.to != k.kind {
			continue
		}
		objs, _, err := s.Store.List(ctx, r.from)
		if err != nil {
			return err
		}
		for _, o := range objs {
			conf, err := schema.Parse(o.JSON)
			if err != nil {
				return apisixBroken(err)
			}
			if conf.Get(r.field).String() != id {
				continue
			}
			directly := ""
			if k.kind == resource.Services {
				directly = " directly"
			}
			return apisixRefuse(http.StatusBadRequest, "can not delete this %s%s, %s [%s] is still using it now",
				k.noun, directly, strings.TrimSuffix(string(r.from), "s"), o.ID)
		}
	}
	return nil
}
