package gateway

import (
	"iter"
	"strings"

	"gatehouse/lib/h1"
)

// OwnCookie begins the value of every cookie the gateway keeps for itself. The
// proxy lets none of them travel to an upstream, whichever route set it.
const OwnCookie = "gh1."

// DropOwnCookies removes the gateway's own cookies from the Cookie fields.
func (h *Header) DropOwnCookies() {
	if !h.hasOwnCookie() {
		return
	}
	var rest []string
	for line := range h.Values("Cookie") {
		for pair := range strings.SplitSeq(line, ";") {
			pair = strings.Trim(pair, " \t")
			if _, value, _ := strings.Cut(pair, "="); pair != "" && !strings.HasPrefix(strings.Trim(value, " \t\""), OwnCookie) {
				rest = append(rest, pair)
			}
		}
	}
	if len(rest) == 0 {
		h.Del("Cookie")
		return
	}
	h.Set("Cookie", strings.Join(rest, "; "))
}

func (h *Header) hasOwnCookie() bool {
	for line := range h.Values("Cookie") {
		if strings.Contains(line, OwnCookie) {
			return true
		}
	}
	return false
}

// Field is one header line.
type Field = h1.Field

// Header is a list of fields in the order of the wire. Names compare without
// regard to case and keep theirs. The zero value is empty and ready to use.
//
// Values never carry CR, LF or NUL: Set and Add replace these by a space, so
// that no plugin can split a message.
type Header struct{ fields []Field }

// Get returns the first value, or "".
func (h *Header) Get(name string) string {
	for i := range h.fields {
		if h1.EqualFold(h.fields[i].Name, name) {
			return h.fields[i].Value
		}
	}
	return ""
}

// Has says whether the field is present, if only with an empty value.
func (h *Header) Has(name string) bool {
	for i := range h.fields {
		if h1.EqualFold(h.fields[i].Name, name) {
			return true
		}
	}
	return false
}

// Values yields every value of a field.
func (h *Header) Values(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range h.fields {
			if h1.EqualFold(h.fields[i].Name, name) && !yield(h.fields[i].Value) {
				return
			}
		}
	}
}

// Set replaces every value of the field by one, in the place of the first.
func (h *Header) Set(name, value string) {
	for i := range h.fields {
		if h1.EqualFold(h.fields[i].Name, name) {
			h.fields[i] = Field{Name: name, Value: clean(value)}
			h.del(i+1, func(f Field) bool { return h1.EqualFold(f.Name, name) })
			return
		}
	}
	h.Add(name, value)
}

// Add appends a field.
func (h *Header) Add(name, value string) {
	h.fields = append(h.fields, Field{Name: name, Value: clean(value)})
}

// Append appends a field whose value is known to be clean: the engine has
// parsed it.
func (h *Header) Append(name, value string) {
	h.fields = append(h.fields, Field{Name: name, Value: value})
}

// Take exchanges the fields for those of a parsed message, which are clean. The
// message gets an empty list to fill.
func (h *Header) Take(parsed *[]Field) {
	h.Reset()
	h.fields, *parsed = *parsed, h.fields
}

// Del removes every value of the field.
func (h *Header) Del(name string) {
	h.del(0, func(f Field) bool { return h1.EqualFold(f.Name, name) })
}

// DelFunc removes the fields for which drop is true.
func (h *Header) DelFunc(drop func(Field) bool) { h.del(0, drop) }

// Fields returns the fields in order; the caller must not change them.
func (h *Header) Fields() []Field { return h.fields }

// Reset empties the header and keeps its memory.
func (h *Header) Reset() {
	clear(h.fields)
	h.fields = h.fields[:0]
}

func (h *Header) del(from int, drop func(Field) bool) {
	for from < len(h.fields) && !drop(h.fields[from]) {
		from++
	}
	if from == len(h.fields) {
		return
	}
	kept := h.fields[:from]
	for _, f := range h.fields[from+1:] {
		if !drop(f) {
			kept = append(kept, f)
		}
	}
	clear(h.fields[len(kept):])
	h.fields = kept
}

func clean(v string) string {
	if strings.IndexByte(v, '\r') < 0 && strings.IndexByte(v, '\n') < 0 && strings.IndexByte(v, 0) < 0 {
		return v
	}
	return strings.NewReplacer("\r", " ", "\n", " ", "\x00", " ").Replace(v)
}
