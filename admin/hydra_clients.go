package admin

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"gatehouse/oauth"
)

// HydraClients is the registry of clients. Secrets returned are those that
// were just made or set; "" means that nothing is to be shown.
type HydraClients interface {
	oauth.ClientFinder
	List(ctx context.Context, after string, limit int, name, owner string) (cs []*oauth.Client, next string, err error)
	Delete(ctx context.Context, id string) error
	hydraRegistrar
	hydraRotator
}

type hydraRegistrar interface {
	Create(ctx context.Context, c *oauth.Client, secret string) (*oauth.Client, string, error)
	Replace(ctx context.Context, id string, c *oauth.Client, secret string) (*oauth.Client, string, error)
	Patch(ctx context.Context, id string, patch []byte) (*oauth.Client, string, error)
	SetLifespans(ctx context.Context, id string, l oauth.Lifespans) (*oauth.Client, error)
}

type hydraRotator interface {
	RotateSecret(ctx context.Context, id string) (*oauth.Client, string, error)
	DeleteRotated(ctx context.Context, id string) (*oauth.Client, error)
}

func (s *hydraServer) listClients(w http.ResponseWriter, r *http.Request) error {
	const list = "/admin/clients"
	q := r.URL.Query()
	p, err := s.page(q, list)
	if err != nil {
		return err
	}
	cs, next, err := s.Clients.List(r.Context(), p.after, p.size, q.Get("client_name"), q.Get("owner"))
	if err != nil {
		return err
	}
	out := make([]any, 0, len(cs))
	for _, c := range cs {
		out = append(out, c.Wire(""))
	}
	s.link(w, list, p, url.Values{"client_name": q["client_name"], "owner": q["owner"]}, next)
	hydraAnswer(w, http.StatusOK, out)
	return nil
}

func (s *hydraServer) createClient(w http.ResponseWriter, r *http.Request) error {
	body, err := hydraBody(r)
	if err != nil {
		return err
	}
	c, secret, err := oauth.ParseClient(body)
	if err != nil {
		return err
	}
	if c, secret, err = s.Clients.Create(r.Context(), c, secret); err != nil {
		return err
	}
	w.Header().Set("Location", "/admin/clients/"+url.PathEscape(c.ID))
	hydraAnswer(w, http.StatusCreated, c.Wire(secret))
	return nil
}

func (s *hydraServer) getClient(w http.ResponseWriter, r *http.Request) error {
	c, err := s.Clients.Client(r.Context(), r.PathValue("id"))
	return hydraClient(w, c, "", err)
}

func (s *hydraServer) putClient(w http.ResponseWriter, r *http.Request) error {
	body, err := hydraBody(r)
	if err != nil {
		return err
	}
	c, secret, err := oauth.ParseClient(body)
	if err != nil {
		return err
	}
	c, secret, err = s.Clients.Replace(r.Context(), r.PathValue("id"), c, secret)
	return hydraClient(w, c, secret, err)
}

func (s *hydraServer) patchClient(w http.ResponseWriter, r *http.Request) error {
	body, err := hydraBody(r)
	if err != nil {
		return err
	}
	c, secret, err := s.Clients.Patch(r.Context(), r.PathValue("id"), body)
	return hydraClient(w, c, secret, err)
}

func (s *hydraServer) deleteClient(w http.ResponseWriter, r *http.Request) error {
	if err := s.Clients.Delete(r.Context(), r.PathValue("id")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *hydraServer) putLifespans(w http.ResponseWriter, r *http.Request) error {
	body, err := hydraBody(r)
	if err != nil {
		return err
	}
	l, err := oauth.ParseLifespans(body)
	if err != nil {
		return err
	}
	c, err := s.Clients.SetLifespans(r.Context(), r.PathValue("id"), l)
	return hydraClient(w, c, "", err)
}

func (s *hydraServer) rotateSecret(w http.ResponseWriter, r *http.Request) error {
	c, secret, err := s.Clients.RotateSecret(r.Context(), r.PathValue("id"))
	return hydraClient(w, c, secret, err)
}

func (s *hydraServer) deleteRotated(w http.ResponseWriter, r *http.Request) error {
	c, err := s.Clients.DeleteRotated(r.Context(), r.PathValue("id"))
	return hydraClient(w, c, "", err)
}

func hydraClient(w http.ResponseWriter, c *oauth.Client, secret string, err error) error {
	if err == nil {
		hydraAnswer(w, http.StatusOK, c.Wire(secret))
	}
	return err
}

// deleteTokens ends every access token issued to a client up to now.
func (s *hydraServer) deleteTokens(w http.ResponseWriter, r *http.Request) error {
	id := r.URL.Query().Get("client_id")
	if id == "" {
		return hydraInvalid("Query parameter 'client_id' is not defined but it should have been.")
	}
	if err := s.Store.Put(r.Context(), oauth.Epoch("", id, s.Now(), time.Time{})); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
