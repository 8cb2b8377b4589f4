# Run `make` for the list. Everything is set up in .venv on first use; only Python (3.10 or later) and make are needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests wait for threads, processes and sockets now and then: two workers more than there are cores.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 2)
MEASURED := --cov --cov-report=term:skip-covered --cov-fail-under=95
WHOLE := --include='src/paygent/core/*,src/paygent/store/*' --fail-under=100 --format=total
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# Tests start hundreds of processes: the first one compiles a module, and the others read that.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-oldest test-peers test-browser lint type contracts bench docs check clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade pip

$(VENV)/demo: $(BIN)/python pyproject.toml
	$(INSTALL) --editable ".[demo]"
	@touch $@

$(VENV)/server: $(VENV)/demo
	$(INSTALL) --editable ".[demo,postgres]"
	@touch $@

$(VENV)/dev: $(VENV)/demo
	$(INSTALL) --editable ".[demo,postgres]" --group test --group lint
	@touch $@

$(VENV)/browser: $(VENV)/dev
	$(INSTALL) --group browser
	@touch $@

demo: $(VENV)/demo  ## Three users of a $49 plan on a backend, without limits, then with them (under a minute); Ctrl-C ends its dashboard
	$(BIN)/paygent demo

serve: $(VENV)/server  ## Run the backend; the first start prints keys (DATABASE_URL selects the database)
	$(BIN)/paygent serve $(if $(DATABASE_URL),--database-url "$(DATABASE_URL)")

test: $(VENV)/dev  ## Run every test, in parallel (COVERAGE=1 also checks which branches they cover)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(if $(COVERAGE),$(MEASURED))
	$(if $(COVERAGE),$(BIN)/coverage report $(WHOLE))

test-oldest: $(BIN)/python  ## Run the provider tests against the oldest SDKs that are supported
	.ci/oldest

test-peers: $(VENV)/dev  ## Run beside other instrumentation and frameworks, each in a venv of its own (PEERS="a b" selects)
	PEERS="$(PEERS)" .ci/peers

test-browser: $(VENV)/browser  ## Test the dashboard in a browser (Debian's chromium)
	$(BIN)/python -m pytest tests/browser -n 2 --dist worksteal

lint: $(VENV)/dev  ## Check style
	$(BIN)/ruff check src tests examples
	$(BIN)/ruff format --check src tests examples

type: $(VENV)/browser  ## Check types
	$(BIN)/mypy

contracts: $(VENV)/dev  ## Check which module may import which
	$(BIN)/lint-imports

bench: $(VENV)/dev  ## Measure what a call pays (REFERENCE=<python> also measures another paygent there)
	$(BIN)/python -m tests.bench $(if $(REFERENCE),--reference $(REFERENCE))

docs: $(VENV)/dev  ## Write the generated parts of the documentation
	$(BIN)/python -m tests.instrument.coverage
	$(BIN)/python -m tests.instrument.surfaces
	$(BIN)/python -m tests.docs.configuration
	$(BIN)/python -m tests.docs.troubleshooting
	$(BIN)/python -m tests.docs.rest

check: test lint type contracts  ## All of the above checks

clean:  ## Remove what make has set up
	rm -rf $(VENV) .venv-peers .pytest_cache .mypy_cache .ruff_cache .coverage
