# Two commands do everything on a fresh machine:  make study   make test
PYTHON ?= python3
VENV   ?= .venv
SYSTEM ?= yes
JOBS   ?= $(shell nproc 2>/dev/null || echo 2)
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -q
RUN    := OMP_NUM_THREADS=1 $(BIN)/python

.PHONY: help install system study test lint types unit bench clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## install everything into .venv (about 2.5 GB)

# DeepSpeed's setup.py must see torch, hence --no-build-isolation; its operators are compiled on first use, not here.
$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (several minutes the first time) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install -c constraints.txt pip setuptools wheel ninja
	@$(PIP) install -c constraints.txt torch numpy
	@DS_BUILD_OPS=0 $(PIP) install -c constraints.txt --no-build-isolation deepspeed
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[dev]'
	@$(BIN)/tenfold doctor --prepare
	@touch $@

system: ## Debian packages for a real Slurm and a browser: installs them when root (SYSTEM=no: only says which)
	@SYSTEM="$(SYSTEM)" tools/system-packages

study: install ## run the DLWP Navier-Stokes scaling study; prints the table and the report's path
	@$(BIN)/tenfold sweep study=dlwp_scaling

test: system lint types unit ## lint, types and the whole test suite

lint: install
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: install
	@$(BIN)/mypy

unit: install
	@$(RUN) -m pytest -rs -n $(JOBS) --dist loadfile --no-loadscope-reorder

bench: install ## the numbers of docs/performance.md, ratios side by side in one run
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[bench]'
	@$(RUN) -m tests.bench --write

clean: ## remove caches and build leftovers (keeps .venv, data, runs, reports)
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
