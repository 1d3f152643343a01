package embedded

import (
	"context"
	"database/sql"

	"gatehouse/lib/fault"
	"gatehouse/login"
	"gatehouse/store/shape"
)

// Users is a login.Store in login.db.
type Users struct{ *database }

// OpenUsers opens dir/login.db, and creates it when it is not there. It fails
// with fault.Conflict when another process has it open.
func OpenUsers(ctx context.Context, dir string, opts ...Option) (*Users, error) {
	d, err := open(ctx, dir, "login", opts)
	if err != nil {
		return nil, err
	}
	return &Users{d}, nil
}

var _ login.Store = (*Users)(nil)

// Close closes the file.
func (s *Users) Close() error { return s.close() }

const userColumns = "id, email, name, password_hash, admin, disabled, created_at, updated_at"

func userValues(u login.User) []any {
	return []any{u.ID, u.Email, u.Name, u.PasswordHash, u.Admin, u.Disabled, micros(u.CreatedAt), micros(u.UpdatedAt)}
}

func (s *Users) list(ctx context.Context, rest string, args ...any) (us []login.User, err error) {
	err = s.read(ctx, "SELECT "+userColumns+" FROM users WHERE "+rest, args, func(scan func(...any) error) error {
		var u login.User
		var created, updated sql.NullInt64
		err := scan(&u.ID, &u.Email, &u.Name, &u.PasswordHash, &u.Admin, &u.Disabled, &created, &updated)
		u.CreatedAt, u.UpdatedAt = fromMicros(created), fromMicros(updated)
		us = append(us, u)
		return err
	})
	return us, err
}

func (s *Users) one(ctx context.Context, column, value string) (login.User, error) {
	if shape.Text(value) {
		us, err := s.list(ctx, column+" = ?", value)
		if err != nil {
			return login.User{}, err
		}
		if len(us) == 1 {
			return us[0], nil
		}
	}
	return login.User{}, errNoUser()
}

func errNoUser() error { return fault.New(fault.NotFound, "there is no such user") }

func (s *Users) User(ctx context.Context, id string) (login.User, error) {
	return s.one(ctx, "id", id)
}

func (s *Users) UserByEmail(ctx context.Context, email string) (login.User, error) {
	return s.one(ctx, "email", email)
}

func (s *Users) AddUser(ctx context.Context, u login.User) error {
	if err := shape.User(u); err != nil {
		return err
	}
	return s.update(ctx, func(t *tx) error {
		n, err := t.exec("INSERT INTO users ("+userColumns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", userValues(u)...)
		if err == nil && n == 0 {
			err = fault.New(fault.Conflict, "a user with this id or email address exists already")
		}
		return err
	})
}

func (s *Users) UpdateUser(ctx context.Context, u login.User) error {
	if err := shape.User(u); err != nil {
		return err
	}
	return s.update(ctx, func(t *tx) error {
		var one int
		found, err := t.row("SELECT 1 FROM users WHERE id = ?", []any{u.ID}, &one)
		if err != nil {
			return err
		}
		taken, err := t.row("SELECT 1 FROM users WHERE email = ? AND id <> ?", []any{u.Email, u.ID}, &one)
		if err != nil {
			return err
		}
		switch {
		case !found:
			return errNoUser()
		case taken:
			return fault.New(fault.Conflict, "a user with this email address exists already")
		}
		_, err = t.exec("UPDATE users SET email = ?2, name = ?3, password_hash = ?4, admin = ?5, disabled = ?6, created_at = ?7, updated_at = ?8 WHERE id = ?1", userValues(u)...)
		return err
	})
}

func (s *Users) DeleteUser(ctx context.Context, id string) error {
	if !shape.Text(id) {
		return errNoUser()
	}
	return s.update(ctx, func(t *tx) error {
		n, err := t.exec("DELETE FROM users WHERE id = ?", id)
		if err == nil && n == 0 {
			err = errNoUser()
		}
		return err
	})
}

func (s *Users) Users(ctx context.Context, after string, limit int) ([]login.User, error) {
	if limit <= 0 {
		limit = shape.Page
	}
	return s.list(ctx, "email > ? ORDER BY email LIMIT ?", after, limit)
}
