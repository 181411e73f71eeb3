# walbsh: build, run, test. `make help` lists the targets.

GO        ?= go
GO_MIN    := 1.26
BIN       := $(CURDIR)/walbsh
TOOLS     := $(CURDIR)/.bin
GOLANGCI  := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOFUMPT   := mvdan.cc/gofumpt@v0.12.0
STATICCHK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
VULN      := golang.org/x/vuln/cmd/govulncheck@v1.9.0
FUZZTIME  ?= 20s

.DEFAULT_GOAL := build
.PHONY: help toolchain build run test test-system bench fuzz vet lint fmt vuln cover check clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

toolchain:
	@command -v $(GO) >/dev/null 2>&1 || { \
	  echo "walbsh needs Go $(GO_MIN) or newer and found none."; \
	  echo "Install it from https://go.dev/dl/ (unpack to /usr/local, put /usr/local/go/bin on PATH)."; exit 1; }
	@have=$$($(GO) env GOVERSION | sed 's/^go//; s/[^0-9.].*//'); \
	 first=$$(printf '%s\n%s\n' '$(GO_MIN)' "$$have" | sort -V | head -n 1); \
	 [ "$$first" = '$(GO_MIN)' ] || { \
	  echo "walbsh needs Go $(GO_MIN) or newer and found $$have."; \
	  echo "Install a newer one from https://go.dev/dl/ (unpack to /usr/local, put /usr/local/go/bin on PATH)."; exit 1; }

build: toolchain ## build the static binary ./walbsh
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN) ./cmd/walbsh

run: build ## open the shell on an embedded group
	@$(BIN)

test: toolchain ## all tests that need no root, with the race detector
	@command -v $${CC:-cc} >/dev/null 2>&1 || { \
	  echo "make test uses the race detector, which needs a C compiler: install gcc (Debian: apt-get install gcc)."; exit 1; }
	$(GO) vet ./...
	$(GO) test -race ./...

test-system: build ## tests that need root and Debian packages (installed here)
	./tests/system/run

bench: build ## benchmarks, as ratios measured in one run
	$(GO) run ./tests/bench -walbsh $(BIN)

fuzz: toolchain ## run every fuzz target for FUZZTIME each
	@set -e; for pkg in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "== $$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 50x $$pkg; \
	  done; done

vet: toolchain ## go vet and staticcheck
	$(GO) vet ./...
	@[ -x $(TOOLS)/staticcheck ] || GOBIN=$(TOOLS) $(GO) install $(STATICCHK)
	$(TOOLS)/staticcheck ./...

lint: toolchain ## golangci-lint with .golangci.yml
	@[ -x $(TOOLS)/golangci-lint ] || GOBIN=$(TOOLS) $(GO) install $(GOLANGCI)
	$(TOOLS)/golangci-lint run

fmt: toolchain ## format all Go files
	@[ -x $(TOOLS)/gofumpt ] || GOBIN=$(TOOLS) $(GO) install $(GOFUMPT)
	$(TOOLS)/gofumpt -w .

vuln: toolchain ## known vulnerabilities in the modules used (warns only)
	@[ -x $(TOOLS)/govulncheck ] || GOBIN=$(TOOLS) $(GO) install $(VULN)
	-$(TOOLS)/govulncheck ./...

cover: toolchain ## test coverage, as cover.out and a total
	$(GO) test -coverprofile cover.out -coverpkg ./... ./...
	$(GO) tool cover -func cover.out | tail -n 1

check: vet lint test ## everything a change must pass

clean: ## remove what the build made
	rm -rf $(BIN) $(TOOLS) cover.out
