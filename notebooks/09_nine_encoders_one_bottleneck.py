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
# # 09 · Nine encoders, one bottleneck
#
# Shows whether each pocket encoder has learned something, how much of it a linear probe on [cls] misses, and which head
# gains most when an encoder has also seen labels. Nothing is trained here: the tables are those that `make encoders`
# stored. A few seconds.
#
# > Words in a block like this are the paper's (arXiv 2509.24901). All others are ours.

# %% tags=["parameters"]
profile = "pocket"

# %%
# %matplotlib inline
from IPython.display import Markdown

from lib.encoder_comparison import COMPARED, gains, in_words, margins_page, stored
from lib.plots import page_image
from lib.plots_comparison import plot_gains, plot_mean_token, plot_supervised_gains

TITLES = dict(zip(COMPARED, ("synthetic soundscapes", "soundscapes of ESC-10"), strict=True))


def tables(read):
    """Return a table for each of the two sets, under its title."""
    return {title: read(name) for name, title in TITLES.items()}


# %% [markdown]
# ## Has it learned anything?
#
# A frozen network with random weights is no bad feature extractor, and the spectrogram itself is not nothing either. So before
# an encoder may say anything about pooling, it has to be clearly better than both, under the plainest of probes: one
# linear layer on the mean of all tokens. Clearly is five points and three standard deviations over seeds; an
# encoder that falls short is not shipped.

# %%
page_image(plot_mean_token(tables(lambda name: stored(name, "benchmark"))), colours=64)

# %%
margins_page()

# %% [markdown]
# These scores do not rank the originals. All nine are small and were trained briefly (notebook 08 has steps and passes) on a
# pool of forty-four hours; objectives with a teacher that learns along may well have the worst of that. The three of that kind
# start, directly or by way of EAT, from the finished A-MAE kind, and do not keep its score under this probe.
#
# ## What a linear probe on [cls] misses
#
# > The [cls]-token is a performance bottleneck, underutilizing the token map and leading to an unreliable evaluation (Q₂).
# > (Section 5)
#
# Each mark is a head on the same frozen tokens, as points above *linear* on what stands for [cls]: the encoder's own, or the
# mean token where it has none (BEATs, Dasheng, log-mel). The hollow mark is *linear* again, on the mean token: what it gains is no
# merit of a pooling head, it is the weakness of [cls] alone.

# %%
page_image(plot_gains(tables(gains)), colours=128)

# %% [markdown]
# ## Whom labels help
#
# > The [cls]-token-based methods see the largest gains, with *linear* jumping from rank #10 to #6 and *mlp* from #7 to #3. This
# > confirms that supervised fine-tuning injects class-specific information into the global token. (Section 4, Q₄)
#
# If labels teach [cls] to gather what it did not gather before, the heads that read [cls] should gain most, and those
# that look at the tokens themselves least. Each mark: a head on the supervised⁺ version, minus the same head on the base.
#
# Mind the left panel: the labels of the supervised step were the very classes of the synthetic bank, from other seeds, so
# that [cls] was taught exactly what is asked here. The recordings of ESC-10 have classes of their own; they are the fairer test.

# %%
page_image(plot_supervised_gains(tables(lambda name: stored(name, "supervised"))), colours=128)

# %% [markdown]
# ## In words
#
# These sentences are written by the code from the stored tables.

# %%
Markdown(
    "\n".join(
        f"**{title[0].upper()}{title[1:]}**\n" + "".join(f"\n- {line}" for line in in_words(name)) + "\n"
        for name, title in TITLES.items()
    )
)
