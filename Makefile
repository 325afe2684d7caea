# `make help` lists the targets. Debian and Rust are enough; what else is missing is installed by apt-get, after saying so.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

cache := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/dynamokv
# Outside the clone: RocksDB takes 12 to 20 minutes on two cores, and is compiled once for all clones and targets.
export CARGO_TARGET_DIR ?= $(cache)/target
bin := $(CARGO_TARGET_DIR)/debug
release := $(CARGO_TARGET_DIR)/release
images := $(CARGO_TARGET_DIR)/images
# Where `make install` puts programs: the folder bin in it.
prefix := $(or $(PREFIX),$(HOME)/.local)
cluster := tests/e2e/cluster

# The whole workspace in every build: with a part of it, Cargo may choose other features for a dependency, and RocksDB's build
# script is one of those that would run again.
build := cargo build --workspace --bins
# What `make chaos` loads into nodes. It has no dependencies, so the rule above is not broken.
build_preload := cargo build -p dynamo-preload

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 12

# Whatever calls cargo comes after this one, or after `tools`, which has it: else another clone's programs may run in place of these.
.PHONY: cache
cache:
	@.ci/cache

.PHONY: tools
tools: cache
	@.ci/packages "building RocksDB" clang libclang-dev g++ make

.PHONY: build
build: tools ## build every program
	$(build)
	$(build_preload)
	@echo "the programs are in $(bin)" >&2

.PHONY: release
release: build ## dynamoctl and dynamo-node as they are installed and measured: some minutes more, a tenth less CPU
	@.ci/release dynamo-node dynamoctl

.PHONY: install
install: release ## put dynamoctl (as kubectl-dynamo too) and dynamo-node into PREFIX/bin (~/.local/bin)
	install -D -t '$(prefix)/bin' $(release)/dynamoctl $(release)/dynamo-node
	ln -sf dynamoctl '$(prefix)/bin/kubectl-dynamo'
	@case ":$$PATH:" in *':$(prefix)/bin:'*) ;; *) echo 'not on your PATH yet: export PATH="$(prefix)/bin:$$PATH"' >&2 ;; esac

.PHONY: build-tests
build-tests: tools
	cargo build --workspace --all-targets
	$(build_preload)

.PHONY: demo
demo: build ## three nodes on this machine, real data, one of them killed and brought back
	@.ci/demo

.PHONY: bench
bench: release ## YCSB A on three local nodes; other options by BENCH="--workload b --clients 128"
	@.ci/bench $(BENCH)

.PHONY: canaries
canaries: tools ## CPU time of the parts of a put and a get, each with its line of the budget; ONLY="tree" for some of them
	cargo bench --profile dev --workspace --bench canaries -- $(ONLY)

.PHONY: compaction
compaction: tools ## what long writing costs with other settings of RocksDB; ONLY="--writes 10000000 blobs" for more, or some of them
	cargo bench --profile dev --workspace --bench compaction -- $(ONLY)

# One test is a round of chaos, on loopback where there is no root or these are missing. What is left out then is said last.
chaos_packages := iproute2 iptables mount util-linux

.PHONY: test
test: build ## all tests but e2e; needs no root
	@.ci/packages --optional "the part of the tests that cuts networks and fills disks" $(chaos_packages)
	cargo test --workspace
	@$(bin)/dynamo-chaos --list-faults | sed -nE 's/^(no namespaces|not here).*/left out: &/p'

.PHONY: mutants
mutants: cache ## mistakes are made in a copy of core, and the simulator must find each; SOME=12 for a dozen of them, others every day
	cargo run -p dynamo-sim --bin dynamo-mutants -- $(if $(SOME),--some $(SOME))

.PHONY: fuzz
fuzz: tools ## spoilt inputs for every decoder, each for SECONDS (10); SEED repeats a run
	DYNAMO_FUZZ_SECONDS=$(or $(SECONDS),10) $(if $(SEED),DYNAMO_FUZZ_SEED=$(SEED)) cargo test --workspace --lib -- fuzz:: spoilt --nocapture

.PHONY: world
world: cache ## the operator and nodes on a model of Kubernetes: a crash at every call of each scenario, and SEEDS (5000) of faults
	cargo run -p dynamo-world -- --seeds $(or $(SEEDS),5000)

.PHONY: chaos-tools
chaos-tools:
	@.ci/packages "cutting the network between nodes" $(chaos_packages)

.PHONY: chaos
chaos: build chaos-tools ## real nodes under faults for MINUTES (2), and a checker; SEED repeats a schedule
	@$(bin)/dynamo-chaos --minutes $(or $(MINUTES),2) $(if $(SEED),--seed $(SEED))

.PHONY: riak
riak: build ## riak_kv#1754 with real nodes, RUNS times (20): two join and two leave under forty clients
	@RUNS=$(or $(RUNS),20) cargo test --workspace --test riak -- --nocapture

.PHONY: lint
lint: tools ## format, clippy, docs, licences, charts, shell scripts
	@.ci/lint

.PHONY: images
images: build ## container images of the node, the operator and dynamoctl, as archives; PROFILE=release for those to run elsewhere
ifeq ($(PROFILE),release)
	@.ci/release dynamo-node dynamo-operator dynamoctl
	@.ci/images $(release) $(images)/release
else
	@.ci/images $(bin) $(images)
endif

# KUBECONFIG counts only when it is written on the command line: nobody wants these tests in the cluster of a forgotten variable.
# SCENARIO reaches the tests by the environment, as make does with what is on its command line.
.PHONY: e2e
e2e: images ## the charts and a cluster under load on a real Kubernetes; SCENARIO=NAME for another story, KUBECONFIG=... for one of yours, KEEP=1 to look around after
	@DYNAMOKV_E2E_KUBECONFIG='$(if $(filter command line,$(origin KUBECONFIG)),$(KUBECONFIG))' .ci/e2e

.PHONY: e2e-all
e2e-all: ## every scenario of e2e, one after the other
	@$(MAKE) e2e SCENARIO=all

.PHONY: kube-up
kube-up: images ## a Kubernetes of three nodes on this machine, with the operator; needs root and Go
	@.ci/kube up $(images)

.PHONY: kube-demo
kube-demo: kube-up ## ... and a DynamoCluster that grows from three to five nodes
	@.ci/kube demo $(bin)

.PHONY: kube-down
kube-down: ## end it, and remove everything it left
	@$(cluster) down

.PHONY: crds
crds: build ## write crds/ and the chart's copy anew, from the operator's types
	$(bin)/dynamo-operator crd > crds/dynamocluster.yaml
	cp crds/dynamocluster.yaml charts/dynamo-operator/files/crds/

.PHONY: clean
clean: ## remove what was built, RocksDB and Kubernetes too
	rm -rf $(cache)
