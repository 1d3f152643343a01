package resource

import (
	"encoding/json"
	"net"
	"strconv"
	"testing"
)

func TestID(t *testing.T) {
	for doc, want := range map[string]ID{`"a"`: "a", `1`: "1", `"1"`: "1", `null`: ""} {
		var id ID
		if err := json.Unmarshal([]byte(doc), &id); err != nil || id != want {
			t.Errorf("%s = %q %v, want %q", doc, id, err, want)
		}
	}
	for _, doc := range []string{`1.5`, `true`, `{}`, `[]`} {
		if err := json.Unmarshal([]byte(doc), new(ID)); err == nil {
			t.Errorf("%s accepted", doc)
		}
	}
}

func TestRouteForms(t *testing.T) {
	var r Route
	err := json.Unmarshal([]byte(`{"id":7,"uri":"/a","uris":["/b"],"hosts":["h"],"remote_addr":"1.1.1.1","service_id":3,"status":0,"timeout":{"connect":0.5,"send":1,"read":2}}`), &r)
	if err != nil {
		t.Fatal(err)
	}
	if r.ID != "7" || r.ServiceID != "3" || len(r.AllURIs()) != 2 || r.AllHosts()[0] != "h" || r.AllRemoteAddrs()[0] != "1.1.1.1" || Enabled(r.Status) || !Enabled(nil) || Seconds(r.Timeout.Connect).Milliseconds() != 500 {
		t.Errorf("%+v", r)
	}
}

func FuzzSplitAddr(f *testing.F) {
	for _, s := range []string{"a", "a:80", "[::1]:80", "[::1]", "::1", "a:b", "[a]:1", ":80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, addr string) {
		host, port, err := SplitAddr(addr)
		if err != nil {
			return
		}
		if port == 0 {
			port = 80
		}
		h, p, err := net.SplitHostPort(net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil || h != host || p != strconv.Itoa(port) {
			t.Fatalf("%q: %q %d does not make an address: %v", addr, host, port, err)
		}
	})
}
