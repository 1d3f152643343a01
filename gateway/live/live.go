// Package live turns the stored resources into what runs: an immutable
// Snapshot, built whole beside the running one and put in its place by one
// atomic store. It compiles again only what changed.
//
// It serves no request (gateway/proxy asks it for routes and chains) and
// writes nothing to the store. A stored resource that cannot be run is logged
// and left out, or answers with an error where leaving it out would open what
// it protects; the rest runs.
package live

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse/gateway"
	"gatehouse/lib/fault"
	"gatehouse/lib/schema"
	"gatehouse/resource"
)

// Config is what a Live needs.
type Config struct {
	Store   resource.Store
	Plugins []gateway.Plugin
	// Env is what plugin instances get; Owner, Keep and Metadata are filled in
	// for each. Its Log and Now serve Live too.
	Env gateway.Env
	// Roots verify https upstreams; nil is the system's.
	Roots *x509.CertPool
	// FallbackSNI serves clients whose server name has no certificate, and
	// those that send none; "" refuses them.
	FallbackSNI string
	TLS         TLS
}

// Live follows the store and holds the current Snapshot.
type Live struct {
	store    resource.Store
	log      *slog.Logger
	now      func() time.Time
	env      gateway.Env
	plugins  map[string]*plugin
	roots    *x509.CertPool
	fallback string
	tls      TLS
	keeper   *keeper
	cur      atomic.Pointer[Snapshot]

	// Owned by the goroutine of Load and Run.
	objects map[resource.Kind]map[string]*stored
	build   builder

	instances instances

	mu      sync.Mutex
	changed chan struct{} // guarded by mu; closed when a snapshot goes live
}

// plugin is a plugin with its schemas compiled.
type plugin struct {
	gateway.Plugin
	route, consumer, metadata *schema.Schema
}

// New makes a Live that runs nothing yet: no route. Plugins whose schemas are
// no schemas are a mistake of the programmer and an error here.
func New(cfg Config) (*Live, error) {
	l := &Live{
		store: cfg.Store, log: cfg.Env.Log, now: cfg.Env.Now, env: cfg.Env, roots: cfg.Roots, fallback: cfg.FallbackSNI, tls: cfg.TLS,
		plugins: map[string]*plugin{}, objects: map[resource.Kind]map[string]*stored{},
		changed: make(chan struct{}),
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
		l.env.Log = l.log
	}
	if l.now == nil {
		l.now = time.Now
		l.env.Now = l.now
	}
	l.keeper = newKeeper(l.now)
	l.instances = instances{live: l, made: map[instanceKey]*instance{}}
	l.build = builder{live: l, routes: map[string]*routeEntry{}, upstreams: map[string]*upstreamEntry{}, consumers: map[string]*consumerEntry{}}
	for i := range cfg.Plugins {
		p := &plugin{Plugin: cfg.Plugins[i]}
		for _, s := range []struct {
			to   **schema.Schema
			make func() []byte
		}{
			{&p.route, func() []byte { return p.Schema() }},
			{&p.consumer, func() []byte { return p.ConsumerSchema() }},
			{&p.metadata, func() []byte { return p.MetadataSchema() }},
		} {
			if s.to == &p.route && p.Schema == nil || s.to == &p.consumer && p.ConsumerSchema == nil || s.to == &p.metadata && p.MetadataSchema == nil {
				continue
			}
			var err error
			if *s.to, err = schema.Compile(s.make()); err != nil {
				return nil, errors.Join(errors.New("schema of plugin "+p.Name), err)
			}
		}
		if l.plugins[p.Name] != nil {
			return nil, errors.New("two plugins are called " + p.Name)
		}
		l.plugins[p.Name] = p
	}
	l.cur.Store(l.build.snapshot(0))
	return l, nil
}

// Current is the snapshot that runs. A request keeps the one it began with.
func (l *Live) Current() *Snapshot { return l.cur.Load() }

// Load reads the whole store and makes it live. Call it once before Run.
func (l *Live) Load(ctx context.Context) error {
	objs, rev, err := l.store.List(ctx, "")
	if err != nil {
		return err
	}
	old := l.objects
	l.objects = map[resource.Kind]map[string]*stored{}
	for _, o := range objs {
		if s := old[o.Kind][o.ID]; s != nil && s.Revision == o.Revision {
			l.put(s)
			continue
		}
		l.put(l.decode(o))
	}
	l.publish(rev)
	return nil
}

