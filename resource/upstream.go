package resource

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"sort"
	"strconv"
	"strings"
)

// Upstream is a set of nodes and how to talk to them.
type Upstream struct {
	Meta
	Type          string          `json:"type,omitempty"` // of load balancing; "" is roundrobin
	Nodes         Nodes           `json:"nodes,omitempty"`
	ServiceName   string          `json:"service_name,omitempty"`
	DiscoveryType string          `json:"discovery_type,omitempty"`
	DiscoveryArgs json.RawMessage `json:"discovery_args,omitempty"`
	HashOn        string          `json:"hash_on,omitempty"`
	Key           string          `json:"key,omitempty"`
	Checks        json.RawMessage `json:"checks,omitempty"`
	Retries       *int            `json:"retries,omitempty"`
	RetryTimeout  float64         `json:"retry_timeout,omitempty"` // seconds; 0: none
	Timeout       *Timeout        `json:"timeout,omitempty"`
	Scheme        string          `json:"scheme,omitempty"`    // "" is http
	PassHost      string          `json:"pass_host,omitempty"` // "" is pass
	UpstreamHost  string          `json:"upstream_host,omitempty"`
	KeepalivePool *KeepalivePool  `json:"keepalive_pool,omitempty"`
	TLS           *UpstreamTLS    `json:"tls,omitempty"`
	ProxyProtocol string          `json:"proxy_protocol,omitempty"` // "v1", "v2": tell the nodes the client's address; "": do not
}

// KeepalivePool bounds the idle connections to a node.
type KeepalivePool struct {
	Size        int     `json:"size,omitempty"`
	IdleTimeout float64 `json:"idle_timeout,omitempty"` // seconds
	Requests    int     `json:"requests,omitempty"`
}

// UpstreamTLS is how a node proves itself to us and we to it. Verify is true
// unless written.
type UpstreamTLS struct {
	ClientCert   string `json:"client_cert,omitempty"`
	ClientKey    string `json:"client_key,omitempty"`
	ClientCertID ID     `json:"client_cert_id,omitempty"`
	Verify       *bool  `json:"verify,omitempty"`
}

// Node is one address of an upstream. Port 0 is the default of the scheme.
type Node struct {
	Host     string          `json:"host"`
	Port     int             `json:"port,omitempty"`
	Weight   int             `json:"weight"`
	Priority int             `json:"priority,omitempty"`
	Metadata json.RawMessage `json:"metadata,omitempty"`
}

// Nodes is a list of nodes. It is written as a list, or as an object from
// "host:port" to weight; the order of the latter is that of the names.
type Nodes []Node

// UnmarshalJSON accepts both forms. IPv6 addresses in the object form stand in
// brackets.
func (n *Nodes) UnmarshalJSON(b []byte) error {
	*n = nil
	if isNull(b) {
		return nil
	}
	if len(b) > 0 && b[0] == '{' {
		var m map[string]int
		if err := json.Unmarshal(b, &m); err != nil {
			return err
		}
		out := make(Nodes, 0, len(m))
		for addr, w := range m {
			host, port, err := SplitAddr(addr)
			if err != nil {
				return err
			}
			out = append(out, Node{Host: host, Port: port, Weight: w})
		}
		sort.Slice(out, func(i, j int) bool {
			a, b := out[i], out[j]
			return a.Host < b.Host || a.Host == b.Host && a.Port < b.Port
		})
		*n = out
		return nil
	}
	var list []Node
	if err := json.Unmarshal(b, &list); err != nil {
		return err
	}
	for i := range list {
		host, err := bareHost(list[i].Host)
		if err != nil {
			return err
		}
		if list[i].Port < 0 || list[i].Port > 65535 {
			return fmt.Errorf("node %s: port out of range", host)
		}
		list[i].Host = host
	}
	*n = list
	return nil
}

// SplitAddr cuts "host", "host:port" or "[v6]:port". Port 0: none was written.
func SplitAddr(addr string) (host string, port int, err error) {
	if i := strings.LastIndexByte(addr, ':'); i < 0 || strings.HasSuffix(addr, "]") {
		host, err = bareHost(addr)
		return host, 0, err
	}
	h, p, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, fmt.Errorf("node %q: write host:port, an IPv6 address in brackets", addr)
	}
	port, err = strconv.Atoi(p)
	if err != nil || port < 1 || port > 65535 {
		return "", 0, fmt.Errorf("node %q: port out of range", addr)
	}
	host, err = bareHost(h)
	return host, port, err
}

// bareHost takes the brackets off an IPv6 address and refuses what can be
// neither a name nor an address.
func bareHost(h string) (string, error) {
	if strings.HasPrefix(h, "[") && strings.HasSuffix(h, "]") {
		h = h[1 : len(h)-1]
		if a, err := netip.ParseAddr(h); err != nil || !a.Is6() {
			return "", fmt.Errorf("node %q: not an IPv6 address", h)
		}
		return h, nil
	}
	if h == "" || strings.ContainsAny(h, " \t\r\n/@?#[]\x00\\") {
		return "", fmt.Errorf("node %q: not a host", h)
	}
	if strings.Contains(h, ":") {
		if a, err := netip.ParseAddr(h); err != nil || !a.Is6() {
			return "", fmt.Errorf("node %q: not a host", h)
		}
	}
	return h, nil
}
