package mint

import (
	"context"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
	"gatehouse/oauth/keys"
	"gatehouse/store/memory"
)

type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func newMint(t testing.TB, change func(*oauth.Settings)) (*Mint, *clock) {
	t.Helper()
	ck := &clock{time.Date(2026, 11, 23, 8, 0, 0, 123456000, time.UTC)}
	s := &oauth.Settings{
		Issuer: "http://127.0.0.1:4444", Secrets: [][]byte{[]byte("a-system-secret-of-32-bytes-long")},
		TTLCode: 10 * time.Minute, SigningAlg: "ES256", Now: ck.now,
	}
	if change != nil {
		change(s)
	}
	ring, err := keys.Open(context.Background(), keys.Config{Store: memory.NewRecords(ck.now), Secrets: s.Secrets, Alg: s.SigningAlg, Now: ck.now})
	if err != nil {
		t.Fatal(err)
	}
	m, err := New(s, ring)
	if err != nil {
		t.Fatal(err)
	}
	return m, ck
}

const flowID = "0123456789abcdef0123456789abcdef"

func granted() *oauth.Authorization {
	return &oauth.Authorization{
		ID: flowID, Generation: 2, ClientID: "5624ba94-2310-46c4-84c6-66fe23a28653", Subject: "foo@bar.com", SessionID: "sid-1",
		Scopes: []string{"openid", "offline", "photos.read"}, Nonce: "nonce-1", ACR: "0",
		AuthTime: time.Unix(1795418727, 0), RequestedAt: time.Unix(1795418726, 0),
		IDTokenClaims:     map[string]any{"name": "Foo", "sub": "evil", "nonce": "evil", "azp": "evil", "exp": 1},
		AccessTokenClaims: map[string]any{"role": "x"},
	}
}

