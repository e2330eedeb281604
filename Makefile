# From a bare clone with Python 3.10+ and make: every target does its own set-up.

VENV ?= .venv
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
BIN := $(VENV)/bin
PYTEST_ARGS ?=

.PHONY: demo test lint format clean

test: $(VENV)/.test  ## every test, on the newest versions that the floors allow
	$(BIN)/python -m pytest $(PYTEST_ARGS)

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
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --quiet --python $(BIN)/python -e . --group $*
	@touch $@

clean:
	rm -rf $(VENV) .venv-* .demo dist build
