// Package phc makes and verifies hashes of passwords and chosen secrets, as
// PHC strings: $argon2id$v=19$m=19456,t=2,p=1$salt$hash.
//
// It makes argon2id alone and also verifies $pbkdf2-sha256$ (and -sha512) and
// bcrypt, so that hashes made elsewhere keep working until they are made
// anew. It stores nothing. Secrets that are random and long do not belong
// here: a plain SHA-256 is right for them.
package phc

import (
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"

	"gatehouse/lib/fault"
)

// The parameters of new hashes: about 20 ms and 19 MiB each.
const (
	argonMemory  = 19456 // KiB
	argonTime    = 2
	argonThreads = 1
	saltSize     = 16
	hashSize     = 32
)

// MaxPassword is the longest password looked at, in bytes.
const MaxPassword = 4096

// Limits on hashes from elsewhere: what one verification may cost.
const (
	maxStored     = 512       // bytes of the string
	maxMemory     = 128 << 10 // KiB
	maxTime       = 16
	maxThreads    = 8
	maxIterations = 2_000_000
	maxCost       = 14 // bcrypt
	maxSalt       = 64
	minHash       = 16
	maxHash       = 64
)

// ErrFormat says that a stored hash cannot be read or asks for more work than
// is allowed.
var ErrFormat = errors.New("stored hash has an unknown form or excessive parameters")

// Hasher computes hashes, a bounded number at a time. It is safe for
// concurrent use.
type Hasher struct {
	slots   chan struct{}
	queue   int64
	waiting atomic.Int64
}

// New returns a Hasher that computes at most parallel hashes at a time (0: 2)
// and lets at most queue callers wait (0: 64).
func New(parallel, queue int) *Hasher {
	if parallel <= 0 {
		parallel = 2
	}
	if queue <= 0 {
		queue = 64
	}
	return &Hasher{slots: make(chan struct{}, parallel), queue: int64(queue)}
}

// Hash makes an argon2id hash. A password over MaxPassword fails with
// fault.Invalid, a full queue with fault.Unavailable, a context that ends
// while waiting with its error.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	if len(password) > MaxPassword {
		return "", fault.New(fault.Invalid, "the password is too long")
	}
	if err := h.enter(ctx); err != nil {
		return "", err
	}
	defer h.leave()
	salt := make([]byte, saltSize)
	rand.Read(salt)
	sum := argon2.IDKey([]byte(password), salt, argonTime, argonMemory, argonThreads, hashSize)
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonThreads,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(sum)), nil
}

// Verify says whether the password belongs to the stored hash. A password
// over MaxPassword belongs to none. It fails with ErrFormat, with
// fault.Unavailable when the queue is full, or with the context's error.
func (h *Hasher) Verify(ctx context.Context, stored, password string) (bool, error) {
	check, err := parse(stored)
	if err != nil {
		return false, err
	}
	if len(password) > MaxPassword {
		return false, nil
	}
	if err := h.enter(ctx); err != nil {
		return false, err
	}
	defer h.leave()
	return check.matches(password), nil
}

// Outdated says whether a hash should be made anew when its password is next
// seen: it is no argon2id hash, or one weaker than those made today.
func (h *Hasher) Outdated(stored string) bool {
	a, err := parse(stored)
	if err != nil {
		return true
	}
	k, ok := a.(argonHash)
	return !ok || k.memory < argonMemory || k.time < argonTime || len(k.sum) < hashSize || len(k.salt) < saltSize
}

