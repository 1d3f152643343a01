package test

import (
	"bytes"
	"flag"
	"os"
	"regexp"
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
	for _, doc := range []string{"../README.md", "../docs/tutorial.md", "../docs/ARCHITECTURE.md", "../docs/differences.md", "../docs/GLOSSARY.md", "../docs/logs.md", "../docs/metrics.md"} {
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
