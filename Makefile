# Every target's comment is its help: `make` alone prints them.

GO   ?= go
TOOL  = $(GO) tool -modfile=tools/go.mod
FUZZ ?= 30s

.DEFAULT_GOAL := help
.PHONY: notices reference site help build test test-future race lint fuzz bench profile growth benchmarks benchstat crash crash-broadcast cluster cluster-million million fleet scorecard soak broadcast demo release ci

help: ## print this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/gateway
	$(GO) build -trimpath -o bin/gateway ./cmd/gateway

test: ## run the tests
	$(GO) test ./...

test-future: ## run the tests with the wall clock 400 days ahead
	tools/test-future.sh ./...

race: ## run the tests under the race detector
	$(GO) test -race ./...

lint: ## gofmt, vet, staticcheck, errcheck, retired names, unbounded waits in tests, pages; nothing to install
	@test -z "$$(gofmt -l .)" || { echo "gofmt would change:"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	cd tools && $(GO) vet ./...
	$(TOOL) staticcheck ./...
	$(TOOL) errcheck -exclude tools/errcheck.txt ./...
	$(GO) test -count=1 -run 'TestRetired|TestWaits|TestDesign|TestPages' .

REFERENCES = ./cmd/gateway ./internal/api ./internal/config ./internal/metrics ./internal/gateway
reference: ## write the pages of docs that are generated from the code: docs/reference, mapping.md, the tables of metrics.md
	UPDATE=1 $(GO) test -count=1 -run 'UpToDate' $(REFERENCES)

site: ## write the documentation as a static site to data/site
	$(GO) run ./internal/docsite/build data/site

notices: ## write THIRD_PARTY_NOTICES.md, the licences of the modules in the binary
	$(TOOL) go-licenses report --template tools/notices.tmpl ./cmd/gateway | tr -d '\r' >THIRD_PARTY_NOTICES.md

fuzz: ## run every fuzz target for FUZZ (default 30s) each
	@$(GO) list ./... | while read -r pkg; do \
	  $(GO) test -list '^Fuzz' "$$pkg" | grep '^Fuzz' | while read -r name; do \
	    echo "$$pkg $$name"; $(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZ) "$$pkg" || exit 1; \
	  done || exit 1; done

BENCH ?= 15s
LOADS = "--batch 500 --in-flight 4" "--in-flight 64" "--in-flight 256" "--rate 1500/s"
bench: build ## run the loads of docs/performance.md without and with a queue, BENCH (default 15s) each
	for queue in --no-queue --queue; do for load in $(LOADS); do \
	  echo "== $$queue $$load"; bin/gateway bench --dev $$queue --duration $(BENCH) $$load || exit 1; done; done

PROFILE ?= 15s
profile: build ## profile CPU, allocations and locks of the gateway in batches, single calls and with a queue, PROFILE (default 15s) each; writes data/profile
	PROFILE=$(PROFILE) tools/profile.sh

growth: build ## plot how the CPU time of the gateway grows with notifications in flight, endpoints, apps and callers; about 20 minutes, on an idle machine; writes docs/growth-*.svg
	cd tools && $(GO) run ./growth $(GROWTH)

benchmarks: ## run the Go benchmarks of the packages on the send path
	$(GO) test -run '^$$' -bench . -benchmem ./push ./wire ./pool ./internal/delivery ./internal/api ./internal/queue ./internal/gateway

BASE ?= HEAD
benchstat: ## compare all benchmarks of commit BASE (default HEAD) with the work tree; COUNT=6 BENCHTIME=300ms BENCHES=. PACKAGES="./wire ./pool"
	BASE=$(BASE) tools/benchstat.sh $(PACKAGES)

# In the directory of the package, go test prints each row when it has ended.
SCORECARD = cd internal/scorecard && $(GO) test -count=1 -timeout 0 -scorecard

SEEDS ?= 200
crash-broadcast: ## kill gateways, one and three on a cluster, at random moments of SEEDS (default 200) broadcasts: upload, run, pause and recall
	SLUICE_CRASH_SEEDS=$(SEEDS) $(GO) test -timeout 0 -v -run 'TestKilled' ./internal/broadcast

crash: ## kill a busy queue at SEEDS (default 200) random moments, also during repeated calls with Idempotency-Keys and send --file; count lost and repeated notifications; writes data/crash.json
	SLUICE_CRASH_SEEDS=$(SEEDS) $(GO) test -timeout 0 -v -run TestKilledGatewayLosesNoTask ./internal/queue
	@mkdir -p data
	$(SCORECARD) -run '^TestScorecard$$/^S17$$' -results $(CURDIR)/data/crash.json -seeds $(SEEDS) -kills $(SEEDS)

cluster: ## test queue, history, leases, Idempotency-Keys, audit and webhooks on a NATS cluster while its three servers are killed in turn
	SLUICE_TEST_CLUSTER=1 $(GO) test -count=1 -p 1 -timeout 20m -v ./internal/jetstream ./internal/queue ./internal/history ./internal/idempotency ./internal/audit
	SLUICE_TEST_CLUSTER=1 $(GO) test -count=1 -timeout 20m -v -run 'TestWebhookMissesNoEvent' ./internal/gateway

cluster-million: ## send MILLION (default 1000000) notifications with keys through three gateways on a NATS cluster while each server and each gateway is killed once; then measure one, two and four gateways (docs/scorecard.md); needs an idle machine
	SLUICE_TEST_CLUSTER=1 SLUICE_MILLION=$(MILLION) $(GO) test -count=1 -timeout 0 -v -run 'TestKilledClusterLosesNothing|TestClusterThroughput' ./internal/gateway

fleet: ## test two, four and eight gateways that share a quota, join, leave and are killed; needs an idle machine
	$(GO) test ./internal/gateway -run TestEveryClusterSizeStaysWithinQuota -sharing -v -timeout 10m

MILLION ?= 1000000
million: ## queue MILLION (default 1000000) notifications with GOMEMLIMIT=200MiB and print the memory used (Linux)
	GOMEMLIMIT=200MiB SLUICE_MILLION=$(MILLION) $(GO) test -timeout 0 -v -run TestMemoryOfMillionWaitingTasks ./internal/queue

scorecard: ## test a gateway under load and provider faults (docs/scorecard.md); ROWS="S01 S06" selects rows
	$(SCORECARD) -run '^TestScorecard$$/(?i)^($(subst $() ,|,$(or $(strip $(ROWS)),.*)))$$' -rows $(or $(words $(ROWS)),1) -results $(CURDIR)/scorecard.json

SOAK ?= 24h
soak: ## random provider faults for SOAK (default 24h) under load; memory, goroutines and descriptors must not grow (row S25)
	$(SCORECARD) -run '^TestScorecard$$/^S25$$' -soak $(SOAK)

DEVICES ?= 1000000
broadcast: ## send a broadcast to DEVICES (default 1000000) devices of the mock, pause it five times, and recall another one (row S32); draws docs/broadcast-*.svg
	@mkdir -p data
	$(SCORECARD) -run '^TestScorecard$$/^S32$$' -devices $(DEVICES) -broadcast-series $(CURDIR)/data/broadcast.json
	cd tools && $(GO) run ./broadcast

demo: ## run a gateway and mock providers on this machine
	$(GO) run ./cmd/gateway dev

release: ## write binaries, packages, image, SBOMs and checksums of VERSION=1.2.3 to dist
	cd deploy && $(GO) run ./release -source .. -out ../dist -version "$(VERSION)"

ci: ## run everything that CI runs
	bash .ci/run
