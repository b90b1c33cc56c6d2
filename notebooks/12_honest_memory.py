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
# # 12 · Honest memory
#
# Puts a trained `protobin` into a file with one bit for each number of a prototype, reads it back, and holds the scores
# against each other bit for bit. Then it asks what "32×" is 32 times smaller than, and what it leaves as large as it was.
# Nothing is trained here; less than a minute on two cores.
#
# > Words in a block like this are the paper's (arXiv 2509.24901). All others are ours.

# %% tags=["parameters"]
profile = "pocket"

# %%
# %matplotlib inline
import tempfile
from pathlib import Path

import pandas as pd
import torch
from IPython.display import Markdown, display

from lib.encoders import load_encoder
from lib.errors import InputError
from lib.metrics import mean_average_precision
from lib.packed import export_packed, load_packed, pack_signs
from lib.packed_cost import (
    FORMS,
    budget_page,
    file_sizes,
    fresh_head,
    other_heads,
    paper_shapes,
    saved_in_words,
    shape_of,
    shown_shape,
    shrinks,
    size_in_words,
    stored,
)
from lib.plots import page_image
from lib.plots_packed import plot_shrinking, plot_sizes, plot_times
from lib.profiles import load_profile
from lib.published import facts
from lib.results import make_cell
from lib.streaming import within_memory
from lib.tables import trained_head

settings = load_profile(profile)
encoder, label = settings.shown, settings.dataset  # the head's shape is called after its dataset

# %% [markdown]
# > By binarizing the prototypes to $p_j \in \{-1, +1\}^D$, our method yields an additional 32× memory reduction
# > relative to 32-bit floats, making it ideal for memory-constrained and on-device applications. (Section 2.3)
#
# ## Eight numbers in a byte
#
# While a `protobin` is trained, its prototypes are floats, and only their signs are used. Once it is trained the floats
# have done their work: what scores a clip is the signs. Here are the first eight numbers of the first prototype, and the
# byte that they become.

# %%
try:
    head = trained_head(settings, encoder, "protobin")
    data = within_memory(make_cell(encoder, label, "protobin", cls_mode="native"), settings)("test")  # or left on disk
    tokens, targets, about = data.tokens, data.targets.numpy(), "This head was trained by notebook 02."
except InputError as error:  # all but mAP holds for any weights
    head, targets, about = (
        fresh_head(shown_shape(profile)[label]),
        None,
        f"No trained head here, so this one is random. {error}",
    )
    tokens = torch.randn(32, head.grid[0] * head.grid[1], head.dim, generator=torch.Generator().manual_seed(1))
shape = shape_of(head)
Markdown(about)

# %%
latent, byte = head.prototypes.detach()[0, :8], pack_signs(head.prototypes)[0, 0].item()
signs = ["+1" if number >= 0 else "−1" for number in latent]
rows = {"latent": [f"{number:.3f}" for number in latent], "sign": signs, "bit": list(f"{byte:08b}")}
display(pd.DataFrame(rows, index=range(1, 9)).T)
Markdown(f"Read as one number, these bits are the byte {byte}.")

# %% [markdown]
# ## There and back
#
# The file holds the bits, the classifier as it is, the sizes, and a checksum, so that no damaged bit passes for a
# sign. Reading it gives a `protobin` whose prototypes are ±1.0 again. The test is not "close": every logit of every test
# clip must be the same number.


# %%
@torch.inference_mode()
def scores(one):
    return torch.cat([one(part.float(), None) for part in tokens.split(64)])


with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "head.safetensors"
    export_packed(head, path)
    reloaded, size = load_packed(path), path.stat().st_size
    export_packed(head, path, classifier="bfloat16")
    rounded = load_packed(path)

before, after = scores(head), scores(reloaded)
assert torch.equal(before, after)
Markdown(
    f"{before.numel():,} logits of {len(before)} clips, all equal. In memory the head's weights are "
    f"{size_in_words(sum(each.nbytes for each in head.parameters()))}, the file is {size_in_words(size)}."
)

# %% [markdown]
# Why can this be exact? The trained head never uses the size of a latent number: it takes the sign (Eq. 2) and computes with
# ±1.0 from there. Any ±1.0 is as good as any other, so the reloaded head runs the same products in the same order. A
# classifier in 16 bits is another matter. It saves more, and it rounds:

# %%
difference = (scores(rounded) - before).abs().max().item()
row = {"largest change of a logit": f"{difference:.2g}", "logits lie within": f"±{before.abs().max().item():.2g}"}
if targets is not None:
    for form, one in (("fp32", before), ("bf16", scores(rounded))):
        row[f"test mAP, classifier in {form} (%)"] = f"{100 * mean_average_precision(one.numpy(), targets).value:.3f}"
pd.Series(row, name="bf16 classifier").to_frame()

# %% [markdown]
# ## Thirty-two times smaller than what?
#
# The factor is right for what the sentence is about: the prototypes, in a file, against 32-bit floats. A head is prototypes
# *and* a classifier, and only the K · D numbers of the first become bits; the K · C of the second stay. So with
# everything else in fp32 the whole head gets
#
# $$\frac{32\,(D + C)}{D + 32\,C}$$
#
# times smaller. K, and with it J, has cancelled: more prototypes do not help, more classes hurt. **Before you run the next
# cell, guess:** on AudioSet there are 527 classes. How many times smaller does that head get?

