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
# # 05 · The figures
#
# Redraws Figures 1 to 8 of the paper from this profile's own results; under a minute on two cores. Each is drawn from a small
# table that lies beside it (`figures/<profile>/figure_N.csv`), and says in its margin what was run.
#
# > Words in a block like this are the paper's (arXiv 2509.24901). All others are ours.

# %% tags=["parameters"]
profile = "pocket"

# %%
# %matplotlib inline
from IPython.display import Markdown

from lib.comparisons import benchmark, fine_tuning, prototype_contrasts, prototype_counts
from lib.figures import draw_figure, read_table, save_figure, write_table
from lib.paths import figure_root
from lib.plots import page_image
from lib.profiles import load_profile
from lib.results import gather
from lib.tables import figure_table, left_out

folder = figure_root() / profile
results = gather(profile)
write_table(folder / "benchmark.csv", benchmark(profile), f"profile {profile}: test split, every head and encoder")
write_table(folder / "prototype_counts.csv", prototype_counts(profile), f"profile {profile}: the J ablation")
write_table(folder / "contrasts.csv", prototype_contrasts(profile), f"profile {profile}: the binarisation ablation")
if load_profile(profile).fine_tuned:
    write_table(folder / "fine_tuning.csv", fine_tuning(profile), f"profile {profile}: whole encoders, fine-tuned")


def figure(number):
    if why := left_out(number, load_profile(profile)):
        return Markdown(why)
    path = folder / f"figure_{number}"
    write_table(path.with_suffix(".csv"), *figure_table(number, profile))
    drawn = draw_figure(number, read_table(path.with_suffix(".csv")))
    save_figure(drawn, path)
    return page_image(drawn)  # small enough for a page; the files beside the table are finer


# %% [markdown]
# ## Figure 1 · The pooling bottleneck
#
# > […] embeddings are rich but entangled, a result of the masked prediction objective […] The [cls]-token's attention
# > […] is diffuse for EAT in later layers […] Our protobin disentangles these correlated EAT embeddings to recover
# > localized event information.
#
# Boxes are the true events. Follow one box through the row: does its place light up in the PCA, in the attention of
# [cls], in the evidence of its class?

# %%
figure(1)

# %% [markdown]
# ## Figure 2 · One bar a head
#
# The paper shows EAT on as20k. This is the EAT kind on the profile's first dataset, with the whole encoder fine-tuned as
# the upper line where the profile has that.

# %%
figure(2)

# %% [markdown]
# ## Figure 3 · The method
#
# > There are J learnable prototypes, which are binarized on-the-fly. Tokens are matched against these prototypes, max
# > pooling aggregates spatial evidence, and a final linear layer maps the resulting prototype scores to class logits.

# %%
figure(3)

# %% [markdown]
# ## Figure 4 · Weights and similarities
#
# The paper shows a trained protobin on urban. We add the prototypes' cosines *before* training, and the value that
# random signs have anyway.

# %%
figure(4)

# %% [markdown]
# ## Figure 5 · Pairwise wins
#
# In how many configurations does the row beat the column by more than one standard deviation of the column?

# %%
figure(5)

# %% [markdown]
# ## Figure 6 · Encoder averages
#
# > The backbone ranking under linear is completely reshuffled when using protobin. (Section 4.2)
#
# Both sides are averages over the general datasets. How sure such a rank is, given this many test clips, is a question of its
# own: notebook 10 answers it.

# %%
figure(6)

# %% [markdown]
# ## Figure 7 · Points above linear

# %%
figure(7)

# %% [markdown]
# ## Figure 8 · From base to supervised⁺
#
# The paper compares the ranks of heads before and after an encoder was fine-tuned on labels: here BEATs, EAT and SSLAM
# (pocket), fine-tuned on labelled clips of the synthetic bank, apart from every evaluation set.

# %%
figure(8)
