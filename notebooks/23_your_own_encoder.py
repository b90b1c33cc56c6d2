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
# # 23 · Your own encoder
#
# Takes a model that this package has never heard of through all of it: a class of twenty lines, first with two mistakes in
# it, then without, is checked, cached, trained on and drawn beside two others. A few minutes on two cores the first time,
# seconds after that.
#
# > Words in a block like this are the paper's (arXiv 2509.24901). All others are ours.

# %% tags=["parameters"]
profile = "pocket"

# %%
# %matplotlib inline
import inspect

import torch
from IPython.display import Markdown
from torch import nn

from lib.audio import SAMPLE_RATE, log_mel
from lib.data.datasets import load_dataset
from lib.encoders.vit import Encoding
from lib.own_encoder import FrozenEncoder, cache, register
from lib.own_encoder_check import check_encoder
from lib.plots import page_image
from lib.plots_own_encoder import cells_of, dataset_of, in_words, plot_maps, plot_scores, scores
from lib.profiles import load_profile
from lib.results import run_cells
from lib.store import build_store
from lib.token_statistics import encode, waveforms

settings = load_profile(profile)
dataset = dataset_of(settings)
clips = settings.clips_of(dataset)

# %% [markdown]
# ## What an encoder is
#
# > […] we assume access to a pretrained embedding encoder $f_\theta$, parameterized by frozen weights $\theta$. This model
# > $f_\theta$ functions as a feature extractor, mapping an input $x_i$ to a token map […] where $D$ is the embedding dimension,
# > and $S_t$, $S_f$ index a grid of time and frequency patch tokens. If the backbone exposes a [cls]-token, we denote it by
# > $\mathbf{s}_i^{\text{cls}} \in \mathbb{R}^D$. (Section 2)
#
# Here it is any `torch.nn.Module` that has these four members; there is nothing else to inherit from, and nothing to configure.

# %%
print(inspect.getsource(FrozenEncoder))

# %% [markdown]
# ## Twenty lines, two mistakes
#
# The smallest thing that deserves the name: a log-mel spectrogram and two layers of filters that nobody has trained. Their
# strides cut it into cells of 16 frames (320 ms) × 8 bands, so ten seconds become 31 × 8 tokens of 128 numbers.
#
# Two mistakes are in it. Both are common, neither stops the program, and a head that is trained on such tokens gives a score
# that one might believe. Find them before you run the next cell.


# %%
class TwoLayers(nn.Module):
    """Log-mel bands, then two layers of random filters."""

    grid, front_end = (31, 8), ("two layers", 64, 20.0)

    def __init__(self, seed=0):
        super().__init__()
        self.first = nn.Conv2d(1, 32, kernel_size=4, stride=(2, 4), padding=(1, 0))
        self.second = nn.Conv2d(32, 128, kernel_size=4, stride=4)
        generator = torch.Generator().manual_seed(seed)
        for layer in (self.first, self.second):
            nn.init.kaiming_normal_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
        self.eval().requires_grad_(False)

    def spectrogram(self, waveform, sample_rate):
        if sample_rate != SAMPLE_RATE:
            raise ValueError("This encoder listens at 16 kHz.")
        x = log_mel(waveform, num_mels=64, hop_ms=20.0)  # (B, 499, 64)
        return (x - x.mean()) / x.std()

    def forward(self, spectrogram, attention=False, layers=()):
        image = spectrogram.transpose(1, 2)[:, None]  # (B, 1, 64, 499)
        x = self.second(self.first(image).relu()).relu()  # (B, 128, 8, 31)
        return Encoding(x.flatten(2).transpose(1, 2), None, self.grid)  # (B, 248, 128), and no cls


# %% [markdown]
# `check_encoder` sends a few made sounds through an encoder: bursts of noise at five times, tones at five pitches, silence,
# one clip alone and in company, the same clip twice. It answers in sentences, and an empty list means that it found nothing.


# %%
def said(encoder):
    return Markdown("\n".join(f"- {line}" for line in check_encoder(encoder)) or "Nothing wrong was found.")


said(TwoLayers())

# %% [markdown]
# The first: a clip is normalised with mean and spread *of its batch*, so its tokens depend on its neighbours in the store. The
# second: an image has its height first, and so frequency comes before time when the map is flattened. All shapes are right,
# but each token is taken for that of another place. How would you have found out?
#
# A line each mends them. Two constants, measured once over some clips, do what the normalisation was meant to do; and the map is
# turned before it is flattened.