# %%
shapes = paper_shapes() | {label: shape}
sizes = file_sizes(shapes)
page_image(plot_shrinking(sizes), colours=64)

# %% [markdown]
# The lines are the formula; each mark is a pair of files that were written and weighed, one in fp32, one packed, at the
# shape of a data set of the paper (D = 768, J = 20, 10 on as20k) or of the one that this profile shows. A small head falls a little short
# of its line, because names, sizes and checksum weigh something too.

# %%
half = next(classes for classes in range(1, 1000) if shrinks(classes, 768) < 16)
Markdown(
    f"At D = 768 the head shrinks 16 times or more up to {half - 1} classes, "
    f"{shrinks(200, 768):.1f} times with 200 (fsd50k), {shrinks(527, 768):.2f} times with 527 (as20k). A classifier in bf16 "
    f"lifts the last to {shrinks(527, 768, 16):.2f}, but then scores are rounded."
)

# %% [markdown]
# The same files by their parts. What is orange shrinks; what is blue is the same number of bytes above and below.

# %%
page_image(plot_sizes(sizes), colours=64)

# %%
wide = sizes.pivot(index="shape", columns="form", values="file").loc[list(shapes), list(FORMS)]
wide.map(size_in_words)

# %% [markdown]
# Two things to keep in mind when you read such factors, ours included:
#
# - *32-bit floats are a generous opponent.* Where memory is short, weights are seldom kept in fp32. Against bf16 the
#   prototypes shrink 16 times, against 8-bit whole numbers 8 times; ±1 is exact in both.
# - *The size itself matters more than the factor.* With few classes a packed `protobin` is about as large as a linear
#   probe, and far smaller than attentive heads. With many classes the dense classifier decides, and on as20k even the packed head
#   is larger than `mhca`. `proto`, whose classes see only their own J prototypes, has almost no classifier (K weights in place
#   of K · C); with signs for prototypes it would keep nearly all of the 32 times. Whether it would score as well is another
#   question; the paper does not have that head.

# %%
some = {name: shapes[name] for name in ("urban", "fsd50k", "as20k")}
other_heads(some, ("linear", "ep", "mhca", "proto", "protobin"))

# %% [markdown]
# ## What does not shrink
#
# A file at rest is one place where memory is needed. The others:
#
# - **Training** needs the latent floats, a gradient for each and AdamW's two moments: 16 bytes for each number of a prototype,
#   128 times its one bit. Binary prototypes do not make training smaller; beside floats they even add the signs.
# - **The encoder** is in memory whenever a clip is scored. The paper's have 85 to 90 million parameters.
# - **The tokens** are floats, and each is read. One clip of 10 s is a map of 512 · 768 numbers.
# - **Scoring** as floats needs the prototypes as floats. They may be unpacked once, which costs their full size in working
#   memory, or block by block for each clip, which costs time.

# %%
parameters = sum(each.numel() for each in load_encoder(encoder).parameters())
paper_encoder = int(facts("parameters")["EAT"])
in_use = {name: (shapes[name], paper_encoder) for name in ("urban", "as20k")} | {label: (shape, parameters)}
budget_page(in_use)

# %%
Markdown("\n".join(f"- {saved_in_words(name, *one)}" for name, one in in_use.items()))

# %% [markdown]
# So packing matters where heads are many and the encoder is one: a file a task, a user or a site, sent over a slow link
# to devices that all have the same encoder. It does not decide whether the encoder fits onto the device.
#
# ## And time?
#
# Fewer bits are not fewer steps. A cosine of float tokens with ±1 still adds or subtracts each of D floats; what falls
# away is the multiplication, which a processor does in the same instruction as the addition. Five ways to score one clip, all
# in PyTorch, held against fp32:
#
# - *bf16 products*: half the bytes to move. Faster only where the processor has instructions for it; tokens are rounded.
# - *packed, unpacked at load*: fp32 from then on. The same work as fp32, so what its mark is off 1 is noise.
# - *packed, unpacked for each clip*: the prototypes stay bits in memory, a block at a time becomes floats. The same scores.
# - *packed, never unpacked*: four numbers of a token can be added with signs in 16 ways only; make these sums once, and
#   let each half byte of a prototype pick one. A quarter of the additions, no multiplication, but picking jumps about in
#   memory where a product reads straight on, and libraries have polished products for decades.
# - *unpacking alone*: what loading the bits adds, once.
#
# Counting equal bits (XNOR and popcount), the method that made binary networks known for speed, needs tokens of one bit too.
# This paper's tokens are floats: that would be another method, with other scores, and is not measured here.

# %%
timed = stored("time")
nothing = Markdown("No times are stored here; on a quiet machine `make bench` measures them.")
nothing if timed is None else page_image(plot_times(timed), colours=64)

# %%
Markdown("" if timed is None else f"Measured once, not in this notebook: {timed.attrs['note'].rstrip('.')}.")

# %% [markdown]
# ## In one sentence
#
# What the numbers above allow to say: *stored prototypes take 1/32 of the bytes of fp32, and no score changes; the stored
# head takes between 1/22 and 1/2.3 on the paper's data sets; training, encoder, tokens and the classifier take what they
# took.* The verdict on the paper's sentence stands in [07, the claims](07_the_claims.ipynb), what binarisation costs in
# scores in [04](04_what_binarisation_costs.ipynb).
