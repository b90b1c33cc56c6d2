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
# # 00 · The pooling bottleneck
#
# The lesson: what is lost when a clip full of sounds has to fit into one vector, and what a bag of ±1 prototypes does
# about it. Everything is computed here, from sounds made on the spot, in about half a minute on one core, offline.
#
# > Words in a block like this are the paper's (arXiv 2509.24901). All others are ours.
#
# Each section asks you to look at one thing. Three exercises check themselves, and twice you will be asked to bet.

# %% tags=["parameters"]
profile = "pocket"

# %%
# %matplotlib inline
import numpy as np
import pandas as pd
import soxr
import torch
import torch.nn.functional as F
from IPython.display import Audio

from lib.audio import SAMPLE_RATE
from lib.data.datasets import load_dataset
from lib.encoders import load_encoder
from lib.exercises import check_1, check_2, check_3, compare
from lib.heads import build_head
from lib.lesson import (
    CONTESTANTS,
    DIAL,
    TARGETS,
    attention_facts,
    climb,
    compare_on_dial,
    contest,
    embed,
    event_cells,
    example_scene,
    lead_draws,
    loudest_token,
    max_against_mean,
    memory,
)
from lib.lesson_plots import (
    plot_contest,
    plot_cosines,
    plot_dial,
    plot_lengths,
    plot_losses,
    plot_maps,
    plot_straight_through,
)
from lib.metrics import average_precision, draws_interval, paired_bootstrap
from lib.plots import page_image
from lib.pooling import sign
from lib.profiles import load_profile

# %% [markdown]
# ## 1 · What a frozen encoder hands over
#
# These letters mean the same in every notebook and every file:
#
# | symbol | meaning |
# |---|---|
# | $B$ | clips in a batch |
# | $N = S_t \cdot S_f$ | patch tokens of a clip: $S_t$ steps in time, $S_f$ rows in frequency, numbered $n = t \cdot S_f + f$ |
# | $D$ | numbers in a token |
# | $C$ | classes |
# | $J$, $K = J \cdot C$ | prototypes per class, prototypes in all |
#
# Here is a clip with four sounds that we put there ourselves, so we know when each one sounds and in which band. You
# can hear the bell.

# %%
scene = example_scene()
excerpt = scene.audio[round(2.5 * SAMPLE_RATE) : round(4.5 * SAMPLE_RATE)]
Audio(soxr.resample(excerpt, SAMPLE_RATE, 8000), rate=8000)  # half the rate keeps the notebook small

# %% [markdown]
# The encoder is a small masked autoencoder that ships with this repository, `A-MAE (pocket)`: it stands for the
# paper's A-MAE at about a hundredth of the size, and is not it. It is *frozen*: nothing below changes its weights.

# %%
encoder = load_encoder("pocket-amae")
with torch.inference_mode():
    spectrogram = encoder.spectrogram(scene.audio)  # (B, frames, mel)
    encoding = encoder(spectrogram, attention=True)
tokens, cls, (S_t, S_f) = encoding.tokens, encoding.cls, encoding.grid
steps = [
    ("waveform", "samples", scene.audio.shape),
    ("spectrogram", "B × frames × mel bands", spectrogram.shape),
    ("token map", "B × N × D", tokens.shape),
    ("[cls]", "B × D", cls.shape),
]
pd.DataFrame(
    [(name, axes, " × ".join(map(str, shape)), np.prod(shape)) for name, axes, shape in steps],
    columns=["what", "axes", "shape", "numbers"],
).set_index("what")

# %% [markdown]
# The last two rows are all that a head gets to see. The token map still is a map, each token has its place in time
# and frequency. [cls] is one token more that belongs to no place: it looks at all others, in every layer, and is
# meant to sum them up.
#
# > Given the frozen token map $\mathbf{z}_i$, a probe $g_\phi$ consumes a pooled descriptor $\tilde{\mathbf{z}}_i$,
# > determining how information is extracted. (Section 2.1)
#
# **Exercise 1.** In the paper's own example, ten seconds become a grid of 64 × 8 tokens, with D = 768. How many times
# more numbers does that token map hold than [cls]?

# %%
answer_1 = ...
print(check_1(answer_1))

