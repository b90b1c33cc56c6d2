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
# # 11 · The fast engine
#
# A head is small, but a comparison of heads trains thousands of them. This page shows the algebra that lets one pass
# over the tokens train many configurations at once, and what it is worth against the loop that one would write from
# the equations. Nothing is timed here: the tables are those that `make bench` stored. A few seconds.
#
# > Words in a block like this are the paper's (arXiv 2509.24901). All others are ours.

# %% tags=["parameters"]
profile = "pocket"

# %%
# %matplotlib inline
import torch
from IPython.display import Markdown

from lib import bench_products
from lib.bench_sizes import WHOLE
from lib.plots import page_image
from lib.plots_bench import (
    cost_in_words,
    gpu_page,
    in_words,
    machine_of,
    measured,
    plot_cost,
    plot_memory,
    plot_ratios,
    plot_shares,
    promises_page,
    shapes_in_words,
    store_page,
    timed_in_words,
)
from lib.profiles import load_profile
from lib.search import rungs

settings = load_profile(profile)
rng = torch.Generator().manual_seed(0)


def random(*shape):
    """Return normal random numbers in double precision."""
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


B, N, D, C, R = 4, 24, 32, 3, 5  # clips, tokens, dimension, classes, runs
tokens = random(B, N, D)

# %% [markdown]
# ## How much there is to train
#
# > First, we run 50 trials with a fixed seed for comparability, using Sobol […] exploration for the first 25 trials
# > and TPE for the remainder […], under a successive-halving schedule. […] Second, we take the top-$k$ configurations
# > and re-evaluate each with five random seeds […]. (Section 4.1)
#
# A search tries learning rates and weight decays, stops the worse ones early, and runs the best again with several
# seeds. In the profile of this page that is for each head, encoder and dataset:

# %%
Markdown(
    f"{settings.trials} trials of up to {settings.epochs} epochs, of which at each rung (epoch "
    f"{', '.join(str(epoch) for epoch in rungs(settings)[:-1])}) about one in {settings.rung_factor} goes on; then "
    f"{settings.top_k * len(settings.seeds)} final runs (configurations: {settings.top_k}, seeds: {len(settings.seeds)})."
)

# %% [markdown]
# The encoder is frozen, so all of them read the very same tokens. That is what the engine lives on, in five steps.
#
# ## 1. Pool first, project later
#
# `mhca` projects every token with $W_V$ and then takes a weighted mean of the $N$ results, with weights $a_n$ that sum
# to one. But a weighted mean of projections is the projection of the weighted mean:
#
# $$\sum_n a_n\, W_V z_n \;=\; W_V \sum_n a_n z_n .$$
#
# On the left $N$ vectors are projected, on the right one. The same on the other side of the attention: the query is
# learned and is no token, so $q^\top (W_K z_n) = (W_K^\top q)^\top z_n$, and the keys need no projection either. This
# is no approximation; it is the same function, and so are its gradients:

# %%
w_key, w_value, query = random(D, D), random(D, D), random(D)
scores = (tokens @ w_key.T @ query).softmax(1)  # (B, N)
as_written = (scores[..., None] * (tokens @ w_value.T)).sum(1)  # (B, N, D) → (B, D)
folded_scores = (tokens @ (w_key.T @ query)).softmax(1)
folded = (folded_scores[..., None] * tokens).sum(1) @ w_value.T  # (B, D)
torch.allclose(as_written, folded)

# %% [markdown]
# For $N$ tokens the projections cost $2ND^2$ products a clip as written. Folded, what is left over all tokens is
# $2NMD$ for $M$ heads: less by the factor $D/M$, the width of one head. `lib.train`, the reference loop, already has
# its heads so; the textbook loop has not.
#
# **Predict, then think on:** `conv` has a ReLU between its convolution and its mean. Can you pool first there? (No: a
# mean of ReLUs is not the ReLU of a mean. `conv` gains nothing from this step.)
#
# ## 2. Only the winner has a gradient
#
# A prototype's score is a maximum, $\bar s_k = \max_n s_{k,n}$. Move a token that did not win a little, and the
# maximum stays. So the gradient of $\bar s_k$ for the prototype is that of one token, the winner:
#
# $$\frac{\partial \bar s_k}{\partial p_k} \;=\; z_{n^*}, \qquad n^* = \arg\max_n\; p_k^\top z_n .$$
#
# Autograd does not know that. It makes a gradient for the whole map of similarities, $B \times N \times K$ numbers of
# which all but $B \times K$ are zeros, and multiplies it out: as much work as the forward pass. The engine keeps the
# winners' numbers and adds up their tokens.

# %%
prototypes = random(7, D).requires_grad_()
similarity = tokens @ prototypes.T  # (B, N, K)
similarity.amax(1).sum().backward()  # as written: through the whole map
winners = similarity.argmax(1)  # (B, K)
sums = tokens[torch.arange(B)[:, None], winners].sum(0)  # (B, K, D) → (K, D)
torch.allclose(prototypes.grad, sums)

