package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// sample is one round of one peer.
type sample struct {
	cpu      float64 // microseconds per request
	rps      float64
	p50, p99 time.Duration
	memory   int64
}

// result is a case that ran: samples by peer, one for each round.
type result struct {
	benchCase
	names   []string
	samples map[string][]sample
}

// run measures a case: in each round every peer in turn.
func (b *bench) run(ctx context.Context, c benchCase) (result, error) {
	r := result{benchCase: c, names: b.of(c), samples: map[string][]sample{}}
	if c.idle > 0 {
		return r, b.runIdle(ctx, &r)
	}
	l := c.load
	if c.plugin != "" {
		l.path = c.plugin + l.path
	}
	if b.gate != nil {
		switch c.name {
		case "plugins":
			l.header = []string{"apikey: secret-of-jack"}
		case "session":
			// Fresh: an older cookie is renewed with every answer until the client
			// takes the new one, and wrk takes none.
			cookie, err := login("http://" + b.peers["gatehouse"].http + "/session/")
			if err != nil {
				return r, err
			}
			l.header = []string{"Cookie: " + cookie}
		case "bearer":
			l.header = []string{"Authorization: Bearer " + b.gate.token}
		case "routes":
			if err := b.gate.manyRoutes(); err != nil {
				return r, err
			}
		}
	}
	for _, n := range r.names { // warm up
		if _, err := b.ask(ctx, n, l, 1); err != nil {
			return r, err
		}
	}
	for range b.o.rounds {
		for _, n := range r.names {
			s, err := b.ask(ctx, n, l, b.o.seconds)
			if err != nil {
				return r, err
			}
			r.samples[n] = append(r.samples[n], s)
		}
	}
	return r, nil
}

// ask loads one peer for so many seconds.
func (b *bench) ask(ctx context.Context, name string, l load, seconds int) (sample, error) {
	p := b.peers[name]
	before := p.cpu()
	n, s, err := l.fire(ctx, p, seconds)
	if err != nil {
		return s, fmt.Errorf("%s: %w", name, err)
	}
	s.cpu = float64((p.cpu() - before).Microseconds()) / float64(n)
	s.memory = p.memory()
	return s, nil
}

func (l load) url(p *peer) string {
	if l.tls {
		return "https://" + p.https + l.path
	}
	return "http://" + p.http + l.path
}

func (l load) fire(ctx context.Context, p *peer, seconds int) (requests int, s sample, err error) {
	args := []string{"-c", "1"}
	if l.h2 {
		args = append(args, "h2load", "-c", strconv.Itoa(l.conns), "-m", "32", "-t", "1", "-D", strconv.Itoa(seconds))
	} else {
		args = append(args, "wrk", "-t", "1", "-c", strconv.Itoa(l.conns), "-d", strconv.Itoa(seconds), "--latency", "--timeout", "10s")
	}
	for _, h := range l.header {
		args = append(args, "-H", h)
	}
	if l.close {
		args = append(args, "-H", "Connection: close")
	}
	out, err := exec.CommandContext(ctx, "taskset", append(args, l.url(p))...).CombinedOutput()
	if err != nil {
		return 0, s, fmt.Errorf("%w: %s", err, out)
	}
	if l.h2 {
		return parseH2load(string(out))
	}
	return parseWrk(string(out))
}

var (
	wrkCount   = regexp.MustCompile(`(\d+) requests in`)
	wrkRate    = regexp.MustCompile(`Requests/sec:\s+([\d.]+)`)
	wrkQuant   = regexp.MustCompile(`(?m)^\s+(50|99)%\s+(\S+)$`)
	wrkErrors  = regexp.MustCompile(`Non-2xx.*|Socket errors.*`)
	h2Rate     = regexp.MustCompile(`finished in [\d.]+s, ([\d.]+) req/s`)
	h2Requests = regexp.MustCompile(`requests: .* (\d+) succeeded, (\d+) failed, (\d+) errored`)
	h2Time     = regexp.MustCompile(`time for request:\s+\S+\s+\S+\s+(\S+)`)
)

