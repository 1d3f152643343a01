package live

import (
	"crypto/tls"
	"strings"
)

// protocols reads ssl_protocols; the versions must not have a gap.
func protocols(t *tls.Config, names []string) error {
	if len(names) == 0 {
		return nil
	}
	t.MinVersion, t.MaxVersion = 0xffff, 0
	have := map[uint16]bool{}
	for _, n := range names {
		v, ok := map[string]uint16{"TLSv1.1": tls.VersionTLS11, "TLSv1.2": tls.VersionTLS12, "TLSv1.3": tls.VersionTLS13}[n]
		if !ok {
			return invalid("ssl_protocols are TLSv1.1, TLSv1.2, TLSv1.3")
		}
		have[v] = true
		t.MinVersion, t.MaxVersion = min(t.MinVersion, v), max(t.MaxVersion, v)
	}
	if len(have) != int(t.MaxVersion-t.MinVersion)+1 {
		return invalid("ssl_protocols must not leave out a version between two")
	}
	return nil
}

// suites are what TLS 1.2 and older may use, by OpenSSL's names, best first:
// each has forward secrecy. Those of TLS 1.3 are not chosen.
var suites = []struct {
	name string
	id   uint16
	old  bool // for TLS 1.1 alone, which has no better
}{
	{"ECDHE-ECDSA-AES128-GCM-SHA256", tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, false},
	{"ECDHE-RSA-AES128-GCM-SHA256", tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, false},
	{"ECDHE-ECDSA-AES256-GCM-SHA384", tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, false},
	{"ECDHE-RSA-AES256-GCM-SHA384", tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, false},
	{"ECDHE-ECDSA-CHACHA20-POLY1305", tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, false},
	{"ECDHE-RSA-CHACHA20-POLY1305", tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, false},
	{"ECDHE-ECDSA-AES128-SHA", tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, true},
	{"ECDHE-RSA-AES128-SHA", tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA, true},
	{"ECDHE-ECDSA-AES256-SHA", tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA, true},
	{"ECDHE-RSA-AES256-SHA", tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA, true},
}

// CipherSuites are the suites that are used unless others are named.
func CipherSuites(old bool) (ids []uint16) {
	for _, s := range suites {
		if old || !s.old {
			ids = append(ids, s.id)
		}
	}
	return ids
}

// ParseCiphers reads a list as ssl_ciphers has it: OpenSSL's names with colons
// between them, no words such as HIGH, nothing taken away. "" is none.
func ParseCiphers(list string) (ids []uint16, err error) {
	if list == "" {
		return nil, nil
	}
next:
	for name := range strings.SplitSeq(list, ":") {
		for _, s := range suites {
			if s.name == name {
				ids = append(ids, s.id)
				continue next
			}
		}
		var names []string
		for _, s := range suites {
			names = append(names, s.name)
		}
		return nil, invalid("cipher " + name + " is not offered; choose from " + strings.Join(names, ":"))
	}
	return ids, nil
}

// ParseProtocols reads versions with spaces between them: "TLSv1.2 TLSv1.3".
func ParseProtocols(list string) ([]string, error) {
	names := strings.Fields(list)
	return names, protocols(&tls.Config{MinVersion: tls.VersionTLS12}, names)
}
