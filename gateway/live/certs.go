package live

import (
	"crypto/tls"
	"crypto/x509"
	"strings"
	"time"

	"gatehouse/gateway/staple"
	"gatehouse/lib/fault"
	"gatehouse/resource"
)

// TLS is what the ssl resources have in common.
type TLS struct {
	Protocols []string // of resources that name none: "TLSv1.2", ...; none: 1.2 and 1.3
	Ciphers   []uint16 // of TLS 1.2; none: those of CipherSuites
	// Sessions lets configurations issue and accept session tickets, which must
	// not stand in for another demand; nil: within one configuration only, and
	// not where clients show certificates.
	Sessions interface {
		Bind(cfg *tls.Config, demand string)
	}
	NoTickets bool            // sessions are not resumed
	Stapler   *staple.Stapler // nil: no OCSP answers
}

// certs finds what is served under a server name. Immutable.
type certs struct {
	exact     map[string]*site
	wild      map[string]*site // "*.a.example" under ".a.example"
	any       *site
	fallback  string
	demanding bool // some site asks for client certificates
	compiled  map[*stored]compiledSSL
}

// site is an ssl resource as it runs. Immutable but for the OCSP answers.
type site struct {
	config  *tls.Config
	client  *ClientCert // nil: none is asked for
	pairs   []tls.Certificate
	staples []*staple.Entry // of pairs; nil: without an answer
}

type compiledSSL struct {
	site *site
	err  error
}

// serve chooses for a connection: the exact name, a wildcard for the first
// label, "*", the fallback name; nil: none.
func (c *certs) serve(name string) *site {
	if t := c.find(name); t != nil || c.fallback == "" {
		return t
	}
	return c.find(c.fallback)
}

func (c *certs) find(name string) *site {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if t := c.exact[name]; t != nil {
		return t
	}
	if i := strings.IndexByte(name, '.'); i > 0 {
		if t := c.wild[name[i:]]; t != nil {
			return t
		}
	}
	return c.any
}

// certificates compiles the ssl resources; the older one keeps a name that two
// have.
func (b *builder) certificates() *certs {
	l := b.live
	c := &certs{exact: map[string]*site{}, wild: map[string]*site{}, fallback: l.fallback, compiled: map[*stored]compiledSSL{}}
	for _, o := range inOrder(l.objects[resource.SSLs]) {
		if o.err != nil {
			continue
		}
		r := o.value.(*resource.SSL)
		if !resource.Enabled(r.Status) || r.Type == "client" {
			continue
		}
		t, err := b.ssl(o, r)
		c.compiled[o] = compiledSSL{t, err}
		if err != nil {
			continue
		}
		c.demanding = c.demanding || t.client != nil
		for _, name := range r.AllSNIs() {
			name = strings.ToLower(strings.TrimSuffix(name, "."))
			switch {
			case name == "*":
				if c.any == nil {
					c.any = t
				}
			case strings.HasPrefix(name, "*."):
				if c.wild[name[1:]] == nil {
					c.wild[name[1:]] = t
				}
			case c.exact[name] == nil:
				c.exact[name] = t
			}
		}
	}
	return c
}

// staples are the certificates to keep answers for.
func (c *certs) staples() (list []*staple.Entry) {
	for _, d := range c.compiled {
		if d.err != nil {
			continue
		}
		for _, e := range d.site.staples {
			if e != nil {
				list = append(list, e)
			}
		}
	}
	return list
}

// ssl compiles an object once: the last snapshot may have it.
func (b *builder) ssl(o *stored, r *resource.SSL) (*site, error) {
	if cur := b.live.Current(); cur != nil {
		if done, ok := cur.certs.compiled[o]; ok {
			return done.site, done.err
		}
	}
	t, err := b.live.tls.compile(r)
	if err != nil {
		b.live.log.Error("stored certificate cannot be used and is left out", "ssl_id", o.ID, "err", err)
		return nil, err
	}
	b.staple(t, o, r)
	return t, nil
}

