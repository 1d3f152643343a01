package gateway

// AnonymousFinder is what a ConsumerFinder also implements to serve
// anonymous_consumer: it finds a consumer by its name alone, without a
// credential. Config of the answer is nil.
type AnonymousFinder interface {
	ConsumerNamed(username string) (*Consumer, bool)
}

// identityFields tell the upstream who the consumer is.
var identityFields = [...]string{"X-Consumer-Username", "X-Credential-Identifier", "X-Consumer-Custom-ID"}

// SetConsumer makes c the consumer of the exchange and tells the upstream by
// header fields, which are first taken from what the client sent, underscore
// spellings too: only the gateway may say who someone is.
func (x *Exchange) SetConsumer(c *Consumer) {
	x.Consumer = c
	x.Req.Header.DelFunc(func(f Field) bool {
		for _, name := range identityFields {
			if sameSpoken(f.Name, name) {
				return true
			}
		}
		return false
	})
	for i, v := range [...]string{c.Username, c.CredentialID, c.CustomID} {
		if v != "" {
			x.Req.Header.Add(identityFields[i], v)
		}
	}
}

// sameSpoken compares field names as servers do that turn "-" into "_".
func sameSpoken(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := 0; i < len(a); i++ {
		x, y := a[i], b[i]
		if x == '_' {
			x = '-'
		}
		if y == '_' {
			y = '-'
		}
		if x != y && (x|0x20 != y|0x20 || x|0x20 < 'a' || x|0x20 > 'z') {
			return false
		}
	}
	return true
}

// DropSpoken removes every field of that name, underscore spellings too.
func (h *Header) DropSpoken(name string) {
	h.DelFunc(func(f Field) bool { return sameSpoken(f.Name, name) })
}

// QueryValue returns the first value of a query parameter, decoded. Names
// compare by case.
func (r *Request) QueryValue(name string) (string, bool) { return queryValue(r.Query, name) }

// DropQuery takes every occurrence of a query parameter from the request and
// from what goes to the upstream, and leaves the rest as it was written.
func (x *Exchange) DropQuery(name string) {
	query, changed := dropQuery(x.Req.Query, name)
	if !changed {
		return
	}
	x.Req.Query = query
	target := x.Out.Target
	if target == "" {
		target = x.Req.Target
	}
	x.Out.Target = dropTargetQuery(target, name)
}
