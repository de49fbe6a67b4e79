# Needs python3 (3.11 or newer) and make; everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo study bias noise pretraining test check lint doctests bench bench-solvers clean

help: ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 20

setup: $(INSTALLED) ## Create .venv and install jdt with its development tools.

demo: $(INSTALLED) ## Influence of 30 source classes on handwritten digits, into runs/demo; again: resumes.
	$(BIN)/python -m experiments.class_influence --out runs/demo

study: demo ## The demo's influences put to use: units removed and models retrained, classes, images and failures looked into.
	$(BIN)/python -m experiments.counterfactual --run runs/demo --removed 0.2 0.4 0.6
	$(BIN)/python -m experiments.inspect_influence --run runs/demo --classes 3 8 --subpopulations 3 --failures 3 --verify 2

bias: $(INSTALLED) ## Does a pattern in the source survive on clean digits, which units carry it, what removes it: into runs/bias.
	$(BIN)/python -m experiments.bias_transfer --out runs/bias

noise: $(INSTALLED) ## What do wrong source labels cost on clean digits, what does NMTune repair, which are they: into runs/noise.
	$(BIN)/python -m experiments.noisy_pretraining --out runs/noise

pretraining: $(INSTALLED) ## Which source, method and size is worth what on clean digits, at few shots and many: into runs/pretraining.
	$(BIN)/python -m experiments.pretraining_data --out runs/pretraining

test: $(INSTALLED) ## Run all tests.
	$(BIN)/python -m pytest tests -n auto --dist loadfile

check: lint doctests ## Lint, formatting, types, layers and doctests.

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest tests/test_layers.py tests/test_docs.py

doctests: $(INSTALLED)
	$(BIN)/python -m pytest --doctest-modules jdt

bench: $(INSTALLED) ## Training speed of small_cnn under every plan, beside PyTorch where it is installed.
	$(BIN)/python benchmarks/train_throughput.py --network small_cnn --models 16 --json benchmarks/small_cnn.json

bench-solvers: $(INSTALLED) ## LASSO paths of 1,000 targets, beside scikit-learn, and celer and skglm where installed.
	$(BIN)/python benchmarks/solvers.py --json benchmarks/solvers.json

clean: ## Remove caches and build outputs; .venv and runs/ stay.
	rm -rf build dist jdt.egg-info .pytest_cache .ruff_cache .hypothesis .coverage
	find jdt experiments benchmarks tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is older than either file when they change, and missing when an installation broke off.
$(INSTALLED): pyproject.toml constraints.txt
	rm -f $@
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
