package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"gatehouse/gateway"
	"gatehouse/lib/fault"
	"gatehouse/lib/schema"
	"gatehouse/resource"
)

const (
	// apisixMaxBody is the largest request body, in bytes.
	apisixMaxBody = 1536 << 10
	// apisixLiveWithin is how long a write waits to become live on this node.
	apisixLiveWithin = 5 * time.Second
	apisixPrefix     = "/apisix/admin"
)

// Roles of an AdminKey.
const (
	RoleAdmin  = "admin"
	RoleViewer = "viewer" // reads only
)

// AdminKey opens the gateway's Admin API. It never prints its Key.
type AdminKey struct {
	Name string
	Key  string // empty: opens nothing
	Role string // RoleAdmin or RoleViewer; anything else opens nothing
}

func (k AdminKey) LogValue() slog.Value { return slog.StringValue("[redacted]") }
func (k AdminKey) String() string       { return "[redacted]" }
func (k AdminKey) GoString() string     { return "[redacted]" }

// Checker says what the data plane thinks of a resource before it is stored.
// An error is fault.Invalid with a text for the operator, or internal.
type Checker interface {
	Check(kind resource.Kind, id string, raw json.RawMessage) error
}

// Waiter waits until the node answers requests by a revision of the store.
type Waiter interface {
	Wait(ctx context.Context, revision int64) error
}

// APISIX is the gateway's Admin API, in the shapes of APISIX's v3.
//
// A caller needs a key, in the header X-API-KEY or the query argument api_key
// and nowhere else: a key in a cookie would be sent by any web page the
// operator's browser has open. For the same reason the answers carry no
// Access-Control-Allow-Credentials. Peers are judged by the address of the
// TCP connection, whatever headers say.
//
// One APISIX orders the writes that pass through it, so that a reference
// cannot dangle by a race; there should be one per store.
type APISIX struct {
	Store   resource.Store
	Plugins []gateway.Plugin
	Check   Checker // nil: schemas and references only
	Live    Waiter  // nil: a write is answered once it is stored
	Keys    []AdminKey
	// AllowAdmin are the networks whose peers may connect; empty: this host only.
	AllowAdmin []netip.Prefix
	Log        *slog.Logger
	Now        func() time.Time
}

// Handler compiles the schemas of resources and plugins and returns the API,
// to be served at /apisix/admin. The error is a plugin whose schema is wrong.
func (a *APISIX) Handler() (http.Handler, error) {
	s := &apisixServer{APISIX: a, kinds: map[string]*apisixKind{}}
	for _, k := range apisixKinds {
		doc, err := resource.Schema(k.kind)
		if err != nil {
			return nil, err
		}
		if k.schema, err = schema.Compile(doc); err != nil {
			return nil, fmt.Errorf("schema of %s: %w", k.kind, err)
		}
		k.doc = doc
		s.kinds[string(k.kind)] = &k
	}
	var err error
	if s.plugins, err = apisixCompilePlugins(a.Plugins); err != nil {
		return nil, err
	}
	for _, k := range a.Keys {
		if k.Key != "" && (k.Role == RoleAdmin || k.Role == RoleViewer) {
			s.keys = append(s.keys, apisixKey{sha256.Sum256([]byte(k.Key)), k.Role})
		}
	}
	return s, nil
}

type apisixServer struct {
	*APISIX
	kinds   map[string]*apisixKind
	plugins *apisixPlugins
	keys    []apisixKey

	writes sync.Mutex // held from reading what a write depends on until it is stored
}

type apisixKey struct {
	sum  [sha256.Size]byte
	role string
}

// apisixAnswer is what a call is answered with.
type apisixAnswer struct {
	status int
	body   *schema.Value // nil: text
	text   string
}

// apisixProblem is an error with its answer.
type apisixProblem struct{ apisixAnswer }

func (p *apisixProblem) Error() string { return string(p.body.JSON()) }

func apisixRefuse(status int, format string, args ...any) error {
	return &apisixProblem{apisixAnswer{status: status, body: apisixObject("error_msg", schema.Text(fmt.Sprintf(format, args...)))}}
}

func apisixMissing() error {
	return &apisixProblem{apisixAnswer{status: http.StatusNotFound, body: apisixObject("message", schema.Text("Key not found"))}}
}

// apisixObject makes an object of names and *schema.Value in turn.
func apisixObject(pairs ...any) *schema.Value {
	v := &schema.Value{Type: schema.Object}
	for i := 0; i < len(pairs); i += 2 {
		v.Members = append(v.Members, schema.Member{Name: pairs[i].(string), Value: pairs[i+1].(*schema.Value)})
	}
	return v
}

