package admin

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"

	"gatehouse/lib/schema"
	"gatehouse/resource"
)

const (
	apisixMinPage = 10
	apisixMaxPage = 500
	// apisixMaxFilter bounds a regular expression in a list's query, in bytes.
	apisixMaxFilter = 256
)

func (s *apisixServer) get(c *apisixCall, k *apisixKind, id string) (*apisixAnswer, error) {
	if !apisixIDs.MatchString(id) {
		return nil, apisixMissing()
	}
	o, err := s.Store.Get(c.Context(), k.kind, id)
	if err != nil {
		return nil, err
	}
	v, err := schema.Parse(o.JSON)
	if err != nil {
		return nil, apisixBroken(err)
	}
	return &apisixAnswer{status: http.StatusOK, body: k.entry(o, v)}, nil
}

func (k *apisixKind) key(id string) *schema.Value {
	return schema.Text("/apisix/" + string(k.kind) + "/" + id)
}

// shown is a value without what is never shown.
func (k *apisixKind) shown(v *schema.Value) *schema.Value {
	for _, name := range k.hidden {
		v.Delete(name)
	}
	return v
}

func (k *apisixKind) entry(o resource.Object, v *schema.Value) *schema.Value {
	return apisixObject("key", k.key(o.ID), "value", k.shown(v),
		"createdIndex", schema.Int(o.CreateRevision), "modifiedIndex", schema.Int(o.Revision))
}

func apisixPage(entries []*schema.Value, total int) *apisixAnswer {
	return &apisixAnswer{status: http.StatusOK,
		body: apisixObject("total", schema.Int(int64(total)), "list", &schema.Value{Type: schema.Array, Items: entries})}
}

// list answers a list: filtered, then cut into pages when page and page_size
// are given. The total counts what passed the filters.
func (s *apisixServer) list(c *apisixCall, k *apisixKind) (*apisixAnswer, error) {
	page, size, err := apisixPaging(c.query)
	if err != nil {
		return nil, err
	}
	keep, err := apisixFilter(c.query, k)
	if err != nil {
		return nil, err
	}
	objs, _, err := s.Store.List(c.Context(), k.kind)
	if err != nil {
		return nil, err
	}
	var entries []*schema.Value
	for _, o := range objs {
		v, err := schema.Parse(o.JSON)
		if err != nil {
			return nil, apisixBroken(err)
		}
		if keep(v) {
			entries = append(entries, k.entry(o, v))
		}
	}
	total := len(entries)
	if size > 0 {
		from := min((page-1)*size, total)
		entries = entries[from:min(from+size, total)]
	}
	return apisixPage(entries, total), nil
}

// apisixPaging returns size 0 when no pages are asked for, which is unless
// both arguments are numbers.
func apisixPaging(q url.Values) (page, size int, err error) {
	page, pageErr := strconv.Atoi(q.Get("page"))
	size, sizeErr := strconv.Atoi(q.Get("page_size"))
	if pageErr != nil || sizeErr != nil {
		return 0, 0, nil
	}
	if size < apisixMinPage || size > apisixMaxPage {
		return 0, 0, &apisixProblem{apisixAnswer{status: http.StatusBadRequest, text: "page_size must be between 10 and 500"}}
	}
	return min(max(page, 1), 1<<20), size, nil
}

// apisixFilter makes the filter a query asks for: name and uri are regular
// expressions that match anywhere (Go's: in time linear in the text), label
// the name of a label, filter another query with service_id and upstream_id.
func apisixFilter(q url.Values, k *apisixKind) (func(*schema.Value) bool, error) {
	var tests []func(*schema.Value) bool
	for _, arg := range []string{"name", "uri"} {
		if q.Get(arg) == "" {
			continue
		}
		re, err := regexp.Compile(q.Get(arg))
		if err != nil || len(q.Get(arg)) > apisixMaxFilter {
			return nil, apisixRefuse(http.StatusBadRequest, "%s must be a regular expression of at most %d characters", arg, apisixMaxFilter)
		}
		tests = append(tests, func(v *schema.Value) bool {
			one := v.Get(arg)
			if one != nil && one.Type == schema.String && re.MatchString(one.Text) {
				return true
			}
			many := v.Get("uris")
			return arg == "uri" && many != nil && slices.ContainsFunc(many.Items, func(u *schema.Value) bool { return re.MatchString(u.Text) })
		})
	}
	if label := q.Get("label"); label != "" {
		tests = append(tests, func(v *schema.Value) bool { return v.At("labels", label) != nil })
	}
	if f := q.Get("filter"); f != "" && k.kind == resource.Routes {
		want, err := url.ParseQuery(f)
		if err != nil {
			return nil, apisixRefuse(http.StatusBadRequest, "filter must be an encoded query such as service_id%%3D1")
		}
		for _, name := range []string{"service_id", "upstream_id"} {
			if id := want.Get(name); id != "" {
				tests = append(tests, func(v *schema.Value) bool { return v.Get(name).String() == id })
			}
		}
	}
	return func(v *schema.Value) bool {
		return !slices.ContainsFunc(tests, func(ok func(*schema.Value) bool) bool { return !ok(v) })
	}, nil
}
