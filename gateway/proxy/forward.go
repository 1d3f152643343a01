package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"

	"gatehouse/gateway"
	"gatehouse/gateway/engine"
	"gatehouse/lib/fault"
)

// tries is what became of the attempts at an upstream.
type tries struct {
	nodes []*gateway.Node
	codes []int // the status of each attempt
}

func (t *tries) note(status int) { t.codes = append(t.codes, status) }

// String is the list as X-APISIX-Upstream-Status has it: "502, 200".
func (t *tries) String() string {
	var b []byte
	for i, c := range t.codes {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = strconv.AppendInt(b, int64(c), 10)
	}
	return string(b)
}

// forward sends the request to a node, to another when that is safe, and the
// answer to the client. A Reply is what the gateway answers instead.
func (f *flight) forward() *gateway.Reply {
	x, w := f.x, f.w
	up := x.Route.Upstream
	start := x.Start
	if f.busy() {
		start = f.p.cfg.Now()
	}
	for fresh := false; ; {
		node, err := f.pick(up, fresh)
		if err != nil {
			if len(f.tries.nodes) > 0 { // every node failed
				return &gateway.Reply{Status: 502, Err: err}
			}
			if fault.KindOf(err) == fault.Unavailable {
				return &gateway.Reply{Status: 503, Err: err}
			}
			return &gateway.Reply{Status: 500, Err: err}
		}
		x.Node = node
		if r := f.guarded(func() *gateway.Reply {
			if r := prepare(x, f.global.BeforeProxy); r != nil {
				return r
			}
			return prepare(x, f.chain.BeforeProxy)
		}); r != nil {
			return r
		}
		f.outgoing()
		f.compose(up, node)
		call := &f.call
		call.Fresh = fresh
		body, err := f.p.cfg.Transport.Send(x.Ctx, call, &x.Resp)
		if err == nil {
			x.FromUpstream = true
			f.tries.note(x.Resp.Status)
			var r *gateway.Reply
			if body.Upgraded() {
				r = f.tunnel(body)
			} else {
				r = f.relay(body)
			}
			x.End = f.p.cfg.Now()
			x.UpstreamTime = x.End.Sub(start)
			up.Picker.Done(node, x.UpstreamTime, nil)
			return r
		}
		x.UpstreamTime = f.p.cfg.Now().Sub(start)
		up.Picker.Done(node, x.UpstreamTime, err)
		x.Req.Body = call.Body // from its start, if another attempt may follow
		reply, again, sameNode := f.failure(err, call, up)
		if x.Ctx.Err() != nil || reply.Status == 400 || reply.Status == 408 || reply.Status == 413 || w.Sent() {
			f.failed = err.Error()
			return reply
		}
		if sameNode && !fresh { // a kept connection had died: that is no verdict on the node
			fresh = true
			continue
		}
		fresh = false
		f.tries.note(reply.Status)
		f.tries.nodes = append(f.tries.nodes, node)
		if !again || len(f.tries.nodes) > up.Retries || up.RetryTimeout > 0 && f.p.cfg.Now().Sub(start) >= up.RetryTimeout {
			return reply
		}
		f.p.cfg.Log.Debug("trying another node", "route_id", f.routeID(), "node", node.Addr, "err", err)
	}
}

// pick chooses a node; again keeps the one of the attempt before.
func (f *flight) pick(up *gateway.Upstream, again bool) (*gateway.Node, error) {
	if again {
		return f.x.Node, nil
	}
	return up.Picker.Pick(f.x, f.tries.nodes)
}

// compose fills the call for a node.
func (f *flight) compose(up *gateway.Upstream, node *gateway.Node) {
	x, c := f.x, &f.call
	*c = engine.Call{
		Scheme: up.Scheme, Addr: node.Addr, Node: node, TLS: up.TLS, Keep: up.KeepAlive, Timeout: x.Route.Timeout,
		Method: x.Req.Method, Target: x.Req.Target, Host: x.Req.Authority, Header: &f.header,
		Body: x.Req.Body, Length: x.Req.Length, Trailer: &x.Req.Trailer, Trailers: x.Req.Trailers, Stop: f.w, Info: f.info, Scratch: &f.scratch,
	}
	if up.ProxyProtocol != 0 {
		c.Proxied = engine.Proxied{Version: up.ProxyProtocol, From: netip.AddrPortFrom(x.Req.Client, 0), To: x.Req.Local}
		if x.Req.Client == x.Req.Peer.Addr() { // else it is an address a trusted proxy told, without a port
			c.Proxied.From = x.Req.Peer
		}
	}
	if x.Out.Method != "" {
		c.Method = x.Out.Method
	}
	if x.Out.Target != "" {
		c.Target = x.Out.Target
	}
	if x.Out.Scheme != "" {
		c.Scheme = x.Out.Scheme
	}
	switch up.PassHost {
	case "node":
		c.Host = nodeHost(up.Scheme, node)
	case "rewrite":
		c.Host = up.Host
	}
	if x.Out.Host != "" {
		c.Host = x.Out.Host
	}
	if c.Host == "" { // an HTTP/1.0 client may name none
		c.Host = nodeHost(up.Scheme, node)
	}
	if c.Scheme == "https" || c.Scheme == "grpcs" {
		c.SNI = serverName(c.Host)
	}
	if x.Req.Upgrade != "" && x.Req.Length == 0 && x.Route.WebSocket && c.Method == http.MethodGet && strings.EqualFold(x.Req.Upgrade, "websocket") {
		c.Upgrade = "websocket"
	}
}

