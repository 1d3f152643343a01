package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"time"

	"gatehouse/admin"
	"gatehouse/lib/phc"
	"gatehouse/login"
	"gatehouse/login/directory"
	"gatehouse/store/embedded"
	"gatehouse/store/postgres"
)

// Users manages the accounts of the login app: through the process that
// serves them when it runs, on the database itself when none does.
type Users struct {
	client *http.Client
	close  func() error
}

// NewUser is an account to add.
type NewUser struct {
	Email    string `json:"email"`
	Name     string `json:"name"`
	Password string `json:"password"`
	Admin    bool   `json:"admin"`
}

// OpenUsers connects to the accounts of a data directory.
func OpenUsers(ctx context.Context, c *Config) (*Users, error) {
	if c.Login.DSN == "" && socketAlive(c.Data, loginSocket) {
		return &Users{socketClient(c.Data, loginSocket), func() error { return nil }}, nil
	}
	if err := ensureDir(c.Data); err != nil {
		return nil, err
	}
	store, err := openUsers(ctx, c, nil)
	if err != nil {
		return nil, err
	}
	h, _, closeStore, err := openDirectory(ctx, store, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	return &Users{&http.Client{Transport: inProcess{h}}, closeStore}, nil
}

// userStore is a store of users that must be closed.
type userStore interface {
	login.Store
	Close() error
}

// openUsers opens the database of the users. lock is its lock, if another
// process has handed it over.
func openUsers(ctx context.Context, c *Config, lock *os.File) (userStore, error) {
	if c.Login.DSN != "" {
		return postgres.OpenUsers(ctx, c.Login.DSN)
	}
	return embedded.OpenUsers(ctx, c.Data, embedded.WithLock(lock))
}

// openDirectory opens the accounts, with the API the command line speaks. It
// closes their store when it fails.
func openDirectory(ctx context.Context, users userStore, log *slog.Logger) (http.Handler, *directory.Directory, func() error, error) {
	dir, err := directory.New(ctx, directory.Config{Store: users, Hasher: phc.New(2, 64), Log: log, Now: time.Now})
	if err != nil {
		return nil, nil, nil, errors.Join(err, users.Close())
	}
	return (&admin.Users{Accounts: dir, Store: users, Log: log}).Handler(), dir, users.Close, nil
}

// Close releases the database, if this process opened it.
func (u *Users) Close() error { return u.close() }

func (u *Users) call(ctx context.Context, method, path string, in, out any) error {
	raw, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://login"+path, bytes.NewReader(raw))
	if err != nil {
		return err
	}
	res, err := u.client.Do(req)
	if err != nil {
		return fmt.Errorf("calling the login app: %w", err)
	}
	defer res.Body.Close()
	if raw, err = io.ReadAll(io.LimitReader(res.Body, 4<<20)); err != nil {
		return err
	}
	if res.StatusCode >= 300 {
		var e struct {
			Text string `json:"error_description"`
		}
		if json.Unmarshal(raw, &e) != nil || e.Text == "" {
			return fmt.Errorf("the login app answered %s", res.Status)
		}
		return errors.New(e.Text)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(raw, out)
}

// Add makes an account.
func (u *Users) Add(ctx context.Context, n NewUser) (user login.User, err error) {
	return user, u.call(ctx, http.MethodPost, "/users", n, &user)
}

// SetPassword gives an account another password.
func (u *Users) SetPassword(ctx context.Context, email, password string) error {
	return u.call(ctx, http.MethodPut, "/users/"+url.PathEscape(email)+"/password", map[string]string{"password": password}, nil)
}

// Disable stops an account from signing in, or lets it in again.
func (u *Users) Disable(ctx context.Context, email string, disabled bool) error {
	return u.call(ctx, http.MethodPut, "/users/"+url.PathEscape(email)+"/disabled", map[string]bool{"disabled": disabled}, nil)
}

// Delete removes an account.
func (u *Users) Delete(ctx context.Context, email string) error {
	return u.call(ctx, http.MethodDelete, "/users/"+url.PathEscape(email), nil, nil)
}

// List returns all accounts, by email.
func (u *Users) List(ctx context.Context) ([]login.User, error) {
	all := []login.User{}
	for {
		after := ""
		if len(all) > 0 {
			after = all[len(all)-1].Email
		}
		var page []login.User
		if err := u.call(ctx, http.MethodGet, "/users?after="+url.QueryEscape(after), nil, &page); err != nil {
			return nil, err
		}
		if len(page) == 0 {
			return all, nil
		}
		all = append(all, page...)
	}
}
