// Package login is the vocabulary of the pages for humans: who the user is
// and where users are kept.
//
// It is an ordinary login and consent application on oauth.Desk; another
// application may take its place.
package login

import (
	"context"
	"time"
)

// User is a local account.
type User struct {
	ID           string    `json:"id"`    // stable and opaque: the subject ("sub") of tokens
	Email        string    `json:"email"` // lower case; unique
	Name         string    `json:"name,omitempty"`
	PasswordHash string    `json:"-"` // PHC string
	Admin        bool      `json:"admin,omitempty"`
	Disabled     bool      `json:"disabled,omitempty"`
	CreatedAt    time.Time `json:"created_at"`
	UpdatedAt    time.Time `json:"updated_at"`
}

// Store keeps users. Backends live in store/; all pass store/storetest.
type Store interface {
	// User finds by ID or by email; fault.NotFound.
	User(ctx context.Context, id string) (User, error)
	UserByEmail(ctx context.Context, email string) (User, error)
	// AddUser fails with fault.Conflict when the ID or the email is taken.
	AddUser(ctx context.Context, u User) error
	// UpdateUser replaces all fields of the user with this ID; fault.NotFound, fault.Conflict.
	UpdateUser(ctx context.Context, u User) error
	DeleteUser(ctx context.Context, id string) error
	// Users lists by email, after the given one, at most limit.
	Users(ctx context.Context, after string, limit int) ([]User, error)
}

// Directory knows users and their passwords.
type Directory interface {
	// Verify returns the user, or fault.Denied: one error and one duration
	// whether the user is unknown, disabled or the password is wrong.
	// fault.Unavailable when too many checks wait already.
	Verify(ctx context.Context, email, password string) (User, error)
	Find(ctx context.Context, id string) (User, error)
}
