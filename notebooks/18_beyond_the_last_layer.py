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
# # 18 · Beyond the last layer
#
# Every head so far reads what an encoder says last. Its other blocks have something to say too: this page stores them all, puts
# `protobin` and `linear` on each alone, and lets CGP mix them. About twelve minutes on two cores the first time, seconds after that.
#
# > Words in a block like this are the paper's (arXiv 2509.24901). All others are ours.

# %% tags=["parameters"]
profile = "pocket"

# %%
# %matplotlib inline
from IPython.display import Markdown, display

from lib.figures import save_figure
from lib.layers import in_words, run_layers, store_sizes, write_layers
from lib.paths import figure_root
from lib.plots import page_image
from lib.plots_layers import plot_gates, plot_layers
from lib.profiles import load_profile

settings = load_profile(f"{profile}/layers")

# %% [markdown]
# ## Why look below
#
# > For each input […], we run an augmentation-free forward pass through the encoder […] and cache embeddings from the final hidden
# > block. (Section 4.1)
# >
# > A next step is to move beyond the final encoder layer and explore multi-layer feature aggregation, which could unlock even richer
# > embeddings. (Future work)
#
# A masked-prediction objective asks the last block for patches, or for a teacher's features; nobody asked it for classes.
# So the last block may well have turned to its task, and what a probe needs may stand a few blocks below. And
# what is local in time and frequency is local from the start: attention mixes more with every block. Before running: on
# which block would *you* put a probe, and should prototypes and a linear layer prefer the same one?
#
# CGP, convex gated probing (BAT; Ghaffari et al., 2026), leaves the choice to training. A gate $\alpha = \mathrm{softmax}(a)$ weighs the
# $L$ blocks, and prototypes $\hat p_k$ of length one are compared with the mixture:
#
# $$\bar z_n = \sum_l \alpha_l \frac{z_n^l}{\lVert z_n^l \rVert}, \qquad \bar o = \sum_l \alpha_l \frac{o^l}{\lVert o^l \rVert}, \qquad
# y = \Big[\min_n \bar z_n^\top \hat p_k,\ \max_n \bar z_n^\top \hat p_k,\ \bar o^\top \hat p_k\Big]_k$$
#
# A linear layer follows, with dropout 0.2 before it in training. $o^l$ is the block's [cls], or its mean token where an encoder has
# none. Compare this with `protobin` and count what differs besides the layers: the prototypes are floats, the smallest
# similarity counts as well as the largest, [cls] is compared too, and there is dropout. Were CGP on six blocks better than `protobin` on
# one, that alone would not tell which of these did it. So CGP is also run on a single layer.
#
# ## Which output is meant
#
# A block adds to what it reads; after the last one comes a norm, the final norm, with a scale and a shift of each channel that
# were trained along with the encoder. There is none after the other blocks. Here:
#
# - *1* to *6* are the outputs of the blocks as the next block reads them, **before** any norm;
# - *last* is block 6 **after** the final norm: what every other page of this companion reads.
#
# Both prototypes and CGP compare directions, so the length of a token does not matter; but the norm shifts and
# scales channels, and that turns directions. From *6* to *last* is the effect of the norm, and of nothing else.
#
# ## What it costs
#
# The layers lie in the store beside the last one: as many numbers a block. For few clips that is nothing; for a large
# set it is the reason why one would like to know first.

# %%
display(store_sizes(settings))

# %% tags=["long"]
computed = run_layers(profile)

# %% [markdown]
# ## The rule, first
#
# - Differences are paired: the same test clips, the same resampling of clips and their sources, for all arms and encoders. The
#   average gives each encoder the same weight. An interval holds 95 % of the draws; it knows of other clips, not of
#   other seeds or other encoders.
# - *Clearly* better or worse: the interval lies wholly on one side of zero. Otherwise the two cannot be told apart.
# - *The block that validation prefers* is chosen on validation clips, for each encoder and head by itself. To pick the best of six
#   on the test clips would find a winner where there is none.
# - CGP less `protobin`, both as they come, is taken apart in three steps that add up to it: `protobin` on *last* → CGP on *last* →
#   CGP on *6* → CGP on all. The last step is the mixing.

# %%
scores, contrasts, gates = write_layers(profile)


def part(table, dataset):
    """Return the rows of one dataset, with the table's note."""
    rows = table[table["dataset"] == dataset]
    rows.attrs["note"] = table.attrs["note"]
    return rows


for number, dataset in enumerate(settings.datasets):
    figure = plot_layers(part(scores, dataset))
    save_figure(figure, figure_root() / profile / ("layers" if number == 0 else f"layers_{dataset}"))
    display(page_image(figure, dpi=120, colours=128))

# %% [markdown]
# Where the line still climbs at 6,
# the last layer is the right one to read; where it bends down before, something is lost on the way.
#
# ## What the gates weigh
#
# The share of each block in CGP's mixture at the end of training, in the head of the first seed. A caution: the gate weighs
# vectors of length one, so a share says how loud a block is in the sum, not how much the score would fall without it. And the
# gate is one number a block among thousands of weights, trained for thirty epochs from equal shares: a gate
# near its start may be indifferent, or just slow.

# %%
for dataset in settings.datasets:
    display(page_image(plot_gates(part(gates, dataset)), dpi=110, colours=128))

# %% [markdown]
# ## What came out
#
# These sentences are written by the code from the tables (`figures/<profile>/layers.csv`, `layer_contrasts.csv`, `layer_gates.csv`).

# %%
for dataset in settings.datasets:
    tables = [part(table, dataset) for table in (scores, contrasts, gates)]
    display(Markdown(f"On {dataset}:\n\n" + "\n".join(f"- {line}" for line in in_words(*tables))))

# %% [markdown]
# The paper reads the last layer only, and so does nearly every table in the field. If a probe on a middle block is better here, the
# ranking of encoders by their last layer tells in part how far each one's last block has turned to its own task. That is a
# property of the objective, and a fair one to know; it is not the same as how much the encoder has learned.
#
# Three cautions. Six blocks of 128 channels are not twelve of 768: what a deep encoder's middle knows, a shallow one's may not.
# CGP's authors let it choose among thousands of prototypes; here it has as many as `protobin`. And where the table of
# a profile shows few encoders, the average is over these few.
