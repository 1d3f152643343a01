package admin

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/lib/schema"
	"gatehouse/resource"
)

const (
	// apisixTries is how often a write starts over because another process
	// changed the object in between.
	apisixTries  = 10
	apisixMaxTTL = 10 * 365 * 24 * 3600 // seconds
	// apisixMaxStored is the largest resource kept, in bytes: changes add up.
	apisixMaxStored = 2 << 20
)

// apisixBroken says that something stored is no JSON.
func apisixBroken(err error) error {
	return fmt.Errorf("reading a stored resource: %v", err)
}

func (s *apisixServer) put(c *apisixCall, k *apisixKind, id string) (*apisixAnswer, error) {
	conf, expires, err := s.configuration(c)
	if err != nil {
		return nil, err
	}
	if id, err = k.identify(id, conf); err != nil {
		return nil, err
	}
	return s.write(c.Context(), func(ctx context.Context) (*apisixAnswer, int64, error) {
		prev, err := s.Store.Get(ctx, k.kind, id)
		status := http.StatusOK
		switch {
		case err == nil:
		case fault.KindOf(err) == fault.NotFound:
			status, prev.Revision = http.StatusCreated, resource.Absent
		default:
			return nil, 0, err
		}
		return s.store(ctx, k, id, conf.Clone(), prev, expires, status)
	})
}

func (s *apisixServer) post(c *apisixCall, k *apisixKind, id string) (*apisixAnswer, error) {
	conf, expires, err := s.configuration(c)
	if err != nil {
		return nil, err
	}
	if id != "" || conf.Get("id") != nil {
		return nil, apisixRefuse(http.StatusBadRequest, "wrong %s id, do not need it", k.noun)
	}
	return s.write(c.Context(), func(ctx context.Context) (*apisixAnswer, int64, error) {
		_, revision, err := s.Store.List(ctx, k.kind)
		if err != nil {
			return nil, 0, err
		}
		id := fmt.Sprintf("%020d", revision+1)
		conf := conf.Clone()
		conf.Set("id", schema.Text(id))
		return s.store(ctx, k, id, conf, resource.Object{Revision: resource.Absent}, expires, http.StatusCreated)
	})
}

func (s *apisixServer) patch(c *apisixCall, k *apisixKind, id string) (*apisixAnswer, error) {
	if id == "" {
		return nil, apisixRefuse(http.StatusBadRequest, "missing %s id", k.noun)
	}
	change, err := s.readBody(c)
	if err != nil {
		return nil, err
	}
	if change == nil {
		return nil, apisixRefuse(http.StatusBadRequest, "missing new configuration")
	}
	expires, err := s.expiry(c)
	if err != nil {
		return nil, err
	}
	path := slices.DeleteFunc(slices.Clone(c.path[2:]), func(p string) bool { return p == "" })
	if len(path) == 0 && change.Type != schema.Object && len(change.Items) == 0 && change.Type != schema.Array {
		return nil, apisixRefuse(http.StatusBadRequest, "invalid configuration: the change must be an object")
	}
	if !apisixIDs.MatchString(id) {
		return nil, apisixMissing()
	}
	return s.write(c.Context(), func(ctx context.Context) (*apisixAnswer, int64, error) {
		prev, err := s.Store.Get(ctx, k.kind, id)
		if err != nil {
			return nil, 0, err
		}
		conf, err := schema.Parse(prev.JSON)
		if err != nil {
			return nil, 0, apisixBroken(err)
		}
		if len(path) == 0 {
			apisixMerge(conf, change.Clone())
		} else if !apisixReplace(conf, path, change.Clone()) {
			return nil, 0, apisixRefuse(http.StatusBadRequest, "invalid sub-path: /%s", strings.Join(path, "/"))
		}
		if _, err := k.identify(id, conf); err != nil {
			return nil, 0, err
		}
		until := prev.Expires
		if c.query.Has("ttl") {
			until = expires
		}
		return s.store(ctx, k, id, conf, prev, until, http.StatusOK)
	})
}

// apisixMerge changes base by a merge patch (RFC 7396): objects are merged, null
// removes, anything else replaces.
func apisixMerge(base, change *schema.Value) {
	for _, m := range change.Members {
		old := base.Get(m.Name)
		switch {
		case m.Value.Type == schema.Null:
			base.Delete(m.Name)
		case m.Value.Type == schema.Object:
			if old == nil || old.Type != schema.Object {
				old = &schema.Value{Type: schema.Object}
				base.Set(m.Name, old)
			}
			apisixMerge(old, m.Value)
		default:
			base.Set(m.Name, m.Value)
		}
	}
}

// apisixReplace puts a value at a path, making the objects on the way, or
// removes what stands there when the value is null. It is false when the way
// is blocked by something that is no object.
func apisixReplace(v *schema.Value, path []string, to *schema.Value) bool {
	for len(path) > 1 {
		next := v.Get(path[0])
		if next == nil {
			next = &schema.Value{Type: schema.Object}
			v.Set(path[0], next)
		}
		if next.Type != schema.Object {
			return false
		}
		v, path = next, path[1:]
	}
	if to.Type == schema.Null {
		v.Delete(path[0])
		return true
	}
	v.Set(path[0], to)
	return true
}

