package router

import "slices"

// node is a node of a radix tree over literal prefixes.
type node[T any] struct {
	prefix   string // what this node adds to its parent
	depth    int    // length of the whole prefix
	children []*node[T]
	index    []byte      // first bytes of the children, in their order
	entries  []*entry[T] // rules of exactly this prefix
	up       *node[T]    // the nearest node above that has entries
}

func (n *node[T]) add(prefix string, e *entry[T]) {
	for {
		common := 0
		for common < len(prefix) && common < len(n.prefix) && prefix[common] == n.prefix[common] {
			common++
		}
		if common < len(n.prefix) { // split
			lower := *n
			lower.prefix = n.prefix[common:]
			*n = node[T]{prefix: n.prefix[:common], depth: n.depth - len(lower.prefix), children: []*node[T]{&lower}, index: []byte{lower.prefix[0]}}
		}
		if prefix = prefix[common:]; prefix == "" {
			n.entries = append(n.entries, e)
			return
		}
		i := slices.Index(n.index, prefix[0])
		if i < 0 {
			n.index = append(n.index, prefix[0])
			n.children = append(n.children, &node[T]{prefix: prefix, depth: n.depth + len(prefix), entries: []*entry[T]{e}})
			return
		}
		n = n.children[i]
	}
}

// finish sorts entries and links the nodes that have some.
func (n *node[T]) finish(up *node[T]) {
	n.up = up
	if len(n.entries) > 0 {
		sortEntries(n.entries)
		up = n
	}
	for _, c := range n.children {
		c.finish(up)
	}
}

// deepest returns the node of the longest prefix of path that has entries.
func (n *node[T]) deepest(path string) (best *node[T]) {
	for {
		if len(path) < len(n.prefix) || path[:len(n.prefix)] != n.prefix {
			return best
		}
		path = path[len(n.prefix):]
		if len(n.entries) > 0 {
			best = n
		}
		if path == "" {
			return best
		}
		next := (*node[T])(nil)
		for i, c := range n.index {
			if c == path[0] {
				next = n.children[i]
				break
			}
		}
		if next == nil {
			return best
		}
		n = next
	}
}
