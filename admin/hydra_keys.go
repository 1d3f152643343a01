package admin

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"

	"gatehouse/lib/fault"
)

// HydraKeys keeps sets of JSON Web Keys. Answers are what the wire shows.
type HydraKeys interface {
	CreateKey(ctx context.Context, set, alg, use, kid string) (json.RawMessage, error)
	KeySet(ctx context.Context, set string) (json.RawMessage, error)
	Key(ctx context.Context, set, kid string) (json.RawMessage, error)
	PutSet(ctx context.Context, set string, doc []byte) (json.RawMessage, error)
	PutKey(ctx context.Context, set, kid string, doc []byte) (json.RawMessage, error)
	DeleteSet(ctx context.Context, set string) error
	DeleteKey(ctx context.Context, set, kid string) error
}

func (s *hydraServer) getSet(w http.ResponseWriter, r *http.Request) error {
	doc, err := s.Keys.KeySet(r.Context(), r.PathValue("set"))
	if err != nil && fault.KindOf(err) == fault.NotFound {
		return &hydraRefusal{http.StatusNotFound, hydraProblem{"Not Found", hydraNowhere}, err}
	}
	return hydraKey(w, http.StatusOK, doc, err)
}

func (s *hydraServer) createKey(w http.ResponseWriter, r *http.Request) error {
	body, err := hydraBody(r)
	if err != nil {
		return err
	}
	var q struct{ Alg, Use, Kid string }
	if err := json.Unmarshal(body, &q); err != nil {
		return fault.Wrap(fault.Invalid, "Unable to decode the request body: "+err.Error(), err)
	}
	set := r.PathValue("set")
	doc, err := s.Keys.CreateKey(r.Context(), set, q.Alg, q.Use, q.Kid)
	if err == nil {
		w.Header().Set("Location", s.PublicBase+"/keys/"+url.PathEscape(set))
	}
	return hydraKey(w, http.StatusCreated, doc, err)
}

func (s *hydraServer) putSet(w http.ResponseWriter, r *http.Request) error {
	body, err := hydraBody(r)
	if err != nil {
		return err
	}
	doc, err := s.Keys.PutSet(r.Context(), r.PathValue("set"), body)
	return hydraKey(w, http.StatusOK, doc, err)
}

func (s *hydraServer) deleteSet(w http.ResponseWriter, r *http.Request) error {
	if err := s.Keys.DeleteSet(r.Context(), r.PathValue("set")); err != nil && fault.KindOf(err) != fault.NotFound {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *hydraServer) getKey(w http.ResponseWriter, r *http.Request) error {
	doc, err := s.Keys.Key(r.Context(), r.PathValue("set"), r.PathValue("kid"))
	return hydraKey(w, http.StatusOK, doc, err)
}

func (s *hydraServer) putKey(w http.ResponseWriter, r *http.Request) error {
	body, err := hydraBody(r)
	if err != nil {
		return err
	}
	doc, err := s.Keys.PutKey(r.Context(), r.PathValue("set"), r.PathValue("kid"), body)
	return hydraKey(w, http.StatusOK, doc, err)
}

func (s *hydraServer) deleteKey(w http.ResponseWriter, r *http.Request) error {
	if err := s.Keys.DeleteKey(r.Context(), r.PathValue("set"), r.PathValue("kid")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// hydraKey answers with a document; a refused key has its own error form.
func hydraKey(w http.ResponseWriter, status int, doc json.RawMessage, err error) error {
	var f *fault.Error
	if errors.As(err, &f) && f.Kind == fault.Invalid {
		return &hydraRefusal{http.StatusBadRequest, hydraProblem{"Bad Request", f.Msg}, err}
	}
	if err == nil {
		hydraRaw(w, status, doc)
	}
	return err
}