// apisixCall is one request, parsed.
type apisixCall struct {
	*http.Request
	path  []string // below /apisix/admin, decoded
	query url.Values
}

func (c *apisixCall) segment(i int) string {
	if i < len(c.path) {
		return c.path[i]
	}
	return ""
}

func (s *apisixServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Server", "gatehouse")
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Max-Age", "3600")
	if r.Method == http.MethodOptions {
		h.Set("Access-Control-Allow-Methods", "POST, GET, PUT, OPTIONS, DELETE, PATCH")
		h.Set("Access-Control-Allow-Headers", "*")
		h.Set("Content-Type", "text/plain; charset=utf-8")
		if !s.allowed(r.RemoteAddr) {
			w.WriteHeader(http.StatusForbidden)
		}
		return
	}
	h.Set("Access-Control-Expose-Headers", "*")
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	answer, err := s.serve(h, r)
	if err != nil {
		answer = s.problem(r, err)
	}
	body := []byte(answer.text)
	if answer.body != nil {
		body = append(answer.body.JSON(), '\n')
	}
	if answer.status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "1")
	}
	w.WriteHeader(answer.status)
	w.Write(body) // a peer that went away needs no answer
}

// problem turns an error into its answer. What is not the caller's fault is
// logged and answered in general terms.
func (s *apisixServer) problem(r *http.Request, err error) *apisixAnswer {
	var p *apisixProblem
	if errors.As(err, &p) {
		return &p.apisixAnswer
	}
	status, text := http.StatusServiceUnavailable, "the store is unavailable, try again"
	switch fault.KindOf(err) {
	case fault.Invalid:
		status, text = http.StatusBadRequest, err.Error()
	case fault.NotFound:
		errors.As(apisixMissing(), &p)
		return &p.apisixAnswer
	case fault.Conflict:
		text = "value changed before overwritten"
	default:
		s.Log.Error("admin request failed", "method", r.Method, "path", r.URL.Path, "err", err, "cause", errors.Unwrap(err))
	}
	errors.As(apisixRefuse(status, "%s", text), &p)
	return &p.apisixAnswer
}

func (s *apisixServer) serve(h http.Header, r *http.Request) (*apisixAnswer, error) {
	if !s.allowed(r.RemoteAddr) {
		return nil, apisixRefuse(http.StatusForbidden, "this address may not use the Admin API")
	}
	c := &apisixCall{Request: r, query: r.URL.Query()}
	rest, ok := strings.CutPrefix(strings.TrimRight(r.URL.EscapedPath(), "/"), apisixPrefix)
	if !ok || rest != "" && rest[0] != '/' {
		return nil, apisixRefuse(http.StatusNotFound, "not found")
	}
	if rest == "" && r.Method == http.MethodHead {
		return &apisixAnswer{status: http.StatusOK}, nil
	}
	if problem := s.authenticate(c); problem != "" {
		return &apisixAnswer{status: http.StatusUnauthorized,
			body: apisixObject("error_msg", schema.Text("failed to check token"), "description", schema.Text(problem))}, nil
	}
	h.Set("X-API-VERSION", "v3")
	if rest != "" {
		for _, segment := range strings.Split(rest[1:], "/") {
			text, err := url.PathUnescape(segment)
			if err != nil {
				return nil, apisixRefuse(http.StatusBadRequest, "invalid path")
			}
			c.path = append(c.path, text)
		}
	}
	return s.dispatch(c)
}

