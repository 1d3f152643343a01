package clients

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"slices"
	"time"

	"github.com/google/uuid"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
)

// Limits of the admin API.
const (
	MaxPage    = 500 // clients in one answer
	maxRotated = 5   // secrets of before a rotation that still work
	secretSize = 24  // bytes of a generated secret
)

// defaultScope is what a client without a scope may ask for.
const defaultScope = "offline_access offline openid"

// Create registers a client. An empty id becomes a random UUID. Without a
// chosen secret one is generated, unless the client is public; the secret in
// force is returned, this once. Fails with an *oauth.Error for metadata that
// is refused and with fault.Conflict for an id that exists.
func (r *Registry) Create(ctx context.Context, c *oauth.Client, secret string) (*oauth.Client, string, error) {
	n := *c
	if n.ID == "" {
		n.ID = uuid.NewString()
	}
	if n.Scope == "" {
		n.Scope = defaultScope
	}
	n.SecretHash, n.RotatedSecretHashes, n.Generation = "", nil, 0
	n.CreatedAt = r.now().UTC().Truncate(time.Second)
	secret, err := r.settle(ctx, &n, secret)
	if err != nil {
		return nil, "", err
	}
	if err := r.write(ctx, &n); err != nil {
		if fault.KindOf(err) == fault.Conflict {
			err = fault.Wrap(fault.Conflict, "Unable to insert or update resource because a resource with that value exists already", err)
		}
		return nil, "", err
	}
	r.log.Info("client created", "client_id", n.ID)
	return &n, secret, nil
}

// Replace changes all of a client but its id and times. The secret stays when
// none is given; it is returned only when it changed.
func (r *Registry) Replace(ctx context.Context, id string, c *oauth.Client, secret string) (*oauth.Client, string, error) {
	return r.change(ctx, id, func(old *oauth.Client) (*oauth.Client, string, error) {
		n := *c
		return &n, secret, nil
	})
}

// Patch applies an RFC 6902 document to the client as the admin API shows it.
// A path that touches client_id fails with fault.NotFound, a document that is
// none or does not apply with fault.Invalid.
func (r *Registry) Patch(ctx context.Context, id string, patch []byte) (*oauth.Client, string, error) {
	ops, err := parsePatch(patch)
	if err != nil {
		return nil, "", err
	}
	return r.change(ctx, id, func(old *oauth.Client) (*oauth.Client, string, error) {
		doc, err := json.Marshal(old.Wire(""))
		if err != nil {
			return nil, "", err
		}
		if doc, err = ops.apply(doc); err != nil {
			return nil, "", err
		}
		return oauth.ParseClient(doc)
	})
}

// SetLifespans replaces the client's lifespans.
func (r *Registry) SetLifespans(ctx context.Context, id string, l oauth.Lifespans) (*oauth.Client, error) {
	n, _, err := r.change(ctx, id, func(old *oauth.Client) (*oauth.Client, string, error) {
		n := *old
		n.Lifespans = l
		return &n, "", nil
	})
	return n, err
}

// RotateSecret gives the client a new generated secret and returns it. The
// old one works until DeleteRotated, or until five younger ones were rotated
// out. Fails with fault.Invalid for a public client.
func (r *Registry) RotateSecret(ctx context.Context, id string) (*oauth.Client, string, error) {
	return r.update(ctx, id, func(n *oauth.Client) (string, error) {
		if n.Public() {
			return "", fault.New(fault.Invalid, "a public client has no secret to rotate")
		}
		n.RotatedSecretHashes = append([]string{n.SecretHash}, n.RotatedSecretHashes...)
		if len(n.RotatedSecretHashes) > maxRotated {
			n.RotatedSecretHashes = n.RotatedSecretHashes[:maxRotated]
		}
		secret := newSecret()
		n.SecretHash = hashGenerated(secret)
		return secret, nil
	})
}

// DeleteRotated ends the secrets of before a rotation.
func (r *Registry) DeleteRotated(ctx context.Context, id string) (*oauth.Client, error) {
	n, _, err := r.update(ctx, id, func(n *oauth.Client) (string, error) {
		n.RotatedSecretHashes = nil
		return "", nil
	})
	return n, err
}

// UpgradeSecret replaces one stored hash by another of the same secret. It
// does nothing when the client or the hash is gone meanwhile.
func (r *Registry) UpgradeSecret(ctx context.Context, id, old, hash string) error {
	_, _, err := r.update(ctx, id, func(n *oauth.Client) (string, error) {
		if n.SecretHash == old {
			n.SecretHash = hash
			return "", nil
		}
		i := slices.Index(n.RotatedSecretHashes, old)
		if i < 0 {
			return "", errNotFound
		}
		n.RotatedSecretHashes = slices.Clone(n.RotatedSecretHashes)
		n.RotatedSecretHashes[i] = hash
		return "", nil
	})
	if fault.KindOf(err) == fault.NotFound {
		return nil
	}
	return err
}

