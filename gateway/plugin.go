package gateway

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Plugin describes a plugin. It is a value in a list (plugins.All), not a
// registration. Define makes one from a configuration struct.
type Plugin struct {
	Name     string // as written in a route: "key-auth"
	Priority int    // larger runs earlier
	Version  float64
	// Auth marks a plugin that authenticates consumers: consumers may carry it.
	Auth bool
	// PreferRoute: skipped in a global rule when the route has it too.
	PreferRoute bool

	Schema         func() json.RawMessage // of the configuration on a route
	ConsumerSchema func() json.RawMessage // of the configuration on a consumer; nil: not for consumers
	MetadataSchema func() json.RawMessage // of plugin_metadata; nil: none

	// Check says what is wrong with a configuration that fits Schema; may be nil.
	Check func(json.RawMessage) error
	// ConsumerKey is the credential by which FindConsumer finds a consumer
	// with this configuration; nil unless Auth.
	ConsumerKey func(consumer json.RawMessage) (string, error)
	// New makes the instance for one place a plugin is configured in. It must
	// not block or call out: it runs while a change goes live.
	New func(json.RawMessage, *Env) (any, error)
}

// Env is what a plugin instance may use besides the Exchange.
type Env struct {
	Log   *slog.Logger
	Now   func() time.Time
	Owner string // the resource the configuration stands in: "routes/1"
	// Keep holds state that outlasts the instance, by key; see Kept.
	Keep     Keeper
	Metrics  prometheus.Registerer
	Caller   Caller                              // outbound HTTP
	Metadata func(plugin string) json.RawMessage // nil result: none
	// SessionSecret seals session cookies when a route names no secret. Kept
	// in the data directory, the same for every process that shares it.
	SessionSecret []byte
}

// Keeper holds counters, breakers and caches, which must survive a rebuild of
// the instance that uses them. What no running instance asked for is dropped
// some time after.
type Keeper interface {
	// Keep returns the value under key, made by make when there is none.
	Keep(key string, make func() any) any
}

// Kept is Keep for one type. The key should carry the plugin, the owner and
// what of the configuration the state depends on.
func Kept[T any](k Keeper, key string, make func() T) T {
	return k.Keep(key, func() any { return make() }).(T)
}

// Call is one outbound HTTP request of a plugin.
type Call struct {
	Method  string
	URL     string
	Header  []Field
	Body    []byte
	Timeout time.Duration // 0: 10 s
	MaxBody int           // an answer larger than this is an error; 0: 1 MiB
	// TLS: nil verifies against the system's roots and the data directory's
	// own authority.
	Insecure bool        // do not verify the certificate
	TLS      *tls.Config // more than that; rarely needed
	ProxyURL string      // HTTP proxy; "" none
}

// CallAnswer is the answer to a Call. Redirects are not followed.
type CallAnswer struct {
	Status int
	Header Header
	Body   []byte
}

// Caller makes outbound calls. Errors are fault.Unavailable.
type Caller interface {
	Call(ctx context.Context, c Call) (*CallAnswer, error)
}
