package admin

import (
	"errors"
	"net/http"

	"gatehouse/lib/fault"
	"gatehouse/oauth"
)

// hydraAsk binds a handler to a kind of question and turns what the desk
// refuses into the answers of these routes.
func hydraAsk(k oauth.ChallengeKind, serve func(*hydraServer, http.ResponseWriter, *http.Request, oauth.ChallengeKind, string) error) func(*hydraServer, http.ResponseWriter, *http.Request) error {
	return func(s *hydraServer, w http.ResponseWriter, r *http.Request) error {
		q := r.URL.Query()
		challenge := q.Get(string(k) + "_challenge")
		if challenge == "" {
			challenge = q.Get("challenge") // as 1.x had it
		}
		if challenge == "" {
			return hydraInvalid("Query parameter 'challenge' is not defined but should have been.")
		}
		err := serve(s, w, r, k, challenge)
		var f *fault.Error
		if !errors.As(err, &f) {
			return err
		}
		switch f.Kind {
		case fault.NotFound:
			return &hydraRefusal{http.StatusNotFound, hydraProblem{"Not Found", hydraNowhere}, err}
		case fault.Invalid:
			e := oauth.ErrInvalidRequest.WithHint(f.Msg)
			return &hydraRefusal{http.StatusBadRequest, hydraProblem{e.Code, e.Text()}, err}
		}
		return err
	}
}

func (s *hydraServer) openChallenge(w http.ResponseWriter, r *http.Request, k oauth.ChallengeKind, challenge string) error {
	c, err := s.Desk.Open(r.Context(), k, challenge)
	if err != nil {
		return err
	}
	body, err := c.Wire()
	if err != nil {
		return err
	}
	hydraRaw(w, http.StatusOK, body)
	return nil
}

func (s *hydraServer) acceptChallenge(w http.ResponseWriter, r *http.Request, k oauth.ChallengeKind, challenge string) error {
	body, err := hydraBody(r)
	if err != nil {
		return err
	}
	a, err := oauth.ParseAnswer(k, body)
	if err != nil {
		return err
	}
	to, err := s.Desk.Accept(r.Context(), k, challenge, a)
	return hydraRedirect(w, to, err)
}

func (s *hydraServer) rejectChallenge(w http.ResponseWriter, r *http.Request, k oauth.ChallengeKind, challenge string) error {
	body, err := hydraBody(r)
	if err != nil {
		return err
	}
	reason := oauth.ErrAccessDenied
	if k != oauth.AskLogout {
		if reason, err = oauth.ParseReject(body); err != nil {
			return err
		}
	}
	to, err := s.Desk.Reject(r.Context(), k, challenge, reason)
	if err == nil && k == oauth.AskLogout {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return hydraRedirect(w, to, err)
}

func hydraRedirect(w http.ResponseWriter, to string, err error) error {
	if err != nil {
		return err
	}
	body, err := oauth.RedirectWire(to)
	if err != nil {
		return err
	}
	hydraRaw(w, http.StatusOK, body)
	return nil
}
