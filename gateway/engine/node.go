package engine

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"syscall"
)

// ErrBusy says that a node has as many connections as it may, and none came
// free in time.
var ErrBusy = errors.New("every connection to the node is in use")

// node is an address of an upstream and all that is open to it, whatever the
// scheme and the server name: who names hosts must not get more connections.
type node struct {
	addr string // "host:port"
	host string // the name to look up; "": addr is an address
	port uint16

	// Guarded by Transport.mu.
	open  int // connections and dials under way
	pools int
	queue []*waiter    // who waits for a connection, first come first
	addrs []netip.Addr // of host, as the last sweep knew
	known bool         // that it knew
}

// waiter waits for a connection of its pool, or for leave to make one (nil).
type waiter struct {
	pool  *pool
	fresh bool // wants no connection that was used
	given chan *conn
}

// node finds or makes the node of an address, for one more pool. The caller
// holds mu.
func (t *Transport) node(addr string) *node {
	n := t.nodes[addr]
	if n == nil {
		n = nodeOf(addr)
		t.nodes[addr] = n
	}
	n.pools++
	return n
}

func nodeOf(addr string) *node {
	n := &node{addr: addr}
	if host, port, err := net.SplitHostPort(addr); err == nil {
		if _, err := netip.ParseAddr(host); err != nil {
			if p, err := strconv.ParseUint(port, 10, 16); err == nil {
				n.host, n.port = host, uint16(p)
			}
		}
	}
	return n
}

// drop takes a pool from its node. The caller holds mu.
func (t *Transport) drop(n *node) {
	if n.pools--; n.pools == 0 {
		delete(t.nodes, n.addr)
	}
}

// reach connects to a node: to its address, or to those of its name in turn.
func (t *Transport) reach(ctx context.Context, n *node) (net.Conn, error) {
	if n.host == "" {
		return t.connectTo(ctx, n.addr)
	}
	addrs, err := t.Resolver.Addresses(ctx, n.host)
	if err != nil {
		return nil, err
	}
	var first error
	for i, a := range addrs {
		one, cancel := share(ctx, len(addrs)-i)
		nc, err := t.connectTo(one, netip.AddrPortFrom(a, n.port).String())
		cancel()
		if err == nil {
			return nc, nil
		}
		if first == nil {
			first = err
		}
		if ctx.Err() != nil {
			break
		}
		t.Resolver.Failed(n.host, a)
	}
	return nil, first
}

// maxQueue is how many calls wait for a connection to one node.
const maxQueue = 10_000

// shedBatch is how many idle connections are closed when there is no
// descriptor for a new one.
const shedBatch = 16

// connectTo connects to an address. When descriptors have run out, idle
// connections make room.
func (t *Transport) connectTo(ctx context.Context, addr string) (net.Conn, error) {
	nc, err := t.dial(ctx, "tcp", addr)
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		t.Shed(shedBatch)
		nc, err = t.dial(ctx, "tcp", addr)
	}
	return nc, err
}

// queue waits for a connection to a node that has as many as it may. nil
// without an error is leave to make one. The caller holds mu, and holds it
// again afterwards.
func (t *Transport) queue(ctx context.Context, c *Call, p *pool) (*conn, error) {
	n := p.node
	if k := t.idlest(n); k != nil { // of another pool, or not fresh enough
		delete(t.open, k)
		k.pool.open--
		t.mu.Unlock()
		k.nc.Close()
		t.mu.Lock()
		return nil, nil
	}
	if len(n.queue) >= maxQueue {
		return nil, ErrBusy
	}
	w := &waiter{pool: p, fresh: c.Fresh, given: make(chan *conn, 1)}
	n.queue = append(n.queue, w)
	t.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, c.Timeout.Connect)
	defer cancel()
	select {
	case k := <-w.given:
		t.mu.Lock()
		return k, nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	for i, o := range n.queue {
		if o == w {
			n.queue = append(n.queue[:i], n.queue[i+1:]...)
			return nil, ErrBusy
		}
	}
	return <-w.given, nil // it came at the last moment
}

// idlest takes the connection to a node that was idle longest, of any pool, out
// of its list. The caller holds mu.
func (t *Transport) idlest(n *node) *conn {
	var from *pool
	for _, p := range t.idle {
		if p.node == n && len(p.list) > 0 && (from == nil || p.list[0].until < from.list[0].until) {
			from = p
		}
	}
	if from == nil {
		return nil
	}
	k := from.list[0]
	from.list = append(from.list[:0], from.list[1:]...)
	return k
}

// next gives the first of the queue what has come free: a connection of its
// pool, or leave to make one. The caller holds mu.
func (n *node) next(k *conn) bool {
	if len(n.queue) == 0 {
		return false
	}
	w := n.queue[0]
	n.queue = append(n.queue[:0], n.queue[1:]...)
	if k == nil {
		n.open++
	}
	w.given <- k
	return true
}

// hand gives a connection that has become idle to the first of the queue when
// it is for its pool. The caller holds mu.
func (n *node) hand(k *conn) bool {
	return n.queue[0].pool == k.pool && !n.queue[0].fresh && n.next(k)
}
