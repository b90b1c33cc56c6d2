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
# # 13 · What prototypes do in training
#
# Watches the prototypes of `protobin`, `protofloat` and `proto` from the first epoch to the last: how alike they are, how many
# signs flip, and whether some are never heard. A few minutes on two cores the first time, seconds after that.
#
# > Words in a block like this are the paper's (arXiv 2509.24901). All others are ours.

# %% tags=["parameters"]
profile = "pocket"

# %%
# %matplotlib inline
from IPython.display import Markdown

from lib.plots import page_image
from lib.plots_dynamics import in_words, plot_dynamics
from lib.profiles import load_profile
from lib.prototype_dynamics import followed_cells, write_dynamics
from lib.results import run_cells

settings = load_profile(profile)

# %% [markdown]
# ## The claim
#
# > The near-orthogonality is an emergent property, forcing prototypes to the corners of a high-dimensional hypercube,
# > creating a strong structural bias for diversity. The optimization process seeks discriminative features to minimize
# > classification loss and is incentivized to select orthogonal solutions. […]
# >
# > Therefore, we simplify the training objective by eliminating the need for an explicit orthogonality loss term used in
# > prior work to enforce diversity […]. (Section 2.3)
#
# That trained prototypes are nearly orthogonal can be seen, and the paper's Figure 4 shows it. That *training* makes them so
# is another statement, and a picture taken at the end cannot tell the two apart: random signs are nearly orthogonal before
# anything is learned. The mean |cosine| of two random directions in $D$ dimensions is about $\sqrt{2/(\pi D)}$, whether
# they are signs or floats. So look at the start as well. Training may lower the mean |cosine|, leave it, or raise it; only the
# first would be an incentive at work. Before running: what do you expect?
#
# Two neighbours help to read the answer. `protofloat` starts like `protobin` but has no corners to be forced to. `proto` starts
# with all weights positive, so its prototypes are much alike, and it alone has the loss term that pulls those of one class apart.
#
# ## The same runs once more
#
# No setting is chosen here. The runs are those behind the scores of notebook 04: learning rate, weight decay and seeds of each
# head's final runs, on the encoder that Figure 4 shows. They are trained again, and between the epochs someone looks at them.

# %% tags=["long"]
cells = followed_cells(settings)  # of the prototypes that this part of the profile trains
computed = run_cells(profile, cells)
table = write_dynamics(profile, show=True) if cells else None

# %% [markdown]
# ## What is looked at
#
# *How alike*: the mean |cosine| over all pairs of prototypes; for `protobin` of their signs. *How far from the start*: the
# mean cosine of a prototype with itself at epoch 0. *Signs that flip*: the share that differs between the ends of two
# epochs. *Latent weights*: forward, `protobin` uses the sign and nothing else, but the larger a latent weight, the more
# steps it takes to flip it. If they grow, signs freeze; and the learning rate falls to zero anyway.
#
# *Prototypes that never win* is the harder part, because under max pooling every prototype wins somewhere in every clip. So
# the question is taken apart:
#
# - *Do they choose?* A prototype that wins at one and the same place in all clips does not. It may have learned where a token
#   stands, for tokens carry their place ([08](08_what_pretraining_does_to_tokens.ipynb)). *Where they win* shows how many places
#   it is on average.
# - *Are they heard?* What of $W_{ck}\bar{s}_k$ is the same in all clips, a bias could say as well. The rest has the standard deviation
#   $|W_{ck}|\,\mathrm{sd}(\bar{s}_k)$, and its largest over the classes is the prototype's contribution. A prototype is *silent* if that is
#   at most one hundredth of the largest contribution of all.
# - *Do they share the work?* One hundredth is a choice, so here is a number without one: how many prototypes that contribute
#   the same would be as uneven as these? (The exponential of the entropy of the shares of variance.)
#
# The last panel turns the question round: how many tokens of a clip speak for any prototype at all? What no prototype
# picks, the classifier cannot know of.

# %%
nothing = Markdown("This part of the profile has no `protobin`, so nothing is shown.")
nothing if table is None else page_image(plot_dynamics(table), dpi=130, colours=128)

# %% [markdown]
# ## What came out
#
# These sentences are written by the code from the table above (`figures/<profile>/dynamics.csv`).

# %%
nothing if table is None else Markdown("\n".join(f"- {sentence}" for sentence in in_words(table)))

# %% [markdown]
# Why should prototypes become more alike, if they do? One reason could be this: a step moves a prototype towards or away from
# the tokens that it won, and the tokens of a frozen encoder share some directions ([08](08_what_pretraining_does_to_tokens.ipynb)),
# so all prototypes are moved along the same few. That is a guess; how would you test it?
#
# Three cautions. A mean over pairs can stay while a few pairs become twins; Figure 4 shows the whole histogram. Whether
# near-orthogonal prototypes are *better* is not measured here, for nothing was trained with more alike ones. And the tokens are
# those of a small encoder: in more dimensions random signs are closer to orthogonal still, so the start leaves even less
# for training to do.
