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
# # 01 · Data and embeddings
#
# Shows what the heads will be trained on: sounds whose every event is known, in datasets that mirror the paper's three
# groups, and what frozen encoders say about them. It makes every clip, encodes it once and keeps the result; some
# minutes on two cores the first time (the README has a table), seconds after that.
#
# > Words in a block like this are the paper's (arXiv 2509.24901). All others are ours.

# %% tags=["parameters"]
profile = "pocket"

# %%
# %matplotlib inline
import pandas as pd
from IPython.display import Markdown

from lib.data.datasets import load_dataset
from lib.data_pages import encoder_words, events_table, ranges_table
from lib.encoders import ENCODERS, load_encoder
from lib.plots import plot_polyphony, plot_scene
from lib.profiles import load_profile
from lib.results import fill_stores, make_cell
from lib.streaming import from_disk

settings = load_profile(profile)
data = load_dataset(settings.dataset)

# %% [markdown]
# ## A clip is a plan first, and a sound second
#
# A soundscape is ten seconds of coloured noise with a few events on top, in the manner of URBAN-SED and its
# tool Scaper. From a seed we draw *what* happens: which classes, when, for how long, how loud over the
# background. Only then is anything rendered. So the labels of a whole dataset cost no audio, and, more
# important, we know where every event is. No recording would tell us that.

# %%
scene = data.scene("test", settings.example)
plot_scene(scene)

# %% [markdown]
# The same clip in numbers. The signal-to-noise ratio is that of the event over the background alone; another event
# on top of it can still hide it. The band holds the middle 90 % of the event's energy.

# %%
events_table(scene)

# %% [markdown]
# ## The datasets, in groups
#
# The paper has three groups. *General*: several sounds at once. *Bioacoustic*: a few training clips a class, each of one
# animal close by; the test clips are heard from far away. *Control*: one sound a clip, where there is nothing to
# disentangle. The datasets of this profile:

# %%
datasets = {name: load_dataset(name) for name in settings.datasets}
Markdown(
    "\n".join(
        f"- *{one.manifest['title']}* ({settings.group(name).name}): {one.manifest['about']}."
        for name, one in datasets.items()
    )
)

# %% [markdown]
# Where training clips have several stored views, a run draws one of them. `J` is the number of prototypes a class.

# %%
pd.DataFrame(
    {
        one.manifest["title"]: {
            "group": settings.group(name).name,
            "classes": len(one.classes),
            "J": one.prototypes,
            "clips train / val / test": " / ".join(map(str, settings.clips_of(name).values())),
            "views of a training clip": one.views("train"),
            "classes in a test clip": one.targets("test", settings.clips_of(name)["test"]).sum(1).mean().round(1),
            "metric": one.manifest["metric"],
        }
        for name, one in datasets.items()
    }
).T

# %% [markdown]
# ## Splits that share nothing
#
# Three splits, and no source is used in two of them: a synthetic event's generator seed carries its split in it, a
# real recording belongs to a fold (ESC-10: folds 1-3 train, 4 val, 5 test; several takes of one recording always
# lie in one fold). The ranges below are frozen in `data_manifests/` with a hash: change one, and the dataset
# refuses to load until it has a new version and a reason.

# %%
ranges_table(data)

# %%
plot_polyphony(data, "train", settings.clips["train"])

# %% [markdown]
# ## What a frozen encoder hands over
#
# > For each input $x_i$ in a dataset, we run an augmentation-free forward pass through the encoder $f_\theta$ and
# > cache embeddings from the final hidden block. It contains the full token map […] and the fixed global
# > descriptor […] given by the last-layer's [cls]-token. (Section 4.1)
#
# We do the same, once. Each clip is rendered once and goes through all encoders; the store on disk carries a
# checksum for every shard and knows what it depends on, so a stopped run continues, and a changed encoder or
# recipe rebuilds what it must and says why.

# %% tags=["long"]
_ = fill_stores([(settings.encoders_of(name), name, settings.clips_of(name)) for name in settings.datasets])

# %% [markdown]
# On the dataset that Figures 1 to 4 show:

# %%
rows = []
for name in settings.encoders:
    cell = make_cell(name, settings.dataset, "linear", cls_mode="native")
    parts = {split: from_disk(cell, settings, split) for split in settings.clips}  # nothing is held in memory
    _, N, D = parts["train"].tokens.shape
    rows.append(
        {
            "encoder": ENCODERS[name].label,
            "what it is": ENCODERS[name].kind,
            "parameters": sum(p.numel() for p in load_encoder(name).parameters()),
            "clips": " / ".join(str(len(part)) for part in parts.values()),
            "grid S_t × S_f": "{} × {}".format(*parts["train"].grid),
            "tokens per clip N": N,
            "dimension D": D,
            "cls": ENCODERS[name].cls,
            "classes without a test positive": int((parts["test"].targets.sum(0) == 0).sum()),
            "MB on disk": round(sum(len(part) for part in parts.values()) * (N + 1) * D * 2 / 1e6, 1),
        }
    )
pd.DataFrame(rows).set_index("encoder").T

# %% [markdown]
# Those called controls learned nothing from sounds. The *random ViT* has the architecture and has learned nothing; *log-mel patches*
# are the spectrogram's own patches, with nothing between the sound and the head. A pretrained encoder that does
# not beat both has not been pretrained enough, and any head looks better on good tokens than on bad ones.
#
# And the encoder that Figures 1 to 4 show:

# %%
Markdown(encoder_words(settings.shown))

# %% [markdown]
# Next: [02, train the probes](02_train_the_probes.ipynb).