func (h *Hasher) enter(ctx context.Context) error {
	select {
	case h.slots <- struct{}{}:
		return nil
	default:
	}
	if h.waiting.Add(1) > h.queue {
		h.waiting.Add(-1)
		return fault.New(fault.Unavailable, "too many password checks at once")
	}
	defer h.waiting.Add(-1)
	select {
	case h.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *Hasher) leave() { <-h.slots }

type matcher interface{ matches(password string) bool }

type argonHash struct {
	memory, time uint32
	threads      uint8
	salt, sum    []byte
}

func (a argonHash) matches(password string) bool {
	got := argon2.IDKey([]byte(password), a.salt, a.time, a.memory, a.threads, uint32(len(a.sum)))
	return subtle.ConstantTimeCompare(got, a.sum) == 1
}

type pbkdf2Hash struct {
	iterations int
	wide       bool // SHA-512
	salt, sum  []byte
}

func (p pbkdf2Hash) matches(password string) bool {
	var got []byte
	var err error
	if p.wide {
		got, err = pbkdf2.Key(sha512.New, password, p.salt, p.iterations, len(p.sum))
	} else {
		got, err = pbkdf2.Key(sha256.New, password, p.salt, p.iterations, len(p.sum))
	}
	return err == nil && subtle.ConstantTimeCompare(got, p.sum) == 1
}

type bcryptHash string

func (b bcryptHash) matches(password string) bool {
	return bcrypt.CompareHashAndPassword([]byte(b), []byte(password)) == nil
}

// parse reads a stored hash and refuses parameters over the limits.
func parse(s string) (matcher, error) {
	if len(s) > maxStored {
		return nil, ErrFormat
	}
	if strings.HasPrefix(s, "$2a$") || strings.HasPrefix(s, "$2b$") || strings.HasPrefix(s, "$2y$") {
		cost, err := bcrypt.Cost([]byte(s))
		if err != nil || cost > maxCost || len(s) != 60 {
			return nil, ErrFormat
		}
		return bcryptHash(s), nil
	}
	parts := strings.Split(s, "$")
	switch {
	case len(parts) == 6 && parts[0] == "" && parts[1] == "argon2id" && parts[2] == "v=19":
		return parseArgon(parts[3], parts[4], parts[5])
	case len(parts) == 5 && parts[0] == "" && (parts[1] == "pbkdf2-sha256" || parts[1] == "pbkdf2-sha512"):
		return parsePBKDF2(parts[1] == "pbkdf2-sha512", parts[2], parts[3], parts[4])
	}
	return nil, ErrFormat
}

func parseArgon(params, salt, sum string) (matcher, error) {
	v, ok := numbers(params, "m", "t", "p")
	if !ok || v[0] < 8 || v[0] > maxMemory || v[1] < 1 || v[1] > maxTime || v[2] < 1 || v[2] > maxThreads {
		return nil, ErrFormat
	}
	s, h, err := saltAndSum(salt, sum)
	if err != nil {
		return nil, err
	}
	return argonHash{uint32(v[0]), uint32(v[1]), uint8(v[2]), s, h}, nil
}

func parsePBKDF2(wide bool, params, salt, sum string) (matcher, error) {
	v, ok := numbers(params, "i", "l")
	if !ok || v[0] < 1 || v[0] > maxIterations {
		return nil, ErrFormat
	}
	s, h, err := saltAndSum(salt, sum)
	if err != nil || len(h) != v[1] {
		return nil, ErrFormat
	}
	return pbkdf2Hash{v[0], wide, s, h}, nil
}

// numbers reads "a=1,b=2" with exactly these names in this order.
func numbers(s string, names ...string) ([]int, bool) {
	parts := strings.Split(s, ",")
	if len(parts) != len(names) {
		return nil, false
	}
	out := make([]int, len(names))
	for i, p := range parts {
		digits, ok := strings.CutPrefix(p, names[i]+"=")
		n, err := strconv.ParseUint(digits, 10, 31)
		if !ok || err != nil {
			return nil, false
		}
		out[i] = int(n)
	}
	return out, true
}

func saltAndSum(salt, sum string) (s, h []byte, err error) {
	if s, err = base64.RawStdEncoding.DecodeString(salt); err != nil || len(s) == 0 || len(s) > maxSalt {
		return nil, nil, ErrFormat
	}
	if h, err = base64.RawStdEncoding.DecodeString(sum); err != nil || len(h) < minHash || len(h) > maxHash {
		return nil, nil, ErrFormat
	}
	return s, h, nil
}
