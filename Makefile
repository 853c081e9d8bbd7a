# The index of the project: what can be done here, and how.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check -q
LABEL_STUDIO ?= .labelstudio
LABEL_STUDIO_VERSION := 1.23.2

.DEFAULT_GOAL := help
.PHONY: help install install-dev serve demo test test-labelstudio soak fuzz check openapi bench memory overload quality clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## Create .venv and install the service

install-dev: $(VENV)/.installed-dev ## The same with what tests and checks need

$(VENV)/.installed: pyproject.toml constraints.txt docker/install.sh
	PYTHON=$(PYTHON) docker/install.sh worker
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	PYTHON=$(PYTHON) docker/install.sh worker,s3,dev
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	$(PIP) install -c constraints.txt --only-binary xllamacpp -e '.[worker,bench]' || echo "no llama.cpp here: its row stays empty"
	@touch $@

serve: install ## Start queue, worker and API on 127.0.0.1:8000 (PORT=… overrides) until Ctrl-C
	@exec $(BIN)/safemargin serve

demo: install ## Start, annotate examples/pairs.jsonl over HTTP, print a table, stop
	@$(BIN)/safemargin demo examples/pairs.jsonl

test: install-dev ## Run the whole test suite
	$(BIN)/python -m pytest

$(LABEL_STUDIO)/bin/label-studio:
	$(PYTHON) -m venv $(LABEL_STUDIO)
	$(LABEL_STUDIO)/bin/pip --disable-pip-version-check -q install label-studio==$(LABEL_STUDIO_VERSION)

test-labelstudio: install-dev $(LABEL_STUDIO)/bin/label-studio ## Run a real Label Studio beside the service (LABEL_STUDIO=venv that has one)
	SAFEMARGIN_LABEL_STUDIO=$(abspath $(LABEL_STUDIO))/bin/label-studio $(BIN)/python -m pytest tests/labelstudio

soak: install-dev ## Kill workers, queue and API for a long time while a file is annotated
	SAFEMARGIN_SOAK_ROUNDS=10 $(BIN)/python -m pytest tests/cli/test_chaos.py

fuzz: install-dev ## Thousands of requests made from the API's description
	SAFEMARGIN_FUZZ_EXAMPLES=200 $(BIN)/python -m pytest tests/app/test_fuzz.py

check: install-dev ## Lint, types, import contracts, API document
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m openapi.generate --check

openapi: install ## Write openapi/openapi.json
	$(BIN)/python -m openapi.generate

bench: $(VENV)/.installed-bench ## Measure speed on DATA=pairs.jsonl (WITH="--pairs 256 --depths …")
	$(BIN)/python -m benchmarks.speed $(DATA) $(WITH)

memory: install ## Measure the memory of every process at 10,000, 100,000 and 1,000,000 rows
	$(BIN)/python -m benchmarks.memory

overload: install ## Measure what becomes of ten times as many requests as can be answered, on DATA=pairs.jsonl
	$(BIN)/python -m benchmarks.overload $(DATA)

quality: install ## Measure how well directions read DATA=folder of JSONL files
	$(BIN)/python -m benchmarks.quality $(DATA)

clean: ## Remove .venv and caches
	rm -rf $(VENV) .labelstudio .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
