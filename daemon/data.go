package daemon

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Files of the data directory, besides the databases and their locks.
const (
	adminKeyFile      = "admin.key"       // Admin API key of the gateway
	sessionSecretFile = "session.secret"  // seals the gateway's session cookies
	systemSecretFile  = "provider.secret" // secrets.system of an embedded provider
	loginSecretFile   = "login.secret"    // CSRF tokens of the login app
	providerSocket    = "provider.sock"   // admin API of the running provider, for this user only
	loginSocket       = "login.sock"      // accounts of the running login app, for this user only
)

// ensureDir makes the data directory, readable by its owner only.
func ensureDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the data directory: %w", err)
	}
	return nil
}

// secretFile reads a secret kept in the data directory, or makes it: 0600,
// complete or not there, one for all processes that start at once.
func secretFile(dir, name string, make func() string) (secret string, fresh bool, err error) {
	path := filepath.Join(dir, name)
	read := func() (string, error) {
		b, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		if s := strings.TrimSpace(string(b)); len(s) >= 16 {
			return s, nil
		}
		return "", fmt.Errorf("%s is too short to be a secret; remove it to have a new one made", path)
	}
	if secret, err = read(); !errors.Is(err, fs.ErrNotExist) {
		return secret, false, err
	}
	f, err := os.CreateTemp(dir, ".new-*") // CreateTemp makes it 0600
	if err != nil {
		return "", false, err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(make() + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", false, err
	}
	// A link fails when the name is taken: the first process wins.
	err = os.Link(f.Name(), path)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return "", false, err
	}
	if fresh = err == nil; fresh {
		if err := syncDir(dir); err != nil { // the name must outlive a crash too
			return "", false, err
		}
	}
	secret, err = read()
	return secret, fresh, err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// hexSecret is 32 hexadecimal characters, the form APISIX users know.
func hexSecret() string {
	b := make([]byte, 16)
	rand.Read(b)
	return hex.EncodeToString(b)
}

func longSecret() string { return rand.Text() + rand.Text() }
