package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCommandLine runs commands that need no other process.
func TestCommandLine(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.yaml")
	if err := os.WriteFile(bad, []byte("gatway: {}\nlogin: {port: 99999}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	for _, c := range []struct {
		name, stdin    string
		args           []string
		code           int
		stdout, stderr string // contained
	}{
		{"help", "", []string{"gatehouse"}, 0, "gatehouse demo", ""},
		{"version", "", []string{"gatehouse", "version", "--json"}, 0, `"version"`, ""},
		{"hydra by name", "", []string{"hydra", "help", "serve"}, 0, "URLS_SELF_ISSUER", ""},
		{"unknown verb", "", []string{"gatehouse", "srve"}, 2, "", `did you mean `},
		{"unknown flag", "", []string{"gatehouse", "serve", "all", "--prot", "1"}, 2, "", "hint: see gatehouse serve all --help"},
		{"check says all", "", []string{"gatehouse", "check", bad}, 1, "", `bad.yaml:1: gatway: unknown key; did you mean "gateway"?`},
		{"check says all 2", "", []string{"gatehouse", "check", bad}, 1, "", `bad.yaml:2: login.port: must be at most 65535`},
		{"check of nothing", "", []string{"gatehouse", "check"}, 0, "ok", ""},
		{"no password", "", []string{"gatehouse", "--data", data, "users", "add", "a@example.com"}, 2, "", "--password-stdin"},
		{"short password", "short\n", []string{"gatehouse", "--data", data, "users", "add", "a@example.com", "--password-stdin"}, 1, "", "password"},
		{"add", "a long password\n", []string{"gatehouse", "--data", data, "users", "add", "A@Example.com", "--password-stdin"}, 0, "added a@example.com", ""},
		{"add twice", "a long password\n", []string{"gatehouse", "--data", data, "users", "add", "a@example.com", "--password-stdin"}, 1, "", "this email address already"},
		{"list", "", []string{"gatehouse", "--data", data, "users", "list", "--json"}, 0, `"email": "a@example.com"`, ""},
		{"disable nobody", "", []string{"gatehouse", "--data", data, "users", "disable", "b@example.com"}, 1, "", "no user has the email b@example.com"},
		{"migrate what", "", []string{"hydra", "migrate", "sql"}, 2, "", "no database given"},
		{"migrate unasked", "", []string{"hydra", "migrate", "sql", "postgres://x"}, 2, "", "--yes"},
		{"clients, nothing running", "", []string{"hydra", "--data", data, "clients", "create", "--id", "c", "--callbacks", "http://127.0.0.1/cb"}, 0, "OAuth 2.0 Client ID: c\nOAuth 2.0 Client Secret: ", ""},
		{"clients, 2.x spelling", "", []string{"hydra", "--data", data, "get", "client", "c", "--format", "json"}, 0, `"client_id":"c"`, ""},
		{"clients, unknown", "", []string{"hydra", "--data", data, "clients", "get", "nobody"}, 1, "", "404"},
		{"completion", "", []string{"gatehouse", "completion", "bash"}, 0, "gatehouse", ""},
	} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), c.args, func(string) (string, bool) { return "", false }, strings.NewReader(c.stdin), &stdout, &stderr)
		if code != c.code || !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) {
			t.Errorf("%s: exit %d, want %d\nstdout: %s\nstderr: %s", c.name, code, c.code, stdout.String(), stderr.String())
		}
	}
}
