# From a bare clone with Python 3.10+ and make: every target does its own set-up.

VENV ?= .venv
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
BIN := $(VENV)/bin
PYTEST_ARGS ?=
SOAK_ARGS ?=
# Tests, demo and benchmarks start hundreds of processes: where bytecode is not kept, each of them compiles first.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test bench services soak fuzz test-floors test-newest lint format clean

test: $(VENV)/.test  ## every test, on the newest versions that the floors allow
	$(BIN)/python -m pytest $(PYTEST_ARGS)

fuzz: $(VENV)/.test  ## the unit tests once more, on random input that no run before has drawn
	$(BIN)/python -m pytest --hypothesis-profile=fuzz tests/unit $(PYTEST_ARGS)

soak: $(VENV)/.test  ## kills and overlaps by the hundred, and random projects; about an hour and a half
	$(BIN)/python tests/soak/soak.py $(SOAK_ARGS)
	$(BIN)/python tests/soak/random_projects.py
	$(BIN)/python tests/soak/random_subsets.py

bench: $(VENV)/.test  ## every table of docs/performance.md; hours, on a machine that does nothing else
	$(BIN)/python benchmarks/definitions.py
	$(BIN)/python benchmarks/runs.py --measure steps memory launches
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/rivals.py
	$(BIN)/python benchmarks/column_lineage.py

services:  ## PostgreSQL, from Debian's packages, for the tests that start a server of their own; without it they are skipped
	@command -v postgres || ls /usr/lib/postgresql/*/bin/postgres 2>/dev/null || \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql; }

lint: $(VENV)/.lint  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy dg_sqlmesh_component

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: $(VENV)/.dg  ## the main job, end to end, on embedded DuckDB
	$(BIN)/python demo/demo.py

$(BIN)/uv:
	@test -n "$(PYTHON)" || { echo "Python 3.10 or newer is needed, and none was found."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

$(VENV)/.dg $(VENV)/.test $(VENV)/.lint: $(VENV)/.%: pyproject.toml | $(BIN)/uv
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -e . --group $*
	@touch $@

# The interpreter of a version: one on the PATH that really is it, else one that pyenv keeps.
python_of = $(shell for p in python$(1) $$(ls -d $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$(1)*/bin/python 2>/dev/null); do \
	$$p -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "$(1)")' 2>/dev/null && echo $$p && break; done)

# $(1): where, $(2): Python version, $(3): how uv resolves
define test_on
	@test -n "$(call python_of,$(2))" || { echo "Python $(2) is not installed here, so nothing was tested on it."; exit 1; }
	$(BIN)/uv venv --quiet --clear --python $(call python_of,$(2)) $(1)
	VIRTUAL_ENV=$(abspath $(1)) $(BIN)/uv pip install --quiet --compile-bytecode --python $(1)/bin/python --resolution $(3) --upgrade -e . --group test
	@$(1)/bin/python -c 'import sys; from importlib.metadata import version as v; \
		print("Python", sys.version.split()[0], *(f"{n} {v(n)}" for n in ("dagster", "sqlmesh", "duckdb", "pydantic")), sep=" | ")'
	$(1)/bin/python -m pytest $(PYTEST_ARGS)
endef

test-floors: | $(BIN)/uv  ## the suite on the lowest versions that pyproject.toml declares
	$(call test_on,.venv-floors,3.10,lowest-direct)

test-newest: | $(BIN)/uv  ## the suite on the newest of everything
	$(call test_on,.venv-newest,3.13,highest)

clean:
	rm -rf $(VENV) .venv-* .demo .dagster_home dist build
	git clean -qfdX templates examples