# %% [markdown]
# There is a second gain. What is only searched for a maximum may be computed in half precision, as long as the best
# candidates are compared again in full; and the map may be made piece by piece, each piece written over the last one,
# so that it is never held whole. And a third: numbers in bfloat16 need not be compared as such. The bits of those above
# zero are whole numbers in the same order, below zero in the opposite one, and a processor compares whole numbers
# several times as fast:

# %%
rough = similarity.detach().bfloat16()  # (B, N, K)
bits = rough.view(torch.int16)
in_order = bits ^ ((bits >> 15) & 0x7FFF)  # turned round where negative
torch.equal(rough.gather(1, in_order.argmax(1, keepdim=True)), rough.amax(1, keepdim=True))

# %% [markdown]
# ## 3. Stacked runs make wide products
#
# $R$ runs of `linear` are $R$ products of the same batch with $R$ small matrices. Side by side they are one product
# with one wide matrix:
#
# $$\big[X W_1^\top,\ \dots,\ X W_R^\top\big] \;=\; X\,\big[W_1;\ \dots;\ W_R\big]^\top .$$
#
# The number of multiplications is the same. But a processor is at its best only where it can use each number that it
# fetched many times, and a small product is over before that; and each call has a price of its own, which $R$ runs now
# share. The losses are added, and since no run's weights occur in another run's loss, the gradient of the sum is each
# run's own gradient.

# %%
weights = random(R, C, D)
batch = tokens.mean(1)  # (B, D)
one_by_one = torch.stack([batch @ weight.T for weight in weights])  # (R, B, C)
wide = (batch @ weights.flatten(0, 1).T).unflatten(1, (R, C)).transpose(0, 1)  # (B, R·C) → (R, B, C)
torch.allclose(one_by_one, wide)

# %% [markdown]
# Where a product is wide already, as for `protobin` with its hundreds of prototypes, stacking adds little to its
# speed. And where runs have each their own order of clips (the final seeds), they share no tokens, only the calls: their
# batches lie side by side, and a product of many small matrices is one call.
#
# ## 4. What never changes is computed once
#
# The mean token of a frequency row (`linpre`), the length of each token (the prototype heads), mean and variance for a
# batch norm (`mhca`), the mean token (`simpool`): they depend on no weight. A plain loop computes them again in every
# step of every run.
#
# ## 5. Small things by hand
#
# For a head like `linear` the head is not what costs. The asymmetric loss of a few hundred logits is some twenty steps,
# autograd makes twice as many of their gradients, and each step has a price that does not depend on how small it is.
# So the engine has the gradients of its losses written out, and does not ask for the losses themselves; and those of the
# heads that are a layer or two (`linear`, `linpre`, `mlp`), of `ep` and of the prototype heads. For these autograd has
# nothing to do (but for the second loss of `proto`), and torch is told so (`torch.inference_mode`), which makes each of
# their many small steps cheaper. The gradient of a vector $v$ whose length is taken out, as of a prototype, is
#
# $$u = \frac{v}{\lVert v \rVert}: \qquad g \;\mapsto\; \frac{g - u\,(u^\top g)}{\lVert v \rVert} .$$
#
# By step 2 the $g$ of a prototype is a sum of tokens that won, $g = \sum_b \gamma_b z_b$. So $u^\top g$ is a sum of cosines
# that are known already, $\sum_b \gamma_b\, u^\top z_b$:

# %%
v, gamma, z = random(7, D).requires_grad_(), random(B, 7), random(B, 7, D)  # of each clip and prototype a winner
u = v / v.norm(dim=1, keepdim=True)
cosines = (z * u).sum(2)  # (B, 7)
(by_autograd,) = torch.autograd.grad(cosines, v, gamma)
g, along = (gamma[..., None] * z).sum(0), (gamma * cosines).sum(0)  # (7, D), (7,)
by_hand = (g - u * along[:, None]) / v.norm(dim=1, keepdim=True)
torch.allclose(by_autograd, by_hand)

# %% [markdown]
# More of the kind: prototypes are filled up with zeros to a multiple of 16, since a product whose rows begin in the
# midst of a vector of the processor takes longer, and large results are written where those of the last step were, since
# memory that is asked for again is emptied again. And where `ep` multiplies in bfloat16, tokens of up to 64 MB are kept in
# it, beside the stored ones.
#
# `tests/test_engine.py` holds the engine against the plain loop for every head, run by run, weight by weight.
#
# ## What it is worth
#
# Three loops do the same work with the same configurations, rungs, epochs, batches and threads:
#
# - the **textbook loop** (`lib/textbook.py`): each head as one writes it from its equation, in batched PyTorch with
#   fused kernels and a fused optimiser; autograd does the rest; one configuration after another. A test holds its
#   values and gradients against the heads;
# - **`lib.train`**, the same loop with heads that are folded as in step 1 and 2;
# - the **engine**.
#
# The tokens are made from a seed and lie in memory before the clock starts, float16 as in the store. Building heads,
# training and scoring the validation split at each rung are timed; the metric of the scores, the same for all, is not
# (`metric_s` in the table). The loops take turns. Seconds belong to one machine and one day; **what is claimed here
# are ratios**, each within one run, on the machine that is named here:

