package gateway

import (
	"encoding/json"
	"fmt"
	"reflect"

	"gatehouse/lib/fault"
	"gatehouse/lib/schema"
)

// Define makes a Plugin from its configuration struct. The schema comes from
// the struct's tags (schema.Derive); a configuration is decoded strictly, with
// defaults filled in, before build sees it. When *C has a method
// Validate() error it is asked after decoding, by Check and by New.
//
// Errors of Check and New are fault.Invalid unless build says otherwise. A
// struct no schema can be derived from is a mistake of the programmer: Define
// panics.
func Define[C any](name string, priority int, build func(C, *Env) (any, error), opts ...Option) Plugin {
	derived := withMeta(mustDerive(reflect.TypeFor[C]()))
	p := Plugin{
		Name:     name,
		Priority: priority,
		Version:  0.1,
		Schema:   func() json.RawMessage { return derived },
		Check: func(raw json.RawMessage) error {
			_, err := decode[C](raw)
			return err
		},
		New: func(raw json.RawMessage, env *Env) (any, error) {
			c, err := decode[C](raw)
			if err != nil {
				return nil, err
			}
			return build(c, env)
		},
	}
	for _, o := range opts {
		o(&p)
	}
	return p
}

// Option is one more property of a plugin.
type Option func(*Plugin)

// WithVersion sets the version the plugin list shows.
func WithVersion(v float64) Option { return func(p *Plugin) { p.Version = v } }

// WithSchema replaces the derived schema by a written one, for what tags
// cannot say (oneOf, dependencies). A test must hold both against each other.
func WithSchema(raw json.RawMessage) Option {
	full := withMeta(raw)
	return func(p *Plugin) { p.Schema = func() json.RawMessage { return full } }
}

// WithMetadata gives the plugin a plugin_metadata of the form of M.
func WithMetadata[M any]() Option {
	s := mustDerive(reflect.TypeFor[M]())
	return func(p *Plugin) { p.MetadataSchema = func() json.RawMessage { return s } }
}

// Authenticates makes the plugin one that authenticates consumers, which carry
// a configuration of the form of K. Key returns the credential they are found
// by.
func Authenticates[K any](key func(K) (string, error)) Option {
	s := mustDerive(reflect.TypeFor[K]())
	return func(p *Plugin) {
		p.Auth = true
		p.ConsumerSchema = func() json.RawMessage { return s }
		p.ConsumerKey = func(raw json.RawMessage) (string, error) {
			k, err := decode[K](raw)
			if err != nil {
				return "", err
			}
			return key(k)
		}
	}
}

// PreferRoute skips the plugin in a global rule when the route has it too.
func PreferRoute() Option { return func(p *Plugin) { p.PreferRoute = true } }

// Metadata reads a plugin's plugin_metadata; the defaults when there is none.
func Metadata[M any](env *Env, plugin string) (M, error) {
	raw := json.RawMessage(nil)
	if env.Metadata != nil {
		raw = env.Metadata(plugin)
	}
	if raw == nil {
		raw = json.RawMessage("{}")
	}
	return decode[M](raw)
}

func mustDerive(t reflect.Type) json.RawMessage {
	s, err := schema.Derive(t)
	if err != nil {
		panic("gateway: " + err.Error())
	}
	return s
}

// decode reads a configuration of type C; errors are fault.Invalid.
func decode[C any](raw json.RawMessage) (C, error) {
	var c C
	raw, err := withoutMeta(raw)
	if err == nil {
		err = schema.Decode(raw, &c)
	}
	if v, ok := any(&c).(interface{ Validate() error }); ok && err == nil {
		err = v.Validate()
	}
	if err != nil {
		return c, fault.Wrap(fault.Invalid, err.Error(), err)
	}
	return c, nil
}

// withoutMeta drops what every plugin may carry and none reads: how it is run,
// and the id under which plugin_metadata is stored.
func withoutMeta(raw json.RawMessage) (json.RawMessage, error) {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("wrong type: expected object: %w", err)
	}
	n := len(m)
	delete(m, "_meta")
	delete(m, "id")
	if len(m) == n {
		return raw, nil
	}
	return json.Marshal(m)
}

// metaSchema is what every plugin may carry besides its own configuration.
const metaSchema = `{"type":"object","properties":{` +
	`"disable":{"type":"boolean","description":"do not run the plugin here"},` +
	`"priority":{"type":"integer","description":"run as if this were the plugin's priority"},` +
	`"filter":{"type":"array","description":"run only when this expression holds"},` +
	`"error_response":{"oneOf":[{"type":"string"},{"type":"object"}],"description":"body instead of the plugin's own when it refuses"}` +
	`},"additionalProperties":false}`

// withMeta adds _meta to the properties of a schema.
func withMeta(raw json.RawMessage) json.RawMessage {
	full, err := schema.AddProperty(raw, "_meta", json.RawMessage(metaSchema))
	if err != nil {
		panic("gateway: " + err.Error())
	}
	return full
}
