package live

import (
	"gatehouse/gateway"
	"gatehouse/resource"
)

// consumer is a consumer with what it brings into a chain.
type consumer struct {
	gateway.Consumer
	uses map[string]use // group first, then its own over it; no credentials
}

// consumerEntry is a compiled consumer and what it was compiled from.
type consumerEntry struct {
	from        [2]*stored // consumer, group
	consumer    *consumer  // nil: it cannot be used
	credentials []found
}

// found is what a credential finds.
type found struct {
	key      [32]byte
	plugin   string
	consumer *gateway.Consumer
}

// indexConsumers indexes consumers by name and credential. Of two with one
// credential the older keeps it.
func (b *builder) indexConsumers(s *Snapshot) {
	all := b.live.objects[resource.Consumers]
	s.consumers = make(map[[32]byte]*gateway.Consumer, len(all))
	s.named = make(map[string]*consumer, len(all))
	seen := make(map[string]*consumerEntry, len(all))
	for _, o := range inOrder(all) {
		if o.err != nil {
			continue
		}
		from := [2]*stored{o, b.find(resource.ConsumerGroups, o.value.(*resource.Consumer).GroupID)}
		e := b.consumers[o.ID]
		fresh := e == nil || e.from != from
		if fresh {
			e = b.consumer(from)
		}
		seen[o.ID] = e
		if e.consumer == nil {
			continue
		}
		s.named[e.consumer.Username] = e.consumer
		for _, f := range e.credentials {
			if other := s.consumers[f.key]; other == nil {
				s.consumers[f.key] = f.consumer
			} else if fresh {
				b.live.log.Error("two stored consumers have one credential, the older keeps it", "plugin", f.plugin, "consumer", e.consumer.Username, "other", other.Username)
			}
		}
	}
	b.consumers = seen
}

func (b *builder) consumer(from [2]*stored) *consumerEntry {
	l, o := b.live, from[0]
	r := o.value.(*resource.Consumer)
	e := &consumerEntry{from: from}
	name := r.Username
	if name == "" {
		name = o.ID
	}
	c := &consumer{Consumer: gateway.Consumer{Username: name, GroupID: string(r.GroupID), CustomID: r.Labels["custom_id"], Labels: r.Labels}}
	if g := from[1]; g != nil {
		c.add(l, g.value.(*resource.ConsumerGroup).Plugins, "consumer_groups/"+g.ID)
	} else if r.GroupID != "" {
		l.log.Error("stored consumer is in a group that is missing and is left out", "consumer", name, "group_id", string(r.GroupID))
		return e
	}
	c.add(l, r.Plugins, "consumers/"+o.ID)
	e.consumer = c
	for _, plugin := range sortedNames(r.Plugins) {
		raw := r.Plugins[plugin]
		p := l.plugins[plugin]
		if p == nil || p.ConsumerKey == nil {
			continue
		}
		if m, err := readMeta(raw); err != nil || m.disable {
			continue
		}
		key, err := p.ConsumerKey(raw)
		if err != nil {
			l.log.Error("credential of a stored consumer cannot be used", "consumer", name, "plugin", plugin, "err", err)
			continue
		}
		one := c.Consumer
		one.Config = raw
		e.credentials = append(e.credentials, found{credential(plugin, key), plugin, &one})
	}
	return e
}

// add merges plugins in; those that authenticate are credentials, not part of
// a chain.
func (c *consumer) add(l *Live, set resource.Plugins, owner string) {
	for name, raw := range set {
		if p := l.plugins[name]; p != nil && p.Auth {
			continue
		}
		if c.uses == nil {
			c.uses = map[string]use{}
		}
		c.uses[name] = use{raw, owner}
	}
}
