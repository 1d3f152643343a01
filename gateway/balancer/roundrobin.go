package balancer

import (
	"slices"
	"sync"
	"time"

	"gatehouse/gateway"
	"gatehouse/lib/fault"
)

// roundRobin is the smooth weighted form: of weights 5, 1, 1 the order is
// a a b a c a a, not five times a in a row. Nodes of a higher priority are all
// tried before one of a lower. A node of weight 0 gets nothing, except when it
// is the only one there is.
type roundRobin struct {
	single *gateway.Node
	tiers  []*tier
}

type tier struct {
	nodes []*gateway.Node

	mu      sync.Mutex
	current []int // guarded by mu; by index of nodes
}

var _ gateway.Picker = (*roundRobin)(nil)

func newRoundRobin(nodes []*gateway.Node) *roundRobin {
	rr := &roundRobin{}
	if len(nodes) == 1 {
		rr.single = nodes[0]
		return rr
	}
	byPriority := map[int]*tier{}
	var order []int
	for _, n := range nodes {
		if n.Weight <= 0 {
			continue
		}
		t := byPriority[n.Priority]
		if t == nil {
			t = &tier{}
			byPriority[n.Priority] = t
			order = append(order, n.Priority)
		}
		t.nodes = append(t.nodes, n)
	}
	slices.Sort(order)
	slices.Reverse(order)
	for _, p := range order {
		t := byPriority[p]
		t.current = make([]int, len(t.nodes))
		rr.tiers = append(rr.tiers, t)
	}
	return rr
}

func (rr *roundRobin) Pick(_ *gateway.Exchange, tried []*gateway.Node) (*gateway.Node, error) {
	if rr.single != nil {
		if len(tried) == 0 {
			return rr.single, nil
		}
		return nil, errNoNode
	}
	for _, t := range rr.tiers {
		if n := t.pick(tried); n != nil {
			return n, nil
		}
	}
	return nil, errNoNode
}

func (t *tier) pick(tried []*gateway.Node) *gateway.Node {
	t.mu.Lock()
	defer t.mu.Unlock()
	best, total := -1, 0
	for i, n := range t.nodes {
		if slices.Contains(tried, n) {
			continue
		}
		t.current[i] += n.Weight
		total += n.Weight
		if best < 0 || t.current[i] > t.current[best] {
			best = i
		}
	}
	if best < 0 {
		return nil
	}
	t.current[best] -= total
	return t.nodes[best]
}

func (*roundRobin) Done(*gateway.Node, time.Duration, error) {}

var errNoNode = fault.New(fault.Unavailable, "no node is left")