# %% [markdown]
# ## 2 · Fill the gaps, or find the partner
#
# What [cls] is good for depends on what the encoder was asked to do. Two families of questions:
#
# **Masked prediction.** Hide most of the patches, and predict the hidden ones from the rest,
# $L = \text{mean over hidden } n \text{ of } |\hat{x}_n - x_n|^2$. The loss asks about *places*, so what a token knows
# has to be about its place and its surroundings. Nothing asks [cls] to know what the clip is about.
#
# **Contrast.** Take two excerpts of a clip, turn each into *one* vector, $u$ and $u^+$, and find the partner among the
# other clips of the batch, $L = -\log\, e^{u \cdot u^+/\tau} / \sum_{u'} e^{u \cdot u'/\tau}$. The loss asks about
# the *clip*, and the one vector is its answer.

# %%
rng = torch.Generator().manual_seed(1)
hidden = torch.rand(S_t * S_f, generator=rng).argsort().argsort() < round(0.8 * S_t * S_f)  # (N,), 80 % are hidden
frames, bands = encoder.geometry.patch
covered = hidden.view(S_t, S_f).repeat_interleave(frames, 0).repeat_interleave(bands, 1)  # (N,) → (frames, mel)
cut = torch.ones(S_t * frames, dtype=torch.bool)
cut[20:200] = cut[270:450] = False
clip = spectrogram[0, : S_t * frames]  # (frames, mel)
views = {
    "masked prediction: what is in the gaps?": clip.masked_fill(covered, torch.nan),
    "contrast: do these two belong together?": clip.masked_fill(cut[:, None], torch.nan),
}
plot_maps(views, encoder, [])

# %% [markdown]
# All six encoders of the paper mask; three of them (ASiT, EAT, SSLAM; Table 1) have a global objective for [cls]
# besides. Ours only masks, as A-MAE does.
#
# > By design, this task induces a bias toward contextualized token-level embeddings, exposing any probe's limitations
# > that collapse the tokens into a simple global summary. (Section 1)

# %% [markdown]
# ## 3 · Why [cls] stays diffuse
#
# > Poor probing performance for masked image modeling (MIM)-pretrained models is a direct result of the pooling
# > method, as the [cls]-token distributes attention too uniformly instead of focusing on key information (Section 1)
#
# Where does [cls] look? Below, the clip with its four sounds boxed, and the attention that [cls] pays to each token
# in an early, a middle and the last layer (mean over the attention heads).
#
# Look at two things. *Spread*: over how many of the 248 tokens does it look? (The title counts as many tokens as would
# give the same entropy, were all of them attended alike.) *Aim*: is the share of attention inside the boxes larger than
# the share of the map that the boxes cover? If the two are about the same, [cls] does not aim at the sounds. A box holds
# the middle 90 % of a sound's energy, so some of it spills over. Our small encoder need not do what the paper's do: read the
# titles before you agree.

