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
# # 21 · What the paper left open
#
# Whoever programs a paper decides things that it does not say. This page lists those decisions, with what the paper says, what was
# done here and why, and what else one could have done; and where that can be measured on pocket encoders, what each choice
# changes. Sixteen minutes on two cores the first time, a minute after that.
#
# > Words in a block like this, and words in italics in the tables, are the paper's (arXiv 2509.24901); its formulas are
# > transcribed. All others are ours.

# %% tags=["parameters"]
profile = "pocket"

# %%
# %matplotlib inline
from IPython.display import Markdown, display

from lib.encoders import ENCODERS
from lib.figures import save_figure
from lib.open_options import datasets_of, encoders_of, run_options, study_of, write_effects
from lib.open_page import groups, in_words, list_markdown, rule
from lib.paths import figure_root
from lib.plots import page_image
from lib.plots_options import plot_options

settings = study_of(profile)

# %% [markdown]
# ## Why a list
#
# > All other training details are held constant across probes and backbones. (Section 4.1)
#
# Two honest programs of one paper can differ in fifty such details and in their numbers by more than the methods that they
# compare. Before looking: which of these would you expect to matter more than the luck of the seeds?
#
# - `mhca` with or without BatchNorm on the tokens;
# - the straight-through gradient of `protobin`, clipped or not;
# - the last epoch, or the best on validation;
# - AdamW's betas;
# - the mean token or the first token, where an encoder has no [cls].
#
# ## The rule, first

# %%
Markdown(rule())

# %% [markdown]
# Two things follow from it. Two encoders and one dataset of a kind are no sample of all, so "matters" means: here. And an
# alternative that is searched anew differs from the default by the luck of a short search too, which neither the seeds nor the
# clips show; a middling effect of one of these may be that.
#
# ## What is measured on what

# %%
words = {"polyphonic": "most options", "single": "what concerns single labels or short clips"}
lines = [f"- {words[kind]}: {name}" for kind, name in datasets_of(settings).items()]
lines += [
    f"- encoders {kind.replace('cls', '[cls]')}: "
    + (
        ", ".join(ENCODERS[name].label for name in encoders_of(settings, kind))
        or "none in this profile, so not measured"
    )
    for kind in ("with cls", "without cls")
]
Markdown("\n".join(lines))

# %% tags=["long"]
run_options(profile)

# %%
table = write_effects(profile)

# %% [markdown]
# ## What came out
#
# These sentences are written by the code from `figures/<profile>/options.csv`, by the rule above.

# %%
Markdown("\n".join(f"- {sentence}" for sentence in in_words(table)))

# %%
figure = plot_options(table)
save_figure(figure, figure_root() / profile / "options")
page_image(figure, dpi=110, colours=64)

# %% [markdown]
# ## The list
#
# An effect is in points of the test metric, alternative minus default, an encoder after another; it is bold where it is clear. Nothing
# here confirms or refutes the paper: it may have chosen either side of any of these. It says how far a score may move before
# a difference between two programs of the paper means anything.

# %%
for group in groups():
    display(Markdown(f"**{group}**\n\n{list_markdown(group, table)}"))

# %% [markdown]
# What is *not measurable on pocket encoders* concerns the real checkpoints alone. Whoever runs those should write down what
# was chosen, for every line of the first table.
