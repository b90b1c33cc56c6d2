# Two commands do everything, set-up included: `make figures` and `make test`.
#   PROFILE=pocket|esc10|smoke    which profile the figures are made of; also pocket-full, esc50, esc10-1500, and those
#                                 of other targets: encoders, encoders-esc10 (`make encoders`), pocket-float32,
#                                 pocket-bfloat16 (`make products`); all are in lib/profiles.py
#   TORCH_FLAGS="..."             options for pip when it installs PyTorch (see README, "Set-up")
#   UNMUTE_CACHE, UNMUTE_DATA     where scratch and fetched audio live (default .cache)
#   UNMUTE_WORKERS                worker processes (default: one a core)

PROFILE ?= pocket
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
export OMP_NUM_THREADS ?= 1
export MPLBACKEND := agg
export PYTHONPATH := $(CURDIR)

.PHONY: figures published encoders bench products finetune test lab notebooks data pretrain check tables lint format pins setup clean distclean help

figures: setup  ## run all notebooks in order and draw Figures 1-8 into figures/$(PROFILE), figures/published
	@$(RUN) -m lib.notebooks run --profile $(PROFILE)

published: setup  ## draw the paper's figures from its own tables and check its claims; nothing is trained
	@$(RUN) -m lib.notebooks run --profile $(PROFILE) --only 06,07

encoders: setup  ## compare the nine pocket encoders and two controls on both polyphonic sets (needs `make data SETS=esc10`)
	@$(RUN) -m lib.encoder_comparison

bench: setup  ## time the engine against plain loops, and what binarisation saves; ratios into figures/bench
	@$(RUN) -m lib.bench
	@$(RUN) -m lib.packed_cost

products: setup  ## train the prototype heads of pocket with products in float32 and in bfloat16, and compare scores
	@$(RUN) -m lib.bench_products

finetune: setup  ## fine-tune a whole ENCODER (pocket-eat) on DATASET (the profile's), the upper line of Figure 2, resumably
	@$(RUN) -m lib.finetune_results $(or $(ENCODER),pocket-eat) $(DATASET) --profile $(PROFILE)

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

clean:  ## remove everything computed (embeddings, cells, run notebooks), keep fetched audio
	@$(PYTHON) -c 'import os, pathlib, shutil; root = pathlib.Path(os.environ.get("UNMUTE_CACHE") or ".cache"); [shutil.rmtree(root / part, ignore_errors=True) for part in ("store", "cells", "bootstrap", "lesson", "notebooks", "bench")]'

distclean: clean  ## remove the virtual environment too
	@rm -rf $(VENV)

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12
