package daemon

import (
	"fmt"
	"io"
	"strings"

	"gatehouse/lib/strict"
)

// WriteReference writes docs/configuration.md: every key of gatehouse.yaml.
func WriteReference(w io.Writer) error {
	c, err := LoadConfig("", func(string) (string, bool) { return "", false })
	if err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString(`# Configuration

Everything has a default that works; a file (` + "`-c gatehouse.yaml`" + `, YAML or JSON) names what differs. Below
` + "`gateway`" + ` the keys are those of APISIX's config.yaml, below ` + "`provider`" + ` those of Hydra. Unknown keys are
errors; ` + "`gatehouse check gatehouse.yaml`" + ` says everything wrong at once. An environment variable beats the file;
lists are separated by commas.

`)
	section := ""
	for _, l := range strict.Leaves(c) {
		first, _, nested := strings.Cut(l.Key, ".")
		if !nested {
			first = "general"
		}
		if first == "log" {
			first = "general"
		}
		if first != section {
			section = first
			fmt.Fprintf(&b, "\n## %s\n\n| key | default | | environment |\n|---|---|---|---|\n", section)
		}
		doc := l.Doc
		if doc == "" {
			doc = "see above"
		}
		if strings.HasSuffix(l.Key, ".port") && l.Doc == "" {
			doc = "port"
		}
		if l.Enum != "" {
			doc += " (" + strings.ReplaceAll(l.Enum, "|", ", ") + ")"
		}
		def := l.Default
		switch l.Key {
		case "provider.serve.public.port":
			def = "4444"
		case "provider.serve.admin.port":
			def = "4445"
		case "provider.serve.admin.host":
			def = "127.0.0.1"
		}
		if def != "" {
			def = "`" + def + "`"
		}
		names := EnvNames(l.Key)
		fmt.Fprintf(&b, "| `%s` | %s | %s | `%s` |\n", l.Key, def, strings.ReplaceAll(doc, "|", "\\|"), names[len(names)-1])
	}
	_, err = io.WriteString(w, b.String())
	return err
}
