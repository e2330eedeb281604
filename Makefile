# From a bare clone with Python 3.10+ and make: every target does its own set-up.

VENV ?= .venv
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
BIN := $(VENV)/bin
PYTEST_ARGS ?=
# Three workers on two cores: much of a test's time is waiting for processes to start and to end.
PYTEST := -m pytest -n 3 --durations=15 --durations-min=5
# Tests of one file share planned projects, and some build on what the tests before them did.
BY_FILE := --dist loadfile --no-loadscope-reorder
# What a contributor runs before each commit: the pure parts, YAML, the scaffolder, and every row of the outcome table in
# runs through the real worker. What we need from upstream changes with its versions, so the rest has those tests.
FAST_TESTS := tests/unit tests/model $(wildcard tests/test_*.py) \
	tests/engine/test_outcome_rows.py tests/e2e/test_scaffold.py
# Tests, demo and benchmarks start hundreds of processes: where bytecode is not kept, each of them compiles first.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help install set-up build browser demo docs docs-serve reference test test-unit test-rest test-slow test-all nightly test-browser screenshots bench services soak fuzz mutation test-floors test-newest test-engines lint check ruff format clean

test: $(VENV)/.test  ## the tests to run before each commit: two to four minutes
	$(BIN)/python $(PYTEST) --dist worksteal $(FAST_TESTS) $(PYTEST_ARGS)

test-unit: $(VENV)/.test  ## the tests that start no run, in seconds
	$(BIN)/python $(PYTEST) tests/unit $(PYTEST_ARGS)

test-rest: $(VENV)/.test  ## the tests that `make test` leaves out, except those of the night
	$(BIN)/python $(PYTEST) $(BY_FILE) $(addprefix --ignore=,$(FAST_TESTS)) $(PYTEST_ARGS)

test-slow: $(VENV)/.test  ## the tests that CI leaves out: slow ones, and those whose rule others show (marker `night`)
	$(BIN)/python $(PYTEST) $(BY_FILE) -m "slow or night" $(PYTEST_ARGS)

test-all: $(VENV)/.test  ## every test, also those of the night, on the newest versions within the declared limits
	$(BIN)/python $(PYTEST) $(BY_FILE) -m "slow or not slow" $(PYTEST_ARGS)

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

fuzz: $(VENV)/.test  ## the unit tests once more, on random input that no run before has drawn
	$(BIN)/python $(PYTEST) --hypothesis-profile=fuzz tests/unit $(PYTEST_ARGS)

MODULES ?= dg_sqlmesh_component/run/ledger.py
TESTS ?= tests/unit/run/test_ledger.py tests/unit/run/test_ledger_across_retries.py
mutation: $(VENV)/.mutation  ## which unit tests kill each mutant of MODULES, and which mutants survive TESTS; a module at a time
	PYTHONPATH=$(CURDIR) $(BIN)/python tests/mutation/kills.py $(MODULES) -- $(TESTS)

soak: $(VENV)/.test  ## random stories with kills, overlaps and failures by the hundred; many hours
	$(BIN)/python tests/soak/killed_processes.py
	$(BIN)/python tests/soak/random_sources.py
	$(BIN)/python tests/soak/random_changes.py
	$(BIN)/python tests/soak/random_restatements.py
	$(BIN)/python tests/soak/random_attempts.py
	$(BIN)/python tests/soak/random_predictions.py
	$(BIN)/python tests/soak/random_losses.py
	$(BIN)/python tests/soak/change_matrix.py
	$(BIN)/python tests/soak/random_sequences.py
	$(BIN)/python tests/soak/random_histories.py
	$(BIN)/python tests/soak/random_rows.py

nightly: $(VENV)/.test services browser  ## what CI leaves out, in at most three hours: a line for each part
	$(BIN)/python scripts/nightly.py

bench: $(VENV)/.test  ## the tables of docs/contributing/benchmarks.md; hours, on a machine that does nothing else
	$(BIN)/python benchmarks/definitions.py
	$(BIN)/python benchmarks/runs.py --measure steps memory launches
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/sizes.py
	$(BIN)/python benchmarks/columns.py
	$(BIN)/python benchmarks/rivals.py
	$(BIN)/python benchmarks/column_lineage.py
	$(BIN)/python benchmarks/ticks.py
	$(BIN)/python benchmarks/waiting_ticks.py
	$(BIN)/python benchmarks/plans.py
	$(BIN)/python benchmarks/previews.py
	$(BIN)/python benchmarks/held_runs.py
	$(BIN)/python benchmarks/janitor.py
	$(BIN)/python benchmarks/restatements.py --work 3000000

