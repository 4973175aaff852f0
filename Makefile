# `make repro` and `make test` work from a fresh clone with git, make and Python 3.11; `make help` lists the rest.
# Arguments for the command behind a target go through ARGS: make test ARGS="tests/sampling -x".

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || echo python3)
PORT ?= 5000
WORKERS ?= 2
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin

# Each stamp is touched once its packages are in place: a set-up that was cut off is taken up again, a finished one
# costs nothing until constraints.txt or pyproject.toml change.
PIPELINE := $(VENV)/.pipeline-installed
DEVELOPMENT := $(VENV)/.development-installed

# DVC starts `python -m stages.NAME`: the environment's python, activated or not. Nothing here phones home.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := 1
export DVC_STUDIO_OFFLINE := 1
export PYTHONDONTWRITEBYTECODE :=  # some containers set it, and each stage would compile all modules anew

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help repro ui test check soak coverage mutants audit bench lint format

help:  ## list the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/make \1\t\2/p' Makefile

repro: $(PIPELINE)  ## run the pipeline as params.yaml has it, then print its recalls
	$(BIN)/python -m dvc repro $(ARGS)
	@$(BIN)/python -m commands.show
	@echo "Where to look next: report/index.html for this run, make ui for all of them"

ui: $(PIPELINE)  ## show and compare the runs in MLflow, on this machine only, at PORT (5000)
	@$(BIN)/python -m commands.ui --port "$(PORT)" $(ARGS)

# Two workers need two cores and 4 GB.
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --no-loadscope-reorder

test: $(DEVELOPMENT)  ## run the tests, in WORKERS (2) processes
	$(PYTEST) $(ARGS)

check: lint  ## lint, and run the quick tests: no whole stage or command, no DVC, server or browser
	$(PYTEST) -m "not (whole or end_to_end or server or browser or soak)" $(ARGS)

soak: $(DEVELOPMENT)  ## try faults at length, for hours: FAULT_MOMENTS (20) kills of each stage, FAULT_EXAMPLES (10000) damaged files a reader
	FAULT_EXAMPLES=$(or $(FAULT_EXAMPLES),10000) $(BIN)/python -m pytest -m "" tests/faults tests/tracking tests/data/acquire tests/end_to_end/test_kills_of_dvc.py -s $(ARGS)

coverage: $(DEVELOPMENT)  ## run the tests, and say which lines and branches of pipeline/ they leave out
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest $(ARGS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

mutants: $(DEVELOPMENT)  ## change what is learned and measured in thousands of ways, and see which the tests notice (hours)
	$(BIN)/mutmut run --max-children 2 $(ARGS)
	$(BIN)/python -m tests.faults.survivors --write docs/mutants.md

audit: $(DEVELOPMENT)  ## ask osv.dev whether a pinned version has a known vulnerability (needs a network)
	@$(PIP) --no-build-isolation '.[audit]'
	@$(BIN)/python -c 'import requests; requests.post("https://api.osv.dev/v1/query", json={}, timeout=20)' 2>/dev/null || { \
		echo "error: api.osv.dev cannot be reached, so that nothing was checked" >&2; exit 1; }
	$(BIN)/pip-audit --vulnerability-service osv --requirement constraints.txt --no-deps --disable-pip $(ARGS)

bench: $(DEVELOPMENT)  ## measure what everything costs, into docs/performance.md
	$(BIN)/python -m benchmarks.performance $(ARGS)

lint: $(DEVELOPMENT)  ## check style, types, who imports whom, and the recipes
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m commands.recipe --check

format: $(DEVELOPMENT)  ## put the code into its one style
	$(BIN)/python -m ruff check --fix
	$(BIN)/python -m ruff format

$(PIPELINE): constraints.txt pyproject.toml
	$(call install,.)
	@touch $(PIPELINE)

$(DEVELOPMENT): constraints.txt pyproject.toml
	$(call install,.[dev])
	@touch $(PIPELINE) $(DEVELOPMENT)

# pip and setuptools are pinned too, and build what comes as source here: hence no isolation.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
define install
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || { \
		echo "$(PYTHON) is not Python 3.11 or 3.12; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
		echo "$(PYTHON) cannot make environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV): some minutes the first time, 7 GB on the disk"
	@$(PYTHON) -c 'import os, sys, venv; venv.main([os.path.realpath(sys.argv[1])])' $(VENV)  # it may be a link
	@$(PIP) pip setuptools
	@$(PIP) --no-build-isolation '$(1)'
endef
