# loralith: `make help` lists the targets. `make sim` and `make test` do all the set-up that they need.

SHELL := /bin/sh
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2
CONFIG ?= base
PYTEST_FLAGS ?=
# Each worker takes half of the list in its order, and then from the other's end: a fixture of a file is made once, and none waits at the end.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -P -m pytest -n $(JOBS) --dist worksteal
BOARD ?= ulx3s-85f
SYNTH_FLAGS ?=
SIM_BOARD_FLAGS ?=
SOAK_FLAGS ?= --lists --configs tiny,narrow,random:1,random:8 --commands 1000000 --seconds 3600 --failure build/soak-failure.json

# The first Python of at least 3.11; `make PYTHON=/path/to/python3 ...` overrides it.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$p" && break; done)

# Named by the content of what it installs, so that a checkout that only touches the files' times sets up nothing again.
STAMP := $(VENV)/.setup-$(shell cat requirements.lock pyproject.toml | cksum | cut -d' ' -f1)

.PHONY: help setup sim sim-board test test-slow test-outside testplan coverage soak synth gen docs lint format lock clean distclean
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## create .venv from requirements.lock and check the tools

$(STAMP):
	@missing=; for tool in git g++ make perl; do \
		command -v $$tool >/dev/null 2>&1 || { missing=1; echo "error: $$tool is missing; 'apt-get install $$tool' installs it" >&2; }; \
	done; test -z "$$missing"
	@if test -z "$(PYTHON)"; then \
		echo "error: no Python of at least 3.11 found; 'apt-get install python3 python3-venv' installs one on Debian 12 or newer," \
			"and 'make PYTHON=/path/to/python3 setup' takes another" >&2; exit 1; fi
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: $(PYTHON) is not a Python of at least 3.11" >&2; exit 1; }
	@$(BIN)/python -P -m pip --version >/dev/null 2>&1 || { \
		"$(PYTHON)" -P -c 'import ensurepip, venv' 2>/dev/null || { \
			echo "error: $(PYTHON) has no venv module; 'apt-get install python3-venv' installs it" >&2; exit 1; }; \
		echo "creating $(VENV) with $(PYTHON)"; "$(PYTHON)" -P -m venv --clear $(VENV); }
	$(BIN)/python -P -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -P -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/loralith doctor
	@rm -f $(VENV)/.setup-*; touch $@

sim: $(STAMP) ## train on the Verilated RTL and compare every bit with the reference
	$(BIN)/loralith sim --config $(CONFIG)

sim-board: $(STAMP) ## train on the simulated board, to its pins; SIM_BOARD_FLAGS= has options of `loralith sim-board`
	$(BIN)/loralith sim-board $(SIM_BOARD_FLAGS)

test: $(STAMP) ## run the tests
	$(PYTEST) -m "not slow" tests $(PYTEST_FLAGS)

test-slow: $(STAMP) ## run the tests that take minutes each
	$(PYTEST) -m slow --timeout 3600 tests $(PYTEST_FLAGS)

testplan: $(STAMP) ## print which test, property and mutant stands for which feature of the RTL
	$(BIN)/loralith report testplan

coverage: $(STAMP) ## print which lines and toggles of the Verilog random lists and products reach; the counts stay in build/coverage.json
	$(BIN)/loralith report coverage --state build/coverage.json

soak: $(STAMP) ## run random command lists on the RTL for an hour, or as SOAK_FLAGS says
	$(BIN)/loralith soak $(SOAK_FLAGS)

test-outside: $(STAMP) ## compare quantizers with torchao's and adapter files with LyCORIS', which it installs in build/outside
	$(BIN)/python -P -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target build/outside \
		$(shell sed -n '/^outside = /,/^\]/s/^ *"\([^"]*==[0-9.]*\)".*/\1/p' pyproject.toml)
	PYTHONPATH=build/outside $(BIN)/python -P -m pytest tests/unit/test_outside.py tests/sw/test_formats_lycoris.py $(PYTEST_FLAGS)

synth: $(STAMP) ## synthesize, place and route for BOARD; CONFIG= and SYNTH_FLAGS= choose more
	$(BIN)/loralith synth --board $(BOARD) $(if $(filter-out file,$(origin CONFIG)),--config $(CONFIG)) $(SYNTH_FLAGS)

gen: $(STAMP) ## emit Verilog, C header and reference pages
	$(BIN)/loralith gen

docs: $(STAMP) ## build the docs site into build/site, and check its links
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(STAMP) ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(STAMP) ## let ruff format and mend what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(STAMP) ## resolve the dependencies afresh into requirements.lock
	$(BIN)/python .ci/lock > requirements.lock.new && mv requirements.lock.new requirements.lock

clean: ## remove what was generated
	rm -rf build dist .pytest_cache .ruff_cache

distclean: clean ## remove .venv too
	rm -rf $(VENV)
