package pages

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"sort"
	"strconv"
	"strings"
)

// language is the words of the pages in one language.
type language struct {
	Tag   string // BCP 47
	words map[string]string
}

// T returns a text with {0}, {1} … replaced. It is plain text: the templates
// escape it.
func (l *language) T(key string, args ...string) string {
	s := l.words[key]
	if len(args) == 0 {
		return s
	}
	pairs := make([]string, 0, 2*len(args))
	for i, a := range args {
		pairs = append(pairs, "{"+strconv.Itoa(i)+"}", a)
	}
	return strings.NewReplacer(pairs...).Replace(s)
}

// languages by primary subtag; "en" is always there.
type languages map[string]*language

// readLanguages reads messages/<tag>.json. Each has the keys of English.
func readLanguages(files fs.FS) (languages, error) {
	names, err := fs.Glob(files, "messages/*.json")
	if err != nil {
		return nil, err
	}
	ls := languages{}
	for _, name := range names {
		b, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		l := &language{Tag: strings.TrimSuffix(path.Base(name), ".json")}
		if err := json.Unmarshal(b, &l.words); err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		ls[l.Tag] = l
	}
	if ls["en"] == nil {
		return nil, fmt.Errorf("messages/en.json is missing")
	}
	for tag, l := range ls {
		for key := range ls["en"].words {
			if l.words[key] == "" {
				return nil, fmt.Errorf("messages/%s.json lacks %q", tag, key)
			}
		}
	}
	return ls, nil
}

// pick chooses by what the application asked for (ui_locales), then by what
// the browser accepts (RFC 9110, section 12.5.4), then English.
func (ls languages) pick(asked []string, accept string) *language {
	for _, tag := range asked {
		if l := ls.byTag(tag); l != nil {
			return l
		}
	}
	for _, tag := range acceptable(accept) {
		if tag == "*" {
			break
		}
		if l := ls.byTag(tag); l != nil {
			return l
		}
	}
	return ls["en"]
}

func (ls languages) byTag(tag string) *language {
	primary, _, _ := strings.Cut(tag, "-")
	return ls[strings.ToLower(strings.TrimSpace(primary))]
}

// acceptable lists the tags of an Accept-Language header, best first, without
// those refused by q=0. Only the first twenty count.
func acceptable(header string) []string {
	type choice struct {
		tag string
		q   float64
	}
	var cs []choice
	for i, part := range strings.SplitN(header, ",", 21) {
		if i == 20 {
			break
		}
		tag, params, _ := strings.Cut(part, ";")
		c := choice{strings.TrimSpace(tag), 1}
		if q, ok := strings.CutPrefix(strings.TrimSpace(params), "q="); ok {
			f, err := strconv.ParseFloat(q, 64)
			if err != nil || !(f >= 0 && f <= 1) {
				f = 0
			}
			c.q = f
		}
		if c.tag != "" && c.q > 0 {
			cs = append(cs, c)
		}
	}
	sort.SliceStable(cs, func(i, j int) bool { return cs[i].q > cs[j].q })
	tags := make([]string, len(cs))
	for i, c := range cs {
		tags[i] = c.tag
	}
	return tags
}
