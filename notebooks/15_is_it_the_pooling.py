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
# # 15 · Is it the pooling?
#
# `protobin` beats `linear`, the paper shows, and so does [notebook 10](10_four_questions.ipynb). But two heads that differ in ten
# things do not tell which of the ten it was. This page changes one at a time. About eleven minutes on two cores the first time, a
# minute after that.
#
# > Words in a block like this are the paper's (arXiv 2509.24901). All others are ours.

# %% tags=["parameters"]
profile = "pocket"

# %%
# %matplotlib inline
from IPython.display import Markdown

from lib.controls import arms, measure
from lib.controls_tables import arm_table, capacity_table, capacity_words, effect_table, effects_shown, verdict
from lib.evidence import verdict_on
from lib.figures import read_table, save_figure, write_table
from lib.paths import figure_root
from lib.plots import page_image
from lib.plots_controls import plot_arms, plot_capacity, plot_effects
from lib.profiles import load_profile
from lib.results import run_cells

settings = load_profile(f"{profile}/controls")

# %% [markdown]
# ## The claim, and what else it could be
#
# > A key reason is that global pooling creates an information bottleneck causing linear probes to misrepresent the embedding
# > quality: The [cls]-token discards crucial token information about dispersed, localized events in audio. (Abstract)
# >
# > We empirically show that the bottleneck stems from the pooling method, not the embeddings […]. (Section 1)
#
# These are statements about a cause. The evidence for them is that heads which read all tokens score higher than a linear layer on
# [cls]. Other causes would leave the same traces, and each can be taken away:
#
# - **A straw man.** Nothing in pretraining may ask [cls] to sum up a clip, and on raw features of some odd scale a linear layer may
#   be hard to train in thirty epochs. So (a) gives `linear` the mean token, the largest values over tokens, normalised inputs, dropout. All
#   of these are *fixed* poolings: nothing in them is learned but the classifier. If one of them closed the gap, it was never about
#   pooling that learns where to look.
# - **A detail.** `mhca` normalises the tokens of a batch before it attends to them; `linear` gets nothing of the kind. (b) takes that
#   away.
# - **Any features would do.** Prototypes that are drawn at random and never trained are *random features*: the maximum of a few hundred
#   random projections over the tokens, read by a linear layer. If they do as well (c), the maximum matters, not what is learned.
#   Other poolings of the same cosines show what the maximum itself is worth.
# - **A bundle.** The paper compares `protobin`, `protofloat` and `proto`, and these differ in several things at once. A comparison in
#   which one head starts from better initial values says nothing about signs or losses. So (d) trains all eight combinations of
#   three choices from *the same start and with the same cosine*, and then walks from `protofloat` to `proto` step by step.
# - **Capacity.** `protobin` has many more weights than `linear`. (e) looks at scores by the number of trainable parameters.
#
# ## The rule, first
#
# - An arm is a head with its settings searched like any other ([02](02_train_the_probes.ipynb)), with a trial less. A *pair* is an
#   encoder on a dataset. Differences are taken within each pair and averaged with equal weight.
# - Intervals are 95 %, over draws in which test clips and their sources are resampled, alike for all arms of a dataset, and each arm
#   gets an error for its seeds, as in notebook 10. Other encoders and datasets are not covered by them: look at the single pairs.
# - *What remains when the straw man is removed*: `protobin` minus the fixed pooling of (a), `linpre` included, that is best **on
#   validation** in each pair. To choose on test would make the opponent look better than it is.
# - *Which ingredient matters most*: the largest average difference of six, whatever its sign: maximum or mean; one token or the mean
#   of five; trained or random prototypes (c); signs or floats; shared or own prototypes; without or with the loss (main effects in d).
#   It only counts as an effect if its interval leaves zero out.
#
# ## What is trained

# %%
every = arms(settings)
Markdown(
    f"{len({name for *_, name in every})} arms on {len(settings.encoders)} encoder(s) ({', '.join(settings.encoders)}) and "
    f"{len(settings.datasets)} dataset(s) ({', '.join(settings.datasets)}), {len(settings.seeds)} seeds each. All arms of (c) and (d) "
    "have a third of the dataset's J, to save time; `protobin` with all of its prototypes stands beside them."
)

# %% tags=["long"]
computed = run_cells(settings.name, list(every.values()))

