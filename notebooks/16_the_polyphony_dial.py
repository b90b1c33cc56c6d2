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
# # 16 · The polyphony dial
#
# A table of scores cannot show a cause. A world whose every event we know can: take the same bank of sounds and the same
# encoder, turn one thing about the clips and nothing else, and watch the heads. Twenty minutes on two cores the first
# time, seconds after that.
#
# > Words in a block like this are the paper's (arXiv 2509.24901). All others are ours.

# %% tags=["parameters"]
profile = "pocket"

# %%
# %matplotlib inline
import pandas as pd
from IPython.display import Markdown

from lib.dial import DIALS, FEWER, band_overlap, dials_of, embed, study, train, write
from lib.encoders import ENCODERS
from lib.evidence import verdict_on
from lib.figures import save_figure
from lib.paths import figure_root
from lib.plots import page_image
from lib.plots_dial import plot_dials, plot_polyphony_dial, verdict

settings = study(profile)

# %% [markdown]
# ## The claim
#
# > Forcing this information into a single descriptor, whether fixed or learnable during probing, creates a
# > single-vector bottleneck: Quieter but important events could be overshadowed by more prevalent sounds (Section 1)
#
# > If fixed global pooling degrades from single- to multi-label while token-aware methods remain stable, it would implicate
# > a polyphony-induced bottleneck. (Section 4, Q₃)
#
# The paper compares single-label with multi-label datasets, which differ in many things besides: sounds, sizes, metric. Here
# is the same question with everything else held still. If the bottleneck is one of polyphony, the gap between `protobin` and
# `linear` has to widen as more events share a clip. Before you read on: from how many events on would you expect the two to part?
#
# ## What is turned
#
# Five dials. Each position is a dataset of its own with a frozen manifest, and at each position the heads are trained *and* tested
# on clips of that position. All positions are drawn from the same seeds: the clip with five events has the three of its neighbour
# and two more, the clip at 18 dB is the clip at −6 dB with its events turned up. Classes of one clip may repeat on the first three
# dials; on the two of overlap they differ.

# %%
pd.DataFrame(
    [
        (
            DIALS[name].title,
            DIALS[name].axis,
            " · ".join(" ".join(DIALS[name].called(at).split()) for at in places.values()),
        )
        for name, places in dials_of(settings).items()
    ],
    columns=["dial", "what is turned", "positions"],
).set_index("dial")

# %% [markdown]
# On the first dial lengths (0.5 to 4 s) and levels (0 to 24 dB over the noise) are drawn as in the soundscapes of notebook 01;
# on the second and the third there are three events, and on the third all of them lie 12 dB over the noise. A profile of real
# recordings has the first dial alone.
#
# For the last dial the bands of all sounds were measured (5 to 95 % of the energy), and classes were put together whose bands
# overlap less, or more, than they do by chance; each class is as often in the one company as in the other. Bands are wide and
# individuals differ, so four sounds that do not touch are not to be had, and the dial turns by a little only. Measured on
# test clips, mean over pairs, as the shared part of what two bands cover together (on the mel scale):

# %%
Markdown(band_overlap(settings))

# %% [markdown]
# ## The heads
#
# `linear` on [cls] and on the mean token, `mhca`, and `protobin` with ten prototypes a class. Learning rate and weight decay are
# searched at every position anew. BEATs (pocket) has no [cls] of its own: its `linear` reads the mean token anyway, and the line
# of the mean token is then zero by definition.

# %%
labels = {name: ENCODERS[name].label for name in settings.encoders}
fewer = [label for name, label in labels.items() if name in FEWER]
Markdown(
    f"On the first dial: {', '.join(labels.values())}. On the others, where there are any, to save time: {', '.join(fewer)}."
)

# %% tags=["long"]
stored = embed(profile)

# %% tags=["long"]
trained = train(profile)

# %% [markdown]
# ## The rule, first
#
# The gap is `protobin` − `linear` in points of test mAP, mean over the encoders. It *grows* along a dial if the 95 % interval
# lies above zero, it *shrinks* if it lies below, and else it *stays within its error*: for polyphony the interval of the slope over
# all positions, for the other dials that of the last position minus the first. The interval is a paired bootstrap: in each
# draw the same test clips count for all heads and encoders (with synthetic sounds for all positions too), and there is an error for
# the seeds. The encoders are these; no interval speaks of others, nor of other training clips.
#
# One caution beforehand. The more events, the more classes a clip has, and the higher the mAP of a head that *guesses*. What a
# point is worth therefore changes along the dial: the room between chance and 100 % shrinks. So the rule is applied twice, to points
# and to points as a share of the way from chance to 100 %; the paired difference between two heads at one position has the same
# chance on both sides.
#
# With five dials read twice these are some ten intervals. Were nothing going on at all, one in twenty would leave zero out
# by chance, so a single one that just does is a hint and no more.

# %%
table, trends = write(profile)
figure = plot_polyphony_dial(table)
save_figure(figure, figure_root() / profile / "dial")
page_image(figure, dpi=130, colours=128)

# %% [markdown]
# ## The verdict
#
# Written by the code, from `figures/<profile>/dial_trends.csv`.

# %%
Markdown("\n\n".join(verdict(table, trends)))

# %% [markdown]
# ## All dials
#
# First the scores themselves, with what a random order of the clips would have (dashes). Compare the slope of the dashes with
# that of the lines before you call a rising line a success.

# %%
page_image(plot_dials(table, "map"), colours=128)

# %% [markdown]
# The same with chance taken out: how much of the way from chance to 100 % a head goes.

# %%
page_image(plot_dials(table, "share"), colours=128)

# %% [markdown]
# And the gaps, in points.

# %%
page_image(plot_dials(table, "gain"), colours=128)

# %% [markdown]
# ## On real recordings
#
# The same page run with `--profile esc10` (clips with one, three, five and nine events); its tables lie in `figures/esc10`.
#
# ![The polyphony dial on ESC-10 recordings](../figures/esc10/dial.png)

# %%
Markdown(verdict_on("esc10", "16_the_polyphony_dial"))

# %% [markdown]
# ## What to ask of these pictures
#
# Is the gap over `linear` that of pooling, or that of a weak [cls]? The hollow line says what is gained by reading the mean token
# instead; the way from there to `protobin` is what a maximum over tokens adds. Does `mhca`, which also looks at all tokens
# but makes one vector of them, go with `protobin` or with the mean? And do the supervised⁺ encoders need the tokens at all?
# What `linear` reads of them ([cls], in BEATs+ the mean token) was taught the sixteen classes of the synthetic dials with
# labels; the classes of the real recordings it was not taught.
#
# Two dials turn more than their name says. More events, and longer ones, also overlap more; the dial of overlap in time alone
# holds their number and length still.
#
# More events are also more training labels: at nine events a class is heard in many more of the training clips than at one.
# Turning the dial turns that too, and with a fixed number of clips it cannot be otherwise.
#
# All numbers are in `figures/<profile>/dial.csv` and `dial_trends.csv`.
