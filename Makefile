# `make help` lists the targets. Everything runs in .venv, which `make setup` creates.
PYTHON ?= python3
EXTRAS ?= dev,docs,wandb,hdf5,cluster
TORCH  ?= 2.13.0
BIN    := .venv/bin
RUN    := $(BIN)/python run.py

DETECTION_FIGURES := figure2 figure3 figure4
VQA_FIGURES       := figure5 figure7 figure8

.DEFAULT_GOAL := help
.PHONY: help setup tables tables_detectors table1 table2 table3 table4 evidence $(DETECTION_FIGURES) $(VQA_FIGURES) figure6 figures \
        samples-detection samples-vqa sweep report bench all reference docs test lock clean

help:  ## list the targets
	@grep -E '^[a-z0-9 -]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 20

$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]' -c constraints.txt
	touch $@

setup: $(BIN)/.installed  ## create .venv and install hetexp with what its tests need, in tested versions

tables: table1 table2  ## Tables 1 and 2: the main job

table1: setup  ## Table 1: DETR's segmentation at Otsu's threshold
	$(RUN) +experiment=table1
	$(RUN) task=table "tables=[table1]"

table2: setup  ## Table 2: the same at 0.3 times the threshold
	$(RUN) +experiment=table2
	$(RUN) task=table "tables=[table2]"

table3: setup  ## Table 3: a detector's maps against the masks of the objects
	$(RUN) +experiment=table3
	$(RUN) task=table "tables=[table3]"

table4: setup  ## Table 4: relevance of words and regions against those that decide the answer
	$(RUN) +experiment=table4
	$(RUN) task=table "tables=[table4]"

evidence: table1 table2 table3 figure6 table4  ## every claim of the paper decided, with intervals
	$(RUN) task=evidence

samples-detection: setup
	$(RUN) model=detr task=samples

samples-vqa: setup
	$(RUN) model=lxmert task=samples

$(DETECTION_FIGURES): samples-detection
	$(RUN) task=figure "figures=[$@]"

$(VQA_FIGURES): samples-vqa
	$(RUN) task=figure "figures=[$@]"

figure6: setup  ## Figure 6: LXMERT's perturbation curves, and their table
	$(RUN) +experiment=figure6
	$(RUN) task=table "tables=[figure6]"
	$(RUN) task=figure "figures=[figure6]"

figures: $(DETECTION_FIGURES) $(VQA_FIGURES) figure6  ## figures 2 to 8

sweep: setup  ## AP against the Otsu scale, a Hydra multirun
	$(RUN) +experiment=threshold_sweep
	$(RUN) task=figure "figures=[threshold_sweep]"

tables_detectors: setup  ## Do the orders hold for other detectors? Three trained ones side by side, all scales
	$(RUN) +experiment=detectors
	$(RUN) task=table "tables=[detectors]"
	$(RUN) task=figure "figures=[detectors]"

report: setup  ## one HTML page of everything that is under outputs/
	$(RUN) task=report

bench: setup  ## speed and memory against the reference's way, as ratios
	$(BIN)/python scripts/benchmark.py

all: tables figures sweep evidence report  ## everything but the benchmark, from nothing

reference: all  ## refresh outputs/reference and the tables shown in README
	$(BIN)/python scripts/update_reference.py

docs: setup  ## the documentation as a site in site/, every link and reference checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test: setup  ## ruff, mypy, the documentation and the test suite
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python -m pytest

lock:  ## resolve constraints.txt anew: the newest versions that pyproject.toml allows, with torch of $(TORCH)
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]' torch==$(TORCH)
	echo '# Exact versions of everything that `make setup` installs; written by `make lock`.' > constraints.txt
	build/lock/bin/python -m pip freeze --all --exclude-editable --exclude pip | sed 's/+.*//' >> constraints.txt

clean:  ## remove what runs have written, but for outputs/reference
	find outputs -mindepth 1 -maxdepth 1 ! -name reference ! -name .gitkeep -exec rm -rf {} +
