// Command reverseproxy is net/http's reverse proxy, as a reference for bench.
package main

import (
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
)

func main() {
	if len(os.Args) != 5 {
		log.Fatal("usage: reverseproxy http-address https-address upstream directory-of-cert")
	}
	up := &url.URL{Scheme: "http", Host: os.Args[3]}
	p := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(up)
			r.SetXForwarded()
			r.Out.Host = r.In.Host
		},
		Transport: &http.Transport{MaxIdleConnsPerHost: 1024, MaxIdleConns: 1024, DisableCompression: true},
	}
	go func() {
		log.Fatal(http.ListenAndServeTLS(os.Args[2], os.Args[4]+"/cert.pem", os.Args[4]+"/key.pem", p))
	}()
	log.Fatal(http.ListenAndServe(os.Args[1], p))
}
