package plugins

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"gatehouse/gateway"
	"gatehouse/lib/schema"
)

var update = flag.Bool("update", false, "write the attribute tables of the README files again")

// ownTables are plugins with too many attributes for one table: they group
// them, and must name every one that has an effect.
var ownTables = map[string]bool{"openid-connect": true}

type keeper map[string]any

func (k keeper) Keep(key string, make func() any) any {
	if _, ok := k[key]; !ok {
		k[key] = make()
	}
	return k[key]
}

func env() *gateway.Env {
	return &gateway.Env{Now: time.Now, Owner: "routes/1", Keep: keeper{}, Metrics: prometheus.NewRegistry(), SessionSecret: []byte(strings.Repeat("s", 32))}
}

func TestRunningOrder(t *testing.T) {
	all := All()
	if !slices.IsSortedFunc(all, func(a, b gateway.Plugin) int { return b.Priority - a.Priority }) {
		t.Error("the list is not in running order")
	}
	seen := map[string]bool{}
	for _, p := range all {
		if seen[p.Name] {
			t.Errorf("%s is there twice", p.Name)
		}
		seen[p.Name] = true
		if p.Auth != (p.ConsumerSchema != nil) || p.Auth != (p.ConsumerKey != nil) {
			t.Errorf("%s: Auth, ConsumerSchema and ConsumerKey belong together", p.Name)
		}
	}
}

func TestSchemasCompile(t *testing.T) {
	for _, p := range All() {
		for role, raw := range schemas(p) {
			if _, err := schema.Compile(raw); err != nil {
				t.Errorf("%s: schema for %s: %v", p.Name, role, err)
			}
		}
	}
}

// schemas returns the schemas of a plugin by what is configured with them.
func schemas(p gateway.Plugin) map[string]json.RawMessage {
	m := map[string]json.RawMessage{"route": p.Schema()}
	if p.ConsumerSchema != nil {
		m["consumer"] = p.ConsumerSchema()
	}
	if p.MetadataSchema != nil {
		m["metadata"] = p.MetadataSchema()
	}
	return m
}

func page(t *testing.T, p gateway.Plugin) (file, text string) {
	t.Helper()
	file = strings.ReplaceAll(p.Name, "-", "") + "/README.md"
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return file, string(raw)
}

func TestPages(t *testing.T) {
	for _, p := range All() {
		t.Run(p.Name, func(t *testing.T) {
			_, text := page(t, p)
			at := 0
			for _, h := range []string{"# " + p.Name, "## Name", "## Description", "## Attributes", "## Examples", "## Differences from APISIX"} {
				i := strings.Index(text[at:], h+"\n")
				if i < 0 {
					t.Fatalf("no heading %q where it belongs", h)
				}
				at += i
			}
		})
	}
}

func TestAttributeTables(t *testing.T) {
	for _, p := range All() {
		t.Run(p.Name, func(t *testing.T) {
			file, text := page(t, p)
			if ownTables[p.Name] {
				var s struct {
					Properties map[string]struct{ Description string }
				}
				if err := json.Unmarshal(p.Schema(), &s); err != nil {
					t.Fatal(err)
				}
				for name, of := range s.Properties {
					idle := strings.HasPrefix(of.Description, "No effect") || strings.HasPrefix(of.Description, "Not supported")
					if !idle && !strings.HasPrefix(name, "_") && !strings.Contains(text, "`"+name) {
						t.Errorf("attribute %s is not named", name)
					}
				}
				return
			}
			for role, raw := range schemas(p) {
				table, err := schema.Attributes(raw)
				if err != nil {
					t.Fatal(err)
				}
				begin, end := fmt.Sprintf("<!-- attributes: %s -->\n", role), "<!-- end -->\n"
				before, rest, ok := strings.Cut(text, begin)
				got, after, ok2 := strings.Cut(rest, end)
				if !ok || !ok2 {
					t.Fatalf("no table between %q and %q", begin, end)
				}
				if got == table {
					continue
				}
				if !*update {
					t.Errorf("the table for %s is not that of the schema; run go test ./plugins -update", role)
				}
				text = before + begin + table + end + after
			}
			if *update {
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// example is a block of JSON; the word after "json" says what it is for.
var example = regexp.MustCompile("(?ms)^```json ?(\\w*)\n(.*?)^```$")

func TestExamplesRun(t *testing.T) {
	for _, p := range All() {
		t.Run(p.Name, func(t *testing.T) {
			_, text := page(t, p)
			_, text, _ = strings.Cut(text, "## Examples\n")
			text, _, _ = strings.Cut(text, "\n## ")
			found := example.FindAllStringSubmatch(text, -1)
			if len(found) == 0 {
				t.Fatal("no examples")
			}
			for _, m := range found {
				role, doc := m[1], json.RawMessage(m[2])
				if role == "" {
					role = "route"
				}
				s, err := schema.Compile(schemas(p)[role])
				if err != nil {
					t.Fatal(err)
				}
				if err := s.ValidateJSON(doc); err != nil {
					t.Errorf("%s: %v\n%s", role, err, doc)
					continue
				}
				switch role {
				case "route":
					if p.Check != nil {
						if err := p.Check(doc); err != nil {
							t.Errorf("%v\n%s", err, doc)
						}
					}
					inst, err := p.New(doc, env())
					if err != nil {
						t.Errorf("%v\n%s", err, doc)
						continue
					}
					if !new(gateway.Chain).Add(inst) {
						t.Error("the instance has no phase")
					}
				case "consumer":
					if _, err := p.ConsumerKey(doc); err != nil {
						t.Errorf("%v\n%s", err, doc)
					}
				}
			}
		})
	}
}
