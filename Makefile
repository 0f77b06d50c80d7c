.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PYTEST := $(RUN) -m pytest -q -n 2
NUM_SEEDS ?= 20
# Tests of commands, files and tables, which no random draw decides; all others run with many seeds.
UNSEEDED := adoption architecture benchmarks checkpoint cli code collapse_experiments compiled config_includes \
	config_layers config_set config_yaml configs console data data_cached data_cifar10 data_mnist \
	data_own database docs drawing eager earlier extending families gap_figures gaps hvae_mnist images \
	interrupted lines main mcvae_experiments methods migrations mishaps passwords phases pivot plot_from_db \
	plugins ray readme rebuilding recorder reference refusals registry replicas report reporting results \
	sampler_targets servers signals slurm sweep sweep_file sweep_pool sweeps usage_runs \
	validation weights workers
# LONG: further ones to leave out.
SEEDED = $(filter-out $(UNSEEDED:%=tests/test_%.py) $(LONG:%=tests/test_%.py),$(wildcard tests/test_*.py))

DOCS := .venv-docs

.PHONY: help demo test test-seeds test-slow lint bench reference tables docs clean

help: ## Say what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/installed: requirements.txt requirements-dev.txt constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Plumbline needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --requirement requirements-dev.txt --constraint constraints.txt
	@touch $@

demo: $(VENV)/installed ## Set up, train two small VAEs on digits, print their bounds and gaps
	JOBS=2 PYTHON=$(RUN) bash experiments/quickstart/run.sh

test: $(VENV)/installed ## Set up and run the tests
	$(PYTEST) -m "not slow"

test-seeds: $(VENV)/installed ## Run the tests that draw at random with 20 seeds (NUM_SEEDS=5: with 5)
	@failed=; for seed in $$(seq $(NUM_SEEDS)); do \
		echo "seed $$seed of $(NUM_SEEDS)"; \
		PLUMBLINE_TEST_SEED=$$seed $(PYTEST) -m "not slow" $(SEEDED) || failed="$$failed $$seed"; \
	done; \
	if [ -n "$$failed" ]; then echo "failed with the seeds$$failed"; exit 1; fi

test-slow: $(VENV)/installed ## Run all tests, the slow ones too
	$(RUN) -m pytest -q

lint: $(VENV)/installed ## Check style, types and shell scripts
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	@if command -v shellcheck >/dev/null; then shellcheck experiments/*/*.sh .ci/run; \
	else echo "shellcheck is not installed: sweeps not checked"; fi

bench: $(VENV)/installed ## Time training, start-up, AIS, local optimisation, AVO, HVAE and diagnostics against what they could be, and how they scale
	$(RUN) -m benchmarks.training
	$(RUN) -m benchmarks.startup
	$(RUN) -m benchmarks.ais
	$(RUN) -m benchmarks.local
	$(RUN) -m benchmarks.optima
	$(RUN) -m benchmarks.avo
	$(RUN) -m benchmarks.toys
	$(RUN) -m benchmarks.hvae_gaussian
	$(RUN) -m benchmarks.mcvae
	$(RUN) -m benchmarks.hvae
	$(RUN) -m benchmarks.usage
	$(RUN) -m benchmarks.scaling

reference: $(VENV)/installed ## Write docs/configuration.md anew out of the code
	$(RUN) -m experiments.runner.reference > $(DOCS)-reference && mv $(DOCS)-reference docs/configuration.md

tables: $(VENV)/installed ## Print the tables of the documents anew out of results/reference
	@copy=$$(mktemp -d); trap 'rm -rf "$$copy"' EXIT; export VI_RESULTS="$$copy"; unset VI_DB; \
	cp -r results/reference/runs "$$copy" && $(RUN) plot_from_db.py rebuild; \
	grep -rhoP --include='*.md' '^<!-- table: \K.*(?= -->$$)' README.md docs experiments | sort -u | \
	while read -r command; do echo "$(RUN) $$command"; $(RUN) $$command </dev/null || exit 1; echo; done

$(DOCS)/installed: requirements-docs.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --requirement requirements-docs.txt
	@touch $@

docs: $(DOCS)/installed ## Build the documentation into site/, strictly, in an environment of its own
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet
	@echo "open site/index.html"

clean: ## Remove the virtual environment and caches; results stay
	rm -rf $(VENV) $(DOCS) site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
