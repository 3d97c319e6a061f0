# Everything runs from a virtual environment in .venv, made on first use from the hash-locked requirements.
# Paths stay relative, so a checkout whose path has a space works.

PYTHON ?= python3
PY := .venv/bin/python
.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-fast test-oldest test-next bench check lock clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: .venv/runtime ## train and score a small network on drawn scenes, in minutes (runs/demo)
	@$(PY) train_seg.py experiment=demo resume=auto

test: .venv/complete ## the tests
	@$(PY) -m pytest -n auto --dist worksteal -m "not slow"

test-all: .venv/complete ## the tests, and those that take minutes
	@$(PY) -m pytest -n auto --dist worksteal --hypothesis-profile=all

test-fast: .venv/complete ## the tests that start no command and take no seconds
	@$(PY) -m pytest -n auto --dist worksteal -m "not slow and not medium"

test-oldest: .venv-oldest/complete ## the tests, on the oldest packages that pyproject.toml admits (.venv-oldest)
	@.venv-oldest/bin/python -m pytest -n auto --dist worksteal -m "not slow"

test-next: .venv-next/complete ## the tests, on Hydra 1.4 (a pre-release) and with PYTHON=python3.14 on Python 3.14 (.venv-next)
	@.venv-next/bin/python -m pytest -n auto --dist worksteal -m "not slow"

bench: .venv/complete ## the small set of benchmarks, against benchmarks/expected.csv (under five minutes)
	@$(PY) benchmarks/bench.py

check: .venv/complete ## format, lint, types, layers, spelling
	@.venv/bin/python -m ruff format --check .
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m basedpyright --level error
	@.venv/bin/python -c "import sys; from importlinter.cli import lint_imports_command as f; sys.argv = ['lint-imports', '--no-cache']; f()"
	@.venv/bin/python -m codespell_lib

lock: ## renew the lock files from pyproject.toml
	@sh requirements/lock.sh

clean: ## remove the environment and caches, not the runs
	rm -rf .venv .venv-oldest .venv-next .pytest_cache .ruff_cache .hypothesis

# An environment is ready when its stamp, a copy of the lock it was made from, says so; anything else is
# brought up to date, and an environment whose making was interrupted is made again.
.venv/runtime: requirements/lock.txt requirements/setup.sh
	@sh requirements/setup.sh "$(PYTHON)" requirements/lock.txt .venv/runtime

.venv/complete: requirements/lock-dev.txt requirements/setup.sh
	@sh requirements/setup.sh "$(PYTHON)" requirements/lock-dev.txt .venv/complete

.venv-oldest/complete: requirements/lock-oldest.txt requirements/setup.sh
	@sh requirements/setup.sh "$(PYTHON)" requirements/lock-oldest.txt .venv-oldest/complete .venv-oldest

.venv-next/complete: requirements/lock-next.txt requirements/setup.sh
	@NEWEST=14 sh requirements/setup.sh "$(PYTHON)" requirements/lock-next.txt .venv-next/complete .venv-next
