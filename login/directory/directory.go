// Package directory keeps the local accounts: it checks passwords, adds,
// changes and removes users, and slows down whoever guesses.
//
// It does not store anything (login.Store does), does not know how a password
// is hashed (Hasher does) and knows nothing of HTTP. Start with New and
// VerifyFrom.
package directory

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/login"
)

// Hasher turns passwords into PHC strings and checks them. Both calls wait for
// a free place and fail with fault.Unavailable when too many wait already.
type Hasher interface {
	Hash(ctx context.Context, password string) (phc string, err error)
	// Verify says whether the password belongs to the hash. A hash it cannot
	// read is an error.
	Verify(ctx context.Context, phc, password string) (ok bool, err error)
}

// Judge is what a Hasher may also do: tell that a hash was made with other
// parameters than those of today and should be made anew.
type Judge interface {
	Outdated(phc string) bool
}

// Config is what a Directory needs. Store and Hasher must be set.
type Config struct {
	Store  login.Store
	Hasher Hasher
	Log    *slog.Logger     // nil: silent
	Now    func() time.Time // nil: time.Now
	Rand   io.Reader        // nil: crypto/rand
	Limits Limits           // zero fields: the defaults
}

// Directory is the local accounts. It is safe for concurrent use.
type Directory struct {
	store   login.Store
	hasher  Hasher
	log     *slog.Logger
	now     func() time.Time
	rand    io.Reader
	limiter *limiter
	// decoy is checked for users who do not exist, so that they cost as much
	// time as those who do.
	decoy string

	// write serialises read-then-write of users within this process, so that
	// an upgraded hash cannot bring back a password that was just changed.
	write sync.Mutex
}

var _ login.Directory = (*Directory)(nil)

// New prepares a directory. It hashes one random password, so it takes as
// long as a sign-in.
func New(ctx context.Context, c Config) (*Directory, error) {
	if c.Store == nil || c.Hasher == nil {
		return nil, errors.New("a directory needs a store and a hasher")
	}
	d := &Directory{store: c.Store, hasher: c.Hasher, log: c.Log, now: c.Now, rand: c.Rand}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if d.now == nil {
		d.now = time.Now
	}
	if d.rand == nil {
		d.rand = rand.Reader
	}
	d.limiter = newLimiter(c.Limits, d.now)
	secret, err := d.token()
	if err != nil {
		return nil, err
	}
	if d.decoy, err = d.hasher.Hash(ctx, secret); err != nil {
		return nil, fmt.Errorf("hashing the decoy password: %w", err)
	}
	return d, nil
}

// errDenied is the one answer to a failed sign-in, whoever the user is.
func errDenied(cause error) error {
	return fault.Wrap(fault.Denied, "The email address or the password is not right.", cause)
}

// Verify checks a password without a client address to count by; see VerifyFrom.
func (d *Directory) Verify(ctx context.Context, email, password string) (login.User, error) {
	return d.VerifyFrom(ctx, netip.Addr{}, email, password)
}

// VerifyFrom returns the user whose email and password these are. It fails
// with fault.Denied, and with one text and one duration whether the user is
// unknown, disabled or the password is wrong. It fails with fault.Unavailable
// when this address or this account has seen too many failures (then the
// cause has RetryAfter() time.Duration), or when too many checks wait already.
//
// The limits hold for names that do not exist just as for those that do.
// An invalid address (the zero value) is an address like any other.
func (d *Directory) VerifyFrom(ctx context.Context, from netip.Addr, email, password string) (login.User, error) {
	email, emailErr := NormalEmail(email)
	if emailErr != nil || password == "" || len(password) > MaxPassword {
		// Nothing of this depends on what is stored, so it may be quick.
		return login.User{}, errDenied(errors.New("email or password is malformed"))
	}
	ticket, wait := d.limiter.enter(from, email)
	if wait > 0 {
		d.log.Warn("sign-in refused for too many failures", "address", from, "retry_after", wait)
		return login.User{}, fault.Wrap(fault.Unavailable, "Too many attempts to sign in. Please wait a little.", &Wait{wait})
	}
	u, err := d.verify(ctx, email, normalPassword(password))
	switch {
	case err == nil:
		d.limiter.succeeded(ticket)
	case fault.KindOf(err) != fault.Denied:
		d.limiter.undecided(ticket) // not the user's fault
	}
	return u, err
}

