package oauth

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"gatehouse/lib/fault"
)

func TestClientRoundTrip(t *testing.T) {
	const in = `{"client_id":"a","client_secret":"s3cret-value","redirect_uris":["http://127.0.0.1:9999/callback"],
		"grant_types":["authorization_code"],"scope":"openid","jwks":{},"metadata":{"k":1},"unknown":true,
		"created_at":"2026-11-23T07:29:50Z","skip_logout_consent":null,
		"client_credentials_grant_access_token_lifespan":"2h","implicit_grant_access_token_lifespan":null}`
	c, secret, err := ParseClient([]byte(in))
	if err != nil {
		t.Fatal(err)
	}
	if secret != "s3cret-value" || c.ID != "a" || c.JWKS != nil || !c.CreatedAt.IsZero() || c.Lifespans.ClientCredentialsAccess != 2*time.Hour {
		t.Errorf("got %+v, secret %q", c, secret)
	}
	out, err := json.Marshal(c.Wire(""))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"jwks":{}`, `"metadata":{"k":1}`, `"contacts":[]`, `"client_secret_expires_at":0`, `"skip_logout_consent":null`,
		`"client_credentials_grant_access_token_lifespan":"2h0m0s"`, `"device_authorization_grant_refresh_token_lifespan":null`,
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("wire lacks %s: %s", want, out)
		}
	}
	if strings.Contains(string(out), "client_secret\"") || strings.Contains(string(out), "hash") {
		t.Errorf("wire shows a secret: %s", out)
	}
	again, _, err := ParseClient(out)
	if err != nil {
		t.Fatal(err)
	}
	second, _ := json.Marshal(again.Wire(""))
	if !reflect.DeepEqual(second, out) {
		t.Errorf("second pass differs:\n%s\n%s", out, second)
	}
	if shown, _ := json.Marshal(c.Wire("x-secret")); !strings.Contains(string(shown), `"client_secret":"x-secret"`) {
		t.Errorf("a new secret is not shown: %s", shown)
	}
}

func TestParseClientRefuses(t *testing.T) {
	long := strings.Repeat("x", maxText+1)
	for name, in := range map[string]string{
		"no JSON":       `zz`,
		"two documents": `{}{}`,
		"wrong type":    `{"redirect_uris":"x"}`,
		"bad lifespan":  `{"client_credentials_grant_access_token_lifespan":"x"}`,
		"negative":      `{"client_credentials_grant_access_token_lifespan":"-1h"}`,
		"endless":       `{"client_credentials_grant_access_token_lifespan":"2000000h"}`,
		"long text":     `{"client_name":"` + long + `"}`,
		"long entry":    `{"redirect_uris":["` + long + `"]}`,
		"long list":     `{"contacts":[` + strings.Repeat(`"a",`, maxList) + `"a"]}`,
		"metadata":      `{"metadata":[1]}`,
		"jwks":          `{"jwks":"x"}`,
		"huge":          `{"metadata":{"x":"` + strings.Repeat("x", MaxClientJSON) + `"}}`,
	} {
		if _, _, err := ParseClient([]byte(in)); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v, want Invalid", name, err)
		}
	}
}

func TestEpochRoundTrip(t *testing.T) {
	at := time.Date(2026, 11, 23, 7, 0, 0, 123456789, time.UTC)
	if got := EpochTime(Epoch("s", "c", at, time.Time{})); !got.Equal(at) {
		t.Errorf("got %v, want %v", got, at)
	}
	if got := EpochTime(Record{Data: []byte("junk")}); got.Before(at) {
		t.Errorf("an unreadable epoch ends nothing: %v", got)
	}
}

func FuzzParseClient(f *testing.F) {
	f.Add([]byte(`{"client_id":"a","redirect_uris":["x"],"jwks":{"keys":[]}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		c, _, err := ParseClient(in)
		if err != nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Fatalf("kind of %v", err)
			}
			return
		}
		out, err := json.Marshal(c.Wire(""))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := ParseClient(out); err != nil && len(out) <= MaxClientJSON {
			t.Fatalf("own wire refused: %v: %s", err, out)
		}
	})
}
