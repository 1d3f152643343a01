package endpoint

import (
	"context"
	"net/http"

	"gatehouse/oauth"
)

type status struct {
	Status string `json:"status"`
}

// Alive serves /health/alive: the process answers.
func (e *Endpoints) Alive(w http.ResponseWriter, r *http.Request) {
	oauth.WriteJSON(w, http.StatusOK, status{"ok"})
}

// Ready serves /health/ready: the store answers too.
func (e *Endpoints) Ready(w http.ResponseWriter, r *http.Request) {
	if err := e.StoreAnswers(r.Context()); err != nil {
		e.Settings.Log.Warn("the store does not answer", "err", err)
		oauth.WriteJSON(w, http.StatusServiceUnavailable, struct {
			Errors map[string]string `json:"errors"`
		}{map[string]string{"database": "the store does not answer"}})
		return
	}
	oauth.WriteJSON(w, http.StatusOK, status{"ok"})
}

// StoreAnswers fails when the store does not answer within three seconds.
func (e *Endpoints) StoreAnswers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	_, err := e.Store.Get(ctx, oauth.Ref{Kind: oauth.Keys, Key: "#"})
	return err
}

// ServeVersion serves /version.
func (e *Endpoints) ServeVersion(w http.ResponseWriter, r *http.Request) {
	oauth.WriteJSON(w, http.StatusOK, struct {
		Version string `json:"version"`
	}{e.Version})
}
