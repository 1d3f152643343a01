package daemon

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"gatehouse/lib/sock"
)

// The conversation of two processes of one data directory, over the control
// socket of the running one, each message answered before the next:
//
//	new: take over        old: its listening sockets
//	new: lend             old: the locks of its databases, which it no longer uses
//	new: ready            old: go
//	new: serving          old: gone, and sees its clients off and ends
//
// When the new one breaks off before "serving", or does not say it in time, the
// old one takes back what it has lent, goes on, and says so with an error: the
// new one, which leaves its databases alone from "ready" to "gone", stops
// then. It goes on by itself only if the old one breaks off without a word,
// which a living one does not. The gateway's routes are served all the time: by the
// old one until "serving", by the new one from before it. What needs a
// database is served by the new one from "gone" on, so that nobody who was
// told of a change finds an older state on a new connection; between lend and
// gone its clients wait in the kernel's queue.
//
// The same socket takes the commands "reload" and "stop", answered when they
// are done.

// message is one of them. Descriptors travel beside it.
type message struct {
	Say   string   `json:"say,omitempty"`
	Parts string   `json:"parts,omitempty"`
	Error string   `json:"error,omitempty"`
	PID   int      `json:"pid"`             // of the sender
	Next  int      `json:"next,omitempty"`  // process that has taken over
	Files []string `json:"files,omitempty"` // what the descriptors are
}

const (
	sayTakeOver = "take over"
	sayLend     = "lend"
	sayReady    = "ready"
	sayGo       = "go"
	sayServing  = "serving"
	sayGone     = "gone"
	sayReload   = "reload"
	sayStop     = "stop"
)

const maxMessage = 64 << 10

// channel is one end of the conversation.
type channel struct {
	c    *net.UnixConn
	peer int // process; as it says itself, for the kernel's word is of the one that opened the socket
}

// newChannel makes sure that the other end is a process of our user: the file's
// mode says so too, where it is honoured.
func newChannel(c *net.UnixConn) (*channel, error) {
	uid, pid, err := sock.Peer(c)
	if err != nil {
		return nil, fmt.Errorf("asking who is at the other end: %w", err)
	}
	if uid != os.Geteuid() {
		return nil, fmt.Errorf("the process at the other end belongs to user %d, not %d", uid, os.Geteuid())
	}
	return &channel{c, pid}, nil
}

func (ch *channel) send(m message, files ...syscall.Conn) error {
	if len(files) > sock.MaxFiles {
		return fmt.Errorf("%d sockets are more than can be handed over (%d)", len(files), sock.MaxFiles)
	}
	m.PID = os.Getpid()
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(raw) > maxMessage {
		return errors.New("the message is too long")
	}
	_ = ch.c.SetWriteDeadline(time.Now().Add(10 * time.Second))
	return sock.SendFiles(ch.c, append(binary.BigEndian.AppendUint32(nil, uint32(len(raw))), raw...), files)
}

// receive waits for a message. An error the other end tells is an error here.
func (ch *channel) receive(wait time.Duration) (m message, files []*os.File, err error) {
	_ = ch.c.SetReadDeadline(time.Now().Add(wait))
	defer func() {
		if err != nil {
			closeFiles(files)
			files = nil
		}
	}()
	var size [4]byte
	n, files, err := sock.ReceiveFiles(ch.c, size[:])
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err == nil {
		_, err = io.ReadFull(ch.c, size[n:])
	}
	if err != nil {
		return m, files, err
	}
	length := binary.BigEndian.Uint32(size[:])
	if length > maxMessage {
		return m, files, errors.New("the message is too long")
	}
	raw := make([]byte, length)
	if _, err := io.ReadFull(ch.c, raw); err != nil {
		return m, files, err
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, files, err
	}
	ch.peer = m.PID
	switch {
	case m.Error != "":
		return m, files, errors.New(m.Error)
	case len(files) != len(m.Files):
		return m, files, fmt.Errorf("%d descriptors came for %d names", len(files), len(m.Files))
	}
	return m, files, nil
}

// ask sends and waits for the answer. When the other end has broken off, the
// answer is what it said last.
func (ch *channel) ask(m message, wait time.Duration) (message, []*os.File, error) {
	if err := ch.send(m); err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		return message{}, nil, err
	}
	return ch.receive(wait)
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// allParts are the parts a process may be started with, by their names.
var allParts = []struct {
	name  string
	parts Parts
}{
	{"all", Parts{Gateway: true, Provider: true, PublicAPI: true, AdminAPI: true, Login: true}},
	{"gateway", Parts{Gateway: true}},
	{"provider", Parts{Provider: true, PublicAPI: true, AdminAPI: true}},
	{"public", Parts{Provider: true, PublicAPI: true}},
	{"admin", Parts{Provider: true, AdminAPI: true}},
	{"login", Parts{Login: true}},
}

// name is how the parts are called on the command line.
func (p Parts) name() string {
	i := slices.IndexFunc(allParts, func(a struct {
		name  string
		parts Parts
	}) bool {
		return a.parts == p
	})
	if i < 0 {
		return "some"
	}
	return allParts[i].name
}

// controlSocket is the name of the control socket of a process that runs parts.
func controlSocket(parts string) string { return "control-" + parts + ".sock" }

// call connects to a running process; nil: none runs.
func call(dir, parts string) (*channel, error) {
	path, release, err := shortPath(dir, controlSocket(parts))
	if err != nil {
		return nil, nil // no directory, no process
	}
	defer release()
	c, err := net.DialTimeout("unix", path, 5*time.Second)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
			return nil, nil
		}
		return nil, fmt.Errorf("calling the running process: %w", err)
	}
	ch, err := newChannel(c.(*net.UnixConn))
	if err != nil {
		c.Close()
		return nil, err
	}
	return ch, nil
}

// Reload has the processes that run on a data directory replaced by fresh ones,
// which read the configuration again, and reports each. One whose successor
// cannot start goes on as it was, and the error says why.
func Reload(c *Config, report func(string)) error { return command(c.Data, sayReload, report) }

// Stop has the processes that run on a data directory end what is under way and
// stop, and waits for them.
func Stop(c *Config, report func(string)) error { return command(c.Data, sayStop, report) }

// command tells the processes that run on a data directory to do something,
// and waits until each has. It fails when none runs.
func command(dir, say string, report func(string)) error {
	var errs []error
	found := false
	for _, p := range allParts {
		ch, err := call(dir, p.name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if ch == nil {
			continue
		}
		found = true
		m, _, err := ch.ask(message{Say: say}, time.Hour) // the process bounds it
		ch.c.Close()
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s (pid %d): %w", p.name, ch.peer, err))
		case m.Next > 0:
			report(fmt.Sprintf("%s: pid %d took over from pid %d", p.name, m.Next, ch.peer))
		default:
			report(fmt.Sprintf("%s: pid %d stopped", p.name, ch.peer))
		}
	}
	if !found && len(errs) == 0 {
		return fmt.Errorf("no process runs on the data directory %s", dir)
	}
	return errors.Join(errs...)
}
