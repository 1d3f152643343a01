package accesslog

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"gatehouse/gateway"
)

// variable appends a value of an exchange; false when there is none, whatever
// was appended then. It escapes what comes from outside.
type variable func(dst []byte, x *gateway.Exchange) ([]byte, bool)

// compiler makes variables for one way to escape.
type compiler struct {
	esc     escaper
	secrets secrets
}

// text is a variable whose value is text from outside.
func (c *compiler) text(of func(x *gateway.Exchange) string) variable {
	return func(dst []byte, x *gateway.Exchange) ([]byte, bool) {
		v := of(x)
		if v == "" {
			return dst, false
		}
		return c.esc.bounded(dst, v), true
	}
}

// named is the same for what Exchange.Var knows.
func (c *compiler) named(name string) variable {
	return c.text(func(x *gateway.Exchange) string { v, _ := x.Var(name); return v })
}

// number is a variable that needs no escaping.
func number(of func(x *gateway.Exchange) int64) variable {
	return func(dst []byte, x *gateway.Exchange) ([]byte, bool) { return strconv.AppendInt(dst, of(x), 10), true }
}

// moment is the time the exchange ended. What a second looks like is kept
// until the next one: writing a time costs as much as the rest of a line.
// tail follows the milliseconds; with none of it there are none.
func moment(layout, tail string) variable {
	type second struct {
		at         int64
		in         *time.Location
		head, tail string
	}
	var last atomic.Pointer[second]
	return func(dst []byte, x *gateway.Exchange) ([]byte, bool) {
		t := ended(x)
		s := last.Load()
		if s == nil || s.at != t.Unix() || s.in != t.Location() {
			s = &second{t.Unix(), t.Location(), t.Format(layout), t.Format(tail)}
			last.Store(s)
		}
		dst = append(dst, s.head...)
		if tail != "" {
			ms := t.Nanosecond() / 1e6
			dst = append(append(dst, '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10)), s.tail...)
		}
		return dst, true
	}
}

func ended(x *gateway.Exchange) time.Time {
	if x.End.IsZero() {
		return x.Start
	}
	return x.End
}

// appendSeconds writes a duration as nginx does: seconds, three decimals.
func appendSeconds(dst []byte, d time.Duration) []byte {
	ms := (max(0, d) + time.Millisecond/2) / time.Millisecond
	dst = strconv.AppendInt(dst, int64(ms/1000), 10)
	ms %= 1000
	return append(dst, '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10))
}

func appendPort(dst []byte, valid bool, p uint16) ([]byte, bool) {
	if !valid {
		return dst, false
	}
	return strconv.AppendUint(dst, uint64(p), 10), true
}

func appendStatus(dst []byte, status int, known bool) ([]byte, bool) {
	if !known || status == 0 {
		return dst, false
	}
	return strconv.AppendInt(dst, int64(status), 10), true
}

// own makes the variables that are written without Exchange.Var, for speed or
// because a log says less than a plugin may know.
func (c *compiler) own() map[string]variable {
	target := func(of func(x *gateway.Exchange) string) variable {
		return func(dst []byte, x *gateway.Exchange) ([]byte, bool) {
			t := of(x)
			return c.secrets.target(dst, t, c.esc), t != ""
		}
	}
	args := func(dst []byte, x *gateway.Exchange) ([]byte, bool) {
		return c.secrets.query(dst, x.Req.Query, c.esc), x.Req.Query != ""
	}
	method := c.text(func(x *gateway.Exchange) string { return x.Req.Method })
	consumer := c.text(func(x *gateway.Exchange) string {
		if x.Consumer == nil {
			return ""
		}
		return x.Consumer.Username
	})
	return map[string]variable{
		"remote_addr":    c.text(func(x *gateway.Exchange) string { return x.Req.ClientIP }),
		"request_method": method,
		"method":         method,
		"uri":            c.text(func(x *gateway.Exchange) string { return x.Req.Path }),
		"host":           c.text(func(x *gateway.Exchange) string { return x.Req.Host }),
		"http_host":      c.text(func(x *gateway.Exchange) string { return x.Req.Authority }),
		"route_id": c.text(func(x *gateway.Exchange) string {
			if x.Route == nil {
				return ""
			}
			return x.Route.ID
		}),
		"consumer_name": consumer,
		"upstream_addr": c.text(func(x *gateway.Exchange) string {
			if x.Node == nil {
				return ""
			}
			return x.Node.Addr
		}),
		"server_protocol": c.text(func(x *gateway.Exchange) string { return x.Req.Proto }),
		"failed":          c.text(func(x *gateway.Exchange) string { return x.Failed }),
		"args":            args,
		"query_string":    args,
		"request_uri": func(dst []byte, x *gateway.Exchange) ([]byte, bool) {
			if x.Req.Path == "" {
				return dst, false
			}
			dst = c.esc.bounded(dst, x.Req.Path)
			if x.Req.Query != "" {
				dst = c.secrets.query(append(dst, '?'), x.Req.Query, c.esc)
			}
			return dst, true
		},
		"real_request_uri": target(func(x *gateway.Exchange) string { return x.Req.Target }),
		"upstream_uri":     target(func(x *gateway.Exchange) string { v, _ := x.Var("upstream_uri"); return v }),
		"sent_http_location": target(func(x *gateway.Exchange) string {
			v, _ := x.Var("sent_http_location")
			return v
		}),
		// The query of a page that linked here is nobody's business.
		"http_referer": c.text(func(x *gateway.Exchange) string {
			v := x.Req.Header.Get("Referer")
			if i := strings.IndexAny(v, "?#"); i >= 0 {
				v = v[:i]
			}
			return v
		}),
		"http_user_agent": c.text(func(x *gateway.Exchange) string { return x.Req.Header.Get("User-Agent") }),
		"request": func(dst []byte, x *gateway.Exchange) ([]byte, bool) {
			if x.Req.Method == "" {
				return dst, false
			}
			dst = append(c.esc.bounded(dst, x.Req.Method), ' ')
			dst = append(c.secrets.target(dst, x.Req.Target, c.esc), ' ')
			return c.esc(dst, x.Req.Proto), true
		},
		"content_length": func(dst []byte, x *gateway.Exchange) ([]byte, bool) {
			if x.Req.Length <= 0 && !x.Req.Header.Has("Content-Length") {
				return dst, false
			}
			return strconv.AppendInt(dst, max(0, x.Req.Length), 10), true
		},
		"status": func(dst []byte, x *gateway.Exchange) ([]byte, bool) { return appendStatus(dst, x.Resp.Status, true) },
		"upstream_status": func(dst []byte, x *gateway.Exchange) ([]byte, bool) {
			return appendStatus(dst, x.Resp.Status, x.FromUpstream)
		},
		"request_length":  number(func(x *gateway.Exchange) int64 { return x.BytesIn }),
		"bytes_sent":      number(func(x *gateway.Exchange) int64 { return x.BytesOut }),
		"body_bytes_sent": number(func(x *gateway.Exchange) int64 { return max(0, x.BytesOut-x.HeadOut) }),
		"request_time": func(dst []byte, x *gateway.Exchange) ([]byte, bool) {
			return appendSeconds(dst, ended(x).Sub(x.Start)), true
		},
		"upstream_response_time": func(dst []byte, x *gateway.Exchange) ([]byte, bool) {
			if x.UpstreamTime <= 0 {
				return dst, false
			}
			return appendSeconds(dst, x.UpstreamTime), true
		},
		"msec": func(dst []byte, x *gateway.Exchange) ([]byte, bool) {
			return appendSeconds(dst, time.Duration(ended(x).UnixMilli())*time.Millisecond), true
		},
		"time_local":   moment("02/Jan/2006:15:04:05 -0700", ""),
		"time_iso8601": moment("2006-01-02T15:04:05-07:00", ""),
		"balancer_port": func(dst []byte, x *gateway.Exchange) ([]byte, bool) {
			if x.Node == nil {
				return dst, false
			}
			return strconv.AppendInt(dst, int64(x.Node.Port), 10), true
		},
		"remote_port": func(dst []byte, x *gateway.Exchange) ([]byte, bool) {
			return appendPort(dst, x.Req.Peer.IsValid(), x.Req.Peer.Port())
		},
		"realip_remote_port": func(dst []byte, x *gateway.Exchange) ([]byte, bool) {
			return appendPort(dst, x.Req.Peer.IsValid(), x.Req.Peer.Port())
		},
		"server_port": func(dst []byte, x *gateway.Exchange) ([]byte, bool) {
			return appendPort(dst, x.Req.Local.IsValid(), x.Req.Local.Port())
		},
		"realip_remote_addr": func(dst []byte, x *gateway.Exchange) ([]byte, bool) {
			return x.Req.Peer.Addr().Unmap().AppendTo(dst), x.Req.Peer.IsValid()
		},
		"server_addr": func(dst []byte, x *gateway.Exchange) ([]byte, bool) {
			return x.Req.Local.Addr().Unmap().AppendTo(dst), x.Req.Local.IsValid()
		},
		// A name that nobody has verified would read as if somebody had.
		"remote_user": consumer,
	}
}

// plain are the variables of Exchange.Var that are written as they are.
var plain = []string{
	"document_uri", "is_args", "scheme", "https", "content_type", "ssl_server_name", "route_name", "service_id", "service_name", "matched_uri",
	"consumer_group_id", "balancer_ip", "upstream_unresolved_host", "upstream_host", "upstream_scheme",
	"request_id", "apisix_request_id", "opentelemetry_trace_id", "opentelemetry_span_id", "opentelemetry_context_traceparent",
}

// variable finds a variable by its name without "$".
func (c *compiler) variable(own map[string]variable, name string) (variable, error) {
	if v := own[name]; v != nil {
		return v, nil
	}
	for _, p := range plain {
		if p == name {
			return c.named(name), nil
		}
	}
	for _, family := range []string{"arg_", "http_", "sent_http_", "cookie_", "uri_param_"} {
		key, ok := strings.CutPrefix(name, family)
		if !ok || key == "" {
			continue
		}
		if family != "uri_param_" && c.secrets.has(key) {
			return func(dst []byte, x *gateway.Exchange) ([]byte, bool) {
				if _, ok := x.Var(name); !ok {
					return dst, false
				}
				return append(dst, redacted...), true
			}, nil
		}
		if family == "cookie_" {
			return c.text(func(x *gateway.Exchange) string {
				v, _ := x.Req.Cookie(key)
				if strings.HasPrefix(strings.Trim(v, `"`), gateway.OwnCookie) {
					v = redacted // a session of ours
				}
				return v
			}), nil
		}
		return c.named(name), nil
	}
	return nil, fmt.Errorf("unknown variable $%s", name)
}
