# Every target has a '##' text; `make help` prints them. CI runs .ci/run, which calls only make.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
UV := .tools/uv
BIN := .venv/bin
export UV_PYTHON_DOWNLOADS := never

.PHONY: help install fmt lint types test test-unit test-integration test-e2e test-demo test-faults bench bench-model bench-loop demo up down gen check clean

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: ## Install uv into .tools/ and the locked environment into .venv/
	@$(PYTHON) bootstrap.py
	@$(UV) sync --all-packages --frozen --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')"

fmt: ## Format the code and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: ## Check style and import direction
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: ## Check types
	$(BIN)/mypy

test: test-unit ## Run the whole suite that CI runs; what has a stack waits most of the time
	$(MAKE) -j 2 test-integration test-e2e test-demo

test-unit: ## Run the tests that need nothing but Python
	$(BIN)/pytest -n 2 tests/unit tests/contract tests/ledger

test-integration: ## Run the tests of the parts against the real infrastructure
	$(BIN)/pytest -m "not faults" --durations 20 tests/integration

test-e2e: ## Run the tests of the whole: events in, predictions out, faults in between
	$(BIN)/pytest -m "not faults" --durations 20 tests/e2e tests/faults

test-demo: ## Run the demo, and check outside of it what it says
	$(BIN)/pytest tests/demo

test-faults: ## Run the longer fault injections (not part of test)
	$(BIN)/pytest -m "faults and not e2e" --durations 40 tests/integration tests/faults && parts=0 || parts=$$?; \
	$(BIN)/pytest -m "faults and e2e" tests/e2e && exit $$parts

bench: ## Run the benchmark and write its table (75 minutes; see benchmarks/README.md)
	$(BIN)/python benchmarks/bench_inference.py --readme

bench-model: ## Run the service on a model that costs, against a client that only asks the model (6 minutes)
	$(BIN)/python benchmarks/bench_model.py

bench-loop: ## Run the demo on five seeds with its controls (about 40 minutes)
	$(BIN)/python benchmarks/bench_loop.py

demo: install ## Install, then show the loop close once: drift found, retrained, canaried, promoted
	$(BIN)/penstock demo

up: ## Start the embedded stack and all services in the background
	$(BIN)/penstock up --detach

down: ## Stop the embedded stack
	$(BIN)/penstock down

gen: ## Write generated files anew
	$(BIN)/python -m penstock_pipelines.schema_json
	$(BIN)/python k8s/generate_topics.py

check: lint types test ## Run what CI runs

clean: ## Remove caches, the environment and the local state
	rm -rf .venv .tools .penstock .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
