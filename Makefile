# Every target that needs an environment makes it first (scripts/install.py); with nothing changed
# that takes a fraction of a second. `make` alone lists the targets.

.DEFAULT_GOAL := help
SHELL := /bin/bash

# The stack to install and serve with: cpu, gpu, or auto for what the machine has.
PROFILE ?= auto
HOST ?= 127.0.0.1
PORT ?= 8000
# A settings file; empty takes configs/cpu.toml or configs/gpu.toml.
CONFIG ?=

# Tests that run side by side; 0: in one process, as a debugger wants it.
TEST_PROCESSES ?= 2

VENV := .venv
BIN := $(VENV)/bin

# Not the files with most tests first: those with few take the longest.
PYTEST = $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadgroup --no-loadscope-reorder

# The first Python that is new enough and can make environments; `make PYTHON=…` names another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$p && break; done)

define need-python
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with venv is needed; none was found." >&2; \
		echo "Install one (Debian: python3 python3-venv) or give PYTHON=/path/to/python." >&2; exit 2; }
endef

define install
	$(need-python)
	@$(PYTHON) scripts/install.py --venv $(VENV)
endef

.PHONY: help
help:  ## list the targets
	@echo "make TARGET [PROFILE=auto|cpu|gpu] [PYTHON=python3.11]"
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## */  \1\t/' | expand -t 20

.PHONY: serve
serve:  ## install, then serve in the foreground at HOST=127.0.0.1 PORT=8000 [CONFIG=file]
	$(install) --profile $(PROFILE) $(if $(CONFIG),$(shell grep -Eq "^ *backend *= *[\"']ray[\"']" $(CONFIG) && echo --ray))
	@exec $(BIN)/r1-serve up --host $(HOST) --port $(PORT) $(if $(CONFIG),--config $(CONFIG))

.PHONY: install
install:  ## only make the environment, tests and tools included
	$(install) --profile $(PROFILE) --dev

.PHONY: test
test:  ## all tests, those on real vLLM included
	$(install) --profile $(PROFILE) --dev
	@exec $(PYTEST) $(ARGS)

.PHONY: test-unit
test-unit:  ## the tests that need no vLLM
	$(install) --profile router --dev
	@exec $(PYTEST) -m "not engine" $(ARGS)

.PHONY: lint
lint:  ## ruff's rules and format, and the types
	$(install) --profile router --dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

.PHONY: format
format:  ## mend what ruff can mend
	$(install) --profile router --dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: k8s-check
k8s-check:  ## the Kubernetes manifests: schemas, checkov, hadolint, and our own tests of them
	$(install) --profile router --dev
	@$(PYTHON) scripts/install.py --venv .venvs/k8s --profile k8s
	@$(BIN)/python -m tests.k8s.check
	@exec $(BIN)/python -m pytest tests/k8s $(ARGS)

# Not --quiet: MkDocs then counts no warnings, and strict means nothing.
.PHONY: docs
docs:  ## the documentation as a site in site/, strictly: links, anchors, pages that no menu has
	$(need-python)
	@$(PYTHON) scripts/install.py --venv .venvs/docs --profile docs
	@NO_MKDOCS_2_WARNING=1 .venvs/docs/bin/mkdocs build --strict

.PHONY: docs-serve
docs-serve: docs  ## the same at http://127.0.0.1:8090, built anew when a page changes
	@NO_MKDOCS_2_WARNING=1 exec .venvs/docs/bin/mkdocs serve --dev-addr 127.0.0.1:8090

.PHONY: api-reference
api-reference:  ## write docs/api-reference.md again, from the OpenAPI document
	$(install) --profile router --dev
	@exec $(BIN)/python -m scripts.api_reference

VENDOR := serve/playground/page/vendor
VENDORED := cd scripts/vendor && npm ci --ignore-scripts --no-audit --no-fund --silent

.PHONY: vendor
vendor:  ## write the pages' libraries again, from scripts/vendor/package-lock.json (npm)
	@$(VENDORED) && node build.js $(CURDIR)/$(VENDOR)

.PHONY: playground-check
playground-check:  ## the playground's page: its types, and that its libraries are those of the lock (npm)
	@$(VENDORED) && node_modules/.bin/tsc --project . && node build.js $(CURDIR)/build/vendor
	@diff --recursive build/vendor $(VENDOR)

