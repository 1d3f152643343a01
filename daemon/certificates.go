package daemon

import (
	"crypto/tls"
	"net/url"
	"sync"
	"time"
)

// issuerHost is the host name of the provider's public URL.
func (c *Config) issuerHost() string {
	u, err := url.Parse(c.PublicURL())
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// localCertificates issues a certificate of the data directory's authority
// and renews it when a third of its life is left.
func (d *Daemon) localCertificates(hosts []string) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	var mu sync.Mutex // guards cert
	var cert *tls.Certificate
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		now := time.Now()
		if cert != nil {
			life := cert.Leaf.NotAfter.Sub(cert.Leaf.NotBefore)
			if now.Before(cert.Leaf.NotAfter.Add(-life / 3)) {
				return cert, nil
			}
		}
		fresh, err := d.ca.Issue(hosts, now)
		if err != nil {
			return nil, err
		}
		cert = fresh
		return cert, nil
	}
}