# %%
folder = figure_root() / profile
note = (
    f"profile {profile}: {settings.about}; {len(settings.encoders)} encoder(s), {', '.join(settings.datasets)}; "
    f"{len(settings.seeds)} seeds; intervals are 95 %, over test clips, their sources and seeds"
)
found = measure(settings)
write_table(folder / "controls.csv", arm_table(found), note)
write_table(folder / "controls_effects.csv", effect_table(found), note)
write_table(folder / "controls_capacity.csv", capacity_table(found), note)
table, effects, capacity = (read_table(folder / f"controls{part}.csv") for part in ("", "_effects", "_capacity"))

# %% [markdown]
# ## What came out
#
# The line at zero is `linear` on [cls]. Everything in (a) is as cheap as `linear` itself.

# %%
figure = plot_arms(table)
save_figure(figure, folder / "controls")
page_image(figure, dpi=110, colours=64)

# %% [markdown]
# ## (a) What remains without the straw man
#
# `protobin` minus what it is compared with: the straw man first, the strongest opponent last. Where an arm is chosen, it is chosen
# on validation, in each pair; in brackets in how many.

# %%
effects_shown(effects, "gap")

# %% [markdown]
# Two readings of the first row are common. One is that tokens hold more than [cls] does; for that, look at how far the mean token
# gets, which has no weights of its own. The other is that a head should choose its tokens; for that, look at the last row.
#
# ## (b) The token norm of mhca

# %%
effects_shown(effects, "token norm")

# %% [markdown]
# ## (c, d) Which ingredient?
#
# Each row is worth what is lost, or gained, when it is replaced by what stands behind "instead". For the last three the four arms that
# have it are held against the four that do not, so that each effect is an average over the other two choices.
#
# "The same start" is the same distribution: prototypes from N(0, 0.02²), weights as a linear layer of as many inputs has them.
# A class that sees its own J prototypes has fewer inputs than one that sees all, and so larger first weights.
#
# Three things to know before reading the loss. It is that of `proto` with its weight of 1, and so it is small: 0.012 for ten classes
# of 20 prototypes that all start positive, less from the start used here. A null effect says that *this* loss does nothing here, not
# that diversity is worthless. For signs it is taken over the signs. And for shared prototypes, which belong to no class, it is taken
# over blocks of J all the same.
#
# The walk below the ingredients takes `protofloat` apart from `proto`. The order of the steps is ours, and a step is worth what it is
# worth *after* those before it: with weights that start positive, to forbid negative ones changes less than it would from a start
# where half of them are negative.

# %%
page_image(plot_effects(effects), dpi=110, colours=64)

# %%
effects_shown(effects, "ingredient")

# %%
effects_shown(effects, "walk")

# %% [markdown]
# ## (e) Is it capacity?
#
# `linear` has D weights a class, `protobin` some hundred prototypes of D weights and a weight for each class and prototype. An `mlp` can
# be given just as many, and `protobin` fewer prototypes. Random prototypes that are kept would not count, only the classifier on top,
# which is why they stand in (c) and not here.

# %%
page_image(plot_capacity(capacity), dpi=110, colours=64)

# %% [markdown]
# What remains of the gap at equal size? `protobin`'s score at the opponent's number of parameters is read off the line through its own,
# over the logarithm of the number.

# %%
Markdown("\n".join(f"- {sentence}" for sentence in capacity_words(capacity)))

# %% [markdown]
# ## The verdict
#
# Written by the code from `controls_effects.csv`, by the rule above.

# %%
Markdown("\n\n".join(f"**{sentence}**" for sentence in verdict(effects)))

# %% [markdown]
# ## On real recordings
#
# The same page run with `--profile esc10` (three encoders, one dataset, five seeds); its tables lie in `figures/esc10`.
#
# ![Controls on ESC-10 soundscapes](../figures/esc10/controls.png)

# %%
Markdown(verdict_on("esc10", "15_is_it_the_pooling"))

# %% [markdown]
# What this does not tell. The encoders are small and their [cls] was trained for an hour or less; in a large encoder [cls] may be better
# or worse than here. Arms were searched with few trials, and a head that is hard to train loses by that, not by what it can express.
# A third of J is a third of J: random prototypes need to be many, so with more of them (c) may come out otherwise. And a fixed pooling
# that we did not think of might do better than those of (a).
