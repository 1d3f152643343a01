package engine

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// ResolverConfig says where names of nodes are looked up. Zero fields take the
// default, which stands behind the semicolon.
type ResolverConfig struct {
	Servers []string      // "address:port", asked in turn; none: the system's
	Valid   time.Duration // an answer is good so long; 10 s
	Stale   time.Duration // and serves so much longer while no server answers; 10 min
	Timeout time.Duration // of one lookup; 5 s
	Now     func() time.Time
	// Look finds the addresses of a name; nil asks Servers.
	Look func(ctx context.Context, name string) ([]netip.Addr, error)
}

// Resolver finds the addresses of nodes that are names, and remembers them. A
// name is looked up by one goroutine at a time, whoever waits for it. A name
// that does not exist any more has no address at once; what cannot be looked
// up keeps those it had, for a time.
type Resolver struct {
	cfg    ResolverConfig
	slots  chan struct{} // lookups under way
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	names map[string]*name // guarded by mu
}

// name is what is known of a name. Guarded by Resolver.mu; addrs is immutable.
type name struct {
	addrs []netip.Addr
	known bool      // addrs is what a server said, maybe nothing
	err   error     // of the last lookup
	until time.Time // the last lookup is good until
	stale time.Time // addrs serve no longer than this
	used  time.Time
	next  int                      // rotation
	ill   map[netip.Addr]time.Time // could not be connected to lately; tried last until
	done  chan struct{}            // closed when the lookup under way ends; nil: none
}

// Bounds of a Resolver.
const (
	maxNames   = 20_000
	maxAddrs   = 256
	maxLookups = 64
	noAnswer   = time.Second      // an error is good so long
	illTime    = 10 * time.Second // an address that failed is tried last so long
)

// NewResolver makes a Resolver.
func NewResolver(cfg ResolverConfig) *Resolver {
	for _, d := range []struct {
		to *time.Duration
		v  time.Duration
	}{{&cfg.Valid, 10 * time.Second}, {&cfg.Stale, 10 * time.Minute}, {&cfg.Timeout, 5 * time.Second}} {
		if *d.to <= 0 {
			*d.to = d.v
		}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Look == nil {
		cfg.Look = lookup(cfg.Servers)
	}
	r := &Resolver{cfg: cfg, names: map[string]*name{}, slots: make(chan struct{}, maxLookups)}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// Close ends lookups under way.
func (r *Resolver) Close() {
	r.mu.Lock()
	r.cancel()
	r.mu.Unlock()
	r.wg.Wait()
}

// lookup asks servers in turn until one knows.
func lookup(servers []string) func(context.Context, string) ([]netip.Addr, error) {
	list := []*net.Resolver{net.DefaultResolver}
	if len(servers) > 0 {
		list = nil
	}
	for _, s := range servers {
		list = append(list, &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, s)
		}})
	}
	return func(ctx context.Context, host string) (addrs []netip.Addr, err error) {
		for i, s := range list {
			one, cancel := share(ctx, len(list)-i)
			addrs, err = s.LookupNetIP(one, "ip", host)
			cancel()
			if err == nil || notFound(err) || ctx.Err() != nil {
				break
			}
		}
		return addrs, err
	}
}

// share gives an attempt its part of the time that is left for n of them, but
// two seconds when there are so many.
func share(ctx context.Context, n int) (context.Context, context.CancelFunc) {
	end, ok := ctx.Deadline()
	if !ok || n <= 1 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, max(time.Until(end)/time.Duration(n), 2*time.Second))
}

// notFound is what a server says of a name that has no address.
func notFound(err error) bool {
	var d *net.DNSError
	return errors.As(err, &d) && d.IsNotFound
}

// Addresses returns every address of a name: the one whose turn it is first,
// those that could not be connected to lately last. It waits for a lookup when
// nothing good is known.
func (r *Resolver) Addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	host = strings.ToLower(host)
	for {
		r.mu.Lock()
		n := r.name(host)
		now := r.cfg.Now()
		n.used = now
		if now.Before(n.until) {
			defer r.mu.Unlock()
			return n.turn(now)
		}
		done := r.refresh(host, n)
		r.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-r.ctx.Done():
			return nil, net.ErrClosed
		}
		r.mu.Lock()
		if now = r.cfg.Now(); n.known && now.Before(n.stale) || n.err != nil {
			defer r.mu.Unlock()
			return n.turn(now)
		}
		r.mu.Unlock()
	}
}

