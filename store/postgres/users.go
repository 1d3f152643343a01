package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"gatehouse/lib/fault"
	"gatehouse/login"
	"gatehouse/store/shape"
)

// Users is a login.Store.
type Users struct{ pool *pgxpool.Pool }

// OpenUsers connects to a migrated database. It fails like OpenRecords.
func OpenUsers(ctx context.Context, dsn string) (*Users, error) {
	pool, err := open(ctx, dsn)
	if err != nil {
		return nil, err
	}
	return &Users{pool}, nil
}

var _ login.Store = (*Users)(nil)

// Close waits for the calls under way.
func (s *Users) Close() error {
	s.pool.Close()
	return nil
}

const userColumns = "id, email, name, password_hash, admin, disabled, created_at, updated_at"

func userValues(u login.User) []any {
	return []any{u.ID, u.Email, u.Name, u.PasswordHash, u.Admin, u.Disabled, stamp(u.CreatedAt), stamp(u.UpdatedAt)}
}

func (s *Users) list(ctx context.Context, rest string, args ...any) ([]login.User, error) {
	rows, err := s.pool.Query(ctx, "SELECT "+userColumns+" FROM gatehouse_users WHERE "+rest, args...)
	if err != nil {
		return nil, failed("reading", err)
	}
	us, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (u login.User, err error) {
		var created, updated *time.Time
		err = row.Scan(&u.ID, &u.Email, &u.Name, &u.PasswordHash, &u.Admin, &u.Disabled, &created, &updated)
		u.CreatedAt, u.UpdatedAt = fromStamp(created), fromStamp(updated)
		return u, err
	})
	return us, failed("reading", err)
}

func (s *Users) one(ctx context.Context, column, value string) (login.User, error) {
	if shape.Text(value) {
		us, err := s.list(ctx, column+" = $1", value)
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
	tag, err := s.pool.Exec(ctx, "INSERT INTO gatehouse_users ("+userColumns+") VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING", userValues(u)...)
	if err == nil && tag.RowsAffected() == 0 {
		err = fault.New(fault.Conflict, "a user with this id or email address exists already")
	}
	return failed("writing to", err)
}

func (s *Users) UpdateUser(ctx context.Context, u login.User) error {
	if err := shape.User(u); err != nil {
		return err
	}
	tag, err := s.pool.Exec(ctx, "UPDATE gatehouse_users SET email = $2, name = $3, password_hash = $4, admin = $5, disabled = $6, created_at = $7, updated_at = $8 WHERE id = $1", userValues(u)...)
	switch {
	case sqlState(err) == "23505": // unique_violation
		return fault.Wrap(fault.Conflict, "a user with this email address exists already", err)
	case err == nil && tag.RowsAffected() == 0:
		err = errNoUser()
	}
	return failed("writing to", err)
}

func (s *Users) DeleteUser(ctx context.Context, id string) error {
	if !shape.Text(id) {
		return errNoUser()
	}
	tag, err := s.pool.Exec(ctx, "DELETE FROM gatehouse_users WHERE id = $1", id)
	if err == nil && tag.RowsAffected() == 0 {
		err = errNoUser()
	}
	return failed("writing to", err)
}

func (s *Users) Users(ctx context.Context, after string, limit int) ([]login.User, error) {
	if !shape.Text(after) { // no address is that long or that strange
		return nil, nil
	}
	if limit <= 0 {
		limit = shape.Page
	}
	return s.list(ctx, "email > $1 ORDER BY email LIMIT $2", after, limit)
}
