# make help lists the targets. Everything runs in .venv, which `make setup` creates.
PYTHON ?= python3
PIP    ?= .venv/bin/python -m pip
RUN    := .venv/bin/python run.py
EXTRAS ?= dev,wandb,hdf5,cluster

.DEFAULT_GOAL := help
.PHONY: help setup tables table1 table2 test lint figure6 bench clean

help:  ## list the targets
	@grep -E '^[a-z0-9 ]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 24

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	touch $@

setup: .venv/.installed  ## create .venv and install hetexp with everything its tests need

tables: setup table1 table2  ## Tables 1 and 2 on the embedded profile: the main job

table1: setup  ## Table 1: DETR segmentation, Otsu's threshold
	$(RUN) +experiment=table1
	.venv/bin/python scripts/make_tables.py 1

table2: setup  ## Table 2: the same at 0.3 times the threshold
	$(RUN) +experiment=table2
	.venv/bin/python scripts/make_tables.py 2

test: setup  ## lint, types and the test suite
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/python -m pytest

clean:  ## remove everything runs have written, but for outputs/reference
	find outputs -mindepth 1 -maxdepth 1 ! -name reference ! -name .gitkeep -exec rm -rf {} +
