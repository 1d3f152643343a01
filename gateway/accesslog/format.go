package accesslog

import (
	"errors"
	"fmt"
	"strings"

	"gatehouse/gateway"
)

// Default is the format of a text log when none is configured: APISIX's, with
// the verified consumer in the place of the user, without queries, and with
// route and trace.
const Default = `$remote_addr - $consumer_name [$time_local] $http_host "$request_method $uri $server_protocol" $status $body_bytes_sent $request_time ` +
	`"$http_referer" "$http_user_agent" $upstream_addr $upstream_status $upstream_response_time "$upstream_scheme://$upstream_host" "$route_id" "$opentelemetry_trace_id"`

// Escapes of a format, as nginx calls them.
const (
	EscapeText = "default"
	EscapeJSON = "json"
)

// Format makes lines. Immutable.
type Format struct{ parts []part }

// part is a literal, then a variable.
type part struct {
	literal string
	value   variable // nil: none
	none    string   // stands for a variable without a value
	quote   string   // follows the value
	skip    bool     // the literal goes when there is no value
}

// maxFormat bounds a format.
const maxFormat = 16 << 10

// Compile reads a format: text with $name or ${name}, as nginx has it. One
// request is one line, so it holds no line break but at its end. Secret are
// the names of parameters and fields that are written as [redacted].
func Compile(format, escape string, secret []string) (*Format, error) {
	c := compiler{esc: escapeText, secrets: newSecrets(secret)}
	none := "-"
	switch escape {
	case EscapeText:
	case EscapeJSON:
		c.esc, none = escapeJSON, ""
	default:
		return nil, fmt.Errorf("unknown escape %q", escape)
	}
	format = strings.TrimRight(format, "\r\n")
	if len(format) > maxFormat {
		return nil, fmt.Errorf("a format has at most %d bytes", maxFormat)
	}
	if strings.ContainsAny(format, "\r\n\x00") {
		return nil, errors.New("a format is one line")
	}
	if strings.TrimSpace(format) == "" {
		return nil, errors.New("a format is not empty")
	}
	own := c.own()
	f := &Format{}
	rest := format
	literal := ""
	for rest != "" {
		text, after, found := strings.Cut(rest, "$")
		literal += text
		if !found {
			break
		}
		name, n := nameOf(after)
		if name == "" {
			return nil, fmt.Errorf("a $ without a name at byte %d", len(format)-len(after))
		}
		v, err := c.variable(own, name)
		if err != nil {
			return nil, err
		}
		f.parts = append(f.parts, part{literal: literal, value: v, none: none})
		literal, rest = "", after[n:]
	}
	f.parts = append(f.parts, part{literal: literal + "\n"})
	return f, nil
}

// nameOf reads the name after a "$" and says how many bytes it took.
func nameOf(s string) (name string, n int) {
	braced := strings.HasPrefix(s, "{")
	if braced {
		s = s[1:]
	}
	for n < len(s) && (s[n] == '_' || '0' <= s[n] && s[n] <= '9' || 'a' <= s[n]|0x20 && s[n]|0x20 <= 'z') {
		n++
	}
	name = s[:n]
	if !braced {
		return name, n
	}
	if n == len(s) || s[n] != '}' {
		return "", 0
	}
	return name, n + 2
}

// members of the ready JSON line, in order. A member without a value is left
// out.
var members = []struct {
	name, variable string
	bare           bool // a number
}{
	{"time", "time", false},
	{"client", "remote_addr", false},
	{"method", "request_method", false},
	{"scheme", "scheme", false},
	{"host", "http_host", false},
	{"path", "uri", false},
	{"protocol", "server_protocol", false},
	{"status", "status", true},
	{"bytes_in", "request_length", true},
	{"bytes_out", "bytes_sent", true},
	{"body_bytes_out", "body_bytes_sent", true},
	{"request_time", "request_time", true},
	{"route_id", "route_id", false},
	{"service_id", "service_id", false},
	{"consumer", "consumer_name", false},
	{"upstream", "upstream_addr", false},
	{"upstream_status", "upstream_status", true},
	{"upstream_time", "upstream_response_time", true},
	{"user_agent", "http_user_agent", false},
	{"referer", "http_referer", false},
	{"trace_id", "opentelemetry_trace_id", false},
	{"failed", "failed", false},
}

// JSON is the ready form: one JSON object a line.
func JSON(secret []string) *Format {
	c := compiler{esc: escapeJSON, secrets: newSecrets(secret)}
	own := c.own()
	own["time"] = moment("2006-01-02T15:04:05", "Z07:00")
	f := &Format{}
	for i, m := range members {
		v, err := c.variable(own, m.variable)
		if err != nil {
			panic(err) // the table above
		}
		p := part{literal: `,"` + m.name + `":`, value: v, skip: true}
		if i == 0 {
			p.literal = `{"` + m.name + `":`
		}
		if !m.bare {
			p.literal += `"`
			p.quote = `"`
		}
		f.parts = append(f.parts, p)
	}
	f.parts = append(f.parts, part{literal: "}\n"})
	return f
}

// Append appends the line of an exchange that has ended.
func (f *Format) Append(dst []byte, x *gateway.Exchange) []byte {
	for i := range f.parts {
		p := &f.parts[i]
		before := len(dst)
		dst = append(dst, p.literal...)
		if p.value == nil {
			continue
		}
		bare := len(dst)
		var ok bool
		dst, ok = p.value(dst, x)
		switch {
		case ok:
			dst = append(dst, p.quote...)
		case p.skip:
			dst = dst[:before]
		default:
			dst = append(dst[:bare], p.none...)
		}
	}
	return dst
}
