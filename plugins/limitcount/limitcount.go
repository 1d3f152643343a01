// Package limitcount is the plugin limit-count: so many requests in so much
// time, counted by a key, in the memory of this process. It does not delay
// requests and does not count across processes.
package limitcount

import (
	_ "embed"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"gatehouse/gateway"
)

const name = "limit-count"

//go:embed schema.json
var schemaJSON []byte

// Plugin is limit-count.
var Plugin = gateway.Define(name, 1002, build,
	gateway.WithVersion(0.4), gateway.WithSchema(schemaJSON), gateway.WithMetadata[Metadata]())

type limitCount struct {
	Config
	limits   []limit
	fields   Metadata
	now      func() time.Time
	counters *counters
}

// limit is one rule, or the only one.
type limit struct {
	id      string // begins the key of its counters
	count   amount
	seconds amount
	prefix  string // of the fields, for rules
	total   string // count as text; "" when it differs between requests

	// One of these is the key.
	variable    string
	constant    string
	combination *gateway.Template
}

var _ gateway.Guard = (*limitCount)(nil)

func build(c Config, env *gateway.Env) (any, error) {
	limits, err := compile(c)
	if err != nil {
		return nil, err
	}
	fields, err := gateway.Metadata[Metadata](env, name)
	if err != nil {
		return nil, err
	}
	hash, err := c.hash()
	if err != nil {
		return nil, err
	}
	whose := "owner/" + env.Owner
	if c.Group != "" {
		whose = "group/" + c.Group
	}
	p := &limitCount{Config: c, limits: limits, fields: fields, now: env.Now}
	p.counters = gateway.Kept(env.Keep, name+"/"+whose+"/"+hash, newCounters)
	return p, nil
}

// Access counts the request, by every limit in order until one refuses it.
func (p *limitCount) Access(x *gateway.Exchange) *gateway.Reply {
	for i := range p.limits {
		l := &p.limits[i]
		key, ok := l.key(x)
		if !ok {
			if len(p.Rules) > 0 {
				continue
			}
			key, _ = x.Var("remote_addr")
		}
		count, err := l.count.of(x)
		if err != nil {
			return p.degrade(fmt.Errorf("limit-count: count: %w", err))
		}
		seconds, err := l.seconds.of(x)
		if err != nil {
			return p.degrade(fmt.Errorf("limit-count: time_window: %w", err))
		}
		if len(p.limits) > 1 {
			key = l.id + key
		}
		window := time.Duration(seconds) * time.Second
		var v verdict
		if p.WindowType == "sliding" {
			v = p.counters.sliding(key, count, window, p.now())
		} else {
			v = p.counters.fixed(key, count, window, p.now())
		}
		if p.ShowLimitQuotaHeader {
			p.tell(x, l, count, v)
		}
		if !v.ok {
			return p.refuse()
		}
	}
	return nil
}

func (p *limitCount) refuse() *gateway.Reply {
	if p.RejectedMsg == "" {
		return &gateway.Reply{Status: p.RejectedCode}
	}
	return gateway.JSONReply(p.RejectedCode, map[string]string{"error_msg": p.RejectedMsg})
}

func (p *limitCount) degrade(err error) *gateway.Reply {
	if p.AllowDegradation {
		return nil
	}
	return &gateway.Reply{Status: 500, Err: err}
}

func (p *limitCount) tell(x *gateway.Exchange, l *limit, count int64, v verdict) {
	f := p.fields
	if len(p.Rules) > 0 {
		f = Metadata{"X-" + l.prefix + "-RateLimit-Limit", "X-" + l.prefix + "-RateLimit-Remaining", "X-" + l.prefix + "-RateLimit-Reset"}
	}
	total := l.total
	if total == "" {
		total = strconv.FormatInt(count, 10)
	}
	x.Answer.Set(f.LimitHeader, total)
	x.Answer.Set(f.RemainingHeader, strconv.FormatInt(v.remaining, 10))
	hundredths := math.Floor(v.reset.Seconds()*100) / 100
	x.Answer.Set(f.ResetHeader, strconv.FormatFloat(hundredths, 'f', -1, 64))
}

// key is what the request is counted by, false when it has no value.
func (l *limit) key(x *gateway.Exchange) (string, bool) {
	switch {
	case l.variable != "":
		v, ok := x.Var(l.variable)
		return v, ok && v != ""
	case l.combination != nil:
		some := false
		b := l.combination.Append(nil, func(name string) (string, bool) {
			v, ok := x.Var(name)
			some = some || ok && v != ""
			return v, ok
		}, nil)
		return string(b), some
	}
	return l.constant, l.constant != ""
}

// amount is a number, or a text that becomes one for each request.
type amount struct {
	n    int64
	text *gateway.Template
	most int64
}

func newAmount(n Number, most int64) (amount, error) {
	a := amount{n: n.n, most: most}
	if n.text != "" {
		t, err := gateway.ParseTemplate(n.text)
		if err != nil {
			return a, err
		}
		if s, plain := t.Plain(); plain {
			a.n, err = parseAmount(s, most)
			return a, err
		}
		a.text = t
		return a, nil
	}
	if a.n <= 0 || a.n > most {
		return a, fmt.Errorf("must be more than 0 and at most %d", most)
	}
	return a, nil
}

func (a *amount) of(x *gateway.Exchange) (int64, error) {
	if a.text == nil {
		return a.n, nil
	}
	return parseAmount(a.text.Expand(x), a.most)
}

var errAmount = errors.New("the text did not become a whole number above 0")

func parseAmount(s string, most int64) (int64, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil || n <= 0 || n > most {
		return 0, errAmount
	}
	return n, nil
}
