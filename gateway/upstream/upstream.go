// Package upstream turns a stored upstream into the instance requests run on:
// nodes, balancer, TLS, limits. It opens no connection (gateway/engine does)
// and resolves no name.
package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"strconv"
	"time"

	"gatehouse/gateway"
	"gatehouse/gateway/balancer"
	"gatehouse/lib/fault"
	"gatehouse/resource"
)

// Defaults of a call to an upstream.
const (
	DefaultTimeout  = 60 * time.Second
	DefaultIdle     = 60 * time.Second
	DefaultPool     = 320
	DefaultRequests = 1000

	maxNodes = 10_000
)

// Maker makes instances. Roots verify https nodes; nil is the system's.
type Maker struct {
	Roots *x509.CertPool
	// ClientCert finds the certificate of an ssl resource of type client; nil
	// refuses upstreams that name one.
	ClientCert func(id string) (tls.Certificate, error)
}

// Decode reads a stored upstream.
func Decode(raw json.RawMessage) (*resource.Upstream, error) {
	var r resource.Upstream
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, fault.Wrap(fault.Invalid, "invalid upstream: "+err.Error(), err)
	}
	return &r, nil
}

// New makes the instance. What the gateway cannot run fails with
// fault.Invalid and a text that names it.
func (m *Maker) New(id string, r *resource.Upstream) (*gateway.Upstream, error) {
	u := &gateway.Upstream{
		ID: id, Name: r.Name, Scheme: r.Scheme, PassHost: r.PassHost, Host: r.UpstreamHost,
		RetryTimeout: resource.Seconds(r.RetryTimeout),
		KeepAlive:    gateway.KeepAlive{Size: DefaultPool, Idle: DefaultIdle, Requests: DefaultRequests},
	}
	switch u.Scheme {
	case "":
		u.Scheme = "http"
	case "http", "https", "grpc", "grpcs":
	default:
		return nil, invalid("upstream scheme " + u.Scheme + " is not supported, use http, https, grpc or grpcs")
	}
	switch u.PassHost {
	case "":
		u.PassHost = "pass"
	case "pass", "node":
	case "rewrite":
		if u.Host == "" {
			return nil, invalid("`upstream_host` can't be empty when `pass_host` is `rewrite`")
		}
	default:
		return nil, invalid("pass_host is one of pass, node, rewrite")
	}
	if r.ServiceName != "" || r.DiscoveryType != "" {
		return nil, invalid("upstream discovery is not supported, list nodes")
	}
	if len(r.Nodes) > maxNodes {
		return nil, invalid("an upstream has at most " + strconv.Itoa(maxNodes) + " nodes")
	}
	for _, n := range r.Nodes {
		if n.Weight < 0 {
			return nil, invalid("node " + n.Host + ": a weight is not negative")
		}
		u.Nodes = append(u.Nodes, makeNode(u.Scheme, n))
	}
	u.Retries = max(len(u.Nodes)-1, 0)
	if r.Retries != nil {
		if *r.Retries < 0 {
			return nil, invalid("retries is not negative")
		}
		u.Retries = *r.Retries
	}
	if k := r.KeepalivePool; k != nil {
		if k.Size > 0 {
			u.KeepAlive.Size = k.Size
		}
		if k.IdleTimeout > 0 {
			u.KeepAlive.Idle = resource.Seconds(k.IdleTimeout)
		}
		if k.Requests > 0 {
			u.KeepAlive.Requests = k.Requests
		}
	}
	switch r.ProxyProtocol {
	case "":
	case "v1":
		u.ProxyProtocol = 1
	case "v2":
		u.ProxyProtocol = 2
	default:
		return nil, invalid("proxy_protocol is one of v1, v2")
	}
	if u.ProxyProtocol != 0 && u.Scheme != "http" && u.Scheme != "https" {
		return nil, invalid("proxy_protocol is not supported with scheme " + u.Scheme + ": one connection carries the requests of many clients")
	}
	var err error
	if u.Picker, err = balancer.New(r.Type, u.Nodes); err != nil {
		return nil, err
	}
	if u.TLS, err = m.tls(u.Scheme, r.TLS); err != nil {
		return nil, err
	}
	return u, nil
}

func makeNode(scheme string, n resource.Node) *gateway.Node {
	port := n.Port
	if port == 0 {
		if port = 80; scheme == "https" || scheme == "grpcs" {
			port = 443
		}
	}
	return &gateway.Node{
		Host: n.Host, Port: port, Weight: n.Weight, Priority: n.Priority,
		Addr: net.JoinHostPort(n.Host, strconv.Itoa(port)),
	}
}

func (m *Maker) tls(scheme string, r *resource.UpstreamTLS) (*tls.Config, error) {
	if scheme != "https" && scheme != "grpcs" {
		return nil, nil
	}
	cfg := &tls.Config{RootCAs: m.Roots, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if r == nil {
		return cfg, nil
	}
	cfg.InsecureSkipVerify = r.Verify != nil && !*r.Verify
	switch {
	case r.ClientCert != "" || r.ClientKey != "":
		c, err := tls.X509KeyPair([]byte(r.ClientCert), []byte(r.ClientKey))
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, "tls.client_cert and tls.client_key do not make a pair", err)
		}
		cfg.Certificates = []tls.Certificate{c}
	case r.ClientCertID != "":
		if m.ClientCert == nil {
			return nil, invalid("tls.client_cert_id is not supported, use client_cert and client_key")
		}
		c, err := m.ClientCert(string(r.ClientCertID))
		if err != nil {
			return nil, err
		}
		cfg.Certificates = []tls.Certificate{c}
	}
	return cfg, nil
}

// Timeout merges: the route's beats the upstream's beats 60 s each.
func Timeout(route, up *resource.Timeout) gateway.Timeout {
	t := gateway.Timeout{Connect: DefaultTimeout, Send: DefaultTimeout, Read: DefaultTimeout}
	for _, from := range []*resource.Timeout{up, route} {
		if from == nil {
			continue
		}
		for _, f := range []struct {
			to *time.Duration
			s  float64
		}{{&t.Connect, from.Connect}, {&t.Send, from.Send}, {&t.Read, from.Read}} {
			if f.s > 0 {
				*f.to = min(resource.Seconds(f.s), 24*time.Hour)
			}
		}
	}
	return t
}

func invalid(msg string) error { return fault.New(fault.Invalid, msg) }
