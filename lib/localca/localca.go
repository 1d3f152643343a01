// Package localca keeps a certificate authority of its own in a directory and
// issues the server certificates that a fresh installation needs before
// someone configures real ones.
//
// It is for the services of one data directory to trust each other. It is no
// public authority, has no revocation, and its key never leaves the directory.
package localca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// File names inside the directory.
const (
	CertFile = "ca.crt"
	KeyFile  = "ca.key"
)

const (
	caLife   = 10 * 365 * 24 * time.Hour
	leafLife = 90 * 24 * time.Hour
)

// CA is an authority that can issue.
type CA struct {
	cert *x509.Certificate
	key  crypto.Signer
	PEM  []byte // the certificate
}

// Open reads the authority kept in dir, or makes one. Two processes that open
// a fresh directory at once end up with the same authority.
func Open(dir string, now time.Time) (*CA, error) {
	keyPath := filepath.Join(dir, KeyFile)
	pemKey, err := os.ReadFile(keyPath)
	if errors.Is(err, fs.ErrNotExist) {
		if err = create(dir, now); err != nil {
			return nil, fmt.Errorf("making the certificate authority in %s: %w", dir, err)
		}
		pemKey, err = os.ReadFile(keyPath)
	}
	if err != nil {
		return nil, err
	}
	// One file holds key and certificate, so that they cannot be of two minds.
	pair, err := tls.X509KeyPair(pemKey, pemKey)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", keyPath, err)
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("reading %s: the key cannot sign", keyPath)
	}
	out := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})
	if have, _ := os.ReadFile(filepath.Join(dir, CertFile)); !bytes.Equal(have, out) {
		if err := replace(filepath.Join(dir, CertFile), out, 0o644); err != nil {
			return nil, err
		}
	}
	return &CA{cert: pair.Leaf, key: key, PEM: out}, nil
}

// Roots returns the certificate of the authority in dir, or nil when there is none.
func Roots(dir string) []byte {
	b, err := os.ReadFile(filepath.Join(dir, CertFile))
	if err != nil {
		return nil
	}
	return b
}

func create(dir string, now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	t := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: "Gatehouse local authority", Organization: []string{"Gatehouse"}},
		NotBefore:    now.Add(-time.Hour), NotAfter: now.Add(caLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	both := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	tmp, err := write(dir, both, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	// A link fails when the name is taken: the first process wins.
	if err := os.Link(tmp, filepath.Join(dir, KeyFile)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// Issue makes a server certificate for the hosts (names or addresses), good
// for 90 days. It is kept in memory only.
func (ca *CA) Issue(hosts []string, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: hosts[0], Organization: []string{"Gatehouse"}},
		NotBefore:    now.Add(-time.Hour), NotAfter: now.Add(leafLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, ca.cert, key.Public(), ca.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der, ca.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

func serial() *big.Int {
	b := make([]byte, 16)
	rand.Read(b)
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b)
}

func replace(path string, data []byte, mode fs.FileMode) error {
	tmp, err := write(filepath.Dir(path), data, mode)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	return os.Rename(tmp, path)
}

func write(dir string, data []byte, mode fs.FileMode) (name string, err error) {
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		os.Remove(f.Name())
	}
	return f.Name(), err
}
