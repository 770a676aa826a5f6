# make search     from nothing to a report: installs, trains, calibrates, searches, measures
# make test       lint, types and the tests that take minutes; make test-all runs the slow ones too
# make gains      joint search against each family alone and static networks; SEEDS=0,1,2, PASSES=10,
#                ROWS=400, REPEATS=1; GPU_SHARE=0.25 trains and records on a GPU
# make bench      the tables of speed and of search: 20 minutes (QUICK=1: few seeds, ten minutes)
# make docs       docs/ as a site that opens from disk: site/index.html
# Nothing is installed twice: stamp files in the virtual environment remember what is there.

PYTHON ?= python3
VENV ?= .venv
JOB ?= runs/jobs/short-sentences.toml
OUT ?= runs/out

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: search gains test test-all lint unit bench docs install install-test install-demo install-bench clean

BIN := $(VENV)/bin
# Modules are compiled when they are first imported; most of those installed never are.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --progress-bar off --no-compile
CONSTRAINTS := requirements/constraints.txt
TORCH := $(shell sed -n 's/^\(torch==.*\)/\1/p' $(CONSTRAINTS))
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

search: install install-demo
	mkdir -p $(OUT)
	$(BIN)/dynsearch search $(JOB) --out $(OUT) --json > $(OUT)/last-search.json
	run="$$($(BIN)/python -c 'import json, sys; print(json.load(open(sys.argv[1]))["run"])' \
	    $(OUT)/last-search.json)"; \
	$(BIN)/dynsearch bench "$$run" --configs 6 --rows 80 --repeats 2; \
	$(BIN)/dynsearch report "$$run"; \
	$(BIN)/dynsearch front "$$run"; \
	echo "run: $$run"

SEEDS ?= 0
GAINS ?= runs/jobs/short-sentences.toml runs/jobs/long-reviews.toml
# Of each family in each number format.
PASSES ?= 10
# Timed texts; once each, because more texts tell more than more repeats.
ROWS ?= 400
REPEATS ?= 1
GPU_SHARE ?=

gains: install install-demo
	$(BIN)/dynsearch gains $(GAINS) --seed $(SEEDS) --trials $(PASSES) --rows $(ROWS) \
	    --repeats $(REPEATS) --out $(OUT)/gains $(if $(GPU_SHARE),--gpu-share $(GPU_SHARE))

TEST_PROCESSES ?= 2
# By file: pytest-xdist 3.8 overlooks groups under pytest 9.2, and fixtures are made twice.
PYTEST := $(ONE_THREAD) $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

test: lint
	$(PYTEST)

test-all: lint
	$(PYTEST) -m ""

lint: install-test install-demo
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install-test install-demo install-bench
	$(ONE_THREAD) $(BIN)/python tests/bench/run_all.py --out $(OUT)/bench.md $(if $(QUICK),--quick)

# Docstrings are read, never imported: the site needs no torch, and has an environment of its own.
DOCS_VENV ?= .venv-docs

docs: $(DOCS_VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict --quiet
	echo "site/index.html"

$(DOCS_VENV)/.installed: requirements/docs.txt
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip --disable-pip-version-check install --progress-bar off \
	    --no-compile --no-deps -r requirements/docs.txt
	touch $@

install: $(VENV)/.installed
install-test: $(VENV)/.installed-test
install-demo: $(VENV)/.installed-demo
install-bench: $(VENV)/.installed-bench

# torch first, alone and by its exact version; everything after it finds it there.
$(VENV)/.torch: $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(PIP) -c $(CONSTRAINTS) -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) -c $(CONSTRAINTS) -e '.[test,dev,onnx]'
	touch $@

$(VENV)/.installed-demo: $(VENV)/.torch requirements/demo.txt
	$(PIP) --no-deps -r requirements/demo.txt
	touch $@

$(VENV)/.installed-bench: $(VENV)/.torch requirements/bench.txt
	$(PIP) --no-deps -r requirements/bench.txt
	touch $@

clean:
	rm -rf $(VENV) $(DOCS_VENV) site dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
