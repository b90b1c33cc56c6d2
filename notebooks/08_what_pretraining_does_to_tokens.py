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
# # 08 · What pretraining does to tokens
#
# Shows the six kinds of pretraining at pocket size: what each encoder had to do, what it heard, how its loss fell, and
# what became of its tokens. No head is trained here, and no label is used. A minute or two on two cores.
#
# > Words in a block like this are the paper's (arXiv 2509.24901). All others are ours.

# %% tags=["parameters"]
profile = "pocket"

# %%
# %matplotlib inline
from IPython.display import Markdown

from lib.data.datasets import load_dataset
from lib.encoder_pages import (
    as_page,
    available_encoders,
    beside_table_1,
    credits_page,
    heard,
    kept_and_left_out,
    loss_curves,
    missing_encoders,
    pool_contents,
    supervised_in_words,
)
from lib.encoders import ENCODERS
from lib.plots import page_image, plot_scene
from lib.plots_encoders import (
    plot_attention,
    plot_losses,
    plot_spread,
    plot_supervised_step,
    plot_token_maps,
    plot_variance,
)
from lib.profiles import load_profile
from lib.token_statistics import (
    encode,
    in_words,
    statistics_page,
    supervised_step,
    token_statistics,
    waveforms,
)

settings = load_profile(profile)
data = load_dataset(settings.dataset)
encoders = available_encoders()

# %% [markdown]
# ## Six ways to learn without labels
#
# > We evaluate six state-of-the-art frozen spectrogram-based SSL encoders $f_\theta$, summarized in Table 1. […]
# > Mask: input masking during pretraining. EMA: student-teacher with EMA teacher. Global [cls]: explicit global/token
# > objective during pretraining. (Section 4.1, Table 1)
#
# All six hide a part of the spectrogram and ask for it back. They differ in what is asked for: the sound itself, a code
# that stands for it, or what another network makes of it. Bold rows are Table 1; under each stands the pocket version,
# with numbers in place of ticks: the share that is hidden, and the decay of a moving average (EMA), from the first to the
# last step.

# %%
beside_table_1()

# %% [markdown]
# A pocket encoder is not its original made smaller by a factor; it is the same idea in a simpler form. All nine share one
# small vision transformer (pre-norm blocks, fixed sine positions), one front end and one pool of sounds. What differs between
# them is the task, for Dasheng's kind the shape of a patch, and, as the tables below say, how long each was trained and
# whether it started anew or from another's weights. What of each original is there, and what is not:

# %%
kept_and_left_out()

# %%
supervised_in_words()

# %%
Markdown(missing_encoders())

# %% [markdown]
# ## How the loss fell
#
# Each panel has an axis of its own, because these losses are different things: a squared error, a cross-entropy over
# codes, a distance to a teacher who moves. They cannot be compared with each other, and a low one does not mean good
# tokens. One landmark: who predicts the mean of every patch and nothing more has a loss of about 1 in the panels of A-MAE's
# and Dasheng's kind. And where a teacher learns along, the loss may rise while the tokens get better, because its targets get harder.

# %%
page_image(plot_losses(loss_curves(encoders)), colours=64)

# %% [markdown]
# ## What they heard
#
# The pool is made of four kinds of clips of ten seconds. *Events* is how many a clip holds on average (a spoken digit is
# one too), *recordings* how many different ones occur in clips of that kind. Nothing that any evaluation uses is in it: the
# test and validation folds, hours, takes and generator seeds are left out, and a test of this repository watches over it.

# %%
as_page(pool_contents())

# %% [markdown]
# How often that is: an hour of the pool that is heard twice counts twice. The supervised⁺ versions hear the synthetic
# clips alone, because only these have labels; what their base had heard before is not counted again.

# %%
as_page(heard(encoders))

# %% [markdown]
# ### Whom to thank
#
# Everyone whose recordings may be in the pool, by set and licence; a number in brackets counts a person's recordings. File,
# title and address of each are in `data_manifests/`, and `lib.data.recordings.attributions()` lists them one by one. Mixing
# changed every recording: cut, faded, scaled, added to others. The weights contain no recording.