// interim passes 1xx answers on.
func (f *flight) interim(status int, h *gateway.Header) { f.w.Info(status, h) }

func nodeHost(scheme string, n *gateway.Node) string {
	host := n.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if secure := scheme == "https" || scheme == "grpcs"; secure && n.Port == 443 || !secure && n.Port == 80 {
		return host
	}
	return host + ":" + strconv.Itoa(n.Port)
}

func serverName(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.Trim(host, "[]")
}

// failure judges a failed attempt: what the client is told if it was the last,
// and whether another may follow. After a byte was sent only a request that
// may be repeated, and whose body is not used up, goes on: never when an
// answer had begun.
func (f *flight) failure(err error, c *engine.Call, up *gateway.Upstream) (r *gateway.Reply, again, sameNode bool) {
	r = &gateway.Reply{Status: 502, Err: err}
	var e *engine.CallError
	if !errors.As(err, &e) {
		return r, false, false
	}
	if e.Client {
		r.Status, r.Err = 400, nil
		switch {
		case errors.Is(err, engine.ErrTooLarge):
			r.Status = 413
		case errors.Is(err, engine.ErrSlow):
			r.Status = 408
		}
		return r, false, false
	}
	if err := f.x.Ctx.Err(); err != nil {
		if r.Status, r.Err = 499, nil; errors.Is(err, context.DeadlineExceeded) {
			r.Status = 504 // the exchange took too long
		}
		return r, false, false
	}
	if e.Timeout {
		r.Status = 504
	}
	var dns *net.DNSError
	if errors.As(err, &dns) || errors.Is(err, engine.ErrBusy) {
		r.Status = 503
	}
	if e.Stage == engine.StageConnect {
		return r, true, false
	}
	safe := e.Stage != engine.StageAnswer && c.Length == 0 && idempotent(c.Method)
	return r, safe, safe && e.Reused && !e.Timeout
}

// idempotent methods may be repeated (RFC 9110, section 9.2.2).
func idempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "PUT", "DELETE":
		return true
	}
	return false
}

// relay sends the upstream's answer on. What a node sent is flushed when there
// is no more of it yet, so that events arrive when they happen.
func (f *flight) relay(body engine.Answer) *gateway.Reply {
	defer body.Close()
	x, w := f.x, f.w
	x.Resp.Header.Del("Server")
	f.decorate()
	if r := f.headerFilter(); r != nil {
		return r
	}
	filtered := f.filtersBody()
	if x.Req.Method == "HEAD" || x.Resp.Status == 204 || x.Resp.Status == 304 {
		w.Head()
		return nil
	}
	if all, ok := body.Whole(); ok {
		return f.relayWhole(all, filtered)
	}
	if filtered {
		x.Resp.Length = -1
	}
	w.Head()
	if !filtered {
		if f.splice(body) {
			return nil
		}
	}
	if x.Resp.Length != 0 && !body.Buffered() { // the head must not wait for the body
		_ = w.Flush()
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for {
		n, err := body.Read(*buf)
		last := err == io.EOF
		chunk := (*buf)[:n]
		if filtered && (n > 0 || last) {
			if r := f.guarded(func() *gateway.Reply { chunk = f.bodyFilter(chunk, last); return nil }); r != nil {
				w.Abort()
				return nil
			}
		}
		if len(chunk) > 0 {
			if _, werr := w.Write(chunk); werr != nil {
				f.failed = "client gone"
				w.Abort()
				return nil
			}
		}
		if last {
			return nil
		}
		if err != nil {
			f.failed = "upstream broke off: " + err.Error()
			f.p.cfg.Log.Warn("upstream broke off its answer", "route_id", f.routeID(), "node", x.Node.Addr, "err", err)
			w.AbortFor(err)
			return nil
		}
		if !filtered {
			if f.splice(body) {
				return nil
			}
		}
		if !body.Buffered() {
			if err := w.Flush(); err != nil {
				f.failed = "client gone"
				w.Abort()
				return nil
			}
		}
	}
}

// relayWhole sends an answer that has come in one piece.
func (f *flight) relayWhole(body []byte, filtered bool) *gateway.Reply {
	if filtered {
		if r := f.guarded(func() *gateway.Reply { body = f.bodyFilter(body, true); return nil }); r != nil {
			return r
		}
		f.x.Resp.Length = int64(len(body))
	}
	f.w.Head()
	f.write(body)
	return nil
}

// splice moves the rest of a long body without copying it. done: nothing is
// left to relay.
func (f *flight) splice(body engine.Answer) (done bool) {
	done, err := f.w.Splice(body)
	if err != nil {
		f.failed = "answer cut off: " + err.Error()
		f.w.Abort()
	}
	return done
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// tunnel joins the client's connection and the node's after 101, until either
// ends.
func (f *flight) tunnel(body engine.Answer) *gateway.Reply {
	x, w := f.x, f.w
	node := body.Tunnel()
	defer body.Close()
	defer node.Close()
	f.decorate()
	if r := f.headerFilter(); r != nil {
		return r
	}
	client, err := w.Upgrade(f.call.Upgrade)
	if err != nil {
		return &gateway.Reply{Status: 502, Err: err}
	}
	done := make(chan int64)
	go func() {
		n, _ := io.Copy(node, client)
		node.Close()
		done <- n
	}()
	n, _ := io.Copy(client, node)
	client.Close()
	x.BytesOut += n
	x.BytesIn += <-done
	return nil
}
