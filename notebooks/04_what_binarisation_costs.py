# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 04 · What binarisation costs
#
# Takes `protobin` apart: what do the signs cost, what does the simpler architecture gain, and which memory shrinks?
# A minute or two on two cores the first time, seconds after that.
#
# > Words in a block like this are the paper's (arXiv 2509.24901). All others are ours.

# %% tags=["parameters"]
profile = "pocket"

# %%
# %matplotlib inline
import math

import pandas as pd
from IPython.display import Markdown

from lib.comparisons import prototype_contrasts
from lib.data.datasets import load_dataset
from lib.encoders import load_encoder
from lib.lesson import memory
from lib.plots import plot_contrasts
from lib.profiles import load_profile
from lib.results import binarisation_cells, run_cells
from lib.tables import pairwise_cosines, signs_of, trained_head

settings = load_profile(profile)
nothing = Markdown("This part of the profile has no `protobin`, so nothing is shown here.")

# %% [markdown]
# > 1. **proto**: The baseline […] using float-based, class-dependent prototypes with an orthogonality loss.
# > 2. **protobin**: Our proposed method using binarized, class-agnostic prototypes without an orthogonality loss.
# > 3. **protofloat**: A new ablation variant that uses protobin's simplified, class-agnostic architecture but with
# >    float-based prototypes. (Appendix B)
#
# From `protofloat` to `protobin` two lines change: the prototype passes through a sign, and its gradient passes
# through the sign as if it were not there.

# %% tags=["long"]
computed = run_cells(profile, binarisation_cells(settings))

# %% [markdown]
# Each difference is paired: the same clips, the same resampling, averaged over seeds. `protofloat` and `proto` differ
# in more than one thing (who may use a prototype, the orthogonality loss, a ReLU, the initial values), so the second
# contrast is about the whole bundle.

# %%
table = prototype_contrasts(profile)
nothing if table.empty else plot_contrasts(table[table["dataset"] == settings.dataset])

# %% [markdown]
# And over all datasets: the mean of the differences, and in how many of the pairs (dataset, encoder) the interval lies above or
# below zero.

# %%
None if table.empty else table.groupby("contrast", sort=False).agg(
    difference=("difference", "mean"),
    pairs=("difference", "size"),
    above_zero=("low", lambda low: int((low > 0).sum())),
    below_zero=("high", lambda high: int((high < 0).sum())),
).round(2)

# %% [markdown]
# ## Which memory shrinks
#
# > By binarizing the prototypes to $p_j \in \{-1, +1\}^D$, our method yields an additional 32× memory reduction
# > relative to 32-bit floats. (Section 2.3)
#
# One bit instead of 32 for each number *of the prototypes*. The classifier behind them stays as it is, and it grows
# with the square of the number of classes (K = J · C columns, C rows), the prototypes only linearly. So the share that
# shrinks gets smaller the more classes there are. In kB, for this profile and for three shapes of the paper:


# %%
classes, dim = len(load_dataset(settings.dataset).classes), load_encoder(settings.shown).geometry.dim
shapes = {settings.dataset: (classes, load_dataset(settings.dataset).prototypes, dim)}  # C, J, D
shapes |= {"urban": (10, 20, 768), "fsd50k": (200, 20, 768), "as20k": (527, 10, 768)}
pd.DataFrame([{"shape": name, **memory(*shape)} for name, shape in shapes.items()]).set_index("shape")

# %% [markdown]
# ## What training does to the prototypes
#
# Random ±1 vectors are nearly orthogonal before anything is learned: their mean |cosine| is √(2/πD). The paper calls
# near-orthogonality emergent; the fair question is what training *changes*.


# %%
rows = []
for state, title in (("initial.", "before training"), ("", "after training")) if "protobin" in settings.heads else ():
    signs = signs_of(trained_head(settings, settings.shown, "protobin", state))  # (K, D)
    rows.append({"": title, "mean |cosine|": pairwise_cosines(signs).mean(), "share of +1": (signs > 0).mean()})
rows.append({"": "random signs: √(2/πD)", "mean |cosine|": math.sqrt(2 / (math.pi * dim)), "share of +1": 0.5})
pd.DataFrame(rows).set_index("").round(4) if "protobin" in settings.heads else nothing

# %% [markdown]
# Next: [05, the figures](05_figures.ipynb).
