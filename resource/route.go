package resource

import "encoding/json"

// Route says which requests go where, and through which plugins.
type Route struct {
	Meta
	URI             string          `json:"uri,omitempty"`
	URIs            []string        `json:"uris,omitempty"`
	Host            string          `json:"host,omitempty"`
	Hosts           []string        `json:"hosts,omitempty"`
	RemoteAddr      string          `json:"remote_addr,omitempty"`
	RemoteAddrs     []string        `json:"remote_addrs,omitempty"`
	Methods         []string        `json:"methods,omitempty"`
	Priority        int             `json:"priority,omitempty"` // larger wins among equal paths
	Vars            json.RawMessage `json:"vars,omitempty"`
	FilterFunc      string          `json:"filter_func,omitempty"` // Lua, refused
	Script          json.RawMessage `json:"script,omitempty"`      // Lua, refused
	ScriptID        json.RawMessage `json:"script_id,omitempty"`   // Lua, refused
	Timeout         *Timeout        `json:"timeout,omitempty"`
	Plugins         Plugins         `json:"plugins,omitempty"`
	PluginConfigID  ID              `json:"plugin_config_id,omitempty"`
	Upstream        json.RawMessage `json:"upstream,omitempty"` // an Upstream in place
	UpstreamID      ID              `json:"upstream_id,omitempty"`
	ServiceID       ID              `json:"service_id,omitempty"`
	EnableWebSocket *bool           `json:"enable_websocket,omitempty"`
	Status          *int            `json:"status,omitempty"` // 0: not loaded
}

// AllURIs is uri or uris.
func (r *Route) AllURIs() []string { return oneOrMany(r.URI, r.URIs) }

// AllHosts is host or hosts.
func (r *Route) AllHosts() []string { return oneOrMany(r.Host, r.Hosts) }

// AllRemoteAddrs is remote_addr or remote_addrs.
func (r *Route) AllRemoteAddrs() []string { return oneOrMany(r.RemoteAddr, r.RemoteAddrs) }

func oneOrMany(one string, many []string) []string {
	if one != "" {
		return append([]string{one}, many...)
	}
	return many
}

// Service is what several routes have in common.
type Service struct {
	Meta
	Plugins         Plugins         `json:"plugins,omitempty"`
	Upstream        json.RawMessage `json:"upstream,omitempty"`
	UpstreamID      ID              `json:"upstream_id,omitempty"`
	Hosts           []string        `json:"hosts,omitempty"`
	EnableWebSocket *bool           `json:"enable_websocket,omitempty"`
	Script          json.RawMessage `json:"script,omitempty"` // Lua, refused
}
