# Every job has one command; `make` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= build/sample
OUT ?= out
ARGS ?=
UV := $(BIN)/uv

.DEFAULT_GOAL := help
.PHONY: help setup run test check format lock clean

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## make .venv with everything in it, the command `orchard` too

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "Orchard needs Python 3.11 to 3.13 and $(PYTHON) is $$($(PYTHON) -V): make setup PYTHON=python3.12" >&2; exit 1; }
	@java -version >/dev/null 2>&1 || \
		echo "note: Spark needs Java 17 and none was found; Debian and Ubuntu: apt-get install openjdk-17-jre-headless" >&2
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

run: setup ## the whole pipeline on a generated sample (or DATA=folder OUT=folder), then say where the report is
	@if [ "$(DATA)" = build/sample ] && [ ! -d build/sample ]; then $(BIN)/orchard sample build/sample; fi
	$(BIN)/orchard run "$(DATA)" --output "$(OUT)" $(ARGS)

test: setup ## all tests (ARGS="-k name" for some)
	$(BIN)/python -m pytest $(ARGS)

check: setup ## format, lint and types, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup ## format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: setup ## resolve the dependencies again into requirements.lock
	$(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
		--no-header --quiet --upgrade --group pyproject.toml:dev pyproject.toml -o requirements.lock

clean: ## remove what was built, the environment too
	rm -rf $(VENV) build dist out .cache .pytest_cache .mypy_cache .ruff_cache
