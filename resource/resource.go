// Package resource holds the nouns an operator edits (Route, Service,
// Upstream, Consumer, ...) and the contract of the place where they are kept.
//
// A resource is stored JSON. What runs is an instance, built by gateway/live;
// the two never share a type.
package resource

import (
	"context"
	"encoding/json"
	"iter"
	"time"
)

// Kind names a family of resources, as in the path of the Admin API.
type Kind string

const (
	Routes         Kind = "routes"
	Services       Kind = "services"
	Upstreams      Kind = "upstreams"
	Consumers      Kind = "consumers"
	ConsumerGroups Kind = "consumer_groups"
	PluginConfigs  Kind = "plugin_configs"
	GlobalRules    Kind = "global_rules"
	SSLs           Kind = "ssls"
	PluginMetadata Kind = "plugin_metadata"
)

// Kinds lists every kind, in the order in which references point: what comes
// later may refer to what comes earlier.
func Kinds() []Kind {
	return []Kind{SSLs, Upstreams, PluginMetadata, PluginConfigs, ConsumerGroups, Consumers, Services, Routes, GlobalRules}
}

// Object is one stored resource.
type Object struct {
	Kind           Kind
	ID             string
	CreateRevision int64 // of the store when the object was created
	Revision       int64 // of the store when the object was last written
	JSON           json.RawMessage
	Expires        time.Time // zero: never
}

// Conditions of a Change besides a revision number.
const (
	Any    int64 = 0  // whatever is stored
	Absent int64 = -1 // nothing may be stored under the id
)

// Change is one put or delete.
type Change struct {
	Kind Kind
	ID   string
	JSON json.RawMessage // nil: delete
	// If demands the Revision that was read: Any, Absent, or the number.
	If      int64
	Expires time.Time // zero: never; for puts with a time to live

	// Set by the store, in what Apply returns and Watch yields.
	Revision, CreateRevision int64
	// More says, in what Watch yields, that further changes of this Revision
	// follow: what runs by half a transaction runs by what nobody wrote.
	More bool
}

// Store keeps objects. Backends live in store/; all pass store/storetest.
//
// One revision number counts the transactions of the whole store and never
// goes back, not even over a restart.
type Store interface {
	// Get fails with fault.NotFound.
	Get(ctx context.Context, k Kind, id string) (Object, error)
	// List returns the objects of a kind, ordered by CreateRevision and ID,
	// and the revision of the store they were read at. An empty kind lists all.
	List(ctx context.Context, k Kind) (objs []Object, revision int64, err error)
	// Apply makes all changes or none, durably, under one new revision, and
	// returns it. A condition that does not hold fails with fault.Conflict, a
	// delete of what is not there with fault.NotFound.
	Apply(ctx context.Context, changes ...Change) (revision int64, err error)
	// Watch yields every change after a revision in order, expired objects as
	// deletes, until ctx ends. More marks all changes of a revision but the
	// last. It yields fault.Conflict and ends when the
	// changes after that revision are no longer known, or the store never got
	// that far: list again.
	Watch(ctx context.Context, after int64) iter.Seq2[Change, error]
}