func parseWrk(out string) (n int, s sample, err error) {
	if bad := wrkErrors.FindString(out); bad != "" {
		return 0, s, errors.New(bad)
	}
	m, r := wrkCount.FindStringSubmatch(out), wrkRate.FindStringSubmatch(out)
	if m == nil || r == nil {
		return 0, s, fmt.Errorf("wrk said: %s", out)
	}
	n, _ = strconv.Atoi(m[1])
	s.rps, _ = strconv.ParseFloat(r[1], 64)
	for _, q := range wrkQuant.FindAllStringSubmatch(out, -1) {
		d, _ := time.ParseDuration(q[2])
		if q[1] == "50" {
			s.p50 = d
		} else {
			s.p99 = d
		}
	}
	if n == 0 {
		return 0, s, errors.New("no request was answered")
	}
	return n, s, nil
}

// parseH2load reads h2load's summary; it tells a mean, no quantiles.
func parseH2load(out string) (n int, s sample, err error) {
	r, m := h2Rate.FindStringSubmatch(out), h2Requests.FindStringSubmatch(out)
	if r == nil || m == nil {
		return 0, s, fmt.Errorf("h2load said: %s", out)
	}
	s.rps, _ = strconv.ParseFloat(r[1], 64)
	n, _ = strconv.Atoi(m[1])
	if m[2] != "0" || m[3] != "0" || n == 0 || !strings.Contains(out, "2xx") {
		return 0, s, errors.New(m[0])
	}
	if t := h2Time.FindStringSubmatch(out); t != nil {
		s.p50, _ = time.ParseDuration(t[1])
	}
	return n, s, nil
}

// runIdle opens connections that each make one request and then wait, and
// looks at the memory a minute later.
func (b *bench) runIdle(ctx context.Context, r *result) error {
	for _, n := range r.names {
		p := b.peers[n]
		conns := make([]net.Conn, 0, r.idle)
		err := func() error {
			buf := make([]byte, 4096)
			for range r.idle {
				c, err := net.DialTimeout("tcp", p.http, 5*time.Second)
				if err != nil {
					return fmt.Errorf("%s: connection %d: %w", n, len(conns), err)
				}
				conns = append(conns, c)
				if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
					return err
				}
				for got := 0; got < 1024; {
					k, err := c.Read(buf)
					if err != nil {
						return fmt.Errorf("%s: answer on connection %d: %w", n, len(conns), err)
					}
					if got == 0 && !strings.HasPrefix(string(buf[:k]), "HTTP/1.1 200 ") {
						return fmt.Errorf("%s: answer on connection %d: %q", n, len(conns), buf[:min(k, 40)])
					}
					got += k
				}
			}
			select {
			case <-time.After(60 * time.Second):
			case <-ctx.Done():
			}
			r.samples[n] = []sample{{memory: p.memory()}}
			return ctx.Err()
		}()
		for _, c := range conns {
			c.Close()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// ratio is the median over the rounds of one of a peer's numbers to nginx's,
// and its range.
func (r *result) ratio(name string, of func(sample) float64) (median, low, high float64) {
	var q []float64
	for i, s := range r.samples[name] {
		if base := r.samples["nginx"]; i < len(base) && of(base[i]) > 0 {
			q = append(q, of(s)/of(base[i]))
		}
	}
	if len(q) == 0 {
		return 0, 0, 0
	}
	slices.Sort(q)
	return q[len(q)/2], q[0], q[len(q)-1]
}

// median of one of the numbers of a peer's rounds.
func (r *result) median(name string, of func(sample) float64) float64 {
	var q []float64
	for _, s := range r.samples[name] {
		q = append(q, of(s))
	}
	if len(q) == 0 {
		return 0
	}
	slices.Sort(q)
	return q[len(q)/2]
}
