# From nothing but Python, git and make: `make demo` runs the main job, `make test` passes the tests, `make test-all` with the dear ones.
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# uv trusts whom this machine trusts, as behind a company's proxy
export UV_SYSTEM_CERTS = 1
# Compiled modules are kept, whatever the shell says: without them every process that imports torch compiles it for seconds
export PYTHONDONTWRITEBYTECODE =
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test test-all bench docs clean

$(VENV)/installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[test]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/mnp-bench run --jobs 2

test:     TESTS = -m 'not slow and not thorough'
test-all: TESTS = -m 'not slow' --cov --cov-report=term-missing:skip-covered
# Python 3.12 can watch lines at almost no cost; earlier ones take half as long again
test-all: export COVERAGE_CORE = $(shell $(BIN)/python -c 'import sys; print("sysmon" if sys.version_info >= (3, 12) else "ctrace")')
test test-all: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -p no:benchmark --durations 15 $(TESTS)

bench: $(VENV)/installed
	mkdir -p build
	$(BIN)/python -m pytest -q tests/performance --benchmark-only --benchmark-json build/performance.json
	$(BIN)/python experiments/performance.py build/performance.json > build/performance.md

$(VENV)/docs: $(VENV)/installed
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[docs]'
	touch $@

docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
