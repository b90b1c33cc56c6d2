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
# # 17 · Where is it?
#
# Holds the maps of trained heads against the true events: does the evidence for a class lie where the class sounds? Nothing is
# trained; it reads what notebooks 01 and 02 left. A few minutes on two cores.
#
# > Words in a block like this are the paper's (arXiv 2509.24901). All others are ours.

# %% tags=["parameters"]
profile = "pocket"

# %%
# %matplotlib inline
from IPython.display import Markdown

from lib.evidence import verdict_on
from lib.figures import save_figure
from lib.localisation import write_localisation
from lib.paths import figure_root
from lib.plots import page_image
from lib.plots_localisation import (
    contrasts_markdown,
    covers,
    in_words,
    plot_clip,
    plot_localisation,
    plot_traits,
    rule,
)

# %% [markdown]
# ## What a picture cannot show
#
# > Our protobin disentangles these correlated EAT embeddings to recover localized event information. (Figure 1)
#
# One clip in which it does is easily found, and so is one in which it does not. Of a recording from the street nobody knows where its
# events are; of our mixtures we know each one, its onset, its offset and the band that holds its energy. (Of the mixtures of
# ESC-10 recordings onset and offset are known as well, and the band is measured on the recording before it is mixed in.) So this
# page asks all clips of the test split, and for every class that sounds in them.
#
# ## The maps
#
# - **protobin** and **proto** have a map for each class: the *evidence* $\sum_k W_{ck}\,s_k(t,f)$ of Figure 1.
# - **mhca** has one map a clip, its *attention* (mean over its heads), whatever the class. But its logit is a sum over tokens
#   twice: over the heads $h$ and, inside each, over the tokens $n$. The two sums may change places:
#   $$\mathrm{logit}_c = \sum_h w_{ch}^\top \sum_n a_{hn} W_{V,h} z_n + b_c
#   = \sum_n \Big(\sum_h a_{hn}\, w_{ch}^\top W_{V,h} z_n\Big) + b_c .$$
#   What stands in the bracket is token $n$'s *contribution to the class*: attention × value × classifier. These add up to the logit
#   exactly, so nothing about it is a choice.
# - **[cls] of the encoder**: its attention in the last layer, mean over heads; one map a clip, and only where there is a [cls].
# - Three maps that need no learning at all: the **energy** of the spectrogram in each patch, how far it is **above its band's
#   median** in the clip, and **random** numbers.
#
# Maps that know no class start with a handicap: in a clip with five classes they point at one place for all five. How often they
# hit an event of *any* class is in the table too.
#
# ## What is measured
#
# - *Pointing*: the largest cell of the map lies in an event of the class, in time and in band. Chance is the share of cells that do.
# - *IoU*: the cells above a threshold and the cells of the events, intersection over union. Each map is stretched from 0 to 1; each
#   kind of map has one threshold for all clips, chosen on the validation split.
# - *Frame mAP*: each frame of 0.32 s is scored as if it were the clip, with the maximum over frequency only, and held against
#   the classes that sound in it. Besides, the score of the whole clip is repeated in all its frames. A head that knows *what* but not
#   *when* would gain nothing by reading frames. And a last line: the *true* tags of the clip, repeated in all frames.
#
# A cell counts as part of an event if they share at least half of the shorter of the two. The tokens of Dasheng's kind span all bands;
# of these, pointing and IoU are asked in time alone, and that is not mixed with the others. A *pair* is a clip and a class in it. The bootstrap is that of the other pages: over clips and their sources.

# %%
Markdown(rule())

# %% [markdown]
# Before running: which of these maps would you trust to point at a dog in a clip with four other sounds? And will the loudest place
# of the spectrogram do better or worse than attention?

# %% tags=["long"]
table, clip = write_localisation(profile)

# %% [markdown]
# ## One clip
#
# The clip of Figure 1, with the maps for the class of its loudest event.

# %%
folder = figure_root() / profile
picture = plot_clip(clip)
save_figure(picture, folder / "localisation_clip")
page_image(picture, dpi=110, colours=128)

# %% [markdown]
# ## All clips

# %%
Markdown(covers(table))

# %%
figure = plot_localisation(table)
save_figure(figure, folder / "localisation")
page_image(figure, dpi=110, colours=128)

# %% [markdown]
# ## Which events
#
# Short ones, quiet ones, those that others talk over? Only pairs whose class sounds once in the clip are in this picture, so that the
# event is the one that is meant. Mind the chance line: a long event is easier to hit.

# %%
page_image(plot_traits(table), dpi=110, colours=128)

# %% [markdown]
# ## The verdict
#
# Written by the code from `figures/<profile>/localisation.csv`; differences are in percentage points, in brackets 95 %.

# %%
Markdown("\n\n".join(in_words(table)))

# %% [markdown]
# Behind it, for pointing: the mean difference, and in how many configurations (an encoder on a dataset) the interval of that configuration
# alone lies above or below zero.

# %%
Markdown(contrasts_markdown(table, "pointing"))

# %% [markdown]
# For IoU:

# %%
Markdown(contrasts_markdown(table, "iou"))

# %% [markdown]
# For frame mAP:

# %%
Markdown(contrasts_markdown(table, "frame_map"))

# %% [markdown]
# ## On real recordings
#
# The same page run with `--profile esc10` (onsets and offsets are those of the mixture, bands are measured); its tables lie in
# `figures/esc10`.
#
# ![Localisation on ESC-10 soundscapes](../figures/esc10/localisation.png)

# %%
Markdown(verdict_on("esc10", "17_where_is_it"))

# %% [markdown]
# Cautions. The heads were trained on labels of clips and for mAP of clips; nobody asked them to point, and a head may well be right
# about the clip for a reason that lies elsewhere (a token hears its neighbours through the encoder's attention). Each cell keeps the
# weights of its first final seed, so seeds do not vary here. Encoders and datasets are not resampled: the intervals speak about other
# clips, not about other encoders. And a box from the 5th to the 95th percentile of energy is a rough outline of a sound with
# harmonics: cells between them count as inside.
#
# Next: what would detection need? Frames of 0.32 s are coarse, the threshold that turns a score into an onset is not learned, and
# an event that lasts is not one frame after the other. The paper leaves this step open, and so does this page.
