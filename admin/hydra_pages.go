package admin

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strconv"

	"gatehouse/lib/fault"
)

const (
	hydraPage    = 100 // entries in an answer unless asked otherwise
	hydraMaxPage = 500
)

// hydraRange is which part of a list is asked for.
type hydraRange struct {
	after string // key of the last entry of the page before
	size  int
}

// page reads page_size and page_token. A token is sealed and good for one list only.
func (s *hydraServer) page(q url.Values, list string) (hydraRange, error) {
	p := hydraRange{size: hydraPage}
	if v := q.Get("page_size"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			return p, fault.New(fault.Invalid, "Unable to parse pagination parameters: page_size must be a number")
		}
		if n > 0 {
			p.size = min(n, hydraMaxPage)
		}
	}
	if v := q.Get("page_token"); v != "" {
		box, err := base64.RawURLEncoding.DecodeString(v)
		if err == nil {
			box, err = s.pages.Open(box, []byte(list))
		}
		if err != nil {
			return p, fault.New(fault.Invalid, "Unable to parse pagination parameters: invalid pagination token")
		}
		p.after = string(box)
	}
	return p, nil
}

// link sets the Link header (RFC 8288): the first page, and the next one when
// there is one. Filters are the query's other parameters.
func (s *hydraServer) link(w http.ResponseWriter, list string, p hydraRange, filters url.Values, next string) {
	to := func(after, rel string) string {
		v := url.Values{"page_size": {strconv.Itoa(p.size)}, "page_token": {base64.RawURLEncoding.EncodeToString(s.pages.Seal(nil, []byte(after), []byte(list)))}}
		for k, f := range filters {
			if len(f) > 0 && f[0] != "" {
				v[k] = f[:1]
			}
		}
		return "<" + list + "?" + v.Encode() + `>; rel="` + rel + `"`
	}
	header := to("", "first")
	if next != "" {
		header += "," + to(next, "next")
	}
	w.Header().Set("Link", header)
}
