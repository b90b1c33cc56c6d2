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
# # 19 · What augmentation buys
#
# Trains the same heads on the same clips four times: with no augmentation, with stored mixup views as the paper has them, with all
# of these views pooled, and with masked spectrograms. Less than ten minutes on two cores the first time, seconds after that.
#
# > Words in a block like this are the paper's (arXiv 2509.24901). All others are ours.

# %% tags=["parameters"]
profile = "pocket"

# %%
# %matplotlib inline
from dataclasses import asdict

import pandas as pd
from IPython.display import Markdown

from lib.encoders import ENCODERS
from lib.figures import save_figure
from lib.paths import figure_root
from lib.plots import page_image
from lib.plots_views import plot_gains, plot_leads, plot_variants, plot_views
from lib.profiles import load_profile
from lib.view_stores import LIVE, MIXUP, pictures
from lib.views import CONDITIONS, run_views, write_tables
from lib.views_in_words import beside_the_benchmark, in_words, storage_in_words

study = load_profile(f"{profile}/views")

# %% [markdown]
# ## What the paper chose
#
# > Caching avoids repeated model inference and isolates embedding quality at the cost of a less diverse training distribution
# > with on-the-fly data augmentations. We accept this trade-off to preserve computational efficiency as one of the central
# > advantages of probing. (Section 4.1)
#
# > For each of the seven 64-shot datasets, we pre-generated and saved five distinct augmented variants using only the mixup
# > augmentation with p = 0.9 […]. During each experimental run, we randomly selected a sample of one of these five variants for
# > training […]. (Appendix D.2)
#
# > Future work could also explore integrating on-the-fly data augmentations with a frozen backbone to push the performance
# > ceiling of the probing paradigm even higher. (Section 5)
#
# An encoder that is frozen has one great convenience: each clip passes through it once, and then a head trains in seconds. An
# augmentation takes that away. It acts on the sound or on the spectrogram, *before* the encoder, and every token looks at every
# other on its way through: mask one second of the clip and all 248 tokens change, not only those of that second. So tokens
# cannot be augmented afterwards, they have to be computed anew, once for each variant of each clip. (One can of course drop or
# blur tokens themselves. That is dropout, another thing, and it is not what is asked here.)
#
# Whether one pays with time (a pass of the encoder in every epoch) or with disk (store the variants) is a matter of taste. How
# many variants are enough, and for which head, is not.
#
# ## Four conditions
#
# 1. **None.** The training clips as they were mixed. Where a dataset stores mixup views, they are taken away.
# 2. **One stored view a run.** Mixup by union of labels, as in the paper's few-shot data: five views are stored, and each of the
#    final runs trains on one of them; the search sees the first. That is what notebook 02 does.
# 3. **Five stored views, pooled.** The same five views, but each run sees all of them.
# 4. **Live.** Masks, gain and a roll in time on the spectrogram, ten variants of each clip, of which each run sees all. Truly live
#    would be a new variant whenever a clip comes up, 30 passes of the encoder for 30 epochs *and for every run of the search*.
#    Ten stored variants are a finite stand-in for that; the last section measures whether more variants still help.
#
# Where a dataset comes without stored views (`esc10-soundscapes`) they are mixed here, by the same code, with partners from the
# training clips alone.

# %%
first = study.dataset
page_image(plot_views(pictures(first, study.clips_of(first)["train"], study.shown)))

# %% [markdown]
# What is drawn for each view, evenly from these ranges, from a seed of the dataset, the clip and the number of the variant. Masks
# and gain are applied to the normalised spectrogram; what a mask covers becomes 0, the mean over the clips of pretraining, as in
# SpecAugment (Park et al., 2019).

# %%
pd.DataFrame(
    [("mixup", name, value) for name, value in MIXUP.items()]
    + [("live", "roll", "any number of frames")]
    + [("live", name, value) for name, value in asdict(LIVE).items()],
    columns=["kind", "what", "value"],
).set_index(["kind", "what"])

# %% [markdown]
# ## A fair comparison
#
# More views must not mean more training. So the training split of *every* condition has the same length: each clip stands in it ten
# times, as the same view again and again (1, 2), as five views twice (3), or as ten variants (4). There are three epochs of
# these instead of thirty of the plain clips. Steps, batches, learning rate schedule, search and number of times that a clip is
# seen are then the same; what differs is only *what* is seen. It also means that two copies of a clip can meet in one batch, under
# all conditions alike. Validation and test clips are never augmented.
#
# ## The rule, before the result
#
# Gains over *none* are paired (the same test clips, the same resampling) and averaged over all (dataset, encoder) pairs; the
# interval is 95 %, over test clips, their sources and seeds. Augmentation *helps* a head if the interval of its mean gain lies
# above zero, *harms* it if it lies below, and otherwise it cannot be told. Whether *linear* or *protobin* is ahead is judged by
# the interval of their difference in the same way, and their order *changes* if each of them is ahead under some condition.
# The interval is one of these clips and seeds; that another search would have found other learning rates is not in it.
#
# Before running: who should profit more, a head with about a thousand parameters or one with thirty thousand? And what would
# mixup do for training clips that hold a single animal each, when the test clips hold up to five?

# %% tags=["long"]
computed = run_views(profile)

# %%
tables = write_tables(profile)
main = plot_gains(tables["views_means"], tables["views"])
save_figure(main, figure_root() / profile / "views")
page_image(main, dpi=130, colours=128)

# %%
wide = tables["views"].assign(condition=tables["views"]["condition"].map(CONDITIONS))
wide.pivot_table(index=["dataset", "encoder", "head"], columns="condition", values="mean", sort=False).round(1)

# %% [markdown]
# ## What came out
#
# These sentences are written by the code, by the rule above, from the tables (`figures/<profile>/views*.csv`).

# %%
Markdown("\n".join(f"- {sentence}" for sentence in in_words(tables)))

# %% [markdown]
# The order of the heads is what the paper argues from. Each row below is a condition; if a marker crosses the line, the conclusion
# depends on how the training clips were augmented.

# %%
page_image(plot_leads(tables["views_means"]))

# %% [markdown]
# Is the comparison, with its long epochs, the one that the benchmark makes? Condition 2 (on data without stored views, condition 1) is
# in the benchmark too:

# %%
Markdown(beside_the_benchmark(profile, tables["views"]))

# %% [markdown]
# ## How many variants are enough?
#
# The live condition once more, with fewer variants for the same number of steps. One variant is no augmentation in the usual
# sense: every clip is masked once and for all, so that information is lost and nothing is gained.

# %%
page_image(plot_variants(tables["views_variants"], ENCODERS[study.shown].label))

# %% [markdown]
# ## What it costs
#
# Passes through the encoder and megabytes on disk, for the training clips of one encoder. The last row of each dataset is not stored
# here: it is what thirty different variants would take, one for each time that a clip is seen.

# %%
tables["views_storage"].round(1)

# %%
Markdown(storage_in_words(tables["views_storage"]))

# %% [markdown]
# Cautions. The masks are one choice of many, and their widths were not tuned. Gain and roll offer variety of a kind that the
# mixer has anyway, since it draws levels and onsets at random. With fewer than a hundred training clips a head can be expected to need variety more than with
# ten thousand. And whoever wants to use augmentation for a record rather than for a comparison would also train for longer,
# which this page rules out on purpose.
