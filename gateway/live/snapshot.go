package live

import (
	"crypto/sha256"
	"sync"

	"gatehouse/gateway"
	"gatehouse/gateway/router"
)

// Snapshot is everything requests are answered by. Immutable but for a cache.
type Snapshot struct {
	Revision int64 // of the store

	live      *Live
	table     *router.Table[*Target]
	globals   map[string]*gateway.Chain // by Target.prefers
	all       *gateway.Chain            // of every global rule
	consumers map[[32]byte]*gateway.Consumer
	named     map[string]*consumer
	metadata  metadata
	certs     *certs

	mu     sync.Mutex
	merged map[mergeKey]*Merged // guarded by mu; at most maxMerged
}

var (
	_ gateway.ConsumerFinder  = (*Snapshot)(nil)
	_ gateway.AnonymousFinder = (*Snapshot)(nil)
)

// Target is a route as it runs. Immutable.
type Target struct {
	Route *gateway.Route
	Chain *gateway.Chain
	// Fault is the status every request gets that passed the global rules,
	// when something the route refers to is missing or broken; 0: none.
	Fault int

	uses    map[string]use
	members []member
	prefers string // names of plugins that push out those of global rules
}

// Merged is the chain of a route for one consumer.
type Merged struct {
	Chain *gateway.Chain
	// Added are the rewriters the route did not have, which have not run yet.
	Added []gateway.Rewriter
}

type mergeKey struct {
	target   *Target
	username string
}

const maxMerged = 4096

// Match finds the route of a request.
func (s *Snapshot) Match(x *gateway.Exchange) (t *Target, uri string, ok bool) {
	return s.table.Match(x)
}

// Global is the chain of the global rules for a route; t is nil without one.
func (s *Snapshot) Global(t *Target) *gateway.Chain {
	if t == nil || t.prefers == "" {
		return s.all
	}
	return s.globals[t.prefers]
}

// Merge is the chain of a route after a consumer was found. nil: the route's
// own chain goes on. An error means that a plugin of the consumer cannot run;
// the request must not go on.
func (s *Snapshot) Merge(t *Target, c *gateway.Consumer) (*Merged, error) {
	own := s.named[c.Username]
	if own == nil || len(own.uses) == 0 {
		return nil, nil
	}
	key := mergeKey{t, c.Username}
	s.mu.Lock()
	m := s.merged[key]
	s.mu.Unlock()
	if m != nil {
		return m, nil
	}
	set := make(map[string]use, len(t.uses)+len(own.uses))
	for name, u := range t.uses {
		set[name] = u
	}
	for name, u := range own.uses {
		set[name] = u
	}
	list, err := s.live.members(set, s.metadata)
	if err != nil {
		return nil, err
	}
	m = &Merged{Chain: chainOf(list)}
	for i := range list {
		if _, had := t.uses[list[i].plugin.Name]; !had {
			var c gateway.Chain
			list[i].addTo(&c)
			m.Added = append(m.Added, c.Rewrite...)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.merged) >= maxMerged {
		for k := range s.merged {
			delete(s.merged, k)
			break
		}
	}
	s.merged[key] = m
	return m, nil
}

// FindConsumer finds a consumer by a credential. It compares hashes, so the
// time it takes says nothing of the keys there are.
func (s *Snapshot) FindConsumer(plugin, key string) (*gateway.Consumer, bool) {
	c, ok := s.consumers[credential(plugin, key)]
	return c, ok
}

// ConsumerNamed finds a consumer by its name.
func (s *Snapshot) ConsumerNamed(username string) (*gateway.Consumer, bool) {
	if c := s.named[username]; c != nil {
		return &c.Consumer, true
	}
	return nil, false
}

func credential(plugin, key string) [32]byte {
	var room [256]byte // most credentials fit, and cost no allocation
	b := append(append(append(room[:0], plugin...), 0), key...)
	return sha256.Sum256(b)
}

// ClientCerts says whether any server name asks for client certificates.
func (s *Snapshot) ClientCerts() bool { return s.certs.demanding }

// Connected is what connections under a server name are asked for, the fallback
// name's connections included; nil: nothing.
func (s *Snapshot) Connected(name string) *ClientCert {
	if t := s.certs.serve(name); t != nil {
		return t.client
	}
	return nil
}

// DemandsClientCert says whether connections for a host are asked for a client
// certificate; requests for it must come over such connections.
func (s *Snapshot) DemandsClientCert(host string) bool {
	t := s.certs.find(host)
	return t != nil && t.client != nil
}
