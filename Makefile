# Everything a newcomer or a contributor runs. `make` alone lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv and install the tested versions into it (about 6 GB, mostly torch).

$(STAMP): pyproject.toml constraints.txt
	@echo "setting up $(VENV): about 6 GB to fetch, a few minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --progress-bar off --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup ## Render, train, score on real photographs, write a report: about 10 minutes on two CPU cores.
	$(BIN)/python tools/demo.py

test: setup ## Run the tests.
	$(BIN)/python -m pytest

check: setup ## Lint, format and type check.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy synthgen shards contrast

bench: setup ## Measure rendering and reading on this machine, against the alternatives.
	$(BIN)/python tools/bench_render.py
	$(BIN)/python tools/bench_load.py

clean: ## Remove what the other targets made, the environment included.
	rm -rf $(VENV) runs datasets build *.egg-info
