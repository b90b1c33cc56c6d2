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
# # 03 · How many prototypes?
#
# Varies J, the number of prototypes per class, for the three kinds of prototypes (Appendix B, Table 7 of the paper).
# Some minutes on two cores the first time, seconds after that.
#
# > Words in a block like this are the paper's (arXiv 2509.24901). All others are ours.

# %% tags=["parameters"]
profile = "pocket"

# %%
# %matplotlib inline
from IPython.display import Markdown

from lib.comparisons import prototype_counts
from lib.encoders import ENCODERS
from lib.plots import plot_prototype_counts
from lib.profiles import load_profile
from lib.results import prototype_count_cells, run_cells

settings = load_profile(profile)

# %% [markdown]
# > Performance is highly sensitive to J at lower values and begins to saturate as J increases. (Appendix B)
#
# Before running: what do you expect at J = 1? There is one prototype for each class then, yet in `protobin` and
# `protofloat` none of them *belongs* to a class: the classifier is free to use every prototype for every class. In
# `proto` a class sees its own J prototypes only, so at J = 1 it has a single template.
#
# Learning rate and weight decay are searched again for each J.

# %% tags=["long"]
computed = run_cells(profile, prototype_count_cells(settings))

# %%
table = prototype_counts(profile)
nothing = Markdown(
    "This part of the profile has no `protobin` on data and encoders of the ablation, so nothing is shown."
)
nothing if table.empty else plot_prototype_counts(table)

# %%
shown = table.assign(
    score=[f"{mean:.1f} ± {sd:.1f}" for mean, sd in zip(table["mean"], table["sd"], strict=True)],
    encoder=[ENCODERS[name].label for name in table["encoder"]],
)
None if table.empty else shown.pivot(index=["dataset", "encoder", "head"], columns="J", values="score").fillna("")

# %% [markdown]
# Two things to look for. *Does it saturate*, and where? And *does binarisation need numbers*: a ±1 vector in D
# dimensions is a coarse direction, so where the float curve is already flat the binary one may still climb. Here D
# is 128; in the paper it is 768, and coarse directions are finer there. Next:
# [04, what binarisation costs](04_what_binarisation_costs.ipynb).
