// Package smuggle holds the gateway against other servers' reading of HTTP/1.1:
// whatever a client sends, an origin sees exactly the requests that the
// gateway believes it sent.
package smuggle

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/gateway/engine"
	"gatehouse/resource"
	"gatehouse/test/fixtures"
)

// shapes are requests by which gateways and origins were ever made to
// disagree. PATH stands for a path with an id of its own.
var shapes = []string{
	"GET PATH HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST PATH HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
	"POST PATH HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
	"POST PATH HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nX-T: 1\r\n\r\nGET PATH HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET PATH HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcHEAD PATH HTTP/1.1\r\nHost: a\r\n\r\n",
	"PUT PATH HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nDELETE PATH HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST PATH HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGGET PATH HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST PATH HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\nContent-Length: 4\r\n\r\n0\r\n\r\nGET PATH HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST PATH HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\x0bchunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\nGET PATH HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST PATH HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\nGET PATH HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST PATH HTTP/1.1\r\nHost: a\r\nX: y\r\n Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\nGET PATH HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST PATH HTTP/1.1\r\nHost: a\r\nX: y\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\nGET PATH HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST PATH HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\nGET PATH HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST PATH HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\rGET PATH HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST PATH HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 0\r\n\r\nhelloGET PATH HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST PATH HTTP/1.1\r\nHost: a\r\nContent-Length: 0005\r\n\r\nhelloGET PATH HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST PATH HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello",
	"POST PATH HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello",
	"POST PATH HTTP/1.1\r\nHost: a\r\nContent-Length: 5\x00\r\n\r\nhello",
	"POST PATH HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"POST PATH HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
	"POST PATH HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;\nhello\r\n0\r\n\r\n",
	"POST PATH HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
	"POST PATH HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff5\r\nhello\r\n0\r\n\r\n",
	"POST PATH HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
	"POST PATH HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 50\r\nHost: b\r\n\r\nGET PATH HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST PATH HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhelloGET PATH HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST PATH HTTP/1.1\r\nHost: a\r\nExpect: x\r\nContent-Length: 5\r\n\r\nhello",
	"GET PATH HTTP/1.1\r\nHost: a\r\nConnection: Content-Length, Host, Transfer-Encoding\r\nContent-Length: 5\r\n\r\nhelloGET PATH HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET PATH HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\nGET PATH HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET PATH HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET PATH HTTP/1.1\r\nHost: a\r\n\r\n",
	"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\nGET PATH HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET http://aPATH HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET http://bPATH HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET PATH HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
	"GET PATH HTTP/1.1\r\nHost: a@b\r\n\r\n",
	"GET PATH\r\n\r\nGET PATH HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET PATH HTTP/1.1\r\nHost: a\r\nX-A_b: 1\r\nX: \xff\xfe\r\n\r\n",
	"HEAD PATH HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbodyGET PATH HTTP/1.1\r\nHost: a\r\n\r\n",
	"\r\n\r\nGET PATH HTTP/1.1\r\nHost: a\r\n\r\n",
	"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\nGET PATH HTTP/1.1\r\nHost: a\r\n\r\n",
	"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET PATH HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET PATH HTTP/1.1\r\nHost: a\r\nTE: trailers, chunked\r\nTrailer: Content-Length\r\n\r\n",
}

// tokens are what mutations insert.
var tokens = []string{
	"\r", "\n", "\r\n", "\r\n\r\n", "\x00", "\t", " ", "\x0b", "\x7f", "\xff", ":", ";", ",", "0", "5", "chunked", "Transfer-Encoding: chunked\r\n",
	"Content-Length: 5\r\n", "Content-Length: 0\r\n", "\r\n ", "HTTP/1.1", "HTTP/1.0", "Host: b\r\n", "Connection: close\r\n", "0\r\n\r\n", "identity", "\"", "/", "..", "%2e", "//", "?", "#",
}

// mutate changes a few things.
func mutate(r *rand.Rand, s string) string {
	for range 1 + r.IntN(3) {
		at := r.IntN(len(s) + 1)
		switch r.IntN(6) {
		case 0: // insert
			s = s[:at] + tokens[r.IntN(len(tokens))] + s[at:]
		case 1: // delete
			s = s[:at] + s[min(len(s), at+1+r.IntN(4)):]
		case 2: // flip a byte
			if at < len(s) {
				b := []byte(s)
				b[at] ^= 1 << r.IntN(8)
				s = string(b)
			}
		case 3: // repeat a line
			if lines := strings.SplitAfter(s, "\r\n"); len(lines) > 1 {
				i := r.IntN(len(lines))
				lines = append(lines[:i+1], lines[i:]...)
				s = strings.Join(lines, "")
			}
		case 4: // swap lines
			if lines := strings.SplitAfter(s, "\r\n"); len(lines) > 2 {
				i, j := r.IntN(len(lines)), r.IntN(len(lines))
				lines[i], lines[j] = lines[j], lines[i]
				s = strings.Join(lines, "")
			}
		case 5: // another letter case
			if at < len(s) {
				end := min(len(s), at+r.IntN(12))
				s = s[:at] + strings.ToUpper(s[at:end]) + s[end:]
			}
		}
	}
	return s
}