// allowed decides on the address of the TCP peer alone.
func (s *apisixServer) allowed(remote string) bool {
	peer, err := netip.ParseAddrPort(remote)
	if err != nil {
		return false
	}
	addr := peer.Addr().Unmap().WithZone("")
	if len(s.AllowAdmin) == 0 {
		return addr.IsLoopback()
	}
	return slices.ContainsFunc(s.AllowAdmin, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// authenticate returns why the caller may not do this, or "". Every key is
// compared, in constant time.
func (s *apisixServer) authenticate(c *apisixCall) string {
	given := c.query.Get("api_key")
	if given == "" {
		given = c.Header.Get("X-API-KEY")
	}
	if given == "" {
		return "missing apikey"
	}
	sum, role := sha256.Sum256([]byte(given)), ""
	for _, k := range s.keys {
		if subtle.ConstantTimeCompare(k.sum[:], sum[:]) == 1 && role != RoleAdmin {
			role = k.role
		}
	}
	switch {
	case role == "":
		return "wrong apikey"
	case role == RoleViewer && c.Method != http.MethodGet && c.Method != http.MethodHead:
		return "invalid method for role viewer"
	}
	return ""
}

func (s *apisixServer) dispatch(c *apisixCall) (*apisixAnswer, error) {
	method := c.Method
	if method == http.MethodHead {
		method = http.MethodGet // net/http sends no body
	}
	if !slices.Contains([]string{"GET", "PUT", "POST", "PATCH", "DELETE"}, method) {
		return nil, apisixRefuse(http.StatusNotFound, "not found")
	}
	name := c.segment(0)
	switch name {
	case "plugins":
		return s.servePlugins(c, method)
	case "schema":
		return s.serveSchema(c, method)
	case "configs":
		if c.segment(1) == "validate" && method == http.MethodPost {
			return s.validateConfigs(c)
		}
	case "protos", "secrets":
		return apisixAbsent(c, method, name)
	case "stream_routes":
		return nil, apisixRefuse(http.StatusBadRequest, "stream mode is disabled, can not add stream routes")
	}
	k := s.kinds[name]
	if k == nil {
		return nil, apisixRefuse(http.StatusNotFound, "Unsupported resource type: %s", name)
	}
	if k.kind == resource.Consumers && c.segment(2) == "credentials" {
		return s.serveCredentials(c, method)
	}
	if len(c.path) > 2 && method != http.MethodPatch {
		return nil, apisixRefuse(http.StatusNotFound, "not found")
	}
	switch id := c.segment(1); {
	case slices.Contains(k.without, method):
		return nil, apisixRefuse(http.StatusMethodNotAllowed, "not supported `%s` method for %s", method, k.noun)
	case method == http.MethodPut:
		return s.put(c, k, id)
	case method == http.MethodPost:
		return s.post(c, k, id)
	case method == http.MethodPatch:
		return s.patch(c, k, id)
	case method == http.MethodDelete:
		return s.remove(c, k, id)
	case id == "":
		return s.list(c, k)
	default:
		return s.get(c, k, id)
	}
}

// apisixAbsent answers for kinds the gateway does not have: there are none,
// and none can be made.
func apisixAbsent(c *apisixCall, method, name string) (*apisixAnswer, error) {
	switch {
	case method != http.MethodGet:
		return nil, apisixRefuse(http.StatusBadRequest, "%s are not supported yet", name)
	case len(c.path) > 1:
		return nil, apisixMissing()
	}
	return apisixPage(nil, 0), nil
}

// serveCredentials answers for consumers/{name}/credentials.
func (s *apisixServer) serveCredentials(c *apisixCall, method string) (*apisixAnswer, error) {
	switch {
	case method == http.MethodPost || method == http.MethodPatch:
		return nil, apisixRefuse(http.StatusMethodNotAllowed, "not supported `%s` method for credential", method)
	case method == http.MethodPut:
		if _, err := s.Store.Get(c.Context(), resource.Consumers, c.segment(1)); fault.KindOf(err) == fault.NotFound && err != nil {
			return nil, apisixRefuse(http.StatusNotFound, "consumer not found")
		}
		return nil, apisixRefuse(http.StatusBadRequest, "credentials are not supported yet; put the plugin on the consumer")
	case method == http.MethodDelete || len(c.path) > 3:
		return nil, apisixMissing()
	}
	return apisixPage(nil, 0), nil
}

// readBody reads the body of a request, nil when there is none.
func (s *apisixServer) readBody(c *apisixCall) (*schema.Value, error) {
	if c.ContentLength > apisixMaxBody {
		return nil, apisixRefuse(http.StatusBadRequest, "invalid request body: request size %d is greater than the maximum size %d allowed", c.ContentLength, apisixMaxBody)
	}
	raw, err := io.ReadAll(io.LimitReader(c.Body, apisixMaxBody+1))
	switch {
	case err != nil:
		return nil, apisixRefuse(http.StatusBadRequest, "invalid request body: it could not be read")
	case len(raw) > apisixMaxBody:
		return nil, apisixRefuse(http.StatusBadRequest, "invalid request body: request size is greater than the maximum size %d allowed", apisixMaxBody)
	case len(raw) == 0:
		return nil, nil
	}
	v, err := schema.Parse(raw)
	if err != nil {
		return nil, &apisixProblem{apisixAnswer{status: http.StatusBadRequest, body: apisixObject(
			"error_msg", schema.Text("invalid request body: "+err.Error()), "req_body", schema.Text(strings.ToValidUTF8(string(raw), "\ufffd")))}}
	}
	return v, nil
}
