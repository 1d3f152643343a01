package upstream

import (
	"testing"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/resource"
)

func TestNodes(t *testing.T) {
	rows := []struct {
		json string
		want []string // addresses; nil: refused
	}{
		{`{"nodes":{"127.0.0.1:80":1,"b.example:8080":2}}`, []string{"127.0.0.1:80", "b.example:8080"}},
		{`{"nodes":{"a.example":1}}`, []string{"a.example:80"}},
		{`{"scheme":"https","nodes":{"a.example":1}}`, []string{"a.example:443"}},
		{`{"nodes":{"[::1]:9000":1}}`, []string{"[::1]:9000"}},
		{`{"nodes":{"[::1]":1}}`, []string{"[::1]:80"}},
		{`{"nodes":[{"host":"::1","port":1,"weight":1},{"host":"[::2]","port":2,"weight":0}]}`, []string{"[::1]:1", "[::2]:2"}},
		{`{"nodes":[]}`, []string{}},
		{`{"nodes":{}}`, []string{}},
		{`{"nodes":{"::1:80":1}}`, nil},
		{`{"nodes":{"a:0":1}}`, nil},
		{`{"nodes":{"a:99999":1}}`, nil},
		{`{"nodes":{"a/b:80":1}}`, nil},
		{`{"nodes":{"user@a:80":1}}`, nil},
		{`{"nodes":{"a:80":-1}}`, nil},
		{`{"nodes":[{"host":"a","port":70000,"weight":1}]}`, nil},
		{`{"nodes":{"a:80":1},"scheme":"ftp"}`, nil},
		{`{"nodes":{"a:80":1},"type":"chash"}`, nil},
		{`{"nodes":{"a:80":1},"pass_host":"rewrite"}`, nil},
		{`{"service_name":"x","discovery_type":"dns"}`, nil},
		{`{"scheme":"https","nodes":{"a:80":1},"tls":{"client_cert":"x","client_key":"y"}}`, nil},
	}
	for _, row := range rows {
		r, err := Decode([]byte(row.json))
		var m Maker
		var got []string
		if err == nil {
			u, e := m.New("1", r)
			if err = e; err == nil {
				got = []string{}
				for _, n := range u.Nodes {
					got = append(got, n.Addr)
				}
			}
		}
		if row.want == nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Errorf("%s: %v, want invalid", row.json, err)
			}
			continue
		}
		if err != nil || len(got) != len(row.want) {
			t.Errorf("%s: %v %v, want %v", row.json, got, err, row.want)
			continue
		}
		for i := range got {
			if got[i] != row.want[i] {
				t.Errorf("%s: %v, want %v", row.json, got, row.want)
			}
		}
	}
}

func TestDefaults(t *testing.T) {
	r, _ := Decode([]byte(`{"scheme":"https","nodes":{"a:1":1,"b:1":1,"c:1":1}}`))
	u, err := (&Maker{}).New("1", r)
	if err != nil {
		t.Fatal(err)
	}
	if u.Retries != 2 || u.PassHost != "pass" || u.KeepAlive.Size != 320 || u.TLS.InsecureSkipVerify {
		t.Errorf("%+v", u)
	}
	off := false
	u, _ = (&Maker{}).New("1", &resource.Upstream{Scheme: "https", TLS: &resource.UpstreamTLS{Verify: &off}})
	if !u.TLS.InsecureSkipVerify {
		t.Error("tls.verify false verifies")
	}
}

func TestTimeoutMerge(t *testing.T) {
	got := Timeout(&resource.Timeout{Connect: 0.5}, &resource.Timeout{Connect: 2, Read: 3})
	if got.Connect != 500*time.Millisecond || got.Send != time.Minute || got.Read != 3*time.Second {
		t.Errorf("%+v", got)
	}
}
