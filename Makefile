# Tidebook's tasks. Bare `make` lists them.
# Everything is installed into .venv from the lock files, with hashes, as wheels only.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -qq
LOCKED := --require-hashes --only-binary :all:

# Which Python makes .venv: yours (make PYTHON=/path/to/python3.12 …) or the first that is new enough.
PYTHON ?=
PYTHONS := $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 python

# What `make test` runs and how: make test TESTS=tests/ledger PYTEST_ARGS="-x -n 0"
TESTS ?= tests
PYTEST_ARGS ?= -n auto --dist worksteal

# Passed on to the command: make run ARGS="--port 9000"
ARGS ?=

# How many examples `make fuzz` tries.
FUZZ_EXAMPLES ?= 2000

.DEFAULT_GOAL := help
.PHONY: help setup run demo test test-fast lint format bench bench-big bench-recovery bench-draw bench-export fuzz profile load lottery curves reference lock clean

help: ## List these targets
	@echo "Tidebook: an event-sourced ledger for coupons. Targets:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.run ## Start the whole system: PostgreSQL, Valkey, the service, projections, sweeper
	$(BIN)/tidebook run $(ARGS)

demo: $(VENV)/.run ## Replay a real year of a retailer's coupons and reconcile it
	$(BIN)/tidebook demo $(ARGS)

test: $(VENV)/.dev ## Run the tests on embedded servers of their own
	$(BIN)/python -m pytest $(PYTEST_ARGS) $(TESTS)

test-fast: $(VENV)/.dev ## Run the tests that take less than ten seconds each
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m "not slow" $(TESTS)

lint: $(VENV)/.dev ## Check format, style, types and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .
	$(BIN)/lint-imports

format: $(VENV)/.dev ## Format the code and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev ## Measure against the baselines and write bench.json
	$(BIN)/python -m loadtest.bench $(ARGS)

load: $(VENV)/.dev ## Let a crowd loose, check every answer, write a report (ARGS="rush --users 2000")
	$(BIN)/python -m loadtest $(ARGS)

lottery: $(VENV)/.dev ## Hold a lottery of a million entries and say what each step takes
	$(BIN)/python -m loadtest.lottery $(ARGS)

curves: $(VENV)/.dev ## Draw the arrival curves of the load test into docs/
	$(BIN)/python -m loadtest.charts docs/loadtest-curves.svg

profile: $(VENV)/.dev ## Run a rush under py-spy and say where the server's time goes
	$(BIN)/python -m loadtest.profiling $(ARGS)

bench-big: $(VENV)/.dev ## Claim from a campaign of a million coupons (ARGS="--coupons 12000000")
	$(BIN)/python -m loadtest.big $(ARGS)

bench-recovery: $(VENV)/.dev ## Kill PostgreSQL in a rush five times and say when claims go on
	$(BIN)/python -m loadtest.recovery $(ARGS)

bench-draw: $(VENV)/.dev ## Draw 100,000 of a frozen list of 33 million (ARGS="--verify": and check it)
	$(BIN)/python -m campaigns.draws.measuring $(ARGS)

bench-export: $(VENV)/.dev ## Verify an export of ten million events (ARGS="--events 1000000")
	$(BIN)/python -m campaigns.export_measuring $(ARGS)

fuzz: $(VENV)/.dev ## Do harm to exports for some minutes (FUZZ_EXAMPLES=5000)
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest -n 0 --timeout 3600 -k crash tests/exports/test_damage.py

reference: $(VENV)/.dev ## Write docs/reference/ from the code
	$(BIN)/python -m api.reference docs/reference

setup: $(VENV)/.dev ## Install everything for development into .venv

lock: $(VENV)/.dev ## Resolve the dependencies anew and write requirements/*.lock
	UV="$(BIN)/uv" sh requirements/lock.sh $(ARGS)

clean: ## Remove .venv and what tools left behind (never your data in TIDEBOOK_HOME)
	rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- .venv: a stamp per lock file, so that the second call is instant --------------------------

$(BIN)/python:
	@found=""; for candidate in $(PYTHONS); do \
	  if "$$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	  then found="$$candidate"; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "Tidebook needs Python 3.11 or newer, with its venv module (Debian: python3-venv)." >&2; \
	  echo "None found among: $(PYTHONS). Name one: make PYTHON=/path/to/python3" >&2; \
	  exit 1; \
	fi; \
	echo "Making $(VENV) with $$("$$found" --version)"; \
	"$$found" -m venv --clear $(VENV)

# The development lock holds the run lock, so whoever has .dev has .run.
$(VENV)/.dev: requirements/dev.lock pyproject.toml | $(BIN)/python
	@echo "Installing requirements/dev.lock (about a minute)"
	@$(PIP) install $(LOCKED) -r requirements/dev.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $(VENV)/.run $@

$(VENV)/.run: requirements/run.lock pyproject.toml | $(BIN)/python
	@echo "Installing requirements/run.lock (about a minute)"
	@$(PIP) install $(LOCKED) -r requirements/run.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@