.PHONY: screenshots
screenshots:  ## the playground's pictures in docs/images again (Chromium)
	$(install) --profile $(PROFILE) --dev
	@exec $(BIN)/python -m tests.playground.pictures

.PHONY: bench
bench:  ## quick: a load test of the demo model with a page and pictures, and the router's cost
	$(install) --profile $(PROFILE) --dev
	@$(BIN)/r1-serve bench run --concurrency 1,8,32,64,128 --seconds 8 --warm-up 3 --repeats 3 \
		--slo-ttft-ms 500 --slo-tpot-ms 30 --out bench-results/quick $(ARGS)
	@exec $(BIN)/python -m benchmarks.router_bench --contenders direct,r1-serve --rounds 1 \
		--streams 64 --out bench-results/router-quick.json

.PHONY: bench-all
bench-all: bench bench-router bench-balancing bench-overload bench-thinking bench-ray bench-baselines bench-fleet bench-planner  ## every benchmark there is

.PHONY: bench-router
bench-router:  ## the router's own cost, beside other routers, over a stand-in engine
	$(install) --profile router --dev
	@exec $(BIN)/python -m benchmarks.router_bench $(ARGS)

.PHONY: bench-balancing
bench-balancing:  ## what each balancing policy does: 100 simulated engines, and 4 stand-ins
	$(install) --profile router --dev
	@exec $(BIN)/python -m benchmarks.balancing $(ARGS)

.PHONY: bench-overload
bench-overload:  ## real vLLM behind the router and bare, at up to 3 x capacity
	$(install) --profile $(PROFILE) --dev
	@exec $(BIN)/python -m benchmarks.overload $(ARGS)

.PHONY: bench-thinking
bench-thinking:  ## what votes, recovery of cut-off thinking and the loop breaker gain
	$(install) --profile $(PROFILE) --dev
	@exec $(BIN)/python -m benchmarks.thinking $(ARGS)

.PHONY: bench-ray
bench-ray:  ## engines on Ray, as child processes, and what Ray Serve would cost
	$(install) --profile router --dev
	@exec $(BIN)/python -m benchmarks.ray_bench $(ARGS)

.PHONY: bench-baselines
bench-baselines:  ## transformers behind Gradio, plain vLLM, other routers and this, side by side
	$(install) --profile $(PROFILE) --dev
	@$(BIN)/python -m benchmarks.baselines --model demo $(ARGS)
	@exec $(BIN)/python -m benchmarks.baselines --model 1.5b $(ARGS)

.PHONY: bench-fleet
bench-fleet:  ## policies over simulated fleets; ARGS= for up to 1,000 engines, which takes long
	$(install) --profile router --dev
	@exec $(BIN)/python -m benchmarks.fleet $(if $(filter undefined,$(origin ARGS)),--quick,$(ARGS))

.PHONY: bench-planner
bench-planner:  ## the capacity planner's simulation against a real engine
	$(install) --profile $(PROFILE) --dev
	@exec $(BIN)/python -m benchmarks.planner.validate $(ARGS)

.PHONY: bench-referee
bench-referee:  ## our figures against AIPerf's, on a served endpoint: ARGS="--url … --model …"
	$(install) --profile router --dev
	@exec $(BIN)/python -m benchmarks.referee $(ARGS)

.PHONY: demo-model
demo-model:  ## train the demo model again (demo_model/)
	$(install) --profile $(PROFILE) --dev
	@exec $(BIN)/python -m demo_model $(ARGS)

.PHONY: lock
lock:  ## resolve requirements/*.txt again; UPGRADE=1 takes newer versions
	@test -x .venvs/lock/bin/uv || { $(PYTHON) -m venv .venvs/lock \
		&& .venvs/lock/bin/pip install --quiet uv==0.13.9; }
	UV=$(CURDIR)/.venvs/lock/bin/uv UPGRADE=$(UPGRADE) requirements/lock.sh

.PHONY: clean
clean:  ## remove environments, caches and build results
	rm -rf $(VENV) .venvs build dist site bench-results .pytest_cache .mypy_cache .ruff_cache .hypothesis \
		scripts/vendor/node_modules
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
