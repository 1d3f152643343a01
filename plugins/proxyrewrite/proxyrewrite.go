// Package proxyrewrite is the plugin proxy-rewrite: it changes the request
// line and the header fields that go to the upstream. It does not touch the
// answer.
package proxyrewrite

import (
	_ "embed"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"gatehouse/gateway"
	"gatehouse/lib/expr"
)

//go:embed schema.json
var schemaJSON []byte

// Config is the configuration; schema.json says more than its tags can.
type Config struct {
	URI                     string   `json:"uri" min:"1" max:"4096" pattern:"^\\/.*" doc:"New path, which may hold variables and a query. The client's query is appended. Beats regex_uri."`
	RegexURI                []string `json:"regex_uri" min:"2" max:"64" items:"max=4096" doc:"Pairs of a regular expression for the path and its replacement, which may hold $1 to $9 and variables. The first that matches is used."`
	Method                  string   `json:"method" enum:"GET|POST|PUT|HEAD|DELETE|OPTIONS|MKCOL|COPY|MOVE|PROPFIND|LOCK|UNLOCK|PATCH|TRACE" doc:"New method."`
	Host                    string   `json:"host" max:"256" pattern:"^[0-9a-zA-Z-.]+(:\\d{1,5})?$" doc:"Host the upstream is asked for."`
	Headers                 Headers  `json:"headers" doc:"Header fields to add, set and remove, in this order. A flat object of names and values sets them. Setting an empty value removes the field. Values may hold variables and $1 to $9 of regex_uri."`
	UseRealRequestURIUnsafe bool     `json:"use_real_request_uri_unsafe" default:"false" doc:"Send the request target as the client wrote it. This is so anyway unless uri or regex_uri rewrites it; with them it is refused."`
}

// Plugin is proxy-rewrite.
var Plugin = gateway.Define("proxy-rewrite", 1008, build, gateway.WithSchema(schemaJSON))

// Validate says what the schema cannot.
func (c *Config) Validate() error {
	_, err := compile(*c)
	return err
}

// rewrite is an instance.
type rewrite struct {
	uri    *gateway.Template
	regex  []rule
	method string
	host   string
	add    []edit
	set    []edit
	remove []string
}

// rule is one pair of regex_uri.
type rule struct {
	re *regexp.Regexp
	to *gateway.Template
}

// edit is one field and the values it gets.
type edit struct {
	name   string
	values []*gateway.Template
}

var _ gateway.Rewriter = (*rewrite)(nil)

func build(c Config, _ *gateway.Env) (any, error) { return compile(c) }

func compile(c Config) (*rewrite, error) {
	if c.UseRealRequestURIUnsafe && (c.URI != "" || len(c.RegexURI) > 0) {
		return nil, errors.New("use_real_request_uri_unsafe cannot be combined with uri or regex_uri")
	}
	p := &rewrite{method: c.Method, host: c.Host, remove: c.Headers.Remove}
	var err error
	if c.URI != "" {
		if p.uri, err = gateway.ParseTemplate(c.URI); err != nil {
			return nil, fmt.Errorf("property \"uri\": %w", err)
		}
	}
	if len(c.RegexURI)%2 != 0 {
		return nil, errors.New("property \"regex_uri\": the last regular expression has no replacement")
	}
	for pair := range slices.Chunk(c.RegexURI, 2) {
		var r rule
		if r.re, err = expr.Regexp(pair[0], false); err == nil {
			r.to, err = gateway.ParseTemplate(pair[1])
		}
		if err != nil {
			return nil, fmt.Errorf("property \"regex_uri\": %w", err)
		}
		p.regex = append(p.regex, r)
	}
	if p.add, err = edits(c.Headers.Add); err != nil {
		return nil, fmt.Errorf("property \"headers.add\": %w", err)
	}
	if p.set, err = edits(c.Headers.Set); err != nil {
		return nil, fmt.Errorf("property \"headers.set\": %w", err)
	}
	for _, e := range p.add {
		if strings.EqualFold(e.name, "Host") {
			return nil, errors.New("property \"headers.add\": a request has one Host; use host")
		}
	}
	for _, n := range c.Headers.Remove {
		if strings.EqualFold(n, "Host") {
			return nil, errors.New("property \"headers.remove\": a request must have a Host")
		}
		if err := editable(n); err != nil {
			return nil, fmt.Errorf("property \"headers.remove\": %w", err)
		}
	}
	return p, nil
}

