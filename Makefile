# Everything a newcomer or a contributor runs. `make` alone lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
FFCV_STAMP := $(VENV)/.installed-ffcv

.DEFAULT_GOAL := help
.PHONY: help setup setup-ffcv demo test check bench clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv and install the tested versions into it (about 6 GB, mostly torch).

$(STAMP): pyproject.toml constraints.txt
	@echo "setting up $(VENV): about 6 GB to fetch, a few minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --progress-bar off --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup-ffcv: $(FFCV_STAMP) ## Add FFCV to .venv: builds it, with four Debian packages (apt-get, as root).

$(FFCV_STAMP): $(STAMP)
	@if ! pkg-config --exists opencv4 libturbojpeg; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	  apt-get install -y -qq --no-install-recommends g++ pkg-config libturbojpeg0-dev libopencv-dev; fi
	$(BIN)/python -m pip install --progress-bar off --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,ffcv]'
	@touch $@

demo: setup ## Render, train, score on real photographs, write a report: about 6 minutes on two CPU cores.
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
	$(BIN)/python tools/bench_load.py --size 128
	$(BIN)/python tools/bench_load.py --opening

clean: ## Remove what the other targets made, the environment included.
	rm -rf $(VENV) runs datasets build *.egg-info
