// Package keyauth is the plugin key-auth: it finds the consumer by a key in a
// header field or a query parameter. It keeps no key: the snapshot the exchange
// began with finds consumers by the hash of theirs, so the time that takes says
// nothing of how much of a real key was right.
package keyauth

import (
	"errors"

	"gatehouse/gateway"
)

const name = "key-auth"

// Config is the configuration on a route.
type Config struct {
	Header            string `json:"header" default:"apikey" min:"1" max:"256" pattern:"^[!#$%&'*+.^_|~0-9A-Za-z-]+$" doc:"Header field that carries the key."`
	Query             string `json:"query" default:"apikey" min:"1" max:"256" doc:"Query parameter that carries the key when the header field is absent."`
	HideCredentials   bool   `json:"hide_credentials" default:"false" doc:"Take the key from the request before it goes to the upstream."`
	AnonymousConsumer string `json:"anonymous_consumer" min:"1" max:"256" doc:"Name of the consumer that a request without a good key passes as."`
	Realm             string `json:"realm" default:"key" min:"1" max:"128" pattern:"^[ !#-\\[\\]-~]+$" doc:"Realm in the WWW-Authenticate field of a refusal."`
}

// ConsumerConfig is the configuration on a consumer.
type ConsumerConfig struct {
	Key string `json:"key" required:"true" min:"1" max:"4096" secret:"true" doc:"The key. No two consumers may have the same."`
}

// Plugin is key-auth.
var Plugin = gateway.Define(name, 2500, build, gateway.Authenticates(consumerKey))

type keyAuth struct {
	Config
	challenge string
}

var _ gateway.Rewriter = (*keyAuth)(nil)

func build(c Config, _ *gateway.Env) (any, error) {
	return &keyAuth{Config: c, challenge: `apikey realm="` + c.Realm + `"`}, nil
}

func consumerKey(c ConsumerConfig) (string, error) {
	if c.Key == "" {
		return "", errors.New(`property "key" is required`)
	}
	return c.Key, nil
}

// Rewrite finds the consumer or answers 401.
func (k *keyAuth) Rewrite(x *gateway.Exchange) *gateway.Reply {
	key, found := k.key(&x.Req)
	if k.HideCredentials {
		x.Req.Header.DropSpoken(k.Header)
		x.DropQuery(k.Query)
	}
	if found && x.Consumers != nil {
		if c, ok := x.Consumers.FindConsumer(name, key); ok {
			x.SetConsumer(c)
			return nil
		}
	}
	if k.AnonymousConsumer != "" {
		if a, ok := x.Consumers.(gateway.AnonymousFinder); ok {
			if c, ok := a.ConsumerNamed(k.AnonymousConsumer); ok {
				x.SetConsumer(c)
				return nil
			}
		}
		return k.refuse("Invalid user authorization", errors.New("key-auth: no consumer is called as anonymous_consumer says: "+k.AnonymousConsumer))
	}
	if !found {
		return k.refuse("Missing API key in request", nil)
	}
	return k.refuse("Invalid API key in request", nil)
}

func (k *keyAuth) key(r *gateway.Request) (string, bool) {
	if r.Header.Has(k.Header) {
		return r.Header.Get(k.Header), true
	}
	return r.QueryValue(k.Query)
}

func (k *keyAuth) refuse(text string, cause error) *gateway.Reply {
	r := gateway.JSONReply(401, map[string]string{"message": text})
	r.Header = append(r.Header, gateway.Field{Name: "WWW-Authenticate", Value: k.challenge})
	r.Err = cause
	return r
}
