// Package gateway is the vocabulary of the data plane: the Exchange that
// travels through it, what a plugin is, and when a plugin is called.
//
// It moves no byte itself: the wire is gateway/engine, the life of a request
// is gateway/proxy, what runs is built by gateway/live.
package gateway

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/netip"
	"sync/atomic"
	"time"
)

// Exchange is one request and its answer on their way through the gateway. It
// is owned by one goroutine and reused: nothing may keep it, or a slice or
// Header of it, after Log.
type Exchange struct {
	Ctx  context.Context // ends when the client goes away
	Req  Request
	Out  Outbound // what plugins change of the request to the upstream
	Resp Response

	// Answer holds fields plugins add to the answer, whoever makes it: this
	// gateway or the upstream. Set-Cookie is added, all others replace.
	Answer Header

	Route      *Route // set by the router; nil when none matched
	MatchedURI string // the pattern of the route that matched: "/api/*"
	Params     map[string]string
	Consumer   *Consumer // set by an authentication plugin
	Node       *Node     // set by the balancer
	Consumers  ConsumerFinder

	// Reuse is the handler's: what it leaves here it finds again with a later
	// exchange that has the same memory, or nil.
	Reuse any

	Now          func() time.Time // nil: time.Now
	Start        time.Time        // first byte of the request
	End          time.Time        // the answer was made and sent; zero before the log phase
	UpstreamTime time.Duration    // from sending to the upstream's last byte; 0: not proxied
	FromUpstream bool             // the answer is the upstream's
	BytesIn      int64            // request line, header and body as received
	BytesOut     int64            // status line, header and body as sent
	HeadOut      int64            // of BytesOut: status line and header
	Failed       string           // why the answer is not what was asked for, for the log; "": it is
}

// Request is what the client asked.
type Request struct {
	Method    string
	Scheme    string         // "http" or "https", as received, never from a header
	Proto     string         // "HTTP/1.1", "HTTP/2.0", "HTTP/3.0"
	Authority string         // Host header or :authority as sent
	Host      string         // lower case, without port or trailing dot
	Target    string         // request target as sent, origin-form: "/a%20b?x=1"
	Path      string         // decoded, dot segments resolved, slashes merged: what router and plugins decide on
	Query     string         // raw, without "?"
	Header    Header         // without Host and the fields of one connection
	Body      io.Reader      // nil: none; see WholeBody
	Length    int64          // of the body; -1: unknown, chunked; 0: none
	Trailer   Header         // after the body, once it was read to its end
	Trailers  bool           // the client takes trailers: HTTP/2, HTTP/3, or "TE: trailers"
	Upgrade   string         // "websocket" when the client asks to switch protocols
	Peer      netip.AddrPort // of TCP, or of UDP for HTTP/3
	Local     netip.AddrPort
	Client    netip.Addr // the peer, or what a trusted proxy said (real_ip_from)
	ClientIP  string     // Client as text
	TLS       *tls.ConnectionState
}

// Outbound is what plugins change of the request to the upstream; zero fields
// go as the client sent them. Plugins change header fields in Req.Header.
type Outbound struct {
	Method string
	Target string // path and query, encoded
	Host   string // beats the upstream's pass_host
	Scheme string
}

// Response is the answer on its way to the client.
type Response struct {
	Status  int
	Header  Header
	Length  int64  // of the body; -1: unknown
	Trailer Header // sent after the body to a client that takes trailers
}

// Reply ends an Exchange early. A nil *Reply means: go on. A Reply without a
// body is answered with the gateway's page for its status.
type Reply struct {
	Status int
	Header []Field
	Body   []byte
	Err    error // logged, never sent
}

// JSONReply answers v as APISIX's plugins do: JSON, a line feed, text/plain.
func JSONReply(status int, v any) *Reply {
	b, err := json.Marshal(v)
	if err != nil {
		return &Reply{Status: 500, Err: err}
	}
	return &Reply{Status: status, Header: []Field{{Name: "Content-Type", Value: "text/plain; charset=utf-8"}}, Body: append(b, '\n')}
}