func (s *apisixServer) remove(c *apisixCall, k *apisixKind, id string) (*apisixAnswer, error) {
	if id == "" {
		return nil, apisixRefuse(http.StatusBadRequest, "missing %s id", k.noun)
	}
	if !apisixIDs.MatchString(id) {
		return nil, apisixMissing()
	}
	return s.write(c.Context(), func(ctx context.Context) (*apisixAnswer, int64, error) {
		prev, err := s.Store.Get(ctx, k.kind, id)
		if err != nil {
			return nil, 0, err
		}
		if c.query.Get("force") != "true" {
			if err := s.unused(ctx, k, id); err != nil {
				return nil, 0, err
			}
		}
		revision, err := s.Store.Apply(ctx, resource.Change{Kind: k.kind, ID: id, If: prev.Revision})
		if err != nil {
			return nil, 0, err
		}
		return &apisixAnswer{status: http.StatusOK, body: apisixObject("key", k.key(id), "deleted", schema.Text("1"))}, revision, nil
	})
}

// configuration reads what a PUT or POST asks to store.
func (s *apisixServer) configuration(c *apisixCall) (*schema.Value, time.Time, error) {
	var never time.Time
	conf, err := s.readBody(c)
	if err != nil {
		return nil, never, err
	}
	if conf == nil || conf.Type == schema.Null {
		return nil, never, apisixRefuse(http.StatusBadRequest, "missing configurations")
	}
	if conf.Type == schema.Array && len(conf.Items) == 0 {
		conf.Type = schema.Object // some clients cannot tell [] from {}
	}
	if text := apisixForbidden(conf); text != "" {
		return nil, never, apisixRefuse(http.StatusBadRequest, "the property is forbidden: %s", text)
	}
	expires, err := s.expiry(c)
	return conf, expires, err
}

// apisixForbidden lists the properties in a configuration that only the
// gateway sets.
func apisixForbidden(conf *schema.Value) (found string) {
	for _, name := range []string{"create_time", "update_time"} {
		if conf.Get(name) != nil {
			found += " " + name
		}
		for _, in := range []string{"upstream", "plugins"} {
			if conf.At(in, name) != nil {
				found += " " + in + "." + name
			}
		}
	}
	return found
}

// expiry reads the argument ttl, in seconds.
func (s *apisixServer) expiry(c *apisixCall) (time.Time, error) {
	if !c.query.Has("ttl") {
		return time.Time{}, nil
	}
	n, err := strconv.Atoi(c.query.Get("ttl"))
	if err != nil {
		return time.Time{}, apisixRefuse(http.StatusBadRequest, "invalid argument ttl: should be a number")
	}
	if n < 1 || n > apisixMaxTTL {
		return time.Time{}, apisixRefuse(http.StatusBadRequest, "invalid argument ttl: should be between 1 and %d seconds", apisixMaxTTL)
	}
	return s.Now().Add(time.Duration(n) * time.Second), nil
}

// write runs an attempt under the lock, again when another process was faster,
// and then waits until what it stored is live on this node.
func (s *apisixServer) write(ctx context.Context, attempt func(context.Context) (*apisixAnswer, int64, error)) (*apisixAnswer, error) {
	var answer *apisixAnswer
	var revision int64
	var err error
	for range apisixTries {
		answer, revision, err = s.locked(ctx, attempt)
		if err == nil || fault.KindOf(err) != fault.Conflict {
			break
		}
	}
	if err != nil || s.Live == nil {
		return answer, err
	}
	// What is stored stays stored when the client goes away; the wait ends then.
	ctx, cancel := context.WithTimeout(ctx, apisixLiveWithin)
	defer cancel()
	if err := s.Live.Wait(ctx, revision); err != nil {
		s.Log.Warn("stored but not live", "revision", revision, "err", err)
		return nil, apisixRefuse(http.StatusServiceUnavailable, "stored as revision %d, but not live on this node yet", revision)
	}
	return answer, nil
}

func (s *apisixServer) locked(ctx context.Context, attempt func(context.Context) (*apisixAnswer, int64, error)) (*apisixAnswer, int64, error) {
	s.writes.Lock()
	defer s.writes.Unlock()
	return attempt(ctx)
}

// store checks a whole configuration and stores it in place of prev.
func (s *apisixServer) store(ctx context.Context, k *apisixKind, id string, conf *schema.Value, prev resource.Object, expires time.Time, status int) (*apisixAnswer, int64, error) {
	if k.timed {
		now := schema.Int(s.Now().Unix())
		created := now
		if old, err := schema.Parse(prev.JSON); err == nil && old.Get("create_time") != nil {
			created = old.Get("create_time")
		}
		if conf.Type == schema.Object {
			conf.Set("create_time", created)
			conf.Set("update_time", now)
		}
	}
	if err := s.check(ctx, k, id, conf); err != nil {
		return nil, 0, err
	}
	raw := conf.JSON()
	if len(raw) > apisixMaxStored {
		return nil, 0, apisixRefuse(http.StatusBadRequest, "invalid configuration: it has %d bytes, at most %d are kept", len(raw), apisixMaxStored)
	}
	if _, err := schema.Parse(raw); err != nil { // too deep, by a change at a path
		return nil, 0, apisixRefuse(http.StatusBadRequest, "invalid configuration: %s", err)
	}
	if s.Check != nil {
		if err := s.Check.Check(k.kind, id, raw); err != nil {
			return nil, 0, err
		}
	}
	revision, err := s.Store.Apply(ctx, resource.Change{Kind: k.kind, ID: id, JSON: raw, If: prev.Revision, Expires: expires})
	if err != nil {
		return nil, 0, err
	}
	return &apisixAnswer{status: status, body: apisixObject("key", k.key(id), "value", k.shown(conf))}, revision, nil
}
