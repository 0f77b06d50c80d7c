.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: help demo test test-slow lint bench clean

help: ## Say what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/installed: requirements.txt requirements-dev.txt constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Plumbline needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --requirement requirements-dev.txt --constraint constraints.txt
	@touch $@

demo: $(VENV)/installed ## Set up, train two small VAEs on digits, print their bounds and gaps
	PYTHON=$(RUN) bash experiments/quickstart/run.sh

test: $(VENV)/installed ## Set up and run the tests
	$(RUN) -m pytest -q -m "not slow"

test-slow: $(VENV)/installed ## Run all tests, the slow ones too
	$(RUN) -m pytest -q

lint: $(VENV)/installed ## Check style, types and shell scripts
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	@if command -v shellcheck >/dev/null; then shellcheck -x experiments/*.sh experiments/*/*.sh .ci/run; \
	else echo "shellcheck is not installed: sweeps not checked"; fi

bench: $(VENV)/installed ## Time training, start-up, AIS, local optimisation and AVO against what they could be
	$(RUN) -m benchmarks.training
	$(RUN) -m benchmarks.startup
	$(RUN) -m benchmarks.ais
	$(RUN) -m benchmarks.local
	$(RUN) -m benchmarks.optima
	$(RUN) -m benchmarks.avo
	$(RUN) -m benchmarks.toys

clean: ## Remove the virtual environment and caches; results stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
