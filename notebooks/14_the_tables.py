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
# # 14 · The tables
#
# Tables 2 to 9 of the paper, filled with our own results, and below each the published one. Nothing is trained; it reads
# what notebooks 02 to 05 left, ten seconds on two cores, and writes each of our tables beside the figures, as `table_N.md`.
#
# **These are stand-ins.** A pocket encoder is of the same kind as the encoder it is named after, at a hundredth of the size; a
# dataset here is in the manner of the one that it stands for (Table 8), in the profile `pocket` of synthetic sounds. The absolute
# numbers of the two tables are not comparable, and no cell of one is a rerun of a cell of the other. What can be compared is the
# order of the heads within a row, and that is what notebook 10 does, with intervals.
#
# > Words in a block like this are the paper's (arXiv 2509.24901), and so are the tables under *published*. All others are ours.

# %% tags=["parameters"]
profile = "pocket"

# %%
# %matplotlib inline
from IPython.display import Markdown, display

from lib.data.datasets import load_dataset
from lib.files import write_text
from lib.paper_tables import as_markdown, average_gains, further_table, paper_table, published_table
from lib.paths import figure_root
from lib.plots import page_image
from lib.plots_questions import plot_heads
from lib.profiles import CONTROLS, COSTLY_HEADS, load_profile
from lib.published import CAPTIONS

settings = load_profile(profile)
seeds = len(settings.seeds)


def both(number):
    """Show a table as it is here, and the published one; ours also goes into a file of its own."""
    ours = as_markdown(paper_table(number, profile))
    about = f"Profile `{profile}` ({settings.about}); {settings.stands_for}."
    marks = f" Mean±sd over {seeds} seeds in percent; – was not run." if number < 8 else ""
    path = figure_root() / profile / f"table_{number}.md"
    write_text(path, f"**Table {number}. {CAPTIONS[number]}.** {about}{marks}\n\n{ours}\n")
    for title, table in ((f"here · {seeds} seeds", ours), ("published", as_markdown(published_table(number)))):
        display(Markdown(f"**Table {number}, {title}**\n\n{table}"))


# %% [markdown]
# In short: how far each head is above `linear`, on the average over datasets and self-supervised encoders, in the paper (hollow) and
# here (filled).

# %%
titles = {2: "general audio (Table 2)", 5: "bioacoustics (Table 5)", 6: "single-label (Table 6)"}
gains = {title: average_gains(number, profile) for number, title in titles.items()}
gains = {title: pair for title, pair in gains.items() if pair[1]["gain"].notna().any()}
nothing = Markdown("This part of the profile has no head beside linear, so nothing is shown.")
page_image(plot_heads(gains), colours=64) if gains else nothing

# %% [markdown]
# ## Table 8 · The datasets
#
# First, what was measured on.

# %%
both(8)

# %% [markdown]
# ## Table 9 · The pooling methods and their size
#
# Here with exact formulas, biases included: N tokens, D their dimension, C classes, K = J·C prototypes, H = 2D/3, D_h = D/2, Q = 32
# queries, F = S_f. The published numbers and ours differ where the paper's formula and number do (notebook 07).

# %%
both(9)

# %% [markdown]
# ## Table 2 · General audio, self-supervised encoders
#
# > All results are the mean with std reported in mAP, averaged over five seeds. Best and second best probe per (dataset,
# > backbone) are highlighted.
#
# Here and below: the best in bold, the second best in italics; "–" was not run.

# %%
fewer = []
if settings.costly_encoders:
    fewer.append(f"{', '.join(COSTLY_HEADS)} are trained on {len(settings.costly_encoders)} encoders only")
if settings.control_heads and set(CONTROLS) & set(settings.encoders):
    heads, title = ", ".join(settings.control_heads), load_dataset(settings.dataset).manifest["title"]
    fewer.append(f"the two controls run {heads}, and these on {title} alone")
Markdown(f"In this profile {'; '.join(fewer) or 'every head runs on every encoder'}.")

# %%
both(2)

# %% [markdown]
# ## Table 3 · Single-label, multi-label, fine-tuning
#
# Accuracy on single-label sounds, mAP on the many-class dataset. Published fine-tuning is what each encoder's own paper reports;
# ours is the same encoder on the same clips as the probes.

# %%
both(3)

# %% [markdown]
# ## Table 4 · General audio, all encoders
#
# With the supervised⁺ versions and, here, the two controls.

# %%
both(4)

# %% [markdown]
# ## Table 5 · Few-shot bioacoustics

# %%
both(5)

# %% [markdown]
# ## Table 6 · Single-label controls

# %%
both(6)

# %% [markdown]
# ## Table 7 · Number of prototypes and binarisation
#
# > Bold marks the number of prototypes used in our main benchmark results.

# %%
both(7)

# %% [markdown]
# ## What has no place in the paper's tables
#
# `linear` on the mean token instead of [cls], on the many-class dataset; the three kinds of prototypes on all datasets. Nothing is
# marked.

# %%
Markdown(as_markdown(further_table(profile)))
