# Every target's comment is its help: `make` alone prints them.

GO   ?= go
TOOL  = $(GO) tool -modfile=tools/go.mod
FUZZ ?= 30s

.DEFAULT_GOAL := help
.PHONY: help build test test-future race lint fuzz bench benchmarks crash cluster million fleet scorecard demo ci

help: ## print this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/gateway, the one binary
	$(GO) build -trimpath -o bin/gateway ./cmd/gateway

test: ## run the tests, as the README says
	$(GO) test ./...

test-future: ## run the tests with the wall clock 400 days ahead
	tools/test-future.sh ./...

race: ## run the tests under the race detector
	$(GO) test -race ./...

lint: ## gofmt, vet, staticcheck, errcheck, retired names; nothing to install
	@test -z "$$(gofmt -l .)" || { echo "gofmt would change:"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(TOOL) staticcheck ./...
	$(TOOL) errcheck -exclude tools/errcheck.txt ./...
	$(GO) test -count=1 -run 'TestRetired' .

fuzz: ## run every fuzz target for FUZZ (default 30s) each
	@$(GO) list ./... | while read -r pkg; do \
	  $(GO) test -list '^Fuzz' "$$pkg" | grep '^Fuzz' | while read -r name; do \
	    echo "$$pkg $$name"; $(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZ) "$$pkg" || exit 1; \
	  done || exit 1; done

BENCH ?= 15s
bench: build ## measure the whole road as three processes, BENCH (default 15s) each time; docs/performance.md
	bin/gateway bench --dev --no-queue --duration $(BENCH) --in-flight 2 --batch 150
	bin/gateway bench --dev --no-queue --duration $(BENCH) --in-flight 64
	bin/gateway bench --dev --no-queue --duration $(BENCH) --rate 1500/s
	bin/gateway bench --dev --duration $(BENCH) --in-flight 2 --batch 150
	bin/gateway bench --dev --duration $(BENCH) --in-flight 64

benchmarks: ## measure one connection, and each room by itself
	$(GO) test -run '^$$' -bench . -benchmem ./wire ./pool ./internal/delivery ./internal/api ./internal/queue ./internal/gateway

SEEDS ?= 200
crash: ## kill a working queue at random moments, SEEDS (default 200) times over, and count what is lost
	SLUICE_CRASH_SEEDS=$(SEEDS) $(GO) test -timeout 0 -v -run TestKilledGatewayLosesNoTask ./internal/queue
	$(GO) run ./internal/scorecard -json data/crash.json -seeds $(SEEDS) S17

cluster: ## run the tests of queue, history and webhooks on a cluster of three servers, killing one after the other all the while
	SLUICE_TEST_CLUSTER=1 $(GO) test -count=1 -p 1 -timeout 20m -v ./internal/queue ./internal/history
	SLUICE_TEST_CLUSTER=1 $(GO) test -count=1 -timeout 20m -v -run 'TestWebhookMissesNoEvent' ./internal/gateway

fleet: ## have two, four and eight gateways share a quota, join, leave and be killed, on a quiet machine
	$(GO) test ./internal/gateway -run TestEveryClusterSizeStaysWithinQuota -sharing -v -timeout 10m

MILLION ?= 1000000
million: ## queue MILLION (default a million) notifications, as GOMEMLIMIT=200MiB has it, and tell how much memory that took (on Linux)
	GOMEMLIMIT=200MiB SLUICE_MILLION=$(MILLION) $(GO) test -timeout 0 -v -run TestMemoryOfMillionWaitingTasks ./internal/queue

scorecard: ## play the services' faults to a gateway under load; ROWS="S01 S06" for some rows
	$(GO) run ./internal/scorecard $(ROWS)

demo: ## run the gateway and the mock providers on this laptop
	$(GO) run ./cmd/gateway dev

ci: ## all that CI runs
	bash .ci/run