# The core packages of MariaDB have the server and no service. Tests start servers of their own.
services:  ## PostgreSQL, MariaDB and PgBouncer, from Debian's packages; without one, the tests that start it are skipped
	@command -v postgres || ls /usr/lib/postgresql/*/bin/postgres 2>/dev/null || \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql; }
	@command -v mariadbd || ls /usr/sbin/mariadbd 2>/dev/null || \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends mariadb-server-core mariadb-client-core; }
	@command -v pgbouncer || ls /usr/sbin/pgbouncer 2>/dev/null || \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends pgbouncer; }

browser:  ## Chromium, from Debian's packages; without it, the stories in a browser are skipped
	@command -v chromium || command -v chromium-browser || command -v google-chrome || \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; }

test-browser: $(VENV)/.test  ## what a person sees and clicks in Dagster's UI, in Chromium
	$(BIN)/python -m pytest -n 0 -m "slow or not slow" tests/browser $(PYTEST_ARGS)

screenshots: $(VENV)/.test  ## the pictures of README and docs, from the stories in the browser, the tutorial and the production example
	DG_SQLMESH_SCREENSHOTS=$(CURDIR)/docs/images $(BIN)/python -m pytest -n 0 -m "slow or not slow" \
	  tests/browser tests/e2e/test_tutorial.py tests/e2e/test_production.py $(PYTEST_ARGS)

# mypy checks the tests too, and needs what they import.
lint: check  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: $(VENV)/.test $(VENV)/.lint  ## types, as Dagster's community repository checks them
	$(BIN)/ty check --quiet

ruff: format
format: $(VENV)/.lint  ## correct the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: $(VENV)/.dg  ## the main job, end to end, on embedded DuckDB
	$(BIN)/python demo/demo.py

build: $(BIN)/uv  ## the wheel and the sources, in dist/
	$(BIN)/uv build --quiet

docs: $(VENV)/.docs  ## the docs site, in site/; fails if a link is broken
	$(BIN)/zensical build --clean --strict

reference: $(VENV)/.test  ## component.yaml and the page of all attributes, from their declarations
	$(BIN)/python scripts/reference.py

docs-serve: $(VENV)/.docs  ## the docs site on http://localhost:8000, built again when a page changes
	$(BIN)/zensical serve

install: set-up

$(BIN)/uv:
	@test -n "$(PYTHON)" || { echo "Python 3.10 or newer is needed, and none was found."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

set-up: pyproject.toml | $(BIN)/uv  ## what all other targets need, at once
	VIRTUAL_ENV="$(abspath $(VENV))" $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -e . \
	  --group dg --group test --group lint --group docs
	@touch $(addprefix $(VENV)/.,dg test lint docs)

$(VENV)/.dg $(VENV)/.test $(VENV)/.lint $(VENV)/.docs $(VENV)/.mutation: $(VENV)/.%: pyproject.toml | $(BIN)/uv
	VIRTUAL_ENV="$(abspath $(VENV))" $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -e . --group $*
	@touch $@

# The interpreter of a version: one on the PATH that really is it, else one that pyenv keeps.
python_of = $(shell for p in python$(1) $$(ls -d $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$(1)*/bin/python 2>/dev/null); do \
	$$p -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "$(1)")' 2>/dev/null && echo $$p && break; done)

# $(1): where, $(2): Python version, $(3): how uv resolves
define test_on
	@test -n "$(call python_of,$(2))" || { echo "Python $(2) is not installed here, so nothing was tested on it."; exit 1; }
	$(BIN)/uv venv --quiet --clear --python $(call python_of,$(2)) $(1)
	VIRTUAL_ENV="$(abspath $(1))" $(BIN)/uv pip install --quiet --compile-bytecode --python $(1)/bin/python --resolution $(3) --upgrade -e . --group test
	@$(1)/bin/python -c 'import sys; from importlib.metadata import version as v; \
		print("Python", sys.version.split()[0], *(f"{n} {v(n)}" for n in ("dagster", "sqlmesh", "duckdb", "pydantic")), sep=" | ")'
	$(1)/bin/python $(PYTEST) $(BY_FILE) -m "not slow" $(PYTEST_ARGS)
endef

test-floors: | $(BIN)/uv  ## all but the slow tests on the lowest versions that pyproject.toml declares
	$(call test_on,.venv-floors,3.10,lowest-direct)

test-newest: | $(BIN)/uv  ## all but the slow tests on the newest of everything
	$(call test_on,.venv-newest,3.13,highest)

# pyspark 3.5 runs on Python 3.11 at most.
test-engines: | $(BIN)/uv  ## what CI tests on DuckDB, PostgreSQL and MariaDB, on a local Spark and on ClickHouse
	@command -v java || { apt-get update -qq && apt-get install -y -qq --no-install-recommends default-jre-headless; }
	@test -n "$(call python_of,3.11)" || { echo "Python 3.11 is not installed here, so nothing was tested on Spark."; exit 1; }
	$(BIN)/uv venv --quiet --clear --python $(call python_of,3.11) .venv-engines
	VIRTUAL_ENV="$(abspath .venv-engines)" $(BIN)/uv pip install --quiet --python .venv-engines/bin/python -e . \
	  --group test --group spark --group clickhouse
	.venv-engines/bin/python -m pytest -n 0 -m "slow or night" -k "spark or clickhouse" tests/engine/test_engines.py \
	  tests/unit/capabilities/plans/worker/test_table_comparison_queries.py $(PYTEST_ARGS)

clean:
	rm -rf $(VENV) .venv-* .nightly .demo .dagster_home dist build site
	git clean -qfdX templates examples
