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
# # 24 · Run the paper
#
# The other pages are about pocket encoders and pocket datasets. This one is about the real ones: nine published
# checkpoints, fourteen datasets, eleven heads, `PROFILE=paper`. It says what that takes, stage by stage, on your machine,
# and what to run first if you have one graphics card and one evening. Nothing is downloaded or trained here; ten seconds.
#
# > Words in a block like this are the paper's (arXiv 2509.24901). All others are ours.

# %% [markdown]
# Say what you have. `tflops` is the rate at which your machine multiplies matrices in float32, in TFLOP/s; `None` stands
# for the machine on which this page was made. Prices are in any currency you like; zero leaves them out.

# %% tags=["parameters"]
profile = "pocket"
tflops = 20.0
price_of_an_hour = 1.0
price_of_a_terabyte_month = 20.0
evening = 4.0

# %%
# %matplotlib inline
from IPython.display import Markdown

from lib.plan import in_words, machine, paper_cells, plan
from lib.plan_pages import Price, advice, by_dataset, first_steps, on_machines, stages
from lib.plots import page_image
from lib.plots_plan import plot_hours

on, cells = machine(tflops), paper_cells()
Markdown(
    f"{len(cells):,} cells: {cells['encoder'].nunique()} encoders, {cells['dataset'].nunique()} datasets, "
    f"{cells['head'].nunique()} heads and, in the ablation, several numbers of prototypes."
)

# %% [markdown]
# ## What each stage takes
#
# Three stages. *Download* what others publish: checkpoints by `make checkpoints`, datasets by hand, since their owners
# ask for it (each manifest in `data_manifests/` says where, which version, under which licence, and what is not known).
# *Embed*: every clip goes through every encoder once, and what the encoder says is kept in half precision. *Train*: the
# heads, which read the store and nothing else.
#
# The hours are products over rate: how many floating-point operations a stage needs, by how many the machine does in an
# hour, times the share of that rate which our code reaches. That makes them an order of magnitude and not an appointment.
# `make bench` measured the share of each head, and measures that of the encoders, on a CPU; a graphics card that is kept
# waiting for its disk has less. Which shares are known here, and which is a guess:

# %%
Markdown(in_words(plan(cells, on), on).partition("\n")[0])

# %%
stages(cells, on, Price(price_of_an_hour, price_of_a_terabyte_month)).round(1).astype(object).fillna("")

# %% [markdown]
# The embeddings are the large thing. Nobody needs them all at once: a store belongs to one encoder and one dataset, and
# once its cells are trained it can be deleted, pushed to a hub repository (`make push`) so that nobody else has to
# encode these clips again, or simply made again. So the disk that is needed is that of one encoder on the dataset at hand.

# %%
table = by_dataset(cells, on)
table.round(1)

# %%
page_image(plot_hours(table, on.known_from))

# %% [markdown]
# ## On another machine
#
# The rate is nearly all that counts. Data sheets give it for float32 (or TF32, which PyTorch uses if it is told to);
# `make bench` measures it.

# %%
on_machines(cells).round(1)

# %% [markdown]
# ## One graphics card, one evening
#
# The question of the paper does not need all of these cells. Each step below holds the ones above it, and what is
# finished is never computed twice, so one can stop anywhere and go on another day. Where protobin is, the ablations are.

# %%
steps = first_steps(on, evening)
steps.drop(columns="command").round(1)

# %%
Markdown(advice(steps, evening))

# %% [markdown]
# As one reads it in a terminal, for any part of the paper: `make plan PROFILE=paper ENCODERS=… DATASETS=… HEADS=…`.

# %%
print(in_words(plan(paper_cells(["eat", "eat-plus"], ["urban"], ["linear", "mhca", "protobin"]), on), on))

# %% [markdown]
# ## Before the real thing
#
# `make rehearse` runs all of it in miniature: fourteen tiny datasets in their owners' layouts, nine encoders of the real
# families with random weights, two trials of one epoch. It takes minutes, and what breaks there would have broken on
# the third day. `make cell ENCODER=eat DATASET=urban HEAD=protobin PROFILE=paper` runs one cell; several machines share
# the cells with `SCHEDULER=tcp://…` (see the README).
#
# **What you can expect.** Not the paper's digits: the variant of BEATs, the padding of short clips, the vector that
# stands for the [cls] of BEATs and Dasheng, the fold of esc50, the mapping of spass and the copy of AudioSet are not
# published (the manifests list it all). What ought to reappear are the differences between heads.
