package test

import (
	"bytes"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gatehouse/daemon"
)

var update = flag.Bool("update", false, "rewrite generated documents")

// TestConfigurationPage holds docs/configuration.md against the struct it is made from.
func TestConfigurationPage(t *testing.T) {
	const path = "../docs/configuration.md"
	var want bytes.Buffer
	if err := daemon.WriteReference(&want); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(path, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%s is out of date: go test ./test -run TestConfigurationPage -update", path)
	}
}

// TestLinks checks that every file the documents link to exists.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#]+)[^)]*\)`)
	docs, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	decisions, _ := filepath.Glob("../docs/decisions/*.md")
	pages, _ := filepath.Glob("../plugins/*/README.md")
	for _, doc := range append(append(append(docs, decisions...), pages...), "../README.md") {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Error(err)
			continue
		}
		dir := doc[:strings.LastIndex(doc, "/")+1]
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(dir + m[1]); err != nil {
				t.Errorf("%s links to %s: %v", doc, m[1], err)
			}
		}
	}
}

// TestNamesInDocuments: what the pages on how it is built name in code font,
// Type.method or a plain identifier with a capital inside, is there to be found.
func TestNamesInDocuments(t *testing.T) {
	var code strings.Builder
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			var b []byte
			b, err = os.ReadFile(path)
			code.Write(b)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, w := range regexp.MustCompile(`\w+`).FindAllString(code.String(), -1) {
		known[w] = true
	}
	name := regexp.MustCompile("`([A-Za-z0-9]+)\\.([A-Za-z0-9]+)`|`([a-z0-9]+[A-Z][A-Za-z0-9]+|[A-Z][a-z0-9]+[A-Z][A-Za-z0-9]*)`")
	for _, doc := range []string{"../docs/engine.md", "../docs/ARCHITECTURE.md"} {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range name.FindAllStringSubmatch(string(text), -1) {
			for _, w := range m[1:] {
				if w != "" && !known[w] && !slices.Contains([]string{"go", "md", "db", "key", "crt", "secret", "sock", "lock", "rmem", "wmem"}, w) && !strings.HasPrefix(w, "Test") {
					t.Errorf("%s names %s: there is no %s", doc, m[0], w)
				}
			}
		}
	}
}

// TestLimitsPage holds the keys and defaults of docs/limits.md against the
// configuration.
func TestLimitsPage(t *testing.T) {
	page, err := os.ReadFile("../docs/limits.md")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := daemon.WriteReference(&b); err != nil {
		t.Fatal(err)
	}
	reference := b.String()
	rows := regexp.MustCompile("(?m)^\\|[^|]*\\| `((?:nginx_config|apisix)\\.[a-z0-9_.]+)` \\| `([^`]*)`").FindAllStringSubmatch(string(page), -1)
	if len(rows) < 20 {
		t.Fatalf("%d rows with a key", len(rows))
	}
	for _, r := range rows {
		if !strings.Contains(reference, "| `gateway."+r[1]+"` | `"+r[2]+"` |") {
			t.Errorf("docs/limits.md says %s is %s, docs/configuration.md does not", r[1], r[2])
		}
	}
	for _, m := range regexp.MustCompile("`gateway\\.(nginx_config\\.http\\.[a-z0-9_.]+)`").FindAllStringSubmatch(reference, -1) {
		if !strings.Contains(m[1], "access_log") && !strings.Contains(string(page), "`"+m[1]+"`") {
			t.Errorf("docs/limits.md does not have %s", m[1])
		}
	}
}
