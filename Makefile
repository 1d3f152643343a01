# Gatehouse. `make` shows what there is.
SHELL := /bin/sh
export GOTOOLCHAIN := auto
GO ?= go
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
DEBIAN := postgresql nginx-light chromium nodejs npm curl haproxy apache2-bin

.DEFAULT_GOAL := help
.PHONY: help build demo deps lint check e2e wire test docs bench

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/gatehouse (and bin/hydra, the same program)
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/gatehouse ./cmd/gatehouse
	ln -sf gatehouse bin/hydra

demo: ## run everything on embedded defaults
	$(GO) run ./cmd/gatehouse demo

deps: ## install what the tests start: PostgreSQL, nginx, Chromium, Node.js, HAProxy, Apache
	@sh test/deps.sh $(DEBIAN)

lint: ## format, vet, staticcheck
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "gofmt would change:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

check: lint ## lint, import rule, documents and unit tests with the race detector
	$(GO) test -race -count=1 $$($(GO) list ./... | grep -v gatehouse/test/)
	$(GO) test -count=1 -run Alloc ./test ./lib/h1

e2e: ## the tutorial and the demo against the real binary, in a real browser
	$(GO) test -race -count=1 -timeout 15m ./test/e2e ./test/fixtures

wire: ## protocols and attacks: h2spec, gRPC interop, five origins, slow and idle clients
	$(GO) test -race -count=1 -timeout 5m ./test/wire
	$(GO) test -count=1 -timeout 8m ./test/smuggle
	$(GO) test -count=1 -timeout 3m ./test/endurance

docs: ## rewrite docs/configuration.md and, in a browser, docs/images
	$(GO) test -count=1 ./test -run TestConfigurationPage -update
	GATEHOUSE_PICTURES=$(CURDIR)/docs/images $(GO) test -count=1 ./test/e2e -run 'TestDemo$$'

bench: ## CPU per request next to nginx, HAProxy, Caddy; rewrites docs/benchmarks.md (15 minutes)
	@sh test/deps.sh nginx-light haproxy wrk nghttp2-client util-linux
	$(GO) run ./test/bench

test: deps ## everything: installs what it needs, lint, unit tests with -race, end to end
	$(MAKE) check
	$(MAKE) e2e
	$(MAKE) wire
