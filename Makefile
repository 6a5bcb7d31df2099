# Every target is one line that calls the real tool.
.DEFAULT_GOAL := help
CHARGEMESH := target/debug/chargemesh
export RUST_BACKTRACE ?= 0

help: ## Show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

build: ## Build the one binary
	@cargo build --locked -p chargemesh

run: build ## Replay the recorded sessions, then leave a small network running
	@$(CHARGEMESH) replay deploy/samples/caltech-2019-03-a.csv --data data/replay && $(CHARGEMESH) up --data data/live --charging-points 4 --drivers 2 --detach

stop: ## Stop the network of `make run`
	@$(CHARGEMESH) down --data data/live

test: ## Build and run every test (installs PostgreSQL and Java where they are missing)
	@cargo build --locked --workspace --all-targets && cargo test --locked --workspace

lint: ## Formatting and lints
	@cargo fmt --all --check && cargo clippy --locked --workspace --all-targets -- -D warnings

bench: ## Measure Central against bare floors (release build)
	@cargo build --locked --release -p chargemesh -p testbed && target/release/bench --json target/bench.json

lines: ## Count the lines of product code in each crate
	@cargo test --locked -q -p testbed --test source product_lines -- --nocapture

deny: ## Check licences and banned crates (needs cargo-deny)
	@cargo deny check

vectors: ## Write the link's test vectors again
	@WIRE_VECTORS=write cargo test --locked -q -p wire vectors

fuzz: ## Run each fuzz target for a minute (needs cargo-fuzz and a nightly toolchain)
	@cd fuzz && for t in $$(cargo +nightly fuzz list); do cargo +nightly fuzz run $$t -- -max_total_time=60 || exit 1; done

.PHONY: help build run stop test lint bench lines deny vectors fuzz