// rig is the gateway with its origins.
type rig struct {
	addr    string
	origins []origin
	sent    []*ledger
	next    atomic.Int64
}

func newRig(t *testing.T) *rig {
	d := fixtures.StartDataPlane(t, engine.Limits{BodyTime: 2 * time.Second, HeadTime: 2 * time.Second})
	r := &rig{addr: d.Addr, origins: []origin{serveGo(t), serveNginx(t), serveHAProxy(t), serveApache(t), serveNode(t)}}
	for _, o := range r.origins {
		via, sent := tap(t, o.addr)
		r.sent = append(r.sent, sent)
		d.Put(resource.Routes, o.name, fmt.Sprintf(`{"uri":"/%s/*","upstream":{"type":"roundrobin","nodes":{%q:1},"retries":0},"timeout":{"connect":5,"send":5,"read":5}}`, o.name, via))
	}
	return r
}

// fill gives every PATH an id of its own below an origin.
func (r *rig) fill(shape, origin string) string {
	for strings.Contains(shape, "PATH") {
		shape = strings.Replace(shape, "PATH", "/"+origin+"/x?id="+strconv.FormatInt(r.next.Add(1), 10), 1)
	}
	return shape
}

// ask sends bytes and returns what came back until the connection closed.
func (r *rig) ask(t *testing.T, s string) []byte {
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Error(err)
		return nil
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(c, s)
	_ = c.(*net.TCPConn).CloseWrite()
	var b bytes.Buffer
	if _, err := io.Copy(&b, c); err != nil {
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Errorf("the connection hung after %q", s)
		}
	}
	return b.Bytes()
}

// TestOriginsSeeWhatTheGatewaySent sends every shape as it is, and mutations
// of them, to every origin.
func TestOriginsSeeWhatTheGatewaySent(t *testing.T) {
	r := newRig(t)
	for _, o := range r.origins {
		for _, s := range shapes {
			r.ask(t, r.fill(s, o.name))
		}
	}
	total := 100_000
	if testing.Short() {
		total = 2_000
	}
	const seed = 20261124
	t.Logf("seed %d", seed)
	var wg sync.WaitGroup
	work := make(chan string, 64)
	for range 400 {
		wg.Go(func() {
			for s := range work {
				r.ask(t, s)
			}
		})
	}
	random := rand.New(rand.NewPCG(seed, seed))
	for i := range total {
		o := r.origins[i%len(r.origins)]
		work <- mutate(random, r.fill(shapes[random.IntN(len(shapes))], o.name))
	}
	close(work)
	wg.Wait()
	for _, o := range r.origins { // every origin still serves
		want := r.fill("GET PATH HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", o.name)
		if got := r.ask(t, want); !bytes.HasPrefix(got, []byte("HTTP/1.1 200 ")) {
			t.Errorf("%s in the end: %q", o.name, got)
		}
	}
	for i, o := range r.origins {
		compare(t, o.name, r.sent[i], o.saw())
	}
}

// compare: what an origin saw was sent, as often and with the same body. What
// was sent and not seen, the origin has refused: that is its right, but not
// for what is plain.
func compare(t *testing.T, name string, sent, saw *ledger) {
	t.Helper()
	sent.mu.Lock()
	defer sent.mu.Unlock()
	saw.mu.Lock()
	defer saw.mu.Unlock()
	for _, bad := range append(sent.bad, saw.bad...) {
		t.Errorf("%s: %s", name, bad)
	}
	smuggled := 0
	for m, n := range saw.seen {
		if sent.seen[m] < n {
			if smuggled++; smuggled <= 5 {
				t.Errorf("%s saw %d× %+v, the gateway sent it %d×", name, n, m, sent.seen[m])
			}
		}
	}
	all, refused := 0, 0
	for m, n := range sent.seen {
		all += n
		if saw.seen[m] < n {
			refused += n - saw.seen[m]
		}
	}
	t.Logf("%s: %d requests sent, %d of them refused by it", name, all, refused)
	if all == 0 || refused*10 > all {
		t.Errorf("%s has seen too few of the %d requests: %d missing", name, all, refused)
	}
}