func TestTicketRoundTrip(t *testing.T) {
	at := era.Add(12345678901 * time.Microsecond)
	for _, want := range []*Ticket{
		{Authorization: flowID, Generation: 1, Issued: at, Expires: at.Add(time.Hour)},
		{Authorization: "5624ba94-2310-46c4-84c6-66fe23a28653", Generation: 1 << 40, Issued: at, Expires: at.Add(time.Hour)},
		{Authorization: "any other id", Generation: 2, narrowed: []byte{5, 1}, Issued: at, Expires: at},
		{Authorization: strings.ToUpper(flowID), Generation: 2, narrowed: []byte{}, Issued: at, Expires: at},
		{ID: "abc", Client: "my-client", Scopes: []string{"a", "b"}, Audience: []string{"https://api"}, Issued: at, Expires: at.Add(time.Second)},
		{ID: "abc", Client: "5624ba94-2310-46c4-84c6-66fe23a28653", Issued: at, Expires: at.Add(time.Second)},
	} {
		got, ok := decode(want.encode(nil))
		if !ok || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

// The sizes are promises: tokens travel in headers, cookies and URLs.
func TestSizes(t *testing.T) {
	m, _ := newMint(t, nil)
	a := granted()
	code, _ := m.Code(a)
	access, _ := m.Opaque(m.ForAuthorization(a, a.Scopes, time.Hour))
	refresh := m.RefreshToken(a.ID, 2)
	own, _ := m.Opaque(m.ForClient(&oauth.Client{ID: a.ClientID}, []string{"photos.read"}, nil, time.Hour))
	for _, c := range []struct {
		name, token, prefix string
		max                 int
	}{
		{"code", code, CodePrefix, 100}, {"access", access, AccessPrefix, 100},
		{"refresh", refresh, RefreshPrefix, 70}, {"client_credentials", own, AccessPrefix, 150},
	} {
		if !strings.HasPrefix(c.token, c.prefix) || len(c.token) > c.max {
			t.Errorf("%s has %d bytes, want at most %d: %s", c.name, len(c.token), c.max, c.token)
		}
	}
}

func TestCode(t *testing.T) {
	m, ck := newMint(t, nil)
	code, err := m.Code(granted())
	if err != nil {
		t.Fatal(err)
	}
	got, err := m.OpenCode(code)
	if err != nil || got.Authorization != flowID || got.Generation != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	a := granted()
	access, _ := m.Opaque(m.ForAuthorization(a, a.Scopes, time.Hour))
	for _, bad := range []string{
		"", "x", code[1:], code[:len(code)-1], code + "A", strings.Replace(access, AccessPrefix, CodePrefix, 1),
		strings.TrimPrefix(code, CodePrefix), CodePrefix + strings.Repeat("A", maxCode),
	} {
		if _, err := m.OpenCode(bad); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%q: %v", bad, err)
		}
	}
	ck.t = ck.t.Add(10 * time.Minute)
	if _, err := m.OpenCode(code); fault.KindOf(err) != fault.Invalid {
		t.Errorf("expired code: %v", err)
	}
}

func TestAccessTokens(t *testing.T) {
	ctx := t.Context()
	for _, strategy := range []string{"opaque", "jwt"} {
		m, ck := newMint(t, nil)
		a, c := granted(), &oauth.Client{ID: granted().ClientID, AccessTokenStrategy: strategy}
		raw, err := m.AccessToken(ctx, m.ForAuthorization(a, []string{"openid", "photos.read"}, time.Hour), c, a)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(raw, AccessPrefix) != (strategy == "opaque") {
			t.Errorf("%s token is %s", strategy, raw)
		}
		got, err := m.OpenAccess(ctx, raw)
		if err != nil || got.Authorization != flowID || got.Generation != 2 || !got.Issued.Equal(ck.t) || !got.Expires.Equal(ck.t.Add(time.Hour)) {
			t.Errorf("%s: %+v, %v", strategy, got, err)
		}
		if s := got.ScopesOf(a.Scopes); !reflect.DeepEqual(s, []string{"openid", "photos.read"}) {
			t.Errorf("%s: narrowed scopes are %v", strategy, s)
		}
		for _, aud := range [][]string{nil, {"https://api"}} {
			want := m.ForClient(c, []string{"photos.read"}, aud, time.Hour)
			own, err := m.AccessToken(ctx, want, c, nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := m.OpenAccess(ctx, own)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: got %+v, %v, want %+v", strategy, got, err, want)
			}
		}
		for _, bad := range []string{"", "a.b.c", raw[:len(raw)-1], raw + "A", raw[:len(raw)/2] + "x" + raw[len(raw)/2:]} {
			if _, err := m.OpenAccess(ctx, bad); fault.KindOf(err) != fault.Invalid {
				t.Errorf("%s %q: %v", strategy, bad, err)
			}
		}
		ck.t = ck.t.Add(time.Hour)
		if _, err := m.OpenAccess(ctx, raw); fault.KindOf(err) != fault.Invalid {
			t.Errorf("expired %s token: %v", strategy, err)
		}
	}
}

func TestIDTokenIsNoAccessToken(t *testing.T) {
	m, _ := newMint(t, nil)
	c := &oauth.Client{ID: "c", UserinfoSignedResponseAlg: "ES256"}
	raw, err := m.IDToken(t.Context(), c, granted(), "", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.OpenAccess(t.Context(), raw); fault.KindOf(err) != fault.Invalid {
		t.Error("an ID token opens as an access token")
	}
	c.AccessTokenStrategy = "jwt"
	access, _ := m.AccessToken(t.Context(), m.ForAuthorization(granted(), granted().Scopes, time.Hour), c, granted())
	if _, err := m.VerifyIDTokenHint(t.Context(), access); fault.KindOf(err) != fault.Invalid {
		t.Error("an access token passes as an ID token hint")
	}
	info, _ := m.SignUserinfo(t.Context(), c, map[string]any{"iss": m.settings.Issuer, "sub": "x"})
	if _, err := m.VerifyIDTokenHint(t.Context(), info); fault.KindOf(err) != fault.Invalid {
		t.Error("a signed userinfo answer passes as an ID token hint")
	}
}

func TestIDToken(t *testing.T) {
	m, ck := newMint(t, nil)
	c := &oauth.Client{ID: "c"}
	a := granted()
	// The access token and at_hash of OpenID Connect Core 1.0, appendix A.3.
	raw, err := m.IDToken(t.Context(), c, a, "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	ck.t = ck.t.Add(48 * time.Hour) // a hint may have expired
	got, err := m.VerifyIDTokenHint(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	iat := float64(ck.t.Add(-48 * time.Hour).Unix())
	delete(got, "jti")
	want := map[string]any{
		"iss": "http://127.0.0.1:4444", "sub": "foo@bar.com", "aud": []any{"c"}, "iat": iat, "exp": iat + 3600, "auth_time": 1795418727.,
		"rat": 1795418726., "nonce": "nonce-1", "sid": "sid-1", "acr": "0", "name": "Foo", "at_hash": "77QmUPtjPfzWtF2AnpK9RQ",
	}
	if !reflect.DeepEqual(got, want) {
		g, _ := json.Marshal(got)
		w, _ := json.Marshal(want)
		t.Errorf("claims\n%s, want\n%s", g, w)
	}
	for _, alg := range []string{"RS256", "PS256", "EdDSA"} {
		c.IDTokenSignedResponseAlg = alg
		raw, err := m.IDToken(t.Context(), c, a, "", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.VerifyIDTokenHint(t.Context(), raw); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
	}
}

func TestRefreshTokenIsDeterministic(t *testing.T) {
	m, _ := newMint(t, nil)
	raw := m.RefreshToken(flowID, 7)
	if raw != m.RefreshToken(flowID, 7) || raw == m.RefreshToken(flowID, 8) {
		t.Error("a refresh token is not a function of authorization and generation")
	}
	if id, gen, err := m.OpenRefresh(raw); err != nil || id != flowID || gen != 7 {
		t.Errorf("%q, %d, %v", id, gen, err)
	}
	rotated, _ := newMint(t, func(s *oauth.Settings) { s.Secrets = append([][]byte{[]byte("a newer system secret")}, s.Secrets...) })
	if _, _, err := rotated.OpenRefresh(raw); err != nil {
		t.Errorf("secrets.system rotated: %v", err)
	}
	other, _ := newMint(t, func(s *oauth.Settings) { s.Secrets = [][]byte{[]byte("another system secret")} })
	if _, _, err := other.OpenRefresh(raw); fault.KindOf(err) != fault.Invalid {
		t.Errorf("another secret: %v", err)
	}
	for i := range len(raw) {
		bad := []byte(raw)
		bad[i] ^= 1
		if _, _, err := m.OpenRefresh(string(bad)); err == nil {
			t.Fatalf("accepted with byte %d changed", i)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add((&Ticket{Authorization: flowID, Generation: 3, narrowed: []byte{1}}).encode(nil))
	f.Add((&Ticket{ID: "a", Client: "c", Scopes: []string{"x"}}).encode(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, ok := decode(b)
		if !ok {
			return
		}
		again, ok := decode(got.encode(nil))
		if !ok || !reflect.DeepEqual(again, got) {
			t.Fatalf("%+v became %+v", got, again)
		}
	})
}

func FuzzOpen(f *testing.F) {
	m, _ := newMint(f, nil)
	f.Add("ory_at_AAAA")
	f.Add("ory_rt_AAAA")
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, raw string) {
		if _, err := m.OpenAccess(context.Background(), raw); err == nil {
			t.Fatal("forged access token")
		}
		if _, _, err := m.OpenRefresh(raw); err == nil {
			t.Fatal("forged refresh token")
		}
		if _, err := m.OpenCode(raw); err == nil {
			t.Fatal("forged code")
		}
	})
}

func BenchmarkOpaque(b *testing.B) {
	m, _ := newMint(b, nil)
	a := granted()
	b.ReportAllocs()
	for b.Loop() {
		raw, _ := m.Opaque(m.ForAuthorization(a, a.Scopes, time.Hour))
		m.openOpaque(raw)
	}
}
