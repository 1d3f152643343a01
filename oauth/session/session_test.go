package session

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
	"gatehouse/store/memory"
)

type world struct {
	set    *oauth.Settings
	store  oauth.Store
	keeper *Keeper
	now    time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{now: time.Date(2026, 11, 23, 7, 0, 0, 0, time.UTC)}
	w.set = &oauth.Settings{Secrets: [][]byte{[]byte("a-secret-of-enough-length")}, TTLSession: 720 * time.Hour, TTLInteraction: time.Minute, Now: func() time.Time { return w.now }}
	w.store = memory.NewRecords(w.set.Now)
	var err error
	if w.keeper, err = New(w.set, w.store); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) begin(t *testing.T, id string, a oauth.Answer) *http.Cookie {
	t.Helper()
	_, rec, cookie, err := w.keeper.Begin(id, w.now, a)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.store.Put(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	return cookie
}

func (w *world) current(t *testing.T, cs ...*http.Cookie) *Session {
	t.Helper()
	r := httptest.NewRequest("GET", "/", nil)
	for _, c := range cs {
		r.AddCookie(c)
	}
	s, err := w.keeper.Current(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCurrent(t *testing.T) {
	w := newWorld(t)
	c := w.begin(t, "sid", oauth.Answer{Subject: "u", Remember: true, RememberFor: time.Hour, ACR: "1", AMR: []string{"pwd"}})
	if c.Name != "ory_hydra_session" || c.MaxAge != 3600 || !c.Secure || !c.HttpOnly {
		t.Errorf("cookie %v", c)
	}
	s := w.current(t, c)
	if s == nil || s.Subject != "u" || s.ID != "sid" || !s.Remember || s.ACR != "1" || !s.AuthTime.Equal(w.now) {
		t.Fatalf("session %+v", s)
	}
	box, _ := base64.RawURLEncoding.DecodeString(c.Value)
	box[len(box)-1] ^= 1
	name := w.keeper.CookieName()
	forged := w.keeper.ring.Seal(nil, append(make([]byte, secretSize), "sid"...), nil) // the right id, another secret
	for what, value := range map[string]string{
		"changed": base64.RawURLEncoding.EncodeToString(box), "the id": "sid", "empty": "", "another secret": base64.RawURLEncoding.EncodeToString(forged),
	} {
		if s := w.current(t, &http.Cookie{Name: name, Value: value}); s != nil {
			t.Errorf("%s opens %+v", what, s)
		}
	}
	// A cookie another site of the domain has put before ours does no harm.
	if s := w.current(t, &http.Cookie{Name: name, Value: "x"}, c); s == nil {
		t.Error("a foreign cookie of the same name hides ours")
	}
	w.now = w.now.Add(2 * time.Hour)
	if s := w.current(t, c); s != nil {
		t.Error("expired session opens")
	}
}

func TestNotRememberedCookieEndsWithTheBrowser(t *testing.T) {
	w := newWorld(t)
	if c := w.begin(t, "sid", oauth.Answer{Subject: "u"}); c.MaxAge != 0 || !c.Expires.IsZero() {
		t.Errorf("cookie %v", c)
	}
}

func TestExtend(t *testing.T) {
	w := newWorld(t)
	c := w.begin(t, "sid", oauth.Answer{Subject: "u", Remember: true, RememberFor: time.Hour})
	r := httptest.NewRequest("GET", "/", nil)
	r.AddCookie(c)
	ticket, _ := w.keeper.Ticket(r)
	s := w.current(t, c)
	w.now = w.now.Add(50 * time.Minute)
	rec, longer, err := w.keeper.Extend(s, ticket, w.now, oauth.Answer{RememberFor: time.Hour})
	if err != nil || w.store.Put(t.Context(), rec) != nil {
		t.Fatal(err)
	}
	w.now = w.now.Add(50 * time.Minute)
	if s := w.current(t, longer); s == nil || longer.MaxAge != 3600 || s.AuthTime.Equal(w.now) {
		t.Errorf("extended session %+v, cookie %v", s, longer)
	}
	// A session that was ended meanwhile stays ended.
	if err := w.keeper.End(t.Context(), "sid"); err != nil {
		t.Fatal(err)
	}
	if err := w.store.Put(t.Context(), rec); fault.KindOf(err) != fault.Conflict {
		t.Errorf("extending an ended session: %v", err)
	}
}

func TestEndManyAuthorizations(t *testing.T) {
	w := newWorld(t)
	w.begin(t, "sid", oauth.Answer{Subject: "u"})
	for i := range 250 {
		a := oauth.Authorization{ID: string(rune('a'+i%26)) + string(rune('a'+i/26)), SessionID: "sid", Subject: "u", ClientID: "c"}
		if i%10 == 0 {
			a.Scopes = []string{"offline_access"}
		}
		rec, err := a.Record()
		if err != nil || w.store.Put(t.Context(), rec) != nil {
			t.Fatal(err)
		}
	}
	if err := w.keeper.End(t.Context(), "sid"); err != nil {
		t.Fatal(err)
	}
	rs, err := w.store.List(t.Context(), oauth.Query{Kind: oauth.Authorizations, Session: "sid"})
	if err != nil || len(rs) != 25 {
		t.Errorf("%d authorizations left, want 25 (%v)", len(rs), err)
	}
	if err := w.keeper.End(t.Context(), "sid"); err != nil {
		t.Errorf("ending twice: %v", err)
	}
}

func TestNewWantsASecret(t *testing.T) {
	if _, err := New(&oauth.Settings{}, nil); err == nil {
		t.Error("works without a secret")
	}
}
