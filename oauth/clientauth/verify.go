package clientauth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"strings"
	"sync"
	"time"

	"gatehouse/oauth"
)

// How long a successful check of a chosen secret is remembered, and how many.
const (
	verifiedFor = 5 * time.Minute
	maxVerified = 8192
)

// generated is what the hash of a generated secret begins with: a hex SHA-256
// follows.
const generated = "sha256:"

// Hashes of nothing, for clients that do not exist.
const (
	noSHA256 = generated + "0000000000000000000000000000000000000000000000000000000000000000"
	noArgon  = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
)

// verified remembers successful checks by a MAC over client, stored hash and
// secret: a changed secret is a changed hash and counts at once.
type verified struct {
	mu    sync.Mutex // guards what follows
	until map[[32]byte]time.Time
}

func (v *verified) has(k [32]byte, now time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return now.Before(v.until[k])
}

func (v *verified) add(k [32]byte, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.until) >= maxVerified {
		for old, t := range v.until {
			if !now.Before(t) {
				delete(v.until, old)
			}
		}
		for old := range v.until { // all young: any goes
			if len(v.until) < maxVerified {
				break
			}
			delete(v.until, old)
		}
	}
	v.until[k] = now.Add(verifiedFor)
}

func (a *Authenticator) mac(parts ...string) (sum [32]byte) {
	h := hmac.New(sha256.New, a.key[:])
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	h.Sum(sum[:0])
	return sum
}

// check says whether a secret is one of the client's, and by which stored
// hash. The cheap ways come first; before an expensive one allowed is asked.
func (a *Authenticator) check(ctx context.Context, c *oauth.Client, secret string, allowed func() bool) (ok bool, stored string, err error) {
	hashes := make([]string, 0, 1+len(c.RotatedSecretHashes))
	if c.SecretHash != "" {
		hashes = append(hashes, c.SecretHash)
	}
	hashes = append(hashes, c.RotatedSecretHashes...)
	var slow []string
	for _, h := range hashes {
		want, fast := strings.CutPrefix(h, generated)
		switch {
		case fast && matchesSHA256(want, secret):
			return true, h, nil
		case fast:
		case a.verified.has(a.mac(c.ID, h, secret), a.now()):
			return true, h, nil
		default:
			slow = append(slow, h)
		}
	}
	if !allowed() {
		return false, "", ErrTooMany
	}
	for _, h := range slow {
		ok, err := a.cfg.Hasher.Verify(ctx, h, secret)
		if err != nil {
			return false, "", err
		}
		if ok {
			a.verified.add(a.mac(c.ID, h, secret), a.now())
			return true, h, nil
		}
	}
	return false, "", nil
}

func matchesSHA256(want, secret string) bool {
	sum := sha256.Sum256([]byte(secret))
	var have [2 * sha256.Size]byte
	hex.Encode(have[:], sum[:])
	return subtle.ConstantTimeCompare(have[:], []byte(want)) == 1
}

// upgrade makes a hash from elsewhere anew. It failing is no reason to refuse
// the client.
func (a *Authenticator) upgrade(ctx context.Context, c *oauth.Client, stored, secret string) {
	if a.cfg.Upgrader == nil || strings.HasPrefix(stored, generated) || !a.cfg.Hasher.Outdated(stored) {
		return
	}
	hash, err := a.cfg.Hasher.Hash(ctx, secret)
	if err == nil {
		err = a.cfg.Upgrader.UpgradeSecret(ctx, c.ID, stored, hash)
	}
	if err != nil {
		a.log.Warn("hashing a client's secret anew", "client_id", c.ID, "err", err)
		return
	}
	a.verified.add(a.mac(c.ID, hash, secret), a.now())
}
