// Package plugins is the list of every plugin this program has. It holds no
// behaviour: each plugin is a folder, with its page in README.md.
package plugins

import (
	"gatehouse/gateway"
	"gatehouse/plugins/keyauth"
	"gatehouse/plugins/limitcount"
	"gatehouse/plugins/openidconnect"
	"gatehouse/plugins/prometheus"
	"gatehouse/plugins/proxyrewrite"
)

// All lists the plugins in running order: the larger priority first.
func All() []gateway.Plugin {
	return []gateway.Plugin{
		openidconnect.Plugin, // 2599
		keyauth.Plugin,       // 2500
		proxyrewrite.Plugin,  // 1008
		limitcount.Plugin,    // 1002
		prometheus.Plugin,    // 500
	}
}
