package resource

// SSL is a certificate for server names. Cert and Certs, Key and Keys belong
// together in order.
type SSL struct {
	Meta
	Type         string     `json:"type,omitempty"` // "server" (default) or "client"
	SNI          string     `json:"sni,omitempty"`
	SNIs         []string   `json:"snis,omitempty"`
	Cert         string     `json:"cert"`
	Key          string     `json:"key"`
	Certs        []string   `json:"certs,omitempty"`
	Keys         []string   `json:"keys,omitempty"`
	Client       *SSLClient `json:"client,omitempty"`
	SSLProtocols []string   `json:"ssl_protocols,omitempty"`
	Status       *int       `json:"status,omitempty"` // 0: not used
}

// SSLClient demands a certificate of the client.
type SSLClient struct {
	CA               string   `json:"ca"`
	Depth            *int     `json:"depth,omitempty"` // certificates above the client's own; nil: 1
	SkipMTLSURIRegex []string `json:"skip_mtls_uri_regex,omitempty"`
}

// AllSNIs is sni or snis.
func (s *SSL) AllSNIs() []string { return oneOrMany(s.SNI, s.SNIs) }