# %%
bench = measured("bench")
Markdown(machine_of(bench))

# %%
page_image(plot_ratios(bench), colours=128)

# %% [markdown]
# The more configurations, the more there is to share: a cell of `make figures` has few, one of the reference run many.
# At *urban*, whose tokens are much wider, the large products take over, and what counts is how many of them are left:
# few for the attentive heads (step 1), half for the prototypes (step 2), all of them for `conv` and `mlp`. `mlp` there
# is a matter of memory anyway: AdamW reads and writes the weights and moments of all runs in each step, whoever calls
# it, and the engine takes only a few runs at a time, so that at least their gradients stay in the processor's caches.
#
# What could be had at all? *At most* in the next table is a loop of which nothing is left but the products that the head
# cannot do without, at the rate at which this machine multiplies two large matrices: no calls, no softmax, no
# optimiser. Where the textbook loop spends half of its time in such products, no other loop can be three times as fast.
# Of `protobin` three times are promised in float32, and eight in bfloat16 where that has matrix units of its own (AMX and
# the like); without them nothing is promised in bfloat16.

# %%
promises_page(bench)

# %% [markdown]
# *pocket* is one cell of `make figures`, the whole of it, on the dataset that the figures show; *pocket-full* is the same
# cell with the protocol of the reference run, which is nearly the paper's; *urban* is the shape of the paper's URBAN-SED
# cell, with half of its batch:

# %%
Markdown("\n".join(f"- {line}" for line in shapes_in_words(bench)))

# %% [markdown]
# What was timed, and what was scaled from it:

# %%
Markdown("\n".join(f"- {line}" for line in timed_in_words(bench)))

# %% [markdown]
# ## Against the machine itself
#
# A ratio can be large because the other loop is bad. So here is another measure: the products that a head cannot do
# without (`lib.bench_sizes.necessary_products`), by the seconds of the engine, as a share of the rate at which the
# same machine multiplies two large square matrices. The rest goes into reading tokens, maxima, softmaxes, the
# optimiser and calls. A head that multiplies little, like `linear`, cannot have a large share. The rate is measured once
# for each head, within a second, on a machine that others may share: so a share can come out a little above 100 %.

# %%
page_image(plot_shares(bench), colours=64)

# %%
Markdown("\n".join(f"- {line}" for line in in_words(bench)))

# %% [markdown]
# ## What half precision does to scores
#
# Where the processor has instructions for it, the engine looks for maxima among products in bfloat16 and decides between the
# two best tokens in float32 (step 2). A wrong token can still win where neither of the two is the best. It also lets the
# queries of `ep`, whose products with tokens are most of its work, meet them in bfloat16, forward and backward; the
# softmax between stays in float32. Does that move scores? `make products` searches, trains and tests these heads on all
# datasets and encoders of `pocket` with both kinds of products.

# %%
products = bench_products.measured()
Markdown("Not measured yet: run `make products`." if products is None else bench_products.in_words(products))

# %% [markdown]
# ## What cost grows with
#
# Before you look: which of the four sizes should leave `mhca` cold? And where would you expect the engine's line to rise
# less than in proportion?

# %%
cost = measured("cost")
Markdown(cost_in_words(cost))

# %%
page_image(plot_cost(cost), colours=128)

# %% [markdown]
# ## Memory
#
# What each loop holds at its peak, beyond code and tokens, in a process of its own. The textbook loop holds one
# configuration, and for a prototype head the whole map of similarities with its gradient; the engine holds all
# configurations.

# %%
page_image(plot_memory(measured("memory")), colours=64)

# %% [markdown]
# ## The store
#
# Tokens come from disk once. Reading them with their checksums, against reading the bytes alone:

# %%
store_page(measured("store"))

# %% [markdown]
# The first column is read from memory: what was just written is still in the system's page cache. In the second the
# system was asked to forget it; a virtual machine may have another cache below that nobody here can empty.
#
# ## On a GPU
#
# The same at the shape of as20k, all clips on the device.

# %%
gpu, size = measured("gpu"), WHOLE.as20k
about = (
    f"{size.clips:,} clips of {size.tokens} tokens with {size.dim} numbers, {size.classes} classes, {size.per_class} "
    f"prototypes per class, {size.configurations} configurations. "
)
Markdown(
    about + (machine_of(gpu) if len(gpu) else "Not measured on a GPU yet: `make bench` does it where torch sees one.")
)

# %%
gpu_page(gpu)

# %% [markdown]
# ## Where the comparison is unfair
#
# - Made-up tokens are noise with a little structure, so nothing here says how well a head scores, only how long it
#   takes; and which runs survive a rung is decided by the engine, for all three loops.
# - The textbook loop computes in float32. The engine's search for maxima is in bfloat16 where the processor has it;
#   the hollow marks show the engine without.
# - The plain loops could also run side by side, one a core. So could engines; this is one thread against one thread.
# - Folding (step 1) helps anyone who writes it down, also in a plain loop: the grey marks are the engine against that.
