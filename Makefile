# Every target sets up .venv from the pinned lock files in requirements/ first.
# ARGS is passed to the command: make test ARGS="-k seam", make demo ARGS="--check", make bench ARGS="--list".

SHELL := /bin/sh
unexport PYTHONDONTWRITEBYTECODE # else every worker compiles all tests again
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# the first Python that is new enough; to choose another: make test PYTHON=/opt/python/bin/python3.13
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
# files run in parallel, the longest first, the tests of a file in order; ARGS="-n0" for one process
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --no-input
COMPILE := build/lock/bin/pip-compile --quiet --generate-hashes --unsafe-package rehydrate --strip-extras \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links --no-emit-trusted-host

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-quick check coverage format client bench chaos soak holes failures migrate-check mutants lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.run $(VENV)/.node ## run a streaming conversation and a chat on embedded defaults; ARGS="--check" runs the exactness check
	@exec $(BIN)/rehydrate demo $(ARGS)

test: $(VENV)/.dev $(VENV)/.node ## run all tests, on every core
	@exec $(PYTEST) $(ARGS)

test-quick: $(VENV)/.dev ## run the fast half of the tests: without processes, browsers or real-time waits
	@exec $(PYTEST) -m "not slow" $(ARGS)

check: $(VENV)/.dev ## check format, lint, types and import contracts, as CI does; ARGS are passed to the linter
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check . $(ARGS)
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python tests/core_coverage.py

coverage: $(VENV)/.dev ## branch coverage of the core: each module by its own test; ARGS goes to pytest
	@exec $(BIN)/python tests/core_coverage.py $(ARGS)

format: $(VENV)/.dev ## format the code and fix lint errors
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix . $(ARGS)

client: $(VENV)/.node ## build the package for JavaScript, and /client.js from it
	@cd clients/js && npm run --silent check && npm run --silent build && npm run --silent bundle

bench: $(VENV)/.dev ## run benchmarks, as ratios to a baseline; ARGS="--list" lists them
	@exec $(BIN)/python -m bench $(ARGS)

chaos: $(VENV)/.dev ## kill processes at random moments, compare every character; ARGS="--rounds 200 --json --seed N"
	@PYTHONPATH=tests exec $(BIN)/python -m chaos $(ARGS)

soak: $(VENV)/.dev $(VENV)/.node ## converse, join, fail and restart at random, compare every character; ARGS="--seconds 600 --json --seed N"
	@PYTHONPATH=tests exec $(BIN)/python -m soak $(ARGS)

holes: $(VENV)/.dev $(VENV)/.node ## test known client-side recipes and generate docs/holes.md
	@HOLES=write exec $(BIN)/python -m pytest tests/holes $(ARGS)

failures: $(VENV)/.dev ## inject each fault and generate docs/failures.md
	@FAILURES=write exec $(BIN)/python -m pytest tests/failures $(ARGS)

migrate-check: $(VENV)/.dev ## test that migrations go up, down and up, and match the metadata
	@exec $(BIN)/python -m pytest -k migration tests/postgres $(ARGS)

mutants: $(VENV)/.dev build/mutants/.made ## mutation testing: change the code, list the changes that no test notices; ARGS="--module core/window --sample 40"
	@PYTHONPATH=tests exec $(BIN)/python -m mutants $(ARGS)

setup: $(VENV)/.dev $(VENV)/.node ## create .venv only

lock: build/lock/.made ## upgrade the pins in requirements/*.txt within the ranges of pyproject.toml
	@$(COMPILE) --upgrade --output-file requirements/build.txt requirements/build.in
	@$(COMPILE) --upgrade --constraint requirements/build.txt --extra embedded --extra openai \
		--output-file requirements/run.txt pyproject.toml
	@$(COMPILE) --upgrade --constraint requirements/build.txt --constraint requirements/run.txt \
		--extra dev --output-file requirements/dev.txt pyproject.toml
	@$(COMPILE) --upgrade --output-file requirements/mutants.txt requirements/mutants.in
	@for lock in build run dev mutants; do grep -E '^[a-zA-Z ]' requirements/$$lock.txt > build/lock/$$lock \
		&& cp build/lock/$$lock requirements/$$lock.txt; done

clean: ## remove the files that other targets create
	rm -rf $(VENV) build dist tests/js/node_modules clients/js/node_modules clients/js/dist .mypy_cache .ruff_cache .pytest_cache \
		.hypothesis .import_linter_cache

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python" >&2; exit 2; }
	@echo "creating $(VENV)" >&2
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "python -m venv failed (Debian and Ubuntu: install python3-venv)" >&2; exit 2; }
	@touch $@

$(VENV)/.run: $(VENV)/.made pyproject.toml requirements/build.txt requirements/run.txt
	@echo "installing runtime dependencies" >&2
	@$(PIP) install --require-hashes -r requirements/build.txt -r requirements/run.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements/dev.txt
	@echo "installing development dependencies" >&2
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

# stock ably-js, and the tools that build and test the package for JavaScript; tests skip without them
$(VENV)/.node: $(VENV)/.made $(wildcard tests/js/package-lock.json clients/js/package-lock.json)
	@if ! test -f tests/js/package-lock.json || ! command -v node >/dev/null || ! command -v npm >/dev/null; \
	then echo "skipping ably-js tests (node, npm or tests/js/package-lock.json not found)" >&2; \
	elif (cd tests/js && npm ci --silent --no-audit --no-fund) && (cd clients/js && npm ci --silent --no-audit --no-fund); \
	then touch $@; else echo "skipping ably-js tests (npm ci failed)" >&2; fi

build/lock/.made: Makefile
	@rm -rf build/lock && $(PYTHON) -m venv build/lock
	@build/lock/bin/python -m pip --disable-pip-version-check --quiet install "pip-tools>=7.5,<8"
	@touch $@

build/mutants/.made: requirements/mutants.txt
	@rm -rf build/mutants && $(PYTHON) -m venv build/mutants
	@build/mutants/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements/mutants.txt
	@touch $@
