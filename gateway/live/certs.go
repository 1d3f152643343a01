package live

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"

	"gatehouse/lib/fault"
	"gatehouse/resource"
)

// certs finds the TLS configuration of a server name. Immutable.
type certs struct {
	exact    map[string]*tls.Config
	wild     map[string]*tls.Config // "*.a.example" under ".a.example"
	any      *tls.Config
	fallback string
	compiled map[*stored]compiledSSL
}

type compiledSSL struct {
	config *tls.Config
	err    error
}

var errNoCert = errors.New("no certificate for the server name")

// config chooses: the exact name, a wildcard for the first label, "*", the
// fallback name. No certificate is an error, which ends the handshake.
func (c *certs) config(name string) (*tls.Config, error) {
	if t := c.find(name); t != nil {
		return t, nil
	}
	if c.fallback != "" {
		if t := c.find(c.fallback); t != nil {
			return t, nil
		}
	}
	return nil, errNoCert
}

func (c *certs) find(name string) *tls.Config {
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

func (c *certs) demands(host string) bool {
	t := c.find(host)
	return t != nil && t.ClientAuth == tls.RequireAndVerifyClientCert
}

// certificates compiles the ssl resources; the older one keeps a name that two
// have.
func (b *builder) certificates() *certs {
	l := b.live
	c := &certs{exact: map[string]*tls.Config{}, wild: map[string]*tls.Config{}, fallback: l.fallback, compiled: map[*stored]compiledSSL{}}
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

// ssl compiles an object once: the last snapshot may have it.
func (b *builder) ssl(o *stored, r *resource.SSL) (*tls.Config, error) {
	if cur := b.live.Current(); cur != nil {
		if done, ok := cur.certs.compiled[o]; ok {
			return done.config, done.err
		}
	}
	t, err := compileSSL(r)
	if err != nil {
		b.live.log.Error("stored certificate cannot be used and is left out", "ssl_id", o.ID, "err", err)
	}
	return t, err
}

// compileSSL makes the TLS configuration of an ssl resource; errors are
// fault.Invalid.
func compileSSL(r *resource.SSL) (*tls.Config, error) {
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
	t := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	for i, cert := range append([]string{r.Cert}, r.Certs...) {
		key := r.Key
		if i > 0 {
			key = r.Keys[i-1]
		}
		pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, "invalid configuration: cert and key do not make a pair: "+strings.TrimPrefix(err.Error(), "tls: "), err)
		}
		t.Certificates = append(t.Certificates, pair)
	}
	if err := protocols(t, r.SSLProtocols); err != nil {
		return nil, err
	}
	if c := r.Client; c != nil {
		if len(c.SkipMTLSURIRegex) > 0 {
			return nil, invalid("client.skip_mtls_uri_regex is not supported")
		}
		depth := 1
		if c.Depth != nil {
			depth = *c.Depth
		}
		t.ClientCAs = x509.NewCertPool()
		if !t.ClientCAs.AppendCertsFromPEM([]byte(c.CA)) {
			return nil, invalid("client.ca holds no certificate")
		}
		t.ClientAuth = tls.RequireAndVerifyClientCert
		t.SessionTicketsDisabled = true // a session of another name must not stand in for a certificate
		t.VerifyConnection = func(cs tls.ConnectionState) error {
			for _, chain := range cs.VerifiedChains {
				if len(chain) <= depth+1 { // the leaf, intermediates, the authority
					return nil
				}
			}
			return errors.New("the client's certificate chain is too long")
		}
	}
	return t, nil
}

// protocols reads ssl_protocols; the versions must not have a gap.
func protocols(t *tls.Config, names []string) error {
	if len(names) == 0 {
		return nil
	}
	t.MinVersion, t.MaxVersion = 0xffff, 0
	have := map[uint16]bool{}
	for _, n := range names {
		v, ok := map[string]uint16{"TLSv1.1": tls.VersionTLS11, "TLSv1.2": tls.VersionTLS12, "TLSv1.3": tls.VersionTLS13}[n]
		if !ok {
			return invalid("ssl_protocols are TLSv1.1, TLSv1.2, TLSv1.3")
		}
		have[v] = true
		t.MinVersion, t.MaxVersion = min(t.MinVersion, v), max(t.MaxVersion, v)
	}
	if len(have) != int(t.MaxVersion-t.MinVersion)+1 {
		return invalid("ssl_protocols must not leave out a version between two")
	}
	return nil
}
