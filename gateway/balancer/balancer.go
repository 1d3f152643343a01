// Package balancer chooses the node a request goes to, one file per
// algorithm. It opens no connection and judges no node's health.
package balancer

import (
	"gatehouse/gateway"
	"gatehouse/lib/fault"
)

// New makes the Picker of a type, "" for round robin. Types that are not built
// fail with fault.Invalid: a resource that asks for one is refused, it is not
// run in some other way.
func New(kind string, nodes []*gateway.Node) (gateway.Picker, error) {
	switch kind {
	case "", "roundrobin":
		return newRoundRobin(nodes), nil
	}
	return nil, fault.New(fault.Invalid, "upstream type "+kind+" is not supported, use roundrobin")
}