// Known returns the addresses that are good for a name, and has them looked up
// again when their time is over; false: nothing is known. It never waits.
func (r *Resolver) Known(host string) ([]netip.Addr, bool) {
	host = strings.ToLower(host)
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.name(host)
	now := r.cfg.Now()
	n.used = now
	if !now.Before(n.until) {
		r.refresh(host, n)
	}
	return n.addrs, n.known
}

// Failed says that an address could not be connected to.
func (r *Resolver) Failed(host string, a netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := r.names[strings.ToLower(host)]; n != nil && slices.Contains(n.addrs, a) {
		if n.ill == nil {
			n.ill = map[netip.Addr]time.Time{}
		}
		n.ill[a] = r.cfg.Now().Add(illTime)
	}
}

// turn is the answer to one caller.
func (n *name) turn(now time.Time) ([]netip.Addr, error) {
	if len(n.addrs) == 0 {
		return nil, n.err
	}
	at := n.next % len(n.addrs)
	n.next = at + 1
	list := append(append(make([]netip.Addr, 0, len(n.addrs)), n.addrs[at:]...), n.addrs[:at]...)
	if len(n.ill) > 0 {
		slices.SortStableFunc(list, func(a, b netip.Addr) int { return n.rank(a, now) - n.rank(b, now) })
	}
	return list, nil
}

func (n *name) rank(a netip.Addr, now time.Time) int {
	if now.Before(n.ill[a]) {
		return 1
	}
	return 0
}

// name finds or makes the entry of a name. The caller holds mu.
func (r *Resolver) name(host string) *name {
	n := r.names[host]
	if n == nil {
		if len(r.names) >= maxNames {
			r.forget()
		}
		n = &name{}
		r.names[host] = n
	}
	return n
}

// forget drops names nobody asked for lately, or any when there is none: what
// is dropped is looked up again. The caller holds mu.
func (r *Resolver) forget() {
	old := r.cfg.Now().Add(-r.cfg.Stale)
	for host, n := range r.names {
		if n.done == nil && n.used.Before(old) {
			delete(r.names, host)
		}
	}
	for host, n := range r.names {
		if len(r.names) < maxNames {
			return
		}
		if n.done == nil {
			delete(r.names, host)
		}
	}
}

// refresh begins a lookup unless one is under way; the channel is closed when
// it has ended. The caller holds mu.
func (r *Resolver) refresh(host string, n *name) <-chan struct{} {
	if n.done != nil {
		return n.done
	}
	done := make(chan struct{})
	n.done = done
	if r.ctx.Err() != nil {
		n.done = nil
		return done // nobody looks: callers see the end of r.ctx
	}
	r.wg.Go(func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(r.ctx, r.cfg.Timeout)
		defer cancel()
		var addrs []netip.Addr
		var err error
		select {
		case r.slots <- struct{}{}:
			addrs, err = r.cfg.Look(ctx, host)
			<-r.slots
		case <-ctx.Done():
			err = ctx.Err()
		}
		r.took(host, n, addrs, err)
	})
	return done
}

// took is what a lookup has found.
func (r *Resolver) took(host string, n *name, addrs []netip.Addr, err error) {
	var list []netip.Addr
	for _, a := range addrs {
		if a = a.Unmap(); len(list) < maxAddrs && !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	if err == nil && len(list) == 0 {
		err = &net.DNSError{Err: "no address", Name: host, IsNotFound: true}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.cfg.Now()
	n.done, n.err = nil, err
	switch {
	case err == nil:
		slices.SortFunc(list, netip.Addr.Compare)
		n.addrs, n.known = list, true
		n.until, n.stale = now.Add(r.cfg.Valid), now.Add(r.cfg.Valid+r.cfg.Stale)
		for a := range n.ill {
			if !slices.Contains(list, a) {
				delete(n.ill, a)
			}
		}
	case notFound(err):
		n.addrs, n.known, n.until, n.stale = nil, true, now.Add(noAnswer), now.Add(noAnswer)
	case now.Before(n.stale) && len(n.addrs) > 0: // what was good serves on
		n.until = now.Add(noAnswer)
	default:
		n.addrs, n.known, n.until = nil, false, now.Add(noAnswer)
	}
}
