package gateway

import (
	"strconv"
	"strings"
	"time"

	"gatehouse/lib/h1"
)

// Var returns a variable of the exchange under the name nginx or APISIX gives
// it, without "$". It is false for a name it does not know and for what has
// no value yet. Values come from outside: they may hold any byte.
//
// Families: arg_NAME (first value in the query, decoded, names compare by
// case), http_NAME (request field, "-" written "_", values joined by ", "),
// sent_http_NAME (field of the answer), cookie_NAME, uri_param_NAME.
func (x *Exchange) Var(name string) (string, bool) {
	switch name {
	case "uri", "document_uri":
		return x.Req.Path, true
	case "request_uri":
		if x.Req.Query == "" {
			return x.Req.Path, true
		}
		return x.Req.Path + "?" + x.Req.Query, true
	case "real_request_uri":
		return x.Req.Target, true
	case "args", "query_string":
		return some(x.Req.Query)
	case "is_args":
		if strings.Contains(x.Req.Target, "?") {
			return "?", true
		}
		return "", true
	case "host":
		return some(x.Req.Host)
	case "http_host":
		return some(x.Req.Authority)
	case "scheme":
		return x.Req.Scheme, true
	case "https":
		if x.Req.Scheme == "https" {
			return "on", true
		}
		return "", false
	case "method", "request_method":
		return x.Req.Method, true
	case "server_protocol":
		return x.Req.Proto, true
	case "request":
		return x.Req.Method + " " + x.Req.Target + " " + x.Req.Proto, true
	case "content_type":
		return x.Req.field("content_type")
	case "content_length":
		if x.Req.Length < 0 || x.Req.Length == 0 && !x.Req.Header.Has("Content-Length") {
			return "", false
		}
		return strconv.FormatInt(x.Req.Length, 10), true
	case "remote_addr":
		if !x.Req.Client.IsValid() {
			return "", false
		}
		if x.Req.ClientIP != "" {
			return x.Req.ClientIP, true
		}
		return x.Req.Client.String(), true
	case "realip_remote_addr":
		if !x.Req.Peer.IsValid() {
			return "", false
		}
		return x.Req.Peer.Addr().Unmap().String(), true
	case "remote_port", "realip_remote_port":
		return port(x.Req.Peer.IsValid(), x.Req.Peer.Port())
	case "server_addr":
		if !x.Req.Local.IsValid() {
			return "", false
		}
		return x.Req.Local.Addr().Unmap().String(), true
	case "server_port":
		return port(x.Req.Local.IsValid(), x.Req.Local.Port())
	case "ssl_server_name":
		if x.Req.TLS == nil {
			return "", false
		}
		return some(x.Req.TLS.ServerName)
	case "status":
		if x.Resp.Status == 0 {
			return "", false
		}
		return strconv.Itoa(x.Resp.Status), true
	case "request_length":
		return strconv.FormatInt(x.BytesIn, 10), true
	case "bytes_sent":
		return strconv.FormatInt(x.BytesOut, 10), true
	case "body_bytes_sent":
		return strconv.FormatInt(max(0, x.BytesOut-x.HeadOut), 10), true
	case "request_id", "apisix_request_id":
		return x.Req.field("x_request_id")
	case "opentelemetry_trace_id", "opentelemetry_span_id", "opentelemetry_context_traceparent":
		return x.traceVar(name)
	}
	if v, ok, known := x.resourceVar(name); known {
		return v, ok
	}
	if v, ok := x.timeVar(name); ok {
		return v, true
	}
	return x.familyVar(name)
}

// resourceVar is what the route, the consumer and the upstream are called.
func (x *Exchange) resourceVar(name string) (v string, ok, known bool) {
	switch name {
	case "route_id", "route_name", "service_id", "service_name":
		if x.Route == nil {
			return "", false, true
		}
		switch name {
		case "route_id":
			v = x.Route.ID
		case "route_name":
			v = x.Route.Name
		case "service_id":
			v = x.Route.ServiceID
		default:
			v = x.Route.ServiceName
		}
	case "matched_uri":
		v = x.MatchedURI
	case "consumer_name", "consumer_group_id":
		if x.Consumer == nil {
			return "", false, true
		}
		v = x.Consumer.Username
		if name == "consumer_group_id" {
			v = x.Consumer.GroupID
		}
	case "balancer_ip", "balancer_port", "upstream_addr", "upstream_unresolved_host":
		if x.Node == nil {
			return "", false, true
		}
		switch name {
		case "balancer_port":
			v = strconv.Itoa(x.Node.Port)
		case "upstream_addr":
			v = x.Node.Addr
		default:
			v = x.Node.Host
		}
	case "upstream_status":
		if x.FromUpstream && x.Resp.Status != 0 {
			v = strconv.Itoa(x.Resp.Status)
		}
	case "upstream_host":
		if v = x.Out.Host; v == "" {
			v = x.Req.Authority
		}
	case "upstream_uri":
		if v = x.Out.Target; v == "" {
			v = x.Req.Target
		}
	case "upstream_scheme":
		if v = x.Out.Scheme; v == "" && x.Route != nil && x.Route.Upstream != nil {
			v = x.Route.Upstream.Scheme
		}
	case "upstream_response_time":
		if x.UpstreamTime > 0 {
			v = seconds(x.UpstreamTime)
		}
	default:
		return "", false, false
	}
	return v, v != "", true
}