func (d *Directory) verify(ctx context.Context, email, password string) (login.User, error) {
	u, err := d.store.UserByEmail(ctx, email)
	if err != nil && fault.KindOf(err) != fault.NotFound {
		return login.User{}, fmt.Errorf("reading the user: %w", err)
	}
	phc, known := u.PasswordHash, true
	if err != nil || phc == "" {
		phc, known = d.decoy, false
	}
	ok, err := d.hasher.Verify(ctx, phc, password)
	if err != nil && known && fault.KindOf(err) == fault.Internal && ctx.Err() == nil {
		// A hash that cannot be read must not tell that its user exists.
		d.log.Error("stored password hash cannot be read", "user_id", u.ID, "err", err)
		known = false
		_, err = d.hasher.Verify(ctx, d.decoy, password)
	}
	if err != nil {
		return login.User{}, fmt.Errorf("checking the password: %w", err)
	}
	switch {
	case !known:
		return login.User{}, errDenied(errors.New("no such user, or one without a usable password"))
	case !ok:
		return login.User{}, errDenied(errors.New("wrong password"))
	case u.Disabled:
		return login.User{}, errDenied(errors.New("user is disabled"))
	}
	if j, can := d.hasher.(Judge); can && j.Outdated(phc) {
		if err := d.upgrade(ctx, u, password); err != nil {
			d.log.Warn("password hash not upgraded", "user_id", u.ID, "err", err)
		}
	}
	return u, nil
}

// upgrade stores a new hash of the same password, unless the password was
// changed meanwhile.
func (d *Directory) upgrade(ctx context.Context, u login.User, password string) error {
	phc, err := d.hasher.Hash(ctx, password)
	if err != nil {
		return err
	}
	_, err = d.change(ctx, u.ID, func(now *login.User) error {
		if now.PasswordHash == u.PasswordHash {
			now.PasswordHash = phc
		}
		return nil
	})
	return err
}

// Find returns a user by ID; fault.NotFound. A disabled user is found too.
func (d *Directory) Find(ctx context.Context, id string) (login.User, error) {
	return d.store.User(ctx, id)
}

// FindByEmail returns a user by email in any spelling; fault.NotFound.
func (d *Directory) FindByEmail(ctx context.Context, email string) (login.User, error) {
	email, err := NormalEmail(email)
	if err != nil {
		return login.User{}, err
	}
	return d.store.UserByEmail(ctx, email)
}

func (d *Directory) token() (string, error) {
	b := make([]byte, 16)
	if _, err := io.ReadFull(d.rand, b); err != nil {
		return "", fmt.Errorf("reading random bytes: %w", err)
	}
	return fmt.Sprintf("%x", b), nil
}

// Wait is the cause of a refusal that ends by itself.
type Wait struct{ after time.Duration }

func (w *Wait) Error() string { return "too many failures, wait " + w.after.String() }

// RetryAfter says how long to wait before trying again.
func (w *Wait) RetryAfter() time.Duration { return w.after }

// cleanName makes a display name of what an operator typed.
func cleanName(name string) (string, error) {
	name = strings.Join(strings.Fields(name), " ")
	if len(name) > MaxName {
		return "", fault.New(fault.Invalid, fmt.Sprintf("The name is longer than %d bytes.", MaxName))
	}
	if !printable(name) {
		return "", fault.New(fault.Invalid, "The name has characters that cannot be shown.")
	}
	return name, nil
}
