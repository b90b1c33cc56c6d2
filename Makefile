# Two commands do everything, set-up included: `make figures` and `make test`.
#   PROFILE=pocket|esc10|smoke    which profile the figures are made of; also pocket-full, esc50, esc10-1500, and those
#                                 of other targets: encoders, encoders-esc10 (`make encoders`), pocket-float32,
#                                 pocket-bfloat16 (`make products`); all are in lib/profiles.py
#   ENCODERS, DATASETS, HEADS     some of the profile's alone, names by comma
#   TORCH_FLAGS="..."             options for pip when it installs PyTorch (see README, "Set-up")
#   UNMUTE_CACHE, UNMUTE_DATA     where scratch and fetched audio live (default .cache)
#   UNMUTE_WORKERS                worker processes (default: one a core)
#   UNMUTE_DEVICE                 cpu or cuda, for published encoders and for heads (see README)
#   SCHEDULER                     tcp://host:8786 or slurm, for cells on other machines (see README)

PROFILE ?= pocket
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
export OMP_NUM_THREADS ?= 1
export MPLBACKEND := agg
export PYTHONPATH := $(CURDIR)

.PHONY: figures published encoders evidence bench products cell rehearse finetune checkpoints embed plan worker push pull test lab notebooks data pretrain check tables lint format pins setup clean distclean help

# A part of the profile; other targets have other uses for these names.
figures evidence push pull: export UNMUTE_ENCODERS := $(ENCODERS)
figures evidence push pull: export UNMUTE_DATASETS := $(DATASETS)
figures evidence push pull: export UNMUTE_HEADS := $(HEADS)

figures: setup  ## run all notebooks in order and draw Figures 1-8 into figures/$(PROFILE), figures/published
	@$(RUN) -m lib.notebooks run --profile $(PROFILE)

published: setup  ## draw the paper's figures from its own tables and check its claims; nothing is trained
	@$(RUN) -m lib.notebooks run --profile $(PROFILE) --only 06,07

encoders: setup  ## compare the nine pocket encoders and two controls on both polyphonic sets (needs `make data SETS=esc10`)
	@$(RUN) -m lib.encoder_comparison

evidence: setup  ## is it really the pooling: controls, the polyphony dial, localisation, layers, views, a guide, open options
	@$(RUN) -m lib.notebooks run --profile $(PROFILE) --only evidence

bench: setup  ## time the engine against plain loops, what binarisation saves, full-size encoders; into figures/bench
	@$(RUN) -m lib.bench
	@$(RUN) -m lib.packed_cost
	@$(RUN) -m lib.bench_encoders

products: setup  ## train the prototype heads of pocket with products in float32 and in bfloat16, and compare scores
	@$(RUN) -m lib.bench_products

rehearse: setup  ## PROFILE=paper in miniature: every dataset and encoder, every cell, figure and table (not pages 00, 07-09, 11, 24)
	@$(RUN) -m lib.rehearsal

cell: setup  ## one cell by itself, kept for later runs: ENCODER, DATASET, HEAD (and J=...), at the scale of PROFILE
	@$(RUN) -m lib.cell $(ENCODER) $(DATASET) $(HEAD) --profile $(PROFILE) $(if $(J),--prototypes $(J))

worker: setup  ## compute for others on this machine: SCHEDULER=tcp://host:8786; both machines on the same commit
	@$(RUN) -m lib.join $(SCHEDULER)

push: setup  ## send embeddings and cells of PROFILE to the hub, REPO=owner/name (shows what; YES=1 sends it)
	@$(RUN) -m lib.sharing push --repo "$(REPO)" --profile $(PROFILE) $(if $(YES),--yes)

pull: setup  ## take embeddings and cells of PROFILE from the hub, REPO=owner/name (REVISION=..., each file checked)
	@$(RUN) -m lib.sharing pull --repo "$(REPO)" --profile $(PROFILE) $(if $(REVISION),--revision $(REVISION))

