// Package admin serves the management APIs: that of the gateway
// (/apisix/admin) and that of the provider (/admin).
//
// It parses, checks and answers; what is kept is in resource.Store and
// oauth.Store, what runs is built elsewhere and only asked here (Checker,
// Waiter). It opens no socket and terminates no TLS.
//
// Start at APISIX for the gateway; the files named hydra… are the provider's.
package admin
