package proxy

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"gatehouse/gateway"
	"gatehouse/gateway/engine"
	"gatehouse/lib/fault"
)

// tries is what became of the attempts at an upstream.
type tries struct {
	nodes    []*gateway.Node
	statuses string // "502, 200": of each attempt
}

func (t *tries) note(status int) {
	if t.statuses != "" {
		t.statuses += ", "
	}
	t.statuses += strconv.Itoa(status)
}

// forward sends the request to a node, to another when that is safe, and the
// answer to the client. A Reply is what the gateway answers instead.
func (f *flight) forward(w *engine.Writer) *gateway.Reply {
	x := f.x
	up := x.Route.Upstream
	start := f.p.cfg.Now()
	var header gateway.Header
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
		f.outgoing(&header)
		call := f.call(w, up, node, &header)
		call.Fresh = fresh
		sent := f.p.cfg.Now()
		body, err := f.p.cfg.Transport.Send(x.Ctx, call, &x.Resp)
		up.Picker.Done(node, f.p.cfg.Now().Sub(sent), err)
		if err == nil {
			x.FromUpstream = true
			f.tries.note(x.Resp.Status)
			if body.Upgraded {
				r := f.tunnel(w, body)
				x.UpstreamTime = f.p.cfg.Now().Sub(start)
				return r
			}
			r := f.relay(w, body)
			x.UpstreamTime = f.p.cfg.Now().Sub(start)
			return r
		}
		x.UpstreamTime = f.p.cfg.Now().Sub(start)
		reply, again, sameNode := f.failure(err, call, up)
		if x.Ctx.Err() != nil || reply.Status == 400 || w.Sent() {
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

func (f *flight) call(w *engine.Writer, up *gateway.Upstream, node *gateway.Node, header *gateway.Header) *engine.Call {
	x := f.x
	c := &engine.Call{
		Scheme: up.Scheme, Addr: node.Addr, TLS: up.TLS, Keep: up.KeepAlive, Timeout: x.Route.Timeout,
		Method: x.Req.Method, Target: x.Req.Target, Host: x.Req.Authority, Header: header,
		Body: x.Req.Body, Length: x.Req.Length, StopBody: w.StopBody,
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
	if c.Scheme == "https" {
		c.SNI = serverName(c.Host)
	}
	if x.Req.Upgrade == "websocket" && x.Route.WebSocket && c.Method == http.MethodGet {
		c.Upgrade = x.Req.Upgrade
	}
	c.Info = func(status int, h *gateway.Header) {
		for _, n := range hop {
			h.Del(n)
		}
		w.Info(status, h)
	}
	return c
}

func nodeHost(scheme string, n *gateway.Node) string {
	host := n.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if scheme == "https" && n.Port == 443 || scheme != "https" && n.Port == 80 {
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
		return r, false, false
	}
	if f.x.Ctx.Err() != nil {
		r.Status, r.Err = 499, nil
		return r, false, false
	}
	if e.Timeout {
		r.Status = 504
	}
	var dns *net.DNSError
	if errors.As(err, &dns) {
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
func (f *flight) relay(w *engine.Writer, body *engine.Body) *gateway.Reply {
	defer body.Close()
	x := f.x
	dropNominated(&x.Resp.Header)
	x.Resp.Header.DelFunc(func(h gateway.Field) bool { return isHop(h.Name) && !strings.EqualFold(h.Name, "Proxy-Authenticate") })
	if s := x.Resp.Header.Get("Server"); s != "" {
		x.Resp.Header.Del("Server")
	}
	f.decorate()
	if r := f.headerFilter(); r != nil {
		return r
	}
	filtered := f.filtersBody()
	none := x.Req.Method == "HEAD" || x.Resp.Status == 204 || x.Resp.Status == 304
	if filtered && !none {
		x.Resp.Length = -1
	}
	w.Head()
	if none {
		return nil
	}
	if !body.Buffered() { // the head must not wait for the body
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
			w.Abort()
			return nil
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

var buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// tunnel joins the client's connection and the node's after 101, until either
// ends.
func (f *flight) tunnel(w *engine.Writer, body *engine.Body) *gateway.Reply {
	x := f.x
	proto := x.Resp.Header.Get("Upgrade")
	node := body.Tunnel()
	defer body.Close()
	defer node.Close()
	if !strings.EqualFold(proto, x.Req.Upgrade) {
		return &gateway.Reply{Status: 502, Err: errors.New("the upstream switched to another protocol than was asked for")}
	}
	dropNominated(&x.Resp.Header)
	x.Resp.Header.DelFunc(func(h gateway.Field) bool { return isHop(h.Name) })
	f.decorate()
	if r := f.headerFilter(); r != nil {
		return r
	}
	client, err := w.Upgrade(proto)
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