finetune: setup  ## fine-tune a whole ENCODER (pocket-eat) on DATASET (the profile's), the upper line of Figure 2, resumably
	@$(RUN) -m lib.finetune_results $(or $(ENCODER),pocket-eat) $(DATASET) --profile $(PROFILE)

checkpoints: setup  ## fetch the published encoders, or ENCODERS=eat,beats; ENCODER_FILE=path takes in a file on disk
	@$(RUN) -m lib.encoders.checkpoints $(ENCODERS)

embed: setup  ## store embeddings of ENCODERS=eat,sslam on DATASETS (the profile's), or of BLOCKS=3,7,11; estimate first
	@$(RUN) -m lib.embed "$(ENCODERS)" --profile $(PROFILE) --datasets "$(DATASETS)" --blocks "$(BLOCKS)"

plan: setup  ## runs, downloads, disk, hours of the paper, or of ENCODERS=, DATASETS=, HEADS= of it; TFLOPS=50 for another machine
	@$(RUN) -m lib.plan --profile $(if $(filter file,$(origin PROFILE)),paper,$(PROFILE)) --encoders "$(ENCODERS)" --datasets "$(DATASETS)" --heads "$(HEADS)" $(if $(TFLOPS),--tflops $(TFLOPS))

test: setup lint  ## lint, then the whole test suite, offline
	@$(RUN) -m pytest -n auto --dist loadgroup -q

lab: setup  ## open JupyterLab on the notebooks
	@$(VENV)/bin/jupyter lab --notebook-dir notebooks

notebooks: setup  ## execute the committed notebooks (profile pocket) and pair them with their sources
	@$(RUN) -m lib.notebooks commit

data: setup  ## fetch the recordings (or only SETS=esc10, fsdd, maad), each checked against its SHA-256
	@$(RUN) -m lib.data.fetch $(SETS)

pretrain: setup  ## pretrain ENCODER anew, resumably (STEPS=... for another length)
	@$(RUN) -m lib.encoders.pretrain $(or $(ENCODER),pocket-amae) $(if $(STEPS),--steps $(STEPS))

check: setup  ## compare what was computed with what is committed, within the stated tolerance
	@$(RUN) -m lib.check

tables: setup  ## rewrite the README's tables from the last results, then check
	@$(RUN) -m lib.check --write

lint: setup
	@$(RUN) -m ruff check -q . && $(RUN) -m ruff format -q --check .

format: setup  ## format the code and sort imports
	@$(RUN) -m ruff check -q --fix . ; $(RUN) -m ruff format -q .

pins:  ## print the pinned dependencies of environment.yml
	@sed -n 's/^      - \([A-Za-z0-9_.-]*==[^ ]*\).*/\1/p' environment.yml

setup: $(VENV)/.ready

# PyTorch first and alone, so that no other package pulls a build of its own choice.
$(VENV)/.ready: environment.yml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11 to 3.13 is needed, this is " + sys.version.split()[0] + "; name one with PYTHON=...")'
	@echo "setting up $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV)
	@$(MAKE) -s pins > $(VENV)/requirements.txt
	@$(RUN) -m pip install --quiet --disable-pip-version-check $(TORCH_FLAGS) $$(grep '^torch==' $(VENV)/requirements.txt)
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r $(VENV)/requirements.txt
	@$(RUN) -c 'import pathlib, site; pathlib.Path(site.getsitepackages()[0], "unmute.pth").write_text(str(pathlib.Path.cwd()) + "\n")'
	@touch $@

clean:  ## remove everything computed (embeddings, cells, run notebooks), keep fetched audio and checkpoints
	@$(PYTHON) -c 'import os, pathlib, shutil; root = pathlib.Path(os.environ.get("UNMUTE_CACHE") or ".cache"); [shutil.rmtree(root / part, ignore_errors=True) for part in ("store", "cells", "bootstrap", "lesson", "notebooks", "bench", "workers", "pulled", "push", "rehearsal")]'

distclean: clean  ## remove the virtual environment too
	@rm -rf $(VENV)

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12
