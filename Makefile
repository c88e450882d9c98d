# Everything a person or CI runs. `make` alone lists the targets.
PYTHON ?= python3
SUITE ?= digits
PORT ?= 8000
MINUTES ?= 17
GPU_PYTHON ?= .venv/bin/python
BIN := .venv/bin
STAMP := .venv/.installed
# In the order of the files: the book comes first, as it takes longest.
TESTS := --ignore tests/bench -n 2 --dist loadscope --no-loadscope-reorder
export LIVT_DATA LIVT_RUNS

ifdef PROFILE
$(error PROFILE is now SUITE: make book SUITE=$(if $(filter cpu,$(PROFILE)),digits,$(PROFILE)))
endif

.DEFAULT_GOAL := help
.PHONY: help install book pdf serve test coverage test-slow check bench gpu clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo "  SUITE=smoke|digits|photos|gpu|paper  PORT=8000  MINUTES=17  PYTHON=python3  LIVT_DATA=folder  LIVT_RUNS=folder"

$(STAMP): pyproject.toml livt/__init__.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "livt needs Python >= 3.11; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --editable '.[dev]'
	@touch $@

install: $(STAMP) ## create .venv and install everything

book: $(STAMP) ## train SUITE, run the notebooks and build the book
	$(BIN)/python book/build.py --suite $(SUITE)

pdf: book ## the book as one PDF, book/_build/livt.pdf; needs Chromium
	$(BIN)/python book/pdf.py

serve: ## show the built book at http://127.0.0.1:PORT
	@test -f book/_build/html/index.html || { echo 'make: the book is not built yet: run "make book" first' >&2; exit 1; }
	$(PYTHON) -m http.server $(PORT) --bind 127.0.0.1 --directory book/_build/html

test: $(STAMP) ## all tests but the slow ones
	$(BIN)/python -m pytest $(TESTS)

coverage: $(STAMP) ## the same, and which lines they reach; takes half as long again
	$(BIN)/python -m pytest $(TESTS) --cov --cov-report=term --cov-fail-under=90

test-slow: $(STAMP) ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

check: $(STAMP) ## lint and type-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP) ## speed of the losses and of training steps beside their peers, as ratios within one run
	$(BIN)/python -m pip install --quiet 'transformers>=4.50'
	$(BIN)/python -m pytest tests/bench --benchmark-only --benchmark-columns=median,iqr,rounds --benchmark-sort=name \
		$(if $(RECORD),--benchmark-json=$(RECORD))

# The bench has 6 minutes, and whatever becomes of it, the training starts.
gpu: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),$(STAMP)) ## on a GPU: measure speed, train what suite gpu shows in MINUTES, export it to gpu_runs.tar
	@$(GPU_PYTHON) -c 'import pytest_benchmark, transformers' || $(GPU_PYTHON) -m pip install pytest-benchmark 'transformers>=4.50' \
		|| echo 'make: without pytest-benchmark and transformers speed is not measured' >&2
	-timeout --signal INT --kill-after 20 360 $(GPU_PYTHON) -m pytest tests/bench -k 'not compiled' --benchmark-only \
		--benchmark-columns=median,iqr,rounds --benchmark-sort=name --benchmark-json=gpu_bench.json
	$(GPU_PYTHON) -m livt reproduce loss_ablation recipes_lt_vs_balanced model_size --suite gpu --jobs 6 \
		--minutes $(MINUTES) --export gpu_runs.tar

clean: ## remove what building made; keeps .venv and the run store
	rm -rf book/_build book/notebooks .pytest_cache .mypy_cache .ruff_cache .coverage .coverage.* notebooks/.coverage.* build *.egg-info
