# What a person or a machine does with this tree; `make help` lists it. Everything works in a fresh clone.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# sudo and su forget where Go and the tools of the system are.
export PATH := $(PATH):/usr/local/go/bin:/usr/local/sbin:/usr/sbin:/sbin
# One static binary for any machine. Builds must not depend on who owns the checkout: the version is stamped below.
export CGO_ENABLED ?= 0
export GOFLAGS := $(GOFLAGS) -buildvcs=false

GIT := git -c safe.directory='*'
VERSION ?= $(shell $(GIT) describe --tags --dirty 2>/dev/null || \
	echo "devel-$$($(GIT) rev-parse --short=12 HEAD 2>/dev/null || echo unknown)")
FUZZTIME ?= 10s
# What runs under the race detector: packages that need no kernel of their own and share memory.
RACE := ./api/... ./plan/... ./judge/... ./controlplane/... ./agent ./agent/flow ./agent/gossip ./agent/local \
	./agent/state ./agent/wire ./dns/... ./internal/agree ./internal/underlay ./scripts/...

.PHONY: help setup build packages test test-nightly test-unit test-kernels race demo demo-down bench bench-dns bench-flows generate lint fuzz-short clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22

setup: ## install what tests and demo need (Debian packages); again: nothing
	@scripts/setup

build: ## bin/culvert
	go build -trimpath -ldflags "-X github.com/culvert-net/culvert/internal/version.stamp=$(VERSION)" \
		-o bin/culvert ./cmd/culvert

# The time of the last commit: the same source gives the same packages.
packages: ## deb and rpm for amd64 and arm64, into dist/
	cd packaging && go run . -version '$(VERSION)' -time "$$($(GIT) log -1 --format=%ct 2>/dev/null || date +%s)" -out ../dist

test: setup ## everything CI runs; needs root, skips nothing
	@scripts/test

test-nightly: setup ## 10 million packets through programs and oracle, the crash tests with 300 kills of each process, 100 failovers of each kind; needs root
	CULVERT_SEED=$$(date +%s%N) CULVERT_FUZZ_PACKETS=10000000 go test -count=1 -timeout 5h -v -run '^TestProgramsAgreeWithTheOracle$$' ./bpf
	CULVERT_KILLS=300 go test -count=1 -timeout 90m -v -run '^TestCrash$$' ./e2e
	CULVERT_FAULTS=100 go test -count=1 -timeout 90m -v -run '^TestFailover$$' ./e2e

test-unit: ## the packages whose tests need no root
	go test $$(go list -f '{{.ImportPath}} {{.TestGoFiles}} {{.XTestGoFiles}}' ./... | grep -v _root_test.go | cut -d ' ' -f 1)
	go test -skip '^TestTruthTable$$' ./internal/agree

test-kernels: ## what depends on the kernel, on Debian's 6.1 and 6.12 in QEMU; needs root, an hour
	@scripts/test-kernels

race: ## packages without a kernel of their own under the race detector; needs a C compiler
	CGO_ENABLED=1 go test -race -count=1 -timeout 10m $(RACE)

demo: setup build ## the story, on this machine; needs root
	@scripts/demo

demo-down: ## remove what the demo made
	@scripts/demo down

bench: setup ## ratios against bare WireGuard, a bare veth, nftables and peers, into docs/PERFORMANCE.md and build/bench.json; needs root, half an hour
	go run ./internal/bench -write docs/PERFORMANCE.md -json build/bench.json -peers build/peers

bench-dns: setup ## the resolver beside CoreDNS and Unbound, into docs/PERFORMANCE.md; needs root, five minutes
	go run ./internal/bench names -write docs/PERFORMANCE.md -peers build/peers

bench-flows: setup ## what recording flows costs and how long questions take, into docs/PERFORMANCE.md; needs root, 8 GB of disk, half an hour
	go run ./internal/bench flows -write docs/PERFORMANCE.md

generate: ## BPF objects and all else that is generated; needs the clang that bpf/clang-version.txt names, libbpf-dev and llvm
	go generate ./bpf

lint: ## vet, gofmt, and the style as tests
	go vet ./...
	go test -count=1 ./internal/tidy

fuzz-short: ## every fuzz target for FUZZTIME (10s)
	@scripts/fuzz $(FUZZTIME)

clean: ## remove what was built
	rm -rf bin dist
