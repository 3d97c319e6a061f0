# Everything runs in the virtual environment .venv, created on first use from hash-locked requirements.
# Paths are relative, so that a checkout below a path with spaces works.

PYTHON ?= python3
PY := .venv/bin/python
.DEFAULT_GOAL := help
# Compiled bytecode saves each of the many processes that import torch several seconds.
export PYTHONDONTWRITEBYTECODE :=
.PHONY: help demo docs test test-all test-fast test-oldest test-next bench gpu check lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: .venv/runtime ## train and evaluate a small network on generated scenes, in minutes (runs/demo)
	@$(PY) train_seg.py experiment=demo resume=auto

test: .venv/complete ## run the tests
	@$(PY) -m pytest -n auto --dist worksteal -m "not slow"

test-all: .venv/complete ## run all tests, with those that take minutes
	@$(PY) -m pytest -n auto --dist worksteal --hypothesis-profile=all

test-fast: .venv/complete ## run the tests that start no command and take no seconds
	@$(PY) -m pytest -n auto --dist worksteal -m "not slow and not medium"

test-oldest: .venv-oldest/complete ## run the tests with the oldest supported packages (.venv-oldest)
	@.venv-oldest/bin/python -m pytest -n auto --dist worksteal -m "not slow"

test-next: .venv-next/complete ## run the tests with Hydra 1.4, a pre-release (.venv-next)
	@.venv-next/bin/python -m pytest -n auto --dist worksteal -m "not slow"

docs: .venv/complete ## build the documentation site (build/docs/index.html)
	@$(PY) -m sphinx -q -E -a -W --keep-going -b html docs build/docs && echo build/docs/index.html

bench: .venv/complete ## compare the main benchmarks with benchmarks/expected.csv (under five minutes)
	@$(PY) benchmarks/bench.py

gpu: ## test and measure on one GPU in at most eight minutes (runs/gpu); uses PYTHON if there is no .venv
	@if [ -x $(PY) ]; then exec $(PY) benchmarks/gpu.py; else exec "$(PYTHON)" benchmarks/gpu.py; fi

check: .venv/complete ## check format, lint, types, import layers, spelling
	@.venv/bin/python -m ruff format --check .
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m basedpyright --level error
	@.venv/bin/python -c "import sys; from importlinter.cli import lint_imports_command as f; sys.argv = ['lint-imports', '--no-cache']; f()"
	@.venv/bin/python -m codespell_lib

lock: ## update the lock files from pyproject.toml
	@sh requirements/lock.sh

clean: ## remove environments and caches, but no runs
	rm -rf build .venv .venv-oldest .venv-next .pytest_cache .ruff_cache .hypothesis

# The stamp of an environment is a copy of its lock file. An environment without it, or with another, is updated.
.venv/runtime: requirements/lock.txt requirements/setup.sh
	@sh requirements/setup.sh "$(PYTHON)" requirements/lock.txt .venv/runtime

.venv/complete: requirements/lock-dev.txt requirements/setup.sh
	@sh requirements/setup.sh "$(PYTHON)" requirements/lock-dev.txt .venv/complete

.venv-oldest/complete: requirements/lock-oldest.txt requirements/setup.sh
	@sh requirements/setup.sh "$(PYTHON)" requirements/lock-oldest.txt .venv-oldest/complete .venv-oldest

.venv-next/complete: requirements/lock-next.txt requirements/setup.sh
	@sh requirements/setup.sh "$(PYTHON)" requirements/lock-next.txt .venv-next/complete .venv-next