// staple sees to answers for the certificates that want one.
func (b *builder) staple(t *site, o *stored, r *resource.SSL) {
	if b.live.tls.Stapler == nil {
		return
	}
	asked, every := r.OCSPStapling != nil && r.OCSPStapling.Enabled, time.Duration(0)
	if asked {
		every = time.Duration(r.OCSPStapling.TTL()) * time.Second
	}
	entries := make([]*staple.Entry, len(t.pairs))
	some := false
	for i := range t.pairs {
		cert := &t.pairs[i]
		if !asked && !staple.Wanted(cert.Leaf) {
			continue
		}
		e, err := b.live.tls.Stapler.Add(cert, every)
		if err != nil {
			b.live.log.Warn("a certificate goes without an OCSP answer", "ssl_id", o.ID, "err", err)
			continue
		}
		entries[i], some = e, true
	}
	if some {
		t.staples = entries
		t.config.Certificates, t.config.GetCertificate = nil, t.certificate
	}
}

// certificate picks as crypto/tls does, and takes the answer that is there.
func (t *site) certificate(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
	for i := range t.pairs {
		if len(t.pairs) == 1 || h.SupportsCertificate(&t.pairs[i]) == nil {
			return t.stapled(i), nil
		}
	}
	return t.stapled(0), nil
}

func (t *site) stapled(i int) *tls.Certificate {
	if e := t.staples[i]; e != nil {
		return e.Certificate()
	}
	return &t.pairs[i]
}

// compile makes what an ssl resource serves; errors are fault.Invalid. A
// resource of type client serves nothing.
func (d *TLS) compile(r *resource.SSL) (*site, error) {
	if r.Type == "client" {
		if _, err := tls.X509KeyPair([]byte(r.Cert), []byte(r.Key)); err != nil {
			return nil, fault.Wrap(fault.Invalid, "invalid configuration: cert and key do not make a pair", err)
		}
		return nil, nil
	}
	if len(r.AllSNIs()) == 0 {
		return nil, invalid("invalid configuration: sni or snis is needed")
	}
	if len(r.Certs) != len(r.Keys) {
		return nil, invalid("mismatched number of certs and keys")
	}
	t := &site{}
	for i, cert := range append([]string{r.Cert}, r.Certs...) {
		key := r.Key
		if i > 0 {
			key = r.Keys[i-1]
		}
		pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, "invalid configuration: cert and key do not make a pair: "+strings.TrimPrefix(err.Error(), "tls: "), err)
		}
		if pair.Leaf == nil {
			if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
				return nil, fault.Wrap(fault.Invalid, "invalid configuration: cert cannot be read", err)
			}
		}
		t.pairs = append(t.pairs, pair)
	}
	if o := r.OCSPStapling; o != nil && o.Enabled {
		if o.SkipVerify {
			return nil, invalid("ocsp_stapling.skip_verify is not supported, answers are always verified")
		}
		for i := range t.pairs {
			if err := staple.Able(&t.pairs[i]); err != nil {
				return nil, fault.Wrap(fault.Invalid, "ocsp_stapling: "+err.Error(), err)
			}
		}
	}
	t.config = &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, Certificates: t.pairs, SessionTicketsDisabled: d.NoTickets}
	names := r.SSLProtocols
	if len(names) == 0 {
		names = d.Protocols
	}
	if err := protocols(t.config, names); err != nil {
		return nil, err
	}
	t.config.CipherSuites = d.Ciphers
	if len(t.config.CipherSuites) == 0 {
		t.config.CipherSuites = CipherSuites(t.config.MinVersion < tls.VersionTLS12)
	}
	demand := ""
	if r.Client != nil {
		var err error
		if t.client, err = newClientCert(r.Client); err != nil {
			return nil, err
		}
		demand = t.client.apply(t.config)
		if d.Sessions == nil {
			t.config.SessionTicketsDisabled = true
		}
	}
	if d.Sessions != nil && !d.NoTickets {
		d.Sessions.Bind(t.config, demand)
	}
	return t, nil
}
