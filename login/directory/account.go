package directory

import (
	"context"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"gatehouse/lib/fault"
	"gatehouse/login"
)

// Limits of what people may type.
const (
	MinPassword = 8    // characters
	MaxPassword = 4096 // bytes
	MaxEmail    = 254  // bytes (RFC 5321, section 4.5.3.1.3)
	MaxName     = 200  // bytes
)

// listPage is how many users are read at once.
const listPage = 500

// Add makes an account and returns it. It fails with fault.Invalid, whose text
// says what is wrong, and with fault.Conflict when the email is taken.
func (d *Directory) Add(ctx context.Context, email, name, password string, admin bool) (login.User, error) {
	email, err := NormalEmail(email)
	if err != nil {
		return login.User{}, err
	}
	if name, err = cleanName(name); err != nil {
		return login.User{}, err
	}
	if err := checkPassword(email, password); err != nil {
		return login.User{}, err
	}
	id, err := d.token()
	if err != nil {
		return login.User{}, err
	}
	phc, err := d.hasher.Hash(ctx, normalPassword(password))
	if err != nil {
		return login.User{}, fmt.Errorf("hashing the password: %w", err)
	}
	now := d.now().UTC()
	u := login.User{ID: id, Email: email, Name: name, PasswordHash: phc, Admin: admin, CreatedAt: now, UpdatedAt: now}
	if err := d.store.AddUser(ctx, u); err != nil {
		if fault.KindOf(err) == fault.Conflict {
			return login.User{}, fault.Wrap(fault.Conflict, "There is a user with this email address already.", err)
		}
		return login.User{}, fmt.Errorf("adding the user: %w", err)
	}
	return u, nil
}

// SetPassword gives a user another password; fault.Invalid, fault.NotFound.
func (d *Directory) SetPassword(ctx context.Context, id, password string) error {
	u, err := d.store.User(ctx, id)
	if err != nil {
		return err
	}
	if err := checkPassword(u.Email, password); err != nil {
		return err
	}
	phc, err := d.hasher.Hash(ctx, normalPassword(password))
	if err != nil {
		return fmt.Errorf("hashing the password: %w", err)
	}
	_, err = d.change(ctx, id, func(u *login.User) error { u.PasswordHash = phc; return nil })
	return err
}

// SetName changes the name shown to applications; fault.Invalid, fault.NotFound.
func (d *Directory) SetName(ctx context.Context, id, name string) error {
	name, err := cleanName(name)
	if err != nil {
		return err
	}
	_, err = d.change(ctx, id, func(u *login.User) error { u.Name = name; return nil })
	return err
}

// Disable stops a user from signing in, or lets them in again. The last
// administrator who can sign in stays: fault.Conflict.
func (d *Directory) Disable(ctx context.Context, id string, disabled bool) error {
	_, err := d.change(ctx, id, func(u *login.User) error {
		if disabled {
			if err := d.mayLose(ctx, *u); err != nil {
				return err
			}
		}
		u.Disabled = disabled
		return nil
	})
	return err
}

// SetAdmin makes a user an administrator or an ordinary user. The last
// administrator who can sign in stays one: fault.Conflict.
func (d *Directory) SetAdmin(ctx context.Context, id string, admin bool) error {
	_, err := d.change(ctx, id, func(u *login.User) error {
		if !admin {
			if err := d.mayLose(ctx, *u); err != nil {
				return err
			}
		}
		u.Admin = admin
		return nil
	})
	return err
}

// Delete removes an account for good; fault.NotFound. The last administrator
// who can sign in stays: fault.Conflict.
func (d *Directory) Delete(ctx context.Context, id string) error {
	d.write.Lock()
	defer d.write.Unlock()
	u, err := d.store.User(ctx, id)
	if err != nil {
		return err
	}
	if err := d.mayLose(ctx, u); err != nil {
		return err
	}
	return d.store.DeleteUser(ctx, id)
}

// List returns users by email, after the given one, at most limit (500 when
// limit is not between 1 and 500).
func (d *Directory) List(ctx context.Context, after string, limit int) ([]login.User, error) {
	if limit < 1 || limit > listPage {
		limit = listPage
	}
	return d.store.Users(ctx, after, limit)
}

// change reads a user, lets edit change it and writes it back.
func (d *Directory) change(ctx context.Context, id string, edit func(*login.User) error) (login.User, error) {
	d.write.Lock()
	defer d.write.Unlock()
	u, err := d.store.User(ctx, id)
	if err != nil {
		return login.User{}, err
	}
	before := u
	if err := edit(&u); err != nil {
		return login.User{}, err
	}
	if u == before {
		return u, nil
	}
	u.UpdatedAt = d.now().UTC()
	return u, d.store.UpdateUser(ctx, u)
}

// mayLose fails with fault.Conflict when the user is the only administrator
// who can sign in. The write lock is held.
func (d *Directory) mayLose(ctx context.Context, u login.User) error {
	if !u.Admin || u.Disabled {
		return nil
	}
	after := ""
	for {
		page, err := d.store.Users(ctx, after, listPage)
		if err != nil {
			return fmt.Errorf("looking for another administrator: %w", err)
		}
		for _, o := range page {
			if o.ID != u.ID && o.Admin && !o.Disabled {
				return nil
			}
		}
		if len(page) < listPage {
			return fault.New(fault.Conflict, "This is the last administrator. Make another user an administrator first.")
		}
		after = page[len(page)-1].Email
	}
}

// NormalEmail is the one spelling of an address under which a user is kept:
// without surrounding space, in lower case and NFC. It fails with fault.Invalid
// for what cannot be an address.
func NormalEmail(email string) (string, error) {
	invalid := fault.New(fault.Invalid, "This is not an email address.")
	if len(email) > 4*MaxEmail || !utf8.ValidString(email) {
		return "", invalid
	}
	email = norm.NFC.String(strings.ToLower(norm.NFC.String(strings.TrimSpace(email))))
	local, domain, ok := strings.Cut(email, "@")
	if !ok || local == "" || domain == "" || strings.Contains(domain, "@") || len(email) > MaxEmail || !printable(email) {
		return "", invalid
	}
	if strings.ContainsFunc(email, unicode.IsSpace) || strings.ContainsAny(email, `<>()[]\,;:"`) {
		return "", invalid
	}
	return email, nil
}

// normalPassword makes one of the several ways in which keyboards send the
// same characters (RFC 8265, section 4.2.2 uses NFC as well).
func normalPassword(p string) string { return norm.NFC.String(p) }

func checkPassword(email, password string) error {
	switch {
	case max(len(password), len(normalPassword(password))) > MaxPassword:
		return fault.New(fault.Invalid, fmt.Sprintf("The password is longer than %d bytes.", MaxPassword))
	case !utf8.ValidString(password):
		return fault.New(fault.Invalid, "The password is not valid UTF-8.")
	case utf8.RuneCountInString(normalPassword(password)) < MinPassword:
		return fault.New(fault.Invalid, fmt.Sprintf("The password needs at least %d characters.", MinPassword))
	case strings.ToLower(normalPassword(strings.TrimSpace(password))) == email:
		return fault.New(fault.Invalid, "The password must not be the email address.")
	}
	return nil
}

// printable refuses control characters and the invisible ones that make text
// look like other text.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return unicode.IsControl(r) || unicode.Is(unicode.Cf, r)
	})
}