// Delete removes a client and ends all that was granted or issued to it.
func (r *Registry) Delete(ctx context.Context, id string) error {
	if _, err := r.read(ctx, id); err != nil {
		return err
	}
	// First the epoch: whatever fails later, the tokens are dead.
	if err := r.cfg.Store.Put(ctx, oauth.Epoch("", id, r.now(), time.Time{})); err != nil {
		return err
	}
	err := r.cfg.Store.Remove(ctx, oauth.Ref{Kind: oauth.Clients, Key: id})
	r.forget(id)
	if err != nil {
		return err
	}
	for _, k := range []oauth.RecordKind{oauth.Authorizations, oauth.Consents} {
		if _, err := r.cfg.Store.Delete(ctx, oauth.Query{Kind: k, Client: id}); err != nil {
			return err
		}
	}
	r.log.Info("client deleted", "client_id", id)
	return nil
}

// List returns up to limit clients with ids after the given one, in order of
// id, and where the next page begins ("": there is none). Empty name and owner
// match any.
func (r *Registry) List(ctx context.Context, after string, limit int, name, owner string) ([]*oauth.Client, string, error) {
	if limit <= 0 || limit > MaxPage {
		limit = MaxPage
	}
	var out []*oauth.Client
	for {
		recs, err := r.cfg.Store.List(ctx, oauth.Query{Kind: oauth.Clients, After: after, Limit: MaxPage})
		if err != nil {
			return nil, "", err
		}
		for _, rec := range recs {
			c, err := open(rec)
			if err != nil {
				return nil, "", err
			}
			if (name != "" && c.Name != name) || (owner != "" && c.Owner != owner) {
				continue
			}
			if len(out) == limit {
				return out, out[limit-1].ID, nil
			}
			out = append(out, c)
		}
		if len(recs) < MaxPage {
			return out, "", nil
		}
		after = recs[len(recs)-1].Key
	}
}

// change replaces a client by what next makes of it, keeping what only the
// server decides.
func (r *Registry) change(ctx context.Context, id string, next func(old *oauth.Client) (*oauth.Client, string, error)) (*oauth.Client, string, error) {
	return r.update(ctx, id, func(n *oauth.Client) (string, error) {
		old := *n
		c, secret, err := next(&old)
		if err != nil {
			return "", err
		}
		*n = *c
		n.ID, n.CreatedAt, n.Generation = old.ID, old.CreatedAt, old.Generation
		n.SecretHash, n.RotatedSecretHashes = old.SecretHash, old.RotatedSecretHashes
		if n.Scope == "" {
			n.Scope = defaultScope
		}
		return r.settle(ctx, n, secret)
	})
}

// update reads a client, changes it and writes it, again if another was
// faster.
func (r *Registry) update(ctx context.Context, id string, f func(n *oauth.Client) (string, error)) (*oauth.Client, string, error) {
	for try := 0; ; try++ {
		n, err := r.read(ctx, id)
		if err != nil {
			return nil, "", err
		}
		secret, err := f(n)
		if err != nil {
			return nil, "", err
		}
		err = r.write(ctx, n)
		if err == nil {
			r.log.Info("client changed", "client_id", id)
			return n, secret, nil
		}
		if fault.KindOf(err) != fault.Conflict || try == 4 {
			return nil, "", err
		}
	}
}

func (r *Registry) write(ctx context.Context, c *oauth.Client) error {
	c.UpdatedAt = r.now().UTC().Truncate(time.Microsecond)
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	err = r.cfg.Store.Put(ctx, oauth.Record{Kind: oauth.Clients, Key: c.ID, Generation: c.Generation, Data: data})
	r.forget(c.ID)
	if err == nil {
		c.Generation++
	}
	return err
}

// settle fills in defaults, checks the metadata and sees to the secret. It
// returns the secret if it is new.
func (r *Registry) settle(ctx context.Context, c *oauth.Client, secret string) (string, error) {
	if c.TokenEndpointAuthMethod == "" {
		c.TokenEndpointAuthMethod = "client_secret_basic"
	}
	if c.SubjectType == "" {
		c.SubjectType = "public"
	}
	if c.UserinfoSignedResponseAlg == "" {
		c.UserinfoSignedResponseAlg = "none"
	}
	if err := r.validate(c); err != nil {
		return "", err
	}
	switch {
	case c.Public() && secret != "":
		return "", badMetadata("a client with token_endpoint_auth_method none has no client_secret")
	case c.Public():
		c.SecretHash, c.RotatedSecretHashes = "", nil
	case secret != "":
		if len(secret) < minSecret {
			return "", badMetadata("Field client_secret must contain a secret that is at least 6 characters long.")
		}
		hash, err := r.cfg.Hasher.Hash(ctx, secret)
		if err != nil {
			return "", err
		}
		c.SecretHash, c.RotatedSecretHashes = hash, nil
	case c.SecretHash == "":
		secret = newSecret()
		c.SecretHash = hashGenerated(secret)
	}
	return secret, nil
}

// newSecret is random: 192 bits. crypto/rand never fails.
func newSecret() string {
	b := make([]byte, secretSize)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

// hashGenerated is how a generated secret is kept. It has so many bits that a
// fast hash gives nothing away.
func hashGenerated(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return "sha256:" + hex.EncodeToString(sum[:])
}
