//go:build !unix

package engine

import "net"

// alive cannot look without reading here; a dead connection shows when used.
func alive(net.Conn) bool { return true }
