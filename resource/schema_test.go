package resource

import (
	"bytes"
	"encoding/json"
	"testing"

	"gatehouse/lib/schema"
)

func TestSchemas(t *testing.T) {
	for _, k := range Kinds() {
		raw, err := Schema(k)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := schema.Compile(raw); err != nil {
			t.Errorf("%s: %v", k, err)
		}
		if bytes.Contains(raw, []byte("$ref")) {
			t.Errorf("%s: a reference is left", k)
		}
	}
	if _, err := Schema("nosuch"); err == nil {
		t.Error("a schema for an unknown kind")
	}
}

// TestTexts holds the sentences operators compare literally.
func TestTexts(t *testing.T) {
	const up = `"upstream":{"type":"roundrobin","nodes":{"127.0.0.1:1980":1}}`
	for _, c := range []struct {
		kind Kind
		doc  string
		want string // "": fits
	}{
		{Routes, `{"uri":"/x",` + up + `}`, ""},
		{Routes, `{"uri":"/x","id":7,"hosts":["*.a.com","[::1]"],"remote_addrs":["10.0.0.0/8","::1","1.2.3.4"],` + up + `}`, ""},
		{Routes, `[]`, "allOf 1 failed: value should match only one schema, but matches none"},
		{Routes, `{}`, "allOf 1 failed: value should match only one schema, but matches none"},
		{Routes, `"x"`, "wrong type: expected object, got string"},
		{Routes, `{"uri":"/x"}`, `object matches none of the required: ["plugins","uri"] or ["upstream","uri"] or ["upstream_id","uri"] or ["service_id","uri"] or ["plugins","uris"] or ["upstream","uris"] or ["upstream_id","uris"] or ["service_id","uris"] or ["script","uri"] or ["script","uris"]`},
		{Routes, `{"uri":1,` + up + `}`, `property "uri" validation failed: wrong type: expected string, got number`},
		{Routes, `{"uri":null,` + up + `}`, `property "uri" validation failed: wrong type: expected string, got userdata`},
		{Routes, `{"uri":{"a":1},` + up + `}`, `property "uri" validation failed: wrong type: expected string, got table`},
		{Routes, `{"uris":[],` + up + `}`, `property "uris" validation failed: expect array to have at least 1 items`},
		{Routes, `{"uris":["/a","/b","/a"],` + up + `}`, `property "uris" validation failed: expected unique items but items 1 and 3 are equal`},
		{Routes, `{"uri":"/x","uris":["/y"],` + up + `}`, "allOf 1 failed: value should match only one schema, but matches both schemas 1 and 2"},
		{Routes, `{"uri":"/x","host":"a","hosts":["b"],` + up + `}`, "allOf 2 failed: value should match only one schema, but matches both schemas 2 and 3"},
		{Routes, `{"uri":"/x","nosuch":1,` + up + `}`, "additional properties forbidden, found nosuch"},
		{Routes, `{"uri":"/x","methods":["GET","FOO"],` + up + `}`, `property "methods" validation failed: failed to validate item 2: matches none of the enum values`},
		{Routes, `{"uri":"/x","host":"a b",` + up + `}`, `property "host" validation failed: failed to match pattern "^\\*$|^\\*?[0-9a-zA-Z-._\\[\\]:]+$" with "a b"`},
		{Routes, `{"uri":"/x","remote_addr":"1.2.3",` + up + `}`, `property "remote_addr" validation failed: object matches none of the required`},
		{Routes, `{"uri":"/x","remote_addr":"1.2.3.256/8",` + up + `}`, `property "remote_addr" validation failed: object matches none of the required`},
		{Routes, `{"uri":"/x","priority":"a",` + up + `}`, `property "priority" validation failed: wrong type: expected integer, got string`},
		{Routes, `{"uri":"/x","priority":1.5,` + up + `}`, `property "priority" validation failed: wrong type: expected integer, got number`},
		{Routes, `{"uri":"/x","filter_func":"function(",` + up + `}`, `property "filter_func" validation failed: string too short, expected at least 10, got 9`},
		{Routes, `{"uri":"/x","script":"local x = 1","plugins":{}}`, "value wasn't supposed to match schema"},
		{Routes, `{"uri":"/x","upstream":{"type":"roundrobin"}}`, `property "upstream" validation failed: value should match only one schema, but matches none`},
		{Routes, `{"uri":"/x","upstream":{"nodes":{"127.0.0.1:80":-1}}}`, `property "upstream" validation failed: property "nodes" validation failed: object matches none of the required`},
		{Routes, `{"uri":"/x","id":"bad id!",` + up + `}`, `property "id" validation failed: object matches none of the required`},
		{Routes, `{"uri":"/x","timeout":{"connect":0,"send":1,"read":1},` + up + `}`, `property "timeout" validation failed: property "connect" validation failed: expected 0 to be greater than 0`},
		{Routes, `{"uri":"/x","labels":{"a":"b c"},` + up + `}`, `property "labels" validation failed: failed to validate a (matching ".*"): failed to match pattern "^\\S+$" with "b c"`},
		{Upstreams, `{"nodes":[],"retries":-1}`, `property "retries" validation failed: expected -1 to be at least 0`},
		{Upstreams, `{"nodes":[],"keepalive_pool":[]}`, ""},
		{Upstreams, `{"nodes":{"a":1},"tls":{"client_cert":"x","client_key":"y"}}`, `property "tls" validation failed: property "client_key" validation failed: string too short, expected at least 64, got 1`},
		{Upstreams, `{"nodes":{"a":1},"service_name":"x","discovery_type":"dns"}`, "value should match only one schema, but matches both schemas 1 and 2"},
		{Upstreams, `{"nodes":[{"host":"a","port":65536,"weight":1}]}`, `property "nodes" validation failed: object matches none of the required`},
		{Consumers, `{"username":"a b"}`, `property "username" validation failed: failed to match pattern "^[a-zA-Z0-9_\\-]+$" with "a b"`},
		{Consumers, `{"plugins":{}}`, `property "username" is required`},
		{ConsumerGroups, `{}`, `property "plugins" is required`},
		{SSLs, `{"cert":"x","key":"y","sni":"a"}`, `property "key" validation failed: string too short, expected at least 64, got 1`},
		{SSLs, `{"sni":"a"}`, "then clause did not match"},
		{SSLs, `{"type":"client"}`, "else clause did not match"},
	} {
		raw, err := Schema(c.kind)
		if err != nil {
			t.Fatal(err)
		}
		s, err := schema.Compile(raw)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if err := s.ValidateJSON(json.RawMessage(c.doc)); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s %s:\n got %s\nwant %s", c.kind, c.doc, got, c.want)
		}
	}
}