// The phases, in the order they run. A plugin instance implements those it
// needs, at least one. A Reply ends the request; HeaderFilter, BodyFilter and
// Logger still run.
type (
	Rewriter     interface{ Rewrite(*Exchange) *Reply }
	Guard        interface{ Access(*Exchange) *Reply }
	Preparer     interface{ BeforeProxy(*Exchange) *Reply }
	HeaderFilter interface{ FilterHeader(*Exchange) }
	BodyFilter   interface {
		FilterBody(x *Exchange, chunk []byte, last bool) []byte
	}
	Logger interface{ Log(*Exchange) }
)

// Chain holds plugin instances by phase, in running order. Immutable.
type Chain struct {
	Rewrite      []Rewriter
	Access       []Guard
	BeforeProxy  []Preparer
	HeaderFilter []HeaderFilter
	BodyFilter   []BodyFilter
	Log          []Logger
}

// Add puts an instance into every phase it implements and says whether there
// was one.
func (c *Chain) Add(p any) (any bool) {
	if v, ok := p.(Rewriter); ok {
		c.Rewrite, any = append(c.Rewrite, v), true
	}
	if v, ok := p.(Guard); ok {
		c.Access, any = append(c.Access, v), true
	}
	if v, ok := p.(Preparer); ok {
		c.BeforeProxy, any = append(c.BeforeProxy, v), true
	}
	if v, ok := p.(HeaderFilter); ok {
		c.HeaderFilter, any = append(c.HeaderFilter, v), true
	}
	if v, ok := p.(BodyFilter); ok {
		c.BodyFilter, any = append(c.BodyFilter, v), true
	}
	if v, ok := p.(Logger); ok {
		c.Log, any = append(c.Log, v), true
	}
	return any
}

// Route is a route at run time: what plugins may know of it. Immutable.
type Route struct {
	ID, Name               string
	ServiceID, ServiceName string
	Labels                 map[string]string
	WebSocket              bool      // enable_websocket
	Upstream               *Upstream // nil: the route has none
	Timeout                Timeout
}

// Timeout bounds the parts of a call to an upstream.
type Timeout struct{ Connect, Send, Read time.Duration }

// Upstream is an upstream at run time. Immutable but for what Picker counts.
type Upstream struct {
	ID, Name     string
	Scheme       string // "http", "https", "grpc" (HTTP/2) or "grpcs"
	PassHost     string // "pass", "node" or "rewrite"
	Host         string // upstream_host, for "rewrite"
	Retries      int
	RetryTimeout time.Duration // 0: none
	Nodes        []*Node
	Picker       Picker
	TLS          *tls.Config // for https; nil: verify against the system's roots
	KeepAlive    KeepAlive
	// ProxyProtocol is the version of the header that tells nodes whose
	// connection it is; 0: none.
	ProxyProtocol uint8
}

// KeepAlive bounds the pool of idle connections to a node.
type KeepAlive struct {
	Size     int           // idle connections kept
	Idle     time.Duration // an idle connection lives so long
	Requests int           // a connection serves so many requests
}

// Node is one address of an upstream.
type Node struct {
	Host     string // name or address, without brackets
	Port     int
	Addr     string // "host:port"
	Weight   int
	Priority int
	Pool     atomic.Value // the engine's: where it keeps connections to Addr
}

// Picker chooses a node and is told how it went.
type Picker interface {
	// Pick fails with fault.Unavailable when no node is left.
	Pick(x *Exchange, tried []*Node) (*Node, error)
	Done(n *Node, took time.Duration, err error)
}

// Consumer is a consumer at run time, as an authentication plugin found it.
type Consumer struct {
	Username     string
	GroupID      string
	CustomID     string // label custom_id
	CredentialID string
	Labels       map[string]string
	Config       json.RawMessage // of the plugin that was asked for
}

// ConsumerFinder finds a consumer by the credential of one plugin, in the
// snapshot the exchange began with.
type ConsumerFinder interface {
	FindConsumer(plugin, key string) (*Consumer, bool)
}
