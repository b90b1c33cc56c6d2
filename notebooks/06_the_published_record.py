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
# # 06 · The published record
#
# Holds the paper's own tables as data, draws its Figures 2, 5, 6, 7 and 8 from them, and puts what was published beside
# what was rerun. Twenty seconds on two cores; nothing is trained.
#
# > Words in a block like this are the paper's (arXiv 2509.24901). All others are ours.

# %% tags=["parameters"]
profile = "pocket"

# %%
# %matplotlib inline
import pandas as pd
from IPython.display import Markdown

from lib import published
from lib.data.datasets import load_dataset
from lib.encoders import ENCODERS
from lib.figures import draw_figure, read_table, save_figure, write_table
from lib.paths import figure_root
from lib.plots import page_image, plot_side_by_side
from lib.profiles import load_profile
from lib.published_figures import figure_table, rank_readings
from lib.side_by_side import coverage, protocol_differences, side_by_side

folder = figure_root() / "published"

# %% [markdown]
# ## Ten tables, tidy
#
# `published.table(n)` returns Table n. In Tables 2 to 7 a row is one number: data set, encoder, head, J, mean, standard
# deviation, metric, seeds. All names are spelled one way, whichever table they come from; every digit is the paper's.

# %%
published.table(4).query("dataset == 'urban' and head in ['linear', 'mhca', 'protobin']").head(9)

# %%
sizes = [(number, caption, len(published.table(number))) for number, caption in published.CAPTIONS.items()]
pd.DataFrame(sizes, columns=["table", "what", "rows"]).set_index("table")

# %% [markdown]
# A tidy table answers questions at once. How far is each head above `linear`, averaged over everything in Table 2?

# %%
scores = published.wide(2)
scores.sub(scores["linear"], axis=0).mean().sort_values(ascending=False).round(2).to_frame("points above linear")


# %% [markdown]
# ## The figures, from the paper's numbers
#
# The functions that draw the figures of notebook 05 draw these too; only the table differs. It lies beside each figure
# (`figures/published/figure_N.csv`).


# %%
def figure(number):
    path = folder / f"figure_{number}"
    write_table(path.with_suffix(".csv"), *figure_table(number))
    drawn = draw_figure(number, read_table(path.with_suffix(".csv")))
    save_figure(drawn, path)
    return page_image(drawn)


# %% [markdown]
# ### Figure 2 · One encoder, every head
#
# > On as20k, protobin closes 63% of the performance gap to fine-tuning (see Figure 2). (Section 4.2)

# %%
figure(2)

# %% [markdown]
# ### Figure 5 · Pairwise wins
#
# > Each cell shows the number of configurations where a method outperforms another (ties omitted, one sd above
# > opponent), aggregated over all datasets and base (non-supervised⁺) backbones.

# %%
figure(5)

# %% [markdown]
# ### Figure 6 · Encoder averages

# %%
figure(6)

# %% [markdown]
# ### Figure 7 · Points above linear

# %%
figure(7)

# %% [markdown]
# ### Figure 8 · From base to supervised⁺
#
# > The [cls]-token-based methods see the largest gains, with linear jumping from rank #10 to #6 and mlp from #7 to #3. […]
# > the prototypical methods retain their top-ranked positions. (Section 4.2)

# %%
figure(8)

# %% [markdown]
# The caption says "one sd above opponent". Whose sd, and among how many heads? Table 4, where the supervised⁺ encoders are,
# has ten heads; `linpre` is in Table 2 only. Here are the ranks of four heads under every reading.

# %%
readings = rank_readings()
readings["ranks"] = "#" + readings["base"].astype(str) + " → #" + readings["supervised"].astype(str)
readings.pivot_table(index=["heads", "margin"], columns="head", values="ranks", aggfunc="first", sort=False)

# %% [markdown]
# **The stated ranks come out with the ten heads of Table 4, whichever sd is taken.** With `linpre` counted on the base
# side they do not. The figure above takes the caption at its word: the mean of one head is above the mean of the other by
# more than the *other's* sd. On top, `proto` and `protobin` stay first and second, and change places.

# %% [markdown]
# ## Published beside rerun
#
# What this repository reruns are stand-ins: a pocket encoder of the same kind, on sounds made by a recipe like that of the
# dataset. They are not the paper's experiments. The absolute numbers are not comparable; the order of the heads is worth
# comparing. This is what differs:

# %%
protocol_differences(profile).set_index("what")

# %%
beside = side_by_side(2, profile)
settings = load_profile(profile)
both = beside[beside["words"] == f"{settings.shown} on {settings.dataset}"]
here = f"{ENCODERS[settings.shown].label}, {load_dataset(settings.dataset).manifest['title']}"
if both.empty or "linear" not in set(both["head"]):
    shown = Markdown(f"Table 2 has nothing that stands beside the heads on {here}, or linear is not among them.")
else:
    theirs = f"the paper: {both['encoder'].iloc[0]}, {both['dataset'].iloc[0]} (Table 2)"
    shown = plot_side_by_side(both, [theirs, f"here: {here}"])
shown

# %%
for (dataset, encoder), part in beside.dropna(subset=["rerun"]).groupby(["dataset", "encoder"], sort=False):
    order = part["published"].corr(part["rerun"], method="spearman")
    print(f"{dataset}, {encoder}: rank correlation of {len(part)} heads, published against rerun: {order:.2f}")
both.set_index("head")[["published", "published_sd", "rerun", "rerun_sd", "low", "high"]].round(1)

# %% [markdown]
# And the number of prototypes (Table 7):

# %%
counts = side_by_side(7, profile).dropna(subset=["rerun", "J"])
counts.pivot_table(index=["dataset", "encoder", "head"], columns="J", values=["published", "rerun"], sort=False).round(
    1
)

# %% [markdown]
# Where a cell has no rerun, it says why:

# %%
coverage(profile).set_index("table")

# %%
reasons = side_by_side(4, profile)["words"].value_counts()
print("\n".join(f"{count:>4}  {words}" for words, count in reasons.items()))