// traceVar is the trace context as it came: a plugin that makes one sets the
// field.
func (x *Exchange) traceVar(name string) (string, bool) {
	trace, span, ok := x.Req.TraceParent()
	switch {
	case !ok:
		return "", false
	case name == "opentelemetry_trace_id":
		return trace, true
	case name == "opentelemetry_span_id":
		return span, true
	}
	return x.Req.Header.Get("traceparent"), true
}

func (x *Exchange) timeVar(name string) (string, bool) {
	switch name {
	case "request_time":
		return seconds(max(0, x.now().Sub(x.Start))), true
	case "msec":
		ms := x.now().UnixMilli()
		return strconv.FormatFloat(float64(ms)/1000, 'f', 3, 64), true
	case "time_iso8601":
		return x.now().Format("2006-01-02T15:04:05-07:00"), true
	case "time_local":
		return x.now().Format("02/Jan/2006:15:04:05 -0700"), true
	}
	return "", false
}

func (x *Exchange) now() time.Time {
	if x.Now != nil {
		return x.Now()
	}
	return time.Now()
}

func (x *Exchange) familyVar(name string) (string, bool) {
	if k, ok := strings.CutPrefix(name, "arg_"); ok {
		return queryValue(x.Req.Query, k)
	}
	if k, ok := strings.CutPrefix(name, "http_"); ok {
		return x.Req.field(k)
	}
	if k, ok := strings.CutPrefix(name, "cookie_"); ok {
		return x.Req.Cookie(k)
	}
	if k, ok := strings.CutPrefix(name, "uri_param_"); ok {
		v, ok := x.Params[k]
		return v, ok
	}
	if k, ok := strings.CutPrefix(name, "sent_http_"); ok {
		if v, ok := joined(&x.Answer, k, ", "); ok {
			return v, true
		}
		return joined(&x.Resp.Header, k, ", ")
	}
	return "", false
}

// Cookie returns the value of the first cookie of that name, quotes and all.
func (r *Request) Cookie(name string) (string, bool) {
	if name == "" {
		return "", false
	}
	for i := range r.Header.fields {
		if !h1.EqualFold(r.Header.fields[i].Name, "Cookie") {
			continue
		}
		for rest := r.Header.fields[i].Value; rest != ""; {
			var pair string
			pair, rest, _ = strings.Cut(rest, ";")
			k, v, ok := strings.Cut(strings.TrimLeft(pair, " \t"), "=")
			if ok && k == name {
				return strings.TrimRight(v, " \t"), true
			}
		}
	}
	return "", false
}

// field returns a request field by the last part of its variable: lower case,
// "-" written "_".
func (r *Request) field(name string) (string, bool) {
	sep := ", "
	if name == "cookie" {
		sep = "; "
	}
	return joined(&r.Header, name, sep)
}

func joined(h *Header, name, sep string) (string, bool) {
	first, found := "", false
	for i := range h.fields {
		if !sameVariable(h.fields[i].Name, name) {
			continue
		}
		if found {
			first += sep + h.fields[i].Value
		} else {
			first, found = h.fields[i].Value, true
		}
	}
	return first, found
}

// sameVariable says whether a field is the one a variable speaks of. A field
// with an underscore is none: it would pass for the one with a hyphen.
func sameVariable(field, name string) bool {
	if len(field) != len(name) {
		return false
	}
	for i := 0; i < len(field); i++ {
		c := field[i]
		switch {
		case c == '_':
			return false
		case c == '-':
			c = '_'
		case 'A' <= c && c <= 'Z':
			c |= 0x20
		}
		n := name[i]
		if 'A' <= n && n <= 'Z' {
			n |= 0x20
		}
		if c != n {
			return false
		}
	}
	return true
}

// queryValue returns the first value of a parameter, decoded as a form: "+" is
// a blank, and a "%" that escapes nothing stands for itself.
func queryValue(query, name string) (string, bool) {
	if name == "" {
		return "", false
	}
	for rest := query; rest != ""; {
		var pair string
		pair, rest, _ = strings.Cut(rest, "&")
		k, v, _ := strings.Cut(pair, "=")
		if k == name || strings.ContainsAny(k, "%+") && unescape(k) == name {
			return unescape(v), true
		}
	}
	return "", false
}

func unescape(s string) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '+':
			b = append(b, ' ')
		case c == '%' && i+2 < len(s) && hex(s[i+1]) < 16 && hex(s[i+2]) < 16:
			b = append(b, hex(s[i+1])<<4|hex(s[i+2]))
			i += 2
		default:
			b = append(b, c)
		}
	}
	return string(b)
}

// hex returns the value of a hexadecimal digit, or 16.
func hex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10
	}
	return 16
}

func some(s string) (string, bool) { return s, s != "" }

func port(valid bool, p uint16) (string, bool) {
	if !valid {
		return "", false
	}
	return strconv.Itoa(int(p)), true
}

// seconds writes a duration as nginx does: seconds with three decimals.
func seconds(d time.Duration) string {
	return strconv.FormatFloat(d.Seconds(), 'f', 3, 64)
}

// dropQuery removes a parameter from a raw query.
func dropQuery(query, name string) (string, bool) {
	var kept []string
	changed := false
	for pair := range strings.SplitSeq(query, "&") {
		if k, _, _ := strings.Cut(pair, "="); k == name || unescape(k) == name {
			changed = true
			continue
		}
		kept = append(kept, pair)
	}
	if !changed {
		return query, false
	}
	return strings.Join(kept, "&"), true
}

func dropTargetQuery(target, name string) string {
	path, query, _ := strings.Cut(target, "?")
	if query, _ = dropQuery(query, name); query == "" {
		return path
	}
	return path + "?" + query
}
