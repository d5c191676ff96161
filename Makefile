# Everything here needs only Python >= 3.11 with pip, and make; `make` alone lists the targets.
#   PYTHON=python3.13   another interpreter       VENV=DIR      another virtual environment
#   ARGS='...'          handed on to the program that the target runs
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
VERSION := $(or $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null),none)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
READY := $(VENV)/.ready-$(VERSION)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all fuzz bench check format lock wheel clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: $(READY)  ## the virtual environment with everything in it

demo: $(READY)  ## the article, for real: a server that fails nine times of ten, and a proxy that retries
	@$(BIN)/mitmesh demo $(ARGS)

test: $(READY)  ## the test suite
	$(BIN)/python -m pytest -n auto --maxprocesses 4 $(ARGS)

test-all:  ## the suite on every Python of 3.11, 3.12 and 3.13 on this machine; SKIP='3.11 ...' leaves some out
	@MAKE='$(MAKE)' SKIP='$(SKIP)' ARGS='$(ARGS)' bash .ci/test-all

fuzz: $(READY)  ## the parsers against h11 with many more examples; EXAMPLES=20000 for each property
	MITMESH_FUZZ=$(or $(EXAMPLES),20000) $(BIN)/python -m pytest -n auto --timeout 0 tests/test_fuzz_*.py $(ARGS)

bench: $(VENV)/.bench-$(VERSION)  ## the proxies beside Envoy and others, an hour; ARGS=--quick: 2 minutes
	@$(BIN)/python -m benchmarks $(ARGS)

check: $(READY)  ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict addons control

format: $(READY)  ## put the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(READY)  ## resolve the dependencies of pyproject.toml anew into constraints.txt; ARGS=--upgrade for the newest
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-annotate \
	  --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' $(ARGS) \
	  --output-file constraints.txt pyproject.toml

wheel: $(READY)  ## dist/mitmesh-*.whl
	$(BIN)/python -m hatchling build -t wheel

clean:  ## what make has made
	rm -rf .venv .venv-* dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/.bench-%: $(VENV)/.ready-%
	@$(PIP) --no-build-isolation --editable '.[bench]'
	@touch $@

# What builds packages is installed first and used from here (--no-build-isolation), so that it too is pinned.
# Where the system's Python comes without ensurepip, pip is put into the environment from outside.
$(VENV)/.ready-%: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'mitmesh needs Python 3.11 or newer: make PYTHON=/path/to/python3' >&2; exit 1; }
	@test -e $@ || { rm -rf $(VENV) && { $(PYTHON) -m venv $(VENV) 2>/dev/null || \
	  { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }; }; }
	@echo 'setting up $(VENV) ($(PYTHON))'
	@$(PIP) hatchling "setuptools; python_version < '3.12'"
	@$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@
