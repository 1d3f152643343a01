package resource

// SSL is a certificate for server names. Cert and Certs, Key and Keys belong
// together in order.
type SSL struct {
	Meta
	Type         string        `json:"type,omitempty"` // "server" (default) or "client"
	SNI          string        `json:"sni,omitempty"`
	SNIs         []string      `json:"snis,omitempty"`
	Cert         string        `json:"cert"`
	Key          string        `json:"key"`
	Certs        []string      `json:"certs,omitempty"`
	Keys         []string      `json:"keys,omitempty"`
	Client       *SSLClient    `json:"client,omitempty"`
	SSLProtocols []string      `json:"ssl_protocols,omitempty"`
	OCSPStapling *OCSPStapling `json:"ocsp_stapling,omitempty"`
	Status       *int          `json:"status,omitempty"` // 0: not used
}

// OCSPStapling asks for OCSP answers with handshakes, whether or not the
// certificate does.
type OCSPStapling struct {
	Enabled    bool `json:"enabled,omitempty"`
	SkipVerify bool `json:"skip_verify,omitempty"`
	CacheTTL   int  `json:"cache_ttl,omitempty"` // seconds; 0: 3600
}

// TTL is cache_ttl or its default.
func (o *OCSPStapling) TTL() int {
	if o.CacheTTL > 0 {
		return o.CacheTTL
	}
	return 3600
}

// SSLClient demands a certificate of the client, but for paths that a regular
// expression matches.
type SSLClient struct {
	CA               string   `json:"ca"`
	Depth            *int     `json:"depth,omitempty"` // certificates above the client's own; nil: 1
	SkipMTLSURIRegex []string `json:"skip_mtls_uri_regex,omitempty"`
}

// AllSNIs is sni or snis.
func (s *SSL) AllSNIs() []string { return oneOrMany(s.SNI, s.SNIs) }
