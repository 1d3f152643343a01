package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// The rounds and racers of TestOneWinner.
const (
	raceRounds = 100
	racers     = 16
)

// TestOneWinner redeems one code, and then one refresh token, many times at
// once: exactly one wins, always.
func TestOneWinner(t *testing.T) {
	backends(t, func(t *testing.T, s *stack) {
		s.client(testClient)
		a := newAgent(t, testCallback)
		auth := s.provider + "/oauth2/auth?" + url.Values{"client_id": {"rp"}, "response_type": {"code"}, "scope": {"openid offline"},
			"redirect_uri": {testCallback}, "state": {"0123456789abcdef"}}.Encode()
		// Remembered, so that the rounds after the first ask nothing.
		first := a.open(auth)
		first = a.submit(first, "submit", url.Values{"email": {testUser}, "password": {testPassword}, "remember": {"1"}})
		first = a.submit(first, "accept", url.Values{"remember": {"1"}})
		for round := range raceRounds {
			p := first
			if round > 0 {
				p = a.walk(auth)
			}
			code := p.location.Query().Get("code")
			wins := race(t, s, url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {testCallback}})
			if len(wins) != 1 {
				t.Fatalf("round %d: %d winners of one code", round, len(wins))
			}
			// The losers were replays, so nothing of that code is good any more.
			// A second code, redeemed once, gives the refresh token to race for.
			code = a.walk(auth).location.Query().Get("code")
			status, body := redeem(t, s, url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {testCallback}})
			if status != http.StatusOK {
				t.Fatalf("round %d: %d %s", round, status, body)
			}
			refresh := parse[struct {
				R string `json:"refresh_token"`
			}](t, body).R
			if wins := race(t, s, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}}); len(wins) != 1 {
				t.Fatalf("round %d: %d winners of one refresh token", round, len(wins))
			}
		}
	})
}

// race sends the same token request many times at once and returns the bodies
// of the winners. Every loser must get an OAuth error.
func race(t *testing.T, s *stack, form url.Values) (wins []string) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	begin := make(chan struct{})
	var odd []string
	for range racers {
		wg.Go(func() {
			<-begin
			status, body := redeem(t, s, form)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case status == http.StatusOK:
				wins = append(wins, body)
			case status != http.StatusBadRequest || !strings.Contains(body, `"invalid_grant"`):
				odd = append(odd, fmt.Sprint(status, " ", body))
			}
		})
	}
	close(begin)
	wg.Wait()
	for _, o := range odd {
		t.Errorf("a loser got %s", o)
	}
	return wins
}

func redeem(t *testing.T, s *stack, form url.Values) (int, string) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.provider+"/oauth2/token", strings.NewReader(form.Encode()))
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth("rp", "a-secret-of-rp")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Error(err)
	}
	return res.StatusCode, string(b)
}
