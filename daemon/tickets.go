package daemon

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatehouse/gateway/listen"
)

// Keys of TLS session tickets live in files of their own, one a day, named by
// the day since 1970: a key is there whole or not at all, processes that begin
// a day at once agree on it, and what is removed can open nothing that was
// recorded before.
const (
	ticketDir   = "tickets"
	ticketDays  = 3 // days whose tickets are still accepted after their own
	ticketCheck = 10 * time.Minute
)

// ticketKeys are the keys at a time: that of the day first, then the older ones
// from the youngest. It makes the first, and removes what is too old or is of a
// day that is yet to come.
func ticketKeys(data string, now time.Time) ([][32]byte, error) {
	dir := filepath.Join(data, ticketDir)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("making the directory of ticket keys: %w", err)
	}
	today := now.Unix() / (24 * 60 * 60)
	if _, _, err := secretFile(dir, ticketFile(today), longSecret); err != nil {
		return nil, fmt.Errorf("making a ticket key: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the ticket keys: %w", err)
	}
	var days []int64
	for _, e := range entries {
		day, err := strconv.ParseInt(strings.TrimSuffix(e.Name(), ".key"), 10, 64)
		switch {
		case err != nil || e.Name() != ticketFile(day):
		case day < today-ticketDays || day > today+1: // a clock may be a moment behind
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, fmt.Errorf("removing an old ticket key: %w", err)
			}
		case day != today:
			days = append(days, day)
		}
	}
	slices.Sort(days)
	slices.Reverse(days)
	var keys [][32]byte
	for _, day := range append([]int64{today}, days...) {
		secret, _, err := secretFile(dir, ticketFile(day), longSecret)
		if err != nil {
			return nil, fmt.Errorf("reading a ticket key: %w", err)
		}
		keys = append(keys, sha256.Sum256([]byte("gatehouse tls ticket\x00"+secret)))
	}
	return keys, nil
}

func ticketFile(day int64) string { return strconv.FormatInt(day, 10) + ".key" }

// openTickets gives TLS listeners the keys of the data directory, and new ones
// as days pass, until ctx ends.
func (d *Daemon) openTickets(ctx context.Context) error {
	d.tickets = listen.NewTickets()
	d.servers.tickets = d.tickets
	keys, err := ticketKeys(d.Config.Data, time.Now())
	if err != nil {
		return err
	}
	d.tickets.Use(keys)
	d.task(func() {
		every(ctx, ticketCheck, func() {
			next, err := ticketKeys(d.Config.Data, time.Now())
			if err != nil {
				d.log.Warn("the keys of TLS session tickets stay as they are", "err", err)
				return
			}
			if !slices.Equal(next, keys) {
				d.log.Info("the key of TLS session tickets was rotated", "accepted", len(next))
			}
			keys = next
			d.tickets.Use(keys)
		})
	})
	return nil
}
