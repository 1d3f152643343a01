package memory

import (
	"context"
	"slices"
	"strings"
	"sync"

	"gatehouse/lib/fault"
	"gatehouse/login"
	"gatehouse/store/shape"
)

// Users is a login.Store.
type Users struct {
	mu   sync.Mutex
	byID map[string]login.User // guarded by mu
}

// NewUsers returns an empty store.
func NewUsers() *Users { return &Users{byID: map[string]login.User{}} }

var _ login.Store = (*Users)(nil)

func (s *Users) User(ctx context.Context, id string) (login.User, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u, ok := s.byID[id]; ok {
		return u, nil
	}
	return login.User{}, fault.New(fault.NotFound, "there is no such user")
}

func (s *Users) UserByEmail(ctx context.Context, email string) (login.User, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.byID {
		if u.Email == email {
			return u, nil
		}
	}
	return login.User{}, fault.New(fault.NotFound, "there is no such user")
}

func (s *Users) AddUser(ctx context.Context, u login.User) error { return s.put(u, false) }

func (s *Users) UpdateUser(ctx context.Context, u login.User) error { return s.put(u, true) }

func (s *Users) put(u login.User, exists bool) error {
	if err := shape.User(u); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.byID[u.ID]; ok != exists {
		if exists {
			return fault.New(fault.NotFound, "there is no such user")
		}
		return fault.New(fault.Conflict, "a user with this id exists already")
	}
	for id, have := range s.byID {
		if have.Email == u.Email && id != u.ID {
			return fault.New(fault.Conflict, "a user with this email address exists already")
		}
	}
	u.CreatedAt, u.UpdatedAt = stored(u.CreatedAt), stored(u.UpdatedAt)
	s.byID[u.ID] = u
	return nil
}

func (s *Users) DeleteUser(ctx context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.byID[id]; !ok {
		return fault.New(fault.NotFound, "there is no such user")
	}
	delete(s.byID, id)
	return nil
}

func (s *Users) Users(ctx context.Context, after string, limit int) ([]login.User, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var us []login.User
	for _, u := range s.byID {
		if u.Email > after {
			us = append(us, u)
		}
	}
	slices.SortFunc(us, func(a, b login.User) int { return strings.Compare(a.Email, b.Email) })
	if limit <= 0 {
		limit = shape.Page
	}
	return us[:min(len(us), limit)], nil
}