// Run follows the store until ctx ends, and returns nil then. What it cannot
// follow it reads again; while the store is away the current snapshot runs on.
func (l *Live) Run(ctx context.Context) error {
	for {
		err := l.follow(ctx, l.Current().Revision)
		for ctx.Err() == nil {
			if fault.KindOf(err) != fault.Conflict {
				l.log.Warn("following the store broke off, reading it again", "err", err)
				select {
				case <-ctx.Done():
				case <-time.After(time.Second):
				}
			}
			if err = l.Load(ctx); err == nil {
				break
			}
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// The changes of one transaction come one by one and go live together.
// Transactions that follow each other closely go live together too: when
// nothing more came for settle, and a stream that does not pause every batch.
const (
	settle = 500 * time.Microsecond
	batch  = 5 * time.Millisecond
)

// follow applies changes until the watch ends, and says why it did.
func (l *Live) follow(ctx context.Context, after int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes := make(chan resource.Change, 256)
	var err error // of the watch; read after changes is closed
	go func() {
		defer close(changes)
		for c, e := range l.store.Watch(ctx, after) {
			if e != nil {
				err = e
				return
			}
			select {
			case changes <- c:
			case <-ctx.Done():
				return
			}
		}
	}()
	pause := time.NewTimer(settle)
	defer pause.Stop()
	var rev int64          // applied
	var deadline time.Time // for rev to go live, while pending
	pending := false       // rev is applied but not live
	half := false          // and there is more of it to come
	for {
		var settled <-chan time.Time
		if pending && !half {
			pause.Reset(settle)
			settled = pause.C
		}
		select {
		case c, ok := <-changes:
			switch {
			case !ok && pending && !half:
				l.publish(rev)
				return err
			case !ok:
				return err // what came of a half is read again, with the rest
			case !pending:
				deadline = l.now().Add(batch)
			}
			rev, pending, half = l.apply(c), true, c.More
			if !half && l.now().After(deadline) {
				l.publish(rev)
				pending = false
			}
		case <-settled:
			l.publish(rev)
			pending = false
		}
	}
}

func (l *Live) apply(c resource.Change) int64 {
	if c.JSON == nil {
		delete(l.objects[c.Kind], c.ID)
	} else {
		l.put(l.decode(resource.Object{Kind: c.Kind, ID: c.ID, JSON: c.JSON, Revision: c.Revision, CreateRevision: c.CreateRevision}))
	}
	return c.Revision
}

func (l *Live) put(s *stored) {
	m := l.objects[s.Kind]
	if m == nil {
		m = map[string]*stored{}
		l.objects[s.Kind] = m
	}
	m[s.ID] = s
}

// publish builds a snapshot and puts it in the place of the current one.
func (l *Live) publish(rev int64) {
	start := l.now()
	s := l.build.snapshot(max(rev, l.Current().Revision))
	l.cur.Store(s)
	l.keeper.sweep()
	if l.tls.Stapler != nil {
		l.tls.Stapler.Retain(s.certs.staples())
	}
	l.mu.Lock()
	close(l.changed)
	l.changed = make(chan struct{})
	l.mu.Unlock()
	l.log.Debug("configuration is live", "revision", s.Revision, "took", l.now().Sub(start))
}

// Wait returns when requests are answered by a revision or a later one. It
// fails with fault.Unavailable when ctx ends before.
func (l *Live) Wait(ctx context.Context, revision int64) error {
	for {
		l.mu.Lock()
		changed := l.changed
		l.mu.Unlock()
		if l.Current().Revision >= revision {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fault.Wrap(fault.Unavailable, "the change is stored but not live yet", ctx.Err())
		}
	}
}

// TLSConfig chooses the certificate of a connection by its server name, from
// the current snapshot. It is for tls.Config.GetConfigForClient.
func (l *Live) TLSConfig(h *tls.ClientHelloInfo) (*tls.Config, error) {
	if s := l.Current().certs.serve(h.ServerName); s != nil {
		return s.config, nil
	}
	// A configuration without a certificate makes the alert unrecognized_name;
	// an error would make it internal_error.
	return &tls.Config{MinVersion: tls.VersionTLS12}, nil
}