# %%
credits_page()

# %% [markdown]
# ## One clip, many encoders
#
# > A PCA of the token map shows that EAT embeddings are rich but entangled, a result of the masked prediction objective,
# > while EAT+ embeddings are localized and aligned with input events. (Figure 1)
#
# The test clip of Figure 1, synthetic in the profile `pocket`, and the boxes that say where its sounds are:

# %%
scene = data.scene("test", settings.example)
page_image(plot_scene(scene), colours=128)

# %% [markdown]
# The same clip as each encoder hands it over. *PCA*: the three strongest directions of its tokens as red, green and blue,
# after the mean token of each place is taken away (it would be the loudest). Colours compare within a map, not between two.
# *Attention*: where [cls] looks in the last layer, mean over heads; black is nowhere, bright the most in this map. A base
# encoder and its supervised⁺ version stand side by side. Does the same box get easier to find?

# %% tags=["long"]
count = min(64, settings.clips["val"])
clips = waveforms(data, "val", count)
example, others = {}, {}
for name in encoders:
    example[name] = encode(name, scene.audio[None])
    others[name] = encode(name, clips)
    print(ENCODERS[name].label)

# %%
page_image(plot_token_maps(scene, example, others))

# %% [markdown]
# ## The tokens in numbers
#
# One clip is an anecdote. Three questions about the tokens $x_{bn}$ of many clips $b$ (of the validation split, which no
# encoder has heard), at all places $n$, need neither labels nor training:
#
# - **How alike are the tokens of a clip?** The mean cosine of two of them. At 1 they all point the same way, and a mean over
#   them loses little.
# - **How many directions do they fill?** The effective rank: $\exp(-\sum_i p_i \log p_i)$ with $p_i = s_i / \sum_j s_j$,
#   where $s$ are the singular values of the clip's $N \times D$ matrix of tokens (Roy and Vetterli, 2007). It lies between 1
#   and the smaller of $N$ and $D$.
# - **What do they depend on?** $x_{bn} = m + a_b + c_n + r_{bn}$ splits their variance into what a clip has everywhere, what a
#   place has in every clip, and the rest: what is said of this place in this clip. The rest is where events are, and a mean
#   over tokens keeps nothing of it.

# %%
table = token_statistics(others)
as_page(statistics_page(table))

# %%
page_image(plot_spread(table), colours=64)

# %% [markdown]
# Read this against the controls: they have learned nothing, so what they have as well is not the work of pretraining. And
# a large rank is no merit in itself, for noise has the largest.

# %%
page_image(plot_variance(table), colours=64)

# %% [markdown]
# Tokens without any structure would not have shares of zero: with $B$ clips of $N$ tokens, about $1/N$ would fall to clips
# and $1/B$ to places.
#
# ## Where [cls] looks
#
# > The [cls]-token's attention starts similarly for both models, but is diffuse for EAT in later layers, while EAT+ becomes
# > spatially selective, highlighting its limitation as a probe vector. (Figure 1)
#
# *Diffuse* as a number: the entropy of the attention of [cls] over the $N$ patches, as a share of the largest one possible,
# $\log N$. It is taken for each head and then averaged, so that four heads that look at four places do not pass for one that
# looks everywhere.

# %%
page_image(plot_attention(table), colours=64)

# %% [markdown]
# ## What labels change
#
# From a base encoder to its supervised⁺ version, the same clips:

# %%
page_image(plot_supervised_step(supervised_step(table)), colours=64)

# %% [markdown]
# ## What came out
#
# These sentences are written by the code from the table above.

# %%
Markdown("\n".join(f"- {sentence}" for sentence in in_words(table)))

# %% [markdown]
# What these numbers cannot say is which encoder is *better*. Before you look at the scores of notebook 09, write down your
# guess: which of the statistics will go along with the gain of `protobin` over `linear`, and in which direction? Tokens that
# say much that is theirs alone should favour a head that looks at each of them; but a guess is all that this is, until it is
# held against the scores, and with a handful of encoders even a perfect order may be chance.