# %%
class Mended(TwoLayers):
    """The same without the two mistakes."""

    def spectrogram(self, waveform, sample_rate):
        if sample_rate != SAMPLE_RATE:
            raise ValueError("This encoder listens at 16 kHz.")
        return (log_mel(waveform, num_mels=64, hop_ms=20.0) + 5.0) / 2.9  # (B, 499, 64)

    def forward(self, spectrogram, attention=False, layers=()):
        image = spectrogram.transpose(1, 2)[:, None]  # (B, 1, 64, 499)
        x = self.second(self.first(image).relu()).relu().transpose(2, 3)  # (B, 128, 31, 8)
        return Encoding(x.flatten(2).transpose(1, 2), None, self.grid)  # (B, 248, 128), and no cls


said(Mended())

# %% [markdown]
# What the check cannot hear: whether the constants are those that the model was trained with, whether its mel bands are, or whether
# the weights are the right ones. Wrong ones give tokens that are in perfect order, and worse.
#
# ## A name
#
# Under a name, the encoder is one of `lib.encoders.ENCODERS` as long as this notebook runs, and everything that takes an encoder's
# name takes this one. `kind` is for the figures: `"base"` for one that was pretrained without labels, `"supervised"`, or
# `"control"` for one that has learned nothing, like this. A broken encoder gets no name.

# %%
register("two-layers", Mended(), label="Two random layers", kind="control")
compared = ("two-layers", "random-vit", "pocket-eat")

# %% [markdown]
# ## Into the store
#
# `cache` computes tokens and cls of every clip, once. It does so in this process, because another one cannot know what a
# notebook defines. The folder notes what it depends on: the weights, the code of the methods, and what the encoder makes of
# the made sounds, so that a changed constant is noticed too. Change a weight, register it again, and these lines say
# what is computed anew, and why.

# %% tags=["long"]
print("\n".join(cache("two-layers", dataset, clips)))
print("\n".join(build_store(compared[1:], dataset, clips)))

# %% [markdown]
# One clip as the three of them hand it over. Colours are the three strongest directions of the tokens, after the mean token of each
# place is taken away, and compare within a map only; the bars above say when there are events.

# %%
data = load_dataset(dataset)
scene = data.scene("test", 0)
others = waveforms(data, "val", min(32, clips["val"]))
heard = {name: encode(name, scene.audio[None]) for name in compared}
page_image(plot_maps(scene, heard, {name: encode(name, others) for name in compared}), colours=128)

# %% [markdown]
# ## Four heads
#
# Searched, trained and tested as everywhere else in this profile. `linear` reads what stands for [cls]. Two layers have no [cls], so
# the mean token stands for it, and the two linear heads of this encoder are one and the same run.
#
# Before running: what will random filters lack that a random transformer has? And will `protobin` gain more on tokens that know
# nothing beyond their own cell, or less?

# %% tags=["long"]
cells = [cell for name in compared for cell in cells_of(name, dataset).values()]
computed = run_cells(profile, cells)

# %%
table = scores(profile, compared)
page_image(plot_scores(table), dpi=130, colours=128)

# %% [markdown]
# ## What came out
#
# These sentences are written by the code. Differences are paired, over the same test clips, with their 95 % bootstrap
# interval; *ahead* means that the interval lies above zero, and where zero lies within, it cannot be told.

# %%
Markdown("\n".join(f"- {sentence}" for sentence in in_words(table)))

# %% [markdown]
# The interval is over test clips and these seeds. Another seed for the filters would be another encoder: try `Mended(seed=1)`.
#
# ## With a real checkpoint
#
# The nine of the paper need none of this. For any other model:
#
# 1. **Read, do not run.** Load its weights with safetensors or `torch.load(…, weights_only=True)`. A checkpoint that needs more than
#    that runs somebody's code on your machine.
# 2. **The front end is half of the encoder.** Sample rate, window, mel range, logarithm or decibel, mean and spread: take them
#    from the code that the model was trained with, and compare one spectrogram with one that this code gives. Notebook 22
#    shows what each mistake costs.
# 3. **Which output?** Tokens after the last block and its norm, `[cls]` and registers taken out. If the model pools at the end,
#    take the map before it. A convolutional network has a map too: (B, D, S_t, S_f), flattened.
# 4. **No [cls]?** Return None, and the mean token stands for it; `cls_mode="first_token"` of a cell lets the first one do so.
# 5. **Check it on clips of your length:** `check_encoder(encoder, seconds=10.0)`. Then compare with the authors: one number
#    that they report, or one clip's tokens from their code.
# 6. **A large one** is slow on a CPU. `cache` keeps what is finished if you stop it. For all cores, or a lasting place, write the
#    class into a file beside `lib/encoders/pocket.py`, with a `geometry` as `LogMelPatches` there has one, and give it a line
#    in `ENCODERS`; then every process knows it.
# 7. **Licence.** May its weights be used for what you do, and does your result say whose they are?
