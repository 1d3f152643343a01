// Package seal encrypts and authenticates small values that travel through
// untrusted hands: challenges, verifiers, tokens and cookies.
//
// It derives one key per secret and purpose (HKDF-SHA256) and seals with
// XChaCha20-Poly1305. The first secret seals, every secret opens, so a secret
// is rotated by putting a new one in front. It stores nothing and knows
// nothing of what it seals.
package seal

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"

	"golang.org/x/crypto/chacha20poly1305"
)

// MinSecret is the shortest secret accepted, in bytes.
const MinSecret = 16

// ErrOpen says that a value was not sealed by any known secret for this
// purpose, or was changed on the way.
var ErrOpen = errors.New("value was not sealed by us or was changed")

// Ring holds the keys of one purpose. It is immutable and safe for concurrent use.
type Ring struct {
	aeads []cipher.AEAD
	macs  [][]byte
}

// New derives the keys for a purpose, such as "login challenge". At least one
// secret of at least MinSecret bytes is needed.
func New(secrets [][]byte, purpose string) (*Ring, error) {
	if len(secrets) == 0 {
		return nil, errors.New("no secret given")
	}
	r := &Ring{}
	for _, s := range secrets {
		if len(s) < MinSecret {
			return nil, errors.New("a secret must be at least 16 bytes long")
		}
		key, err := hkdf.Key(sha256.New, s, nil, "gatehouse seal: "+purpose, chacha20poly1305.KeySize)
		if err != nil {
			return nil, err
		}
		mac, err := hkdf.Key(sha256.New, s, nil, "gatehouse mac: "+purpose, sha256.Size)
		if err != nil {
			return nil, err
		}
		aead, err := chacha20poly1305.NewX(key)
		if err != nil {
			return nil, err
		}
		r.aeads, r.macs = append(r.aeads, aead), append(r.macs, mac)
	}
	return r, nil
}

// Seal appends the sealed plaintext to dst. The additional data is bound to
// the value but not contained in it; Open needs the same.
func (r *Ring) Seal(dst, plaintext, additional []byte) []byte {
	nonce := make([]byte, chacha20poly1305.NonceSizeX)
	rand.Read(nonce)
	return r.aeads[0].Seal(append(dst, nonce...), nonce, plaintext, additional)
}

// Open returns the plaintext of a sealed value, or ErrOpen.
func (r *Ring) Open(sealed, additional []byte) ([]byte, error) {
	if len(sealed) < chacha20poly1305.NonceSizeX+chacha20poly1305.Overhead {
		return nil, ErrOpen
	}
	nonce, box := sealed[:chacha20poly1305.NonceSizeX], sealed[chacha20poly1305.NonceSizeX:]
	for _, a := range r.aeads {
		if out, err := a.Open(nil, nonce, box, additional); err == nil {
			return out, nil
		}
	}
	return nil, ErrOpen
}

// MAC is HMAC-SHA256 of msg under the first secret. The same secret and
// message give the same result, always.
func (r *Ring) MAC(msg []byte) []byte { return mac(r.macs[0], msg) }

// Verify says in constant time whether sum is the MAC of msg under any secret.
// A sum may be truncated, to no fewer than 16 bytes.
func (r *Ring) Verify(msg, sum []byte) bool {
	if len(sum) < 16 || len(sum) > sha256.Size {
		return false
	}
	for _, k := range r.macs {
		if hmac.Equal(mac(k, msg)[:len(sum)], sum) {
			return true
		}
	}
	return false
}

func mac(key, msg []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(msg)
	return h.Sum(nil)
}
