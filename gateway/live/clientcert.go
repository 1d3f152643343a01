package live

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"regexp"
	"strconv"

	"gatehouse/lib/fault"
	"gatehouse/resource"
)

// ClientCert is what a server name asks of its clients. Immutable.
type ClientCert struct {
	ca     string
	pool   *x509.CertPool
	roots  map[string]bool // DER
	depth  int             // certificates above the client's own
	exempt []*regexp.Regexp
}

func newClientCert(r *resource.SSLClient) (*ClientCert, error) {
	c := &ClientCert{ca: r.CA, pool: x509.NewCertPool(), roots: map[string]bool{}, depth: 1}
	if r.Depth != nil {
		c.depth = *r.Depth
	}
	for block, rest := pem.Decode([]byte(r.CA)); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, "client.ca holds a certificate that cannot be read", err)
		}
		c.pool.AddCert(cert)
		c.roots[string(cert.Raw)] = true
	}
	if len(c.roots) == 0 {
		return nil, invalid("client.ca holds no certificate")
	}
	for _, p := range r.SkipMTLSURIRegex {
		re, err := regexp.Compile(p)
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, "client.skip_mtls_uri_regex: "+err.Error(), err)
		}
		c.exempt = append(c.exempt, re)
	}
	return c, nil
}

// apply makes connections ask for the certificate. It returns the demand in a
// word: sessions of another one must not stand in for it.
func (c *ClientCert) apply(t *tls.Config) (demand string) {
	t.ClientCAs = c.pool
	t.ClientAuth = tls.RequireAndVerifyClientCert
	if len(c.exempt) > 0 { // each request is asked, see Allows
		t.ClientAuth = tls.VerifyClientCertIfGiven
	}
	t.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 && len(c.exempt) > 0 || c.shown(&cs) {
			return nil
		}
		return errors.New("the client's certificate chain is too long")
	}
	sum := sha256.Sum256([]byte(c.ca))
	return hex.EncodeToString(sum[:]) + " " + strconv.Itoa(c.depth)
}

// shown says whether a connection's client has shown a certificate that this
// demand accepts, which may be younger than the connection.
func (c *ClientCert) shown(cs *tls.ConnectionState) bool {
	for _, chain := range cs.VerifiedChains {
		if n := len(chain); n > 0 && n <= c.depth+1 && c.roots[string(chain[n-1].Raw)] { // the leaf, intermediates, the authority
			return true
		}
	}
	return false
}

// Allows says whether a request may come over a connection.
func (c *ClientCert) Allows(cs *tls.ConnectionState, path string) bool {
	if c.shown(cs) {
		return true
	}
	for _, re := range c.exempt {
		if re.MatchString(path) {
			return true
		}
	}
	return false
}
