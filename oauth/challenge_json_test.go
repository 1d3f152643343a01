package oauth

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"gatehouse/lib/fault"
)

func TestChallengeWire(t *testing.T) {
	at := time.Date(2026, 11, 23, 7, 0, 0, 0, time.UTC)
	oidc := OIDCContext{ACRValues: []string{"a"}, LoginHint: "x@y"}
	for _, c := range []*Challenge{
		{Kind: AskLogin, ID: "c", RequestURL: "http://op/?a=1&b", RequestedScopes: []string{"openid"}, RequestedAudience: []string{}, Skip: true, Subject: "u", SessionID: "s", OIDC: oidc},
		{Kind: AskConsent, ID: "c", RequestURL: "u", RequestedScopes: []string{"openid"}, RequestedAudience: []string{"a"}, Subject: "u", SessionID: "s", OIDC: oidc,
			ConsentRequestID: "r", LoginChallenge: "l", ACR: "1", AMR: []string{"pwd"}, Context: json.RawMessage(`{"a":1}`)},
		{Kind: AskLogout, ID: "c", RequestURL: "u", Subject: "u", SessionID: "s", RPInitiated: true, RequestedAt: at, Expires: at.Add(time.Hour)},
	} {
		body, err := c.Wire()
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseChallenge(c.Kind, body)
		if err != nil || !reflect.DeepEqual(got, c) {
			t.Errorf("%s:\n got %+v (%v)\nwant %+v", body, got, err, c)
		}
	}
}

func TestChallengeShowsNoSecret(t *testing.T) {
	c := &Challenge{Kind: AskLogin, Client: &Client{ID: "app", Name: "App", SecretHash: "sha256:abc", RotatedSecretHashes: []string{"sha256:def"}}}
	body, err := c.Wire()
	if err != nil {
		t.Fatal(err)
	}
	if s := string(body); strings.Contains(s, "sha256") || strings.Contains(s, "secret_hash") || !strings.Contains(s, `"client_id":"app"`) {
		t.Errorf("%s", s)
	}
	if got, err := ParseChallenge(AskLogin, body); err != nil || got.Client == nil || got.Client.Name != "App" {
		t.Errorf("%+v %v", got, err)
	}
}

func TestAnswerWire(t *testing.T) {
	for k, a := range map[ChallengeKind]Answer{
		AskLogin: {Subject: "u", ACR: "1", AMR: []string{"pwd"}, Remember: true, RememberFor: time.Hour, ExtendSession: true, ForceSubjectIdentifier: "f", IDPSessionID: "i", Context: json.RawMessage(`1`)},
		AskConsent: {Scopes: []string{"openid"}, Audience: []string{"a"}, Remember: true, RememberFor: time.Minute, IDTokenClaims: map[string]any{"e": "x"},
			AccessTokenClaims: map[string]any{"f": 1.0}, Context: json.RawMessage(`{}`), HandledAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
		AskLogout: {},
	} {
		body, err := a.Wire(k)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseAnswer(k, body); err != nil || !reflect.DeepEqual(got, a) {
			t.Errorf("%s:\n got %+v (%v)\nwant %+v", body, got, err, a)
		}
	}
	for _, body := range []string{"", "{", `{"remember_for":-1}`, `{"remember_for":9999999999999}`, `{"subject":1}`} {
		if _, err := ParseAnswer(AskLogin, []byte(body)); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%q: %v", body, err)
		}
	}
}

func TestRejectWire(t *testing.T) {
	e, err := ParseReject([]byte(`{"error":"access_denied","error_description":"nope","error_hint":"hint","error_debug":"dbg","status_code":403}`))
	if err != nil || e.Code != "access_denied" || e.Text() != "nope hint" || e.Status != 403 || e.Cause != nil {
		t.Errorf("%+v %v", e, err)
	}
	body, err := e.RejectWire()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseReject(body); err != nil || !reflect.DeepEqual(got, e) {
		t.Errorf("%+v %v", got, err)
	}
	if e, err := ParseReject(nil); err != nil || e.Code != "access_denied" || e.Description == "" {
		t.Errorf("empty: %+v %v", e, err)
	}
}

func FuzzParseChallenge(f *testing.F) {
	f.Add("login", []byte(`{"client":{"client_id":"a"}}`))
	f.Fuzz(func(t *testing.T, k string, b []byte) {
		if c, err := ParseChallenge(ChallengeKind(k), b); err == nil {
			if _, err := c.Wire(); err != nil {
				t.Skip() // times beyond year 9999
			}
		}
	})
}