// Rewrite changes the request. A request that would leave with a broken path
// or host is answered 400.
func (p *rewrite) Rewrite(x *gateway.Exchange) *gateway.Reply {
	lookup := x.Var
	switch {
	case p.uri != nil:
		if err := retarget(x, p.uri, nil, "", ""); err != nil {
			return refuse(err)
		}
	case p.regex != nil:
		path := x.Req.Path
		for _, r := range p.regex {
			at := r.re.FindStringSubmatchIndex(path)
			if at == nil {
				continue
			}
			caught := captures{path, at}
			lookup = caught.over(x.Var)
			if err := retarget(x, r.to, caught.get, path[:at[0]], path[at[1]:]); err != nil {
				return refuse(err)
			}
			break
		}
	}
	if p.method != "" {
		x.Out.Method = p.method
	}
	if p.host != "" {
		x.Out.Host = p.host
	}
	return p.editHeader(x, lookup)
}

func refuse(err error) *gateway.Reply { return &gateway.Reply{Status: 400, Err: err} }

// captures are the groups of a match in a path.
type captures struct {
	path string
	at   []int
}

// get returns a group by its number.
func (c captures) get(name string) (string, bool) {
	if len(name) > 2 || name[0] < '0' || name[0] > '9' {
		return "", false
	}
	n := 0
	for _, d := range []byte(name) {
		if d < '0' || d > '9' {
			return "", false
		}
		n = n*10 + int(d-'0')
	}
	if 2*n+1 >= len(c.at) || c.at[2*n] < 0 {
		return "", false
	}
	return c.path[c.at[2*n]:c.at[2*n+1]], true
}

// over asks the groups first, then next.
func (c captures) over(next func(string) (string, bool)) func(string) (string, bool) {
	return func(name string) (string, bool) {
		if v, ok := c.get(name); ok {
			return v, true
		}
		return next(name)
	}
}

func (p *rewrite) editHeader(x *gateway.Exchange, lookup func(string) (string, bool)) *gateway.Reply {
	h := &x.Req.Header
	for _, e := range p.add {
		for _, t := range e.values {
			if v := string(t.Append(nil, lookup, nil)); v != "" {
				h.Add(e.name, v)
			}
		}
	}
	for _, e := range p.set {
		if strings.EqualFold(e.name, "Host") {
			v := string(e.values[0].Append(nil, lookup, nil))
			if !validHost(v) {
				return refuse(errors.New("proxy-rewrite: the value for Host is no host"))
			}
			x.Out.Host = v
			continue
		}
		// The values are made before the field goes: they may speak of it.
		vs := make([]string, 0, len(e.values))
		for _, t := range e.values {
			if v := string(t.Append(nil, lookup, nil)); v != "" {
				vs = append(vs, v)
			}
		}
		if len(vs) == 0 {
			h.Del(e.name)
			continue
		}
		h.Set(e.name, vs[0])
		for _, v := range vs[1:] {
			h.Add(e.name, v)
		}
	}
	for _, n := range p.remove {
		h.Del(n)
	}
	return nil
}

// validHost accepts a name, an address or an address in brackets, with a port
// or without.
func validHost(s string) bool {
	return s != "" && len(s) <= 256 && strings.IndexFunc(s, func(r rune) bool {
		return !(r == '-' || r == '.' || r == ':' || r == '[' || r == ']' || r == '_' ||
			'0' <= r && r <= '9' || 'a' <= r|0x20 && r|0x20 <= 'z')
	}) < 0
}
