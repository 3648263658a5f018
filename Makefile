# `make help` lists the targets. Everything runs in .venv, which `make setup` creates.
PYTHON ?= python3
EXTRAS ?= dev,wandb,hdf5,cluster
BIN    := .venv/bin
RUN    := $(BIN)/python run.py
TABLE  := $(BIN)/python scripts/make_tables.py
FIGURE := $(BIN)/python scripts/make_figures.py

DETR_FIGURES   := figure2 figure3 figure4
LXMERT_FIGURES := figure5 figure7 figure8

.DEFAULT_GOAL := help
.PHONY: help setup tables table1 table2 $(DETR_FIGURES) $(LXMERT_FIGURES) figure6 figures \
        samples-detr samples-lxmert sweep report bench all reference test clean

help:  ## list the targets
	@grep -E '^[a-z0-9 -]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 20

$(BIN)/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	touch $@

setup: $(BIN)/.installed  ## create .venv and install hetexp with what its tests need

tables: table1 table2  ## Tables 1 and 2: the main job

table1: setup  ## Table 1: DETR's segmentation at Otsu's threshold
	$(RUN) +experiment=table1
	$(TABLE) 1

table2: setup  ## Table 2: the same at 0.3 times the threshold
	$(RUN) +experiment=table2
	$(TABLE) 2

samples-detr: setup
	$(RUN) model=detr task=samples

samples-lxmert: setup
	$(RUN) model=lxmert task=samples

$(DETR_FIGURES): samples-detr
	$(FIGURE) $(subst figure,,$@)

$(LXMERT_FIGURES): samples-lxmert
	$(FIGURE) $(subst figure,,$@)

figure6: setup  ## Figure 6: LXMERT's perturbation curves, and their table
	$(RUN) +experiment=figure6
	$(TABLE) figure6
	$(FIGURE) 6

figures: $(DETR_FIGURES) $(LXMERT_FIGURES) figure6  ## figures 2 to 8

sweep: setup  ## AP against the Otsu scale, a Hydra multirun
	$(RUN) +experiment=threshold_sweep
	$(FIGURE) sweep

report: setup  ## one HTML page of everything that is under outputs/
	$(BIN)/python scripts/make_report.py

bench: setup  ## speed and memory against the reference's way, as ratios
	$(BIN)/python scripts/benchmark.py

all: tables figures sweep report  ## everything but the benchmark, from nothing

reference: all  ## refresh outputs/reference and the tables shown in README
	$(BIN)/python scripts/update_reference.py

test: setup  ## ruff, mypy and the test suite
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

clean:  ## remove what runs have written, but for outputs/reference
	find outputs -mindepth 1 -maxdepth 1 ! -name reference ! -name .gitkeep -exec rm -rf {} +