# %%
inside = torch.stack([event_cells(event, encoder).flatten() for event in scene.events]).any(0)  # (N,)
attention = encoding.attention[0].mean(1)  # (depth, heads, N) → (depth, N)
maps = {f"the clip; boxes cover {100 * inside.float().mean():.0f} % of the map": clip}
for layer in (0, len(attention) // 2, len(attention) - 1):
    facts = attention_facts(attention[layer], inside)
    maps[f"layer {layer + 1}: {facts}"] = attention[layer].view(S_t, S_f)  # (N,) → (S_t, S_f)
plot_maps(maps, encoder, scene.events)

# %% [markdown]
# Whatever [cls] looks at, it has to stir everything into D numbers before anybody has said which classes matter. That
# is the bottleneck.
#
# > Forcing this information into a single descriptor, whether fixed or learnable during probing, creates a
# > single-vector bottleneck: Quieter but important events could be overshadowed by more prevalent sounds (Section 1)

# %% [markdown]
# ## 4 · Equation 3 on one clip
#
# > We score each prototype against all tokens using cosine similarity and aggregate evidence via max-pooling:
# > $$s_j(t, f) := \frac{\mathbf{p}_j^\top \mathbf{z}_i^{t,f}}{\|\mathbf{p}_j\|_2 \|\mathbf{z}_i^{t,f}\|_2},
# > \quad \bar{s}_j := \max_{t,f} s_j(t, f). \quad (3)$$ (Section 2.3)
#
# A prototype is a point in the space of tokens. So let us take one that we can understand: the loudest token of the
# first bird. And a second one from the bell. Then keep their signs only (Eq. 2), which throws away all but one bit
# of each number.
#
# Look whether a prototype lights up on its own sound, and whether it stays dark on the others. Does the first bird
# find the second, which is another individual at another pitch? And what did the signs cost?

# %%
bird, bell = (loudest_token(event, encoder, spectrogram) for event in scene.events[:2])
prototypes = tokens[0, [bird, bell]]  # (K, D)
maps = {}
for name, p in (("", prototypes), (", signs only", sign(prototypes))):
    cosine = F.normalize(tokens[0], dim=-1) @ F.normalize(p, dim=-1).T  # (N, D) @ (D, K) → (N, K)
    for label, s in zip(("bird", "bell"), cosine.T, strict=True):
        maps[f"{label}{name}: max {s.max():.2f}, median {s.median():.2f}"] = s.view(S_t, S_f)  # (N,) → (S_t, S_f)
plot_maps(maps, encoder, scene.events)

# %% [markdown]
# That is all that the pooling of `protobin` does, with K prototypes instead of two: the maxima $\bar{s}_1 … \bar{s}_K$
# go into a linear classifier, and prototypes and classifier are trained together. The head in this repository gives
# the same maps:

# %%
head = build_head("protobin", tokens.shape[-1], num_classes=2, grid=(S_t, S_f), prototypes_per_class=1)
head.prototypes.data = prototypes.clone()
torch.allclose(head.similarity_map(tokens)[0].flatten(1).T, cosine, atol=1e-6)  # (K, S_t, S_f) → (K, N) → (N, K)

# %% [markdown]
# **Exercise 2.** Write Eq. 3 yourself. The check knows the common slips.


# %%
def pool(tokens, prototypes):
    """Return the pooled scores (B, K) of tokens (B, N, D) and prototypes (K, D)."""
    return ...


print(check_2(pool))

# %% [markdown]
# ## 5 · Why the maximum, and not the mean
#
# The mean has a property that sounds like a detail: *it does not matter whether one scores first and pools then, or
# the other way round*, $\frac{1}{N}\sum_n \mathbf{p}^\top \mathbf{z}_n = \mathbf{p}^\top \frac{1}{N}\sum_n
# \mathbf{z}_n$. So K mean-pooled scores know nothing that the one mean vector did not know. For the maximum the order
# matters: every prototype chooses its own token, and K prototypes make K summaries of the clip.
#
# What does that do to a short sound? As a prototype we take what the tokens of the two birds have in common and the
# rest of the clip has not, its signs only. Then we make clips of noise, add a quiet bird of growing length, and ask: how
# often does a clip with the bird score higher than a clip without?
#
# Look at the left end of the left panel, where the bird is short: which line is further from guessing? A maximum needs
# one good token and gains little from a hundred more; a mean needs them all.
#
# The right panel is the same with two other sounds in every clip. A maximum takes the best match *of anything*, so it
# is only as good as its prototype is choosy, and this one was made by hand from one clip. Look how much each line loses.
# It is why prototypes are trained, and why there are many: section 9.

# %%
unit = F.normalize(tokens[0], dim=-1)  # (N, D)
birds = torch.stack([event_cells(event, encoder).flatten() for event in scene.events if event.label == "bird"]).any(0)
by_hand = sign(unit[birds].mean(0) - unit[~birds].mean(0))  # (D,)
lengths = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # seconds
found = {
    "a bird in noise": max_against_mean(encoder, by_hand, "bird", lengths, bystanders=0),
    "a bird, noise and two other sounds": max_against_mean(encoder, by_hand, "bird", lengths, bystanders=2),
}
plot_lengths(lengths, found)

# %% [markdown]
# ## 6 · Signs, and the gradient that a step does not have
#
# > At each forward pass, we form the binary prototype $\mathbf{p}_j = \text{sign}(\tilde{\mathbf{p}}_j)
# > \in \{-1, +1\}^D.$ (2) […] The non-differentiability of $\text{sign}(\cdot)$ is handled with the
# > straight-through-estimator (STE) (Bengio et al., 2013): during back-propagation,
# > $\frac{\partial\, \text{sign}(x)}{\partial x} \approx 1$, so the forward pass uses hard ±1 while gradients flow to
# > the real-valued $\tilde{\mathbf{p}}_j$. (Section 2.3)
#
# A step is flat wherever it is not a cliff. Ask autograd for the slope of a sign and it answers, correctly, zero: the
# latents $\tilde{\mathbf{p}}$ never learn anything. The straight-through estimator answers one instead, which is wrong
# and works: a latent that is pushed the same way for long enough crosses zero, and then its sign flips.
#
# Below, one latent prototype climbs its own score on our clip, forty steps, with both. Count the lines that move.

# %%
paths = {
    "torch.sign: nothing moves": climb(tokens[0], torch.sign),
    "straight through: latents move": climb(tokens[0], sign),
}
plot_straight_through(paths)

# %% [markdown]
# Two details that cost an afternoon if one does not know them. `torch.sign(0)` is 0, and a prototype with a zero in it
# is no corner of the cube; here sign(0) = +1. And the score does not see how *large* a latent is, only its sign, so
# the learning rate has a meaning only relative to the scale at which the latents start.
#
# **Exercise 3.** Write a straight-through sign in one line, without a class of its own. `x.detach()` is x without its
# gradient, so `x - x.detach()` is zero, with the gradient one.


# %%
def binarise(latent):
    """Return ±1 of the latent's shape (sign(0) = +1); the gradient passes unchanged."""
    return ...


print(check_3(binarise))

# %% [markdown]
# ## 7 · Which memory shrinks, and which does not
#
# > By binarizing the prototypes to $\mathbf{p}_j \in \{-1, +1\}^D$, our method yields an additional $32\times$ memory
# > reduction relative to 32-bit floats (Section 2.3)
#
# This is true of the prototypes: a float has 32 bits, a sign has one. But the head is prototypes *and* a classifier
# of $K \cdot C + C$ numbers, which stay floats. The prototypes grow with C, the classifier with C², so the saving of
# the whole head melts as classes are added. In kB:

# %%
shapes = {"urban": (10, 20), "fsd50k": (200, 20), "as20k": (527, 10)}  # C and J of the paper, at D = 768
rows = [{"dataset": name, **memory(C, J, dim=768)} for name, (C, J) in shapes.items()]
pd.DataFrame(rows).set_index("dataset")

# %% [markdown]
# All of this is about the finished head. While it trains, the latents are floats, and AdamW keeps two more floats for
# each. And what is large in probing is neither of them: the tokens of *one* clip, 512 × 768 in half precision, take
# more than urban's whole float head.
#
# Try a dataset of your own: what does `memory(50, 20, 768)` say, the shape of ESC-50?

# %% [markdown]
# ## 8 · Why the loss is asymmetric
#
# With many classes most answers are *no*. In AudioSet, with its 527 classes, nearly all of them are. And in the
# soundscapes of the next notebooks?

# %%
targets = load_dataset("soundscapes").targets("train", 200)
f"{100 * (1 - targets.mean()):.0f} % of all (clip, class) pairs are negative; a clip has {targets.sum(1).mean():.1f} of {targets.shape[1]} classes"

# %% [markdown]
# Easy negatives are many, and each pushes a little; together they drown the positives. The loss is a ladder, all of it
# one formula, with $p_m = \max(p - m, 0)$:
#
# $$L = -\left[\, y\,(1 - p)^{\gamma_+} \log p + (1 - y)\, p_m^{\gamma_-} \log(1 - p_m) \right]$$
#
# Cross-entropy takes all at their word. The *focal* loss makes the easy ones quiet, but on both sides. The
# *asymmetric* loss (Ridnik et al., 2021), the paper's choice, does so on the negative side mostly.
#
# Look at the right panel, how hard each loss pushes an absent class's logit down. At p = 5 %, who still pushes? And at
# the far right, the asymmetric loss lets go again: a negative that the head is all but sure of may well be a positive
# that nobody has labelled.

# %%
plot_losses()

# %% [markdown]
# ## 9 · Predict, then run: one event against five
#
# Now the bet. Every clip has one *target*, one of six sounds: siren, dog bark, drill, church bell, bird, footsteps. In
# half of the training clips it is alone; in the other half four other sounds (never one of the six) are there too, as
# long and as loud as the target. Three heads learn to name the target, from the same clips:
#
# * **linear on cls**, on the token that the encoder made to sum up the clip;
# * **linear on the mean** of all tokens;
# * **protobin**, with J = 10 prototypes per class.
#
# They are tested twice *on the same targets*, in the same places over the same noise: alone, and with four
# bystanders. So guessing gives the same score in both, and nothing but the company differs.
#
# How many points of mAP will protobin lead `linear on cls` by, alone and in a crowd? Replace the `...` by two numbers,
# *then* run the cells below.

# %%
lead_alone = ...
lead_in_a_crowd = ...

# %%
settings = load_profile(profile)
half = min(settings.clips["train"], 144) // 2
train = embed(encoder, "train", [0] * half + [4] * half)
tests = {test: embed(encoder, "test", [events - 1] * half) for test, events in DIAL.items()}  # two for section 10
scores, heads = contest(train, tests, seeds=(1, 2), epochs=settings.epochs)
bet = ("one event", "five events")
leads = [
    paired_bootstrap(scores["protobin", test], scores["linear on cls", test], tests[test].targets, sources=None)
    for test in bet
]
print(compare(lead_alone, lead_in_a_crowd, *leads))

# %%
precisions = {
    (name, test): np.stack([average_precision(run, tests[test].targets) for run in runs])  # (seeds, C)
    for (name, test), runs in scores.items()
}
plot_contest({key: values for key, values in precisions.items() if key[1] in bet}, chance=1 / len(TARGETS))

# %% [markdown]
# Mean over seeds 1 and 2, which draw the initial weights and the order of the clips. The interval is a bootstrap
# over the test clips: so few of them cannot tell a lead of a few points from none. Each learning rate
# is the best of five on validation clips; there was no other search.
#
# Three questions to ask of such a picture, of this one and of the paper's. Does every head lose in a crowd, and which
# one most? Does the mean of the tokens, which asks nothing of [cls], do as well as [cls]? And is it fair: `protobin`
# sees N vectors where the other two see one. That it does is the point, but it also has more weights to fit.
#
# To change the picture, change the 4, or take away the training clips with bystanders.

# %% [markdown]
# ## 10 · Turn the dial
#
# > If fixed global pooling degrades from single- to multi-label while token-aware methods remain stable, it would implicate
# > a polyphony-induced bottleneck. (Section 4, Q₃)
#
# Two points make no curve. Here are two more, with the same trained heads and the same targets in their places: two
# bystanders, and eight. If polyphony is what opens the gap, it should be widest where the crowd is largest.
#
# At how many events will `protobin` and `linear on cls` be furthest apart: 1, 3, 5 or 9? Replace the `...`, *then* run the next cell.

# %%
furthest_apart = ...

# %%
turned = lead_draws(scores, tests, "protobin", "linear on cls")
print(compare_on_dial(furthest_apart, turned))
curves = {name: [precisions[name, test].mean() for test in DIAL] for name in CONTESTANTS}
figure = plot_dial(list(DIAL.values()), curves, [draws_interval(turned[test]) for test in DIAL])
page_image(figure, dpi=90, colours=64)

# %% [markdown]
# Left, who falls, and how fast? Right, does the gap open with the crowd, or was it open from the start? Compare with the
# [cls] of section 3: a vector that does not even hold *one* sound well has little to lose when others join.
#
# Mind what was turned. The heads were trained on clips with one event and with five, so three is between what they know and
# nine is beyond it. In [16, the polyphony dial](16_the_polyphony_dial.ipynb) they are trained at every position anew, on several
# encoders, and level, length and overlap are turned too; this is its picture, from the stored figures of the default profile:
#
# ![What heads gain over linear, by the number of events in a clip](../figures/pocket/dial.png)

# %% [markdown]
# ## 11 · How near-orthogonal random signs already are
#
# > The near-orthogonality is an emergent property, forcing prototypes to the corners of a high-dimensional hypercube,
# > creating a strong structural bias for diversity. (Section 2.3)
#
# Before one admires the cosines of trained prototypes, one should know those of *untrained* ones. The cosine of two
# random sign vectors is a mean of D coin flips, so it is about normal with standard deviation $1/\sqrt{D}$, and the
# mean of its absolute value is $\sqrt{2/(\pi D)}$. It starts small, and the more so the larger D is.
#
# Left, 200 random sign vectors at the paper's D; then the prototypes of the head that you have just seen, before and
# after training. Look whether training made them *more* orthogonal than chance, or less: prototypes that learn to look
# for the same thing grow alike.

# %%
rng = torch.Generator().manual_seed(0)
untrained = build_head("protobin", tokens.shape[-1], len(TARGETS), (S_t, S_f), 10, torch.Generator().manual_seed(2))
sets = {
    "random signs, D = 768": sign(torch.randn(200, 768, generator=rng)),
    f"before training, D = {tokens.shape[-1]}": sign(untrained.prototypes.detach()),
    f"after training, D = {tokens.shape[-1]}": sign(heads["protobin"].prototypes.detach()),
}
plot_cosines(sets)

# %% [markdown]
# ## Where next
#
# * [01, data and embeddings](01_data_and_embeddings.ipynb) makes the soundscapes and keeps their token maps.
# * [02, train the probes](02_train_the_probes.ipynb) compares all heads properly: learning rates searched, seeds,
#   controls, intervals.
# * `lib/heads.py` has every head in 20 to 50 lines, with its equation.
