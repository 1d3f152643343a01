package live

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"gatehouse/gateway"
)

// metadata is plugin_metadata by plugin. Immutable.
type metadata map[string]*stored

func (m metadata) of(plugin string) json.RawMessage {
	if s := m[plugin]; s != nil {
		return s.JSON
	}
	return nil
}

// instanceKey names an instance: a configuration in a place, under a metadata.
type instanceKey struct {
	plugin, owner string
	config        [32]byte
	metadata      int64 // revision; 0: none
}

type instance struct {
	value any
	keep  *tenant
	used  int // generation that last asked for it
}

// instances reuses plugin instances over builds. What two builds in a row did
// not ask for is dropped.
type instances struct {
	live *Live

	mu   sync.Mutex
	made map[instanceKey]*instance // guarded by mu
	gen  int                       // guarded by mu
}

// get runs New with the lock held: New must not block, and two instances of
// one configuration would not share what they count.
func (in *instances) get(p *plugin, u use, md metadata) (v any, err error) {
	key := instanceKey{plugin: p.Name, owner: u.owner, config: sha256.Sum256(u.raw)}
	if s := md[p.Name]; s != nil {
		key.metadata = s.Revision
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if i := in.made[key]; i != nil {
		i.used = in.gen
		return i.value, nil
	}
	i := &instance{used: in.gen, keep: &tenant{keeper: in.live.keeper}}
	env := in.live.env
	env.Owner, env.Keep, env.Metadata = u.owner, i.keep, md.of
	env.Log = env.Log.With("plugin", p.Name, "owner", u.owner)
	defer func() {
		if e := recover(); e != nil {
			err = fmt.Errorf("making the instance panicked: %v", e)
		}
		if err != nil {
			i.keep.leave()
		}
	}()
	if i.value, err = p.New(u.raw, &env); err != nil {
		return nil, err
	}
	if !new(gateway.Chain).Add(i.value) {
		return nil, fmt.Errorf("plugin %s has no phase", p.Name)
	}
	in.made[key] = i
	return i.value, nil
}

// begin starts a build; end drops what neither it nor the one before used.
func (in *instances) begin() {
	in.mu.Lock()
	in.gen++
	in.mu.Unlock()
}

func (in *instances) end() {
	in.mu.Lock()
	defer in.mu.Unlock()
	for k, i := range in.made {
		if i.used < in.gen-1 {
			i.keep.leave()
			delete(in.made, k)
		}
	}
}

// touch says that the instances of members are still in use.
func (in *instances) touch(keys []instanceKey) {
	in.mu.Lock()
	for _, k := range keys {
		if i := in.made[k]; i != nil {
			i.used = in.gen
		}
	}
	in.mu.Unlock()
}

func keysOf(set map[string]use, md metadata) []instanceKey {
	keys := make([]instanceKey, 0, len(set))
	for name, u := range set {
		k := instanceKey{plugin: name, owner: u.owner, config: sha256.Sum256(u.raw)}
		if s := md[name]; s != nil {
			k.metadata = s.Revision
		}
		keys = append(keys, k)
	}
	return keys
}

// keeper holds the state of plugins. An entry lives as long as a tenant, and
// some time after: a configuration that is taken away and put back goes on
// counting.
type keeper struct {
	now func() time.Time

	mu      sync.Mutex
	entries map[string]*kept // guarded by mu
}

type kept struct {
	value   any
	tenants int
	left    time.Time // when the last tenant left
}

const keepFor = 10 * time.Minute

func newKeeper(now func() time.Time) *keeper {
	return &keeper{now: now, entries: map[string]*kept{}}
}

// sweep drops entries without tenants.
func (k *keeper) sweep() {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	for key, e := range k.entries {
		if e.tenants == 0 && now.Sub(e.left) > keepFor {
			delete(k.entries, key)
		}
	}
}

// tenant is the Keeper of one instance.
type tenant struct {
	keeper *keeper
	keys   map[string]bool // guarded by keeper.mu
	gone   bool            // guarded by keeper.mu
}

var _ gateway.Keeper = (*tenant)(nil)

// Keep makes the value with no lock held that make could want, so two may be
// made at once; one is kept.
func (t *tenant) Keep(key string, make func() any) any {
	if v, ok := t.find(key, nil); ok {
		return v
	}
	v := make()
	v, _ = t.find(key, &v)
	return v
}

func (t *tenant) find(key string, fresh *any) (any, bool) {
	k := t.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.entries[key]
	if e == nil {
		if fresh == nil {
			return nil, false
		}
		e = &kept{value: *fresh, left: k.now()}
		k.entries[key] = e
	}
	if !t.gone && !t.keys[key] {
		if t.keys == nil {
			t.keys = map[string]bool{}
		}
		t.keys[key] = true
		e.tenants++
	}
	return e.value, true
}

// leave gives up everything the instance asked for.
func (t *tenant) leave() {
	k := t.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	t.gone = true
	for key := range t.keys {
		if e := k.entries[key]; e != nil {
			if e.tenants--; e.tenants == 0 {
				e.left = k.now()
			}
		}
	}
	t.keys = nil
}
