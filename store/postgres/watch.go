package postgres

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
)

const (
	channel      = "gatehouse_records" // its messages: kind, space, key; sent by a trigger
	listenProbe  = 15 * time.Second    // of silence, after which the connection is tried
	probeTimeout = 5 * time.Second     // for the answer
)

// Watch implements oauth.Watcher over a connection of its own. When that cannot
// be made or is lost it returns why: what happens until the caller watches
// again, and is called with an empty key, is not told.
func (s *Records) Watch(ctx context.Context, k oauth.RecordKind, changed func(key string)) error {
	asked := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	closed := false
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-s.life:
			closed = true
			cancel()
		case <-ctx.Done():
		}
	}()
	err := s.listen(ctx, k, changed)
	cancel()
	<-ended
	switch {
	case closed:
		return fault.New(fault.Unavailable, "the store is closed")
	case asked.Err() != nil:
		return asked.Err()
	}
	return failed("watching", err)
}

// listen calls changed until the connection is lost or ctx ends.
func (s *Records) listen(ctx context.Context, k oauth.RecordKind, changed func(key string)) error {
	c := s.pool.Config().ConnConfig // a copy
	c.RuntimeParams["application_name"] += " watch"
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTimeout)
		defer cancel()
		conn.Close(ctx)
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return err
	}
	if err := register(ctx, conn, k); err != nil {
		return err
	}
	changed("") // nothing can be missed from here on
	for {
		quiet, cancel := context.WithTimeout(ctx, listenProbe)
		n, err := conn.WaitForNotification(quiet)
		cancel()
		switch {
		case err == nil:
			if kind, key, _ := strings.Cut(n.Payload, " "); kind == string(k) {
				changed(key)
			}
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, context.DeadlineExceeded): // silence: is anybody there?
			probe, cancel := context.WithTimeout(ctx, probeTimeout)
			err := conn.Ping(probe)
			cancel()
			if err != nil {
				return fault.Wrap(fault.Unavailable, "the database does not answer", err)
			}
		default:
			return err
		}
	}
}

// register asks for notifications of a kind. The first one ever to ask waits
// for the writers under way, who have not seen the wish.
func register(ctx context.Context, conn *pgx.Conn, k oauth.RecordKind) error {
	var known bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM gatehouse_watched_kinds WHERE kind = $1)", string(k)).Scan(&known); err != nil || known {
		return err
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "LOCK TABLE "+table+" IN SHARE MODE"); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO gatehouse_watched_kinds (kind) VALUES ($1) ON CONFLICT DO NOTHING", string(k))
		return err
	})
}
