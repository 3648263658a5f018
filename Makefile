# `make help` lists the targets. Everything runs in .venv, which `make setup` creates.
PYTHON ?= python3
EXTRAS ?= dev,docs,wandb,hdf5,cluster
TORCH  ?= 2.13.0
WORKERS ?= 2
BIN    := .venv/bin
RUN    := $(BIN)/python run.py

DETECTION_FIGURES := figure2 figure3 figure4
VQA_FIGURES       := figure5 figure7 figure8
MAP_FIGURES       := figure2 figure5 figure7 figure8
# A figure of samples; one of relevance also with one contrast for all its maps, and by decades.
draw_samples       = $(foreach contrast,own $(if $(filter $(1),$(MAP_FIGURES)),shared log),$(RUN) task=figure "figures=[$(1)]" figure.contrast=$(contrast) &&) true

.DEFAULT_GOAL := help
.PHONY: help setup tables tables_detectors table1 table2 table3 table4 evidence sensitivity mechanism unit_free checks $(DETECTION_FIGURES) $(VQA_FIGURES) figure1 figure6 figure6_models figures \
        samples-detection samples-vqa deciding_tokens text_perturbation sweep leaderboard report bench all reference docs test faults fuzz lock clean

help:  ## list the targets
	@grep -E '^[a-z0-9_ -]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 20

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

evidence: table1 table2 table3 figure6 table4 sensitivity mechanism  ## every claim of the paper decided, with intervals, and a page
	$(RUN) +experiment=equivalence
	$(RUN) +experiment=equivalence_vqa
	$(RUN) +experiment=semantics
	$(RUN) +experiment=logic
	$(RUN) +experiment=perturbation_scaled
	$(RUN) +experiment=rule_time
	$(RUN) task=evidence

sensitivity: setup  ## which orders survive which choice, one changed at a time
	$(RUN) +experiment=sensitivity
	$(RUN) +experiment=sensitivity_vqa
	$(RUN) task=table "tables=[sensitivity,sensitivity_vqa]"
	$(RUN) task=figure "figures=[sensitivity,sensitivity_vqa]"

mechanism: setup  ## what the noise link does, beside noise of its size and other weights
	$(RUN) +experiment=mechanism
	$(RUN) task=figure "figures=[mechanism]"

unit_free: setup  ## this project's unit-free method against every published one
	$(RUN) +experiment=unit_free
	$(RUN) +experiment=unit_free_vqa
	$(RUN) task=table "tables=[unit_free,unit_free_vqa]"

checks: setup  ## insertion and deletion, and maps as weights become random
	$(RUN) +experiment=deletion
	$(RUN) +experiment=randomisation
	$(RUN) task=table "tables=[deletion]"
	$(RUN) task=figure "figures=[randomisation]"

samples-detection: setup
	$(RUN) model=detr task=samples

samples-vqa: setup
	$(RUN) model=lxmert task=samples

$(DETECTION_FIGURES): samples-detection
	$(call draw_samples,$@)

$(VQA_FIGURES): samples-vqa
	$(call draw_samples,$@)

figure6: setup  ## Figure 6: LXMERT's perturbation curves, and their table
	$(RUN) +experiment=figure6
	$(RUN) task=table "tables=[figure6]"
	$(RUN) task=figure "figures=[figure6]"

figure1: setup  ## Figure 1: streams and types of attention of DETR and LXMERT; task=structure draws any model
	$(RUN) model=detr task=structure
	$(RUN) model=lxmert task=structure
	$(RUN) task=figure "figures=[figure1]"

figure6_models: setup  ## Figure 6 for a co-attention and a joint-attention model, side by side
	$(RUN) +experiment=figure6_models
	$(RUN) task=table "tables=[figure6_models]"
	$(RUN) task=figure "figures=[figure6_models]"

figures: figure1 $(DETECTION_FIGURES) $(VQA_FIGURES) figure6 figure6_models  ## figures 1 to 8

deciding_tokens: setup  ## a BART's relevance against the source words that decide what it writes
	$(RUN) +experiment=deciding_tokens
	$(RUN) task=table "tables=[deciding_tokens]"

text_perturbation: setup  ## removal of a BART's source words: the written word's probability
	$(RUN) +experiment=text_perturbation
	$(RUN) task=table "tables=[text_perturbation]"
	$(RUN) task=figure "figures=[text_perturbation]"

sweep: setup  ## AP against the Otsu scale, a Hydra multirun
	$(RUN) +experiment=threshold_sweep
	$(RUN) task=figure "figures=[threshold_sweep]"

tables_detectors: setup  ## Do the orders hold for other detectors? Three trained ones side by side, all scales
	$(RUN) +experiment=detectors
	$(RUN) task=table "tables=[detectors]"
	$(RUN) task=figure "figures=[detectors]"

leaderboard: setup  ## every method on every trained model: how good, how dear; what is stored is not computed again
	$(RUN) +experiment=leaderboard
	$(RUN) +experiment=leaderboard_passes
	$(RUN) task=table "tables=[leaderboard]"
	$(RUN) task=figure "figures=[leaderboard]"

report: setup  ## one HTML page of everything that is under outputs/
	$(RUN) task=report

bench: setup  ## speed and memory against the reference's way, as ratios; AGAINST=REV: every model against that commit
	$(BIN)/python $(if $(AGAINST),scripts/benchmark_against.py $(AGAINST),scripts/benchmark.py)

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
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

faults: setup  ## a hundred faults tried on a toy run: what happened, and whether a rerun gives equal results
	$(BIN)/python tests/faults/run_faults.py --out outputs/reference/faults.md

fuzz: setup  ## thousands of damaged annotations, questions, images and configurations
	$(BIN)/python tests/faults/fuzz.py

lock:  ## resolve constraints.txt anew: the newest versions that pyproject.toml allows, with torch of $(TORCH)
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]' torch==$(TORCH)
	echo '# Exact versions of everything that `make setup` installs; written by `make lock`.' > constraints.txt
	build/lock/bin/python -m pip freeze --all --exclude-editable --exclude pip | sed 's/+.*//' >> constraints.txt

clean:  ## remove what runs have written, but for outputs/reference
	find outputs -mindepth 1 -maxdepth 1 ! -name reference ! -name .gitkeep -exec rm -rf {} +
