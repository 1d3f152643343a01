package listen

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"strings"
)

// Tickets seals TLS sessions into the tickets that clients bring back to resume
// them. Every configuration bound to it opens the tickets of every other,
// whenever it was compiled, and of other processes that were given the same
// keys. Use it from any goroutine.
type Tickets struct {
	keys tls.Config // its ticket keys alone
}

// NewTickets makes a Tickets with a key of its own, until Use.
func NewTickets() *Tickets {
	t := &Tickets{}
	var key [32]byte
	rand.Read(key[:])
	t.Use([][32]byte{key})
	return t
}

// Use replaces the keys: the first seals, all open. At least one is needed.
func (t *Tickets) Use(keys [][32]byte) { t.keys.SetSessionTicketKeys(keys) }

// Bind lets cfg issue and accept tickets. A session is resumed under the server
// name it began with and while demand is what it was then: a ticket must not
// stand in for the certificate that another name, or a newer configuration,
// asks of the client (RFC 6066, section 3; RFC 8446, section 4.6.1).
func (t *Tickets) Bind(cfg *tls.Config, demand string) {
	cfg.WrapSession = func(cs tls.ConnectionState, s *tls.SessionState) ([]byte, error) {
		s.Extra = append(s.Extra, sessionMark(cs.ServerName, demand))
		return t.keys.EncryptTicket(cs, s)
	}
	cfg.UnwrapSession = func(ticket []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
		s, err := t.keys.DecryptTicket(ticket, cs)
		if err != nil || s == nil {
			return nil, nil // a full handshake
		}
		mark := sessionMark(cs.ServerName, demand)
		for _, e := range s.Extra {
			if bytes.Equal(e, mark) {
				return s, nil
			}
		}
		return nil, nil
	}
}

// sessionMark is what a ticket carries to be known again.
func sessionMark(name, demand string) []byte {
	const prefix = "gatehouse\x00"
	sum := sha256.Sum256([]byte(strings.ToLower(name) + "\x00" + demand))
	return append([]byte(prefix), sum[:]...)
}
