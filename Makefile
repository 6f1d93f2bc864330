# `make` lists the targets. Everything runs in .venv, made from constraints.txt with pip.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
RUN ?= runs/quick

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.venv/.study: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "holdfast needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	@echo "installing pinned packages into .venv (about two minutes)"
	@$(PIP) torch==2.13.0
	@$(PIP) --editable '.[train,plot]'
	@touch $@

.venv/.dev: .venv/.study
	@$(PIP) --editable '.[dev]'
	@touch $@

install: .venv/.study  ## make .venv with what a study needs

study: .venv/.study  ## run studies/quick.toml (about 5 minutes), print its results and the path of its report
	$(BIN)/holdfast run studies/quick.toml --output $(RUN)

test: .venv/.dev  ## run every check and test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadscope -m 'not full and not gpu and not network'

test-full: test  ## the long checks too: coverage simulations, kill tests, sensitivity to the mixture
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadscope -m 'full'

test-kernels: .venv/.dev  ## numeric tests under six sets of kernels, and which these were (about 10 minutes)
	$(BIN)/python tests/kernels.py

faults: .venv/.dev  ## kills, failing writes, flipped bits and bad inputs, counted by what became of them (at most 25 minutes)
	PYTHONPATH=tests $(BIN)/python -m faults

faults-full: .venv/.dev  ## the same with 1,000 flips of each kind of file
	PYTHONPATH=tests $(BIN)/python -m faults --flips 1000

bench: .venv/.dev  ## run the benchmarks (about 50 minutes), results into benchmarks/results/
	for name in published gate_power approval_published grpo_cpu quick_study approval_quick study_training scaling learning trees agent_overhead; do \
	  OMP_NUM_THREADS=1 $(BIN)/python benchmarks/$$name.py --json > benchmarks/results/$$name.json.part \
	  && mv benchmarks/results/$$name.json.part benchmarks/results/$$name.json || exit 1; done

format: .venv/.dev  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove .venv and caches (runs are kept)
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build dist src/*.egg-info

.PHONY: help install study test test-full test-kernels faults faults-full bench format clean
