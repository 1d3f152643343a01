package endpoint

import (
	"context"
	"net/http"

	"gatehouse/oauth"
)

type status struct {
	Status string `json:"status"`
}

// alive serves /health/alive: the process answers.
func (e *Endpoints) alive(w http.ResponseWriter, r *http.Request) {
	oauth.WriteJSON(w, http.StatusOK, status{"ok"})
}

// ready serves /health/ready: the store answers too.
func (e *Endpoints) ready(w http.ResponseWriter, r *http.Request) {
	if err := e.storeAnswers(r.Context()); err != nil {
		e.Settings.Log.Warn("the store does not answer", "err", err)
		oauth.WriteJSON(w, http.StatusServiceUnavailable, struct {
			Errors map[string]string `json:"errors"`
		}{map[string]string{"database": "the store does not answer"}})
		return
	}
	oauth.WriteJSON(w, http.StatusOK, status{"ok"})
}

// storeAnswers fails when the store does not answer within three seconds.
func (e *Endpoints) storeAnswers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	_, err := e.Store.Get(ctx, oauth.Ref{Kind: oauth.Keys, Key: "#"})
	return err
}
