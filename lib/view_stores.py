"""Further views of training clips, as notebook 19 compares them: unmixed, mixed up, or with a masked spectrogram.

Behind a frozen encoder a view is a pass of that encoder: its tokens cannot be had from those of the clip. So views are
encoded once and stored, in folders of the form of `lib.store` and beside its own: resumable, checked, rebuilt when what
they depend on changes. There are three kinds:

- ``plain``: the clip as it was mixed, the views of its manifest taken away;
- ``mixup``: another training clip added, as `lib.data.fewshot` does it. Where a manifest has such views these are the
  stored ones; elsewhere they are made here, with partners from the clips that are trained on;
- ``live``: masks, gain and a roll on the plain clip's spectrogram, drawn anew for each variant (`Masking`).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lib.audio import SAMPLE_RATE
from lib.data.datasets import Soundscapes, load_dataset
from lib.encoders import encoder_version, load_encoder
from lib.errors import InputError, unknown_name
from lib.files import digest
from lib.provenance import definition_version
from lib.shards import clips_of, close_folder, open_folder, read_index, shard_name, shards_of, write_shard
from lib.store import (
    CLS_MODES,
    PASS_CLIPS,
    Embeddings,
    load_embeddings,
    read_shards,
    standing_for_cls,
    store_code,
    store_folder,
    usable_audio,
)
from lib.workers import run_parallel

if TYPE_CHECKING:  # or else what an arm reads would depend on all that these are made of, every head among it
    from lib.profiles import Profile
    from lib.views import ViewArm

# Constants have no annotation: `lib.provenance` follows plain assignments, so that an edit makes results stale.
MIXUP = {"count": 5, "probability": 0.9, "snr_db": [5.0, 25.0]}  # as in the manifests of the few-shot datasets
SLOTS = 10  # each training clip stands so often in the split of every condition, and epochs are as many times fewer


class View(NamedTuple):
    """One variant of each training clip: its kind, a key of `KINDS`, and which of that kind."""

    kind: str
    number: int = 0


# ---- what live augmentation does -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Masking:
    """How a spectrogram is augmented: SpecAugment's masks (Park et al., 2019), and two changes that keep the label.

    All are drawn evenly, in this order: a roll in time by any number of frames, a gain, masks in time, masks in
    frequency. A mask's width is between nothing and the widest, and what it covers becomes 0, the mean over the clips
    of pretraining.

    Attributes
    ----------
    gain_db : tuple of float
        Range of the gain in dB.
    time_masks, time_width : int
        How many masks in time, and the widest in frames (of 499 in 10 s; 50 are a second).
    band_masks, band_width : int
        How many masks in frequency, and the widest in mel bands (of 64).
    """

    gain_db: tuple[float, float] = (-6.0, 6.0)
    time_masks: int = 2
    time_width: int = 50
    band_masks: int = 2
    band_width: int = 8


LIVE = Masking()


def mask(spectrogram: Tensor, rng: np.random.Generator, decibel: float, how: Masking) -> Tensor:
    """Return an augmented copy of one spectrogram.

    Parameters
    ----------
    spectrogram : torch.Tensor
        ``(frames, mel)``, log power, normalised.
    rng : numpy.random.Generator
        Where all draws come from.
    decibel : float
        What one dB is in the units of the spectrogram.
    how : Masking
        The ranges.
    """
    moved = spectrogram.roll(int(rng.integers(len(spectrogram))), 0)  # a copy
    moved += decibel * rng.uniform(*how.gain_db)
    for axis, count, widest in ((0, how.time_masks, how.time_width), (1, how.band_masks, how.band_width)):
        size = moved.shape[axis]
        for _ in range(count):
            width = int(rng.integers(min(widest, size) + 1))
            moved.narrow(axis, int(rng.integers(size - width + 1)), width).zero_()
    return moved


def live(spectrograms: Tensor, clips: Sequence[int], number: int, seed: int, mel_std: float) -> Tensor:
    """Return variant `number` of the spectrograms ``(B, frames, mel)`` of these clips; alike for all encoders."""
    decibel = math.log(10) / 10 / mel_std
    pairs = zip(spectrograms, clips, strict=True)
    return torch.stack([mask(one, np.random.default_rng([seed, clip, number]), decibel, LIVE) for one, clip in pairs])


def as_heard(spectrograms: Tensor, clips: Sequence[int], number: int, seed: int, mel_std: float) -> Tensor:
    """Return the spectrograms as they are."""
    return spectrograms


KINDS = {"plain": as_heard, "mixup": as_heard, "live": live}  # kind → what is done to the spectrograms


# ---- which clips ---------------------------------------------------------------------------------------------------


def training_clips(dataset: str, count: int, kind: str) -> Soundscapes:
    """Return a dataset whose training clips, the first `count`, have the views of a kind, and no others."""
    data = load_dataset(dataset)
    if kind not in KINDS:
        raise unknown_name("kind of view", kind, list(KINDS))
    if kind != "mixup":
        return Soundscapes({name: value for name, value in data.manifest.items() if name != "views"})
    if data.views("train") > 1:
        return data
    # Partners come from the clips that are trained on: no clip is heard that the other conditions do not have.
    return Soundscapes(data.manifest | {"views": MIXUP, "sizes": data.manifest["sizes"] | {"train": count}})


def variant(view: View) -> int:
    """Return the view's number in the manifest of `training_clips`: only mixup has several there."""
    return view.number if view.kind == "mixup" else 0


def is_in_store(dataset: str, view: View) -> bool:
    """Return whether a view is one of those that `lib.store` makes."""
    return view.kind == "mixup" and load_dataset(dataset).views("train") > 1


def view_folder(encoder: str, dataset: str, count: int, view: View) -> Path:
    """Return where the embeddings of a view of the first `count` training clips lie."""
    if is_in_store(dataset, view):
        return store_folder(encoder, dataset, "train", count, view.number)
    return store_folder(encoder, dataset, "train", count).parent.with_name(f"{view.kind}-{view.number}") / "last"


def view_version(dataset: str, count: int, view: View) -> dict:
    """Return what a view depends on beyond the encoder: the clips, how they are mixed, how they are masked."""
    data = training_clips(dataset, count, view.kind)
    return {
        **data.version("train", count, variant(view)),
        "kind": list(view),
        "views": digest(data.manifest.get("views")),
        "sizes": digest(data.manifest["sizes"]),
        "masking": asdict(LIVE) if view.kind == "live" else {},
        "view_code": definition_version(__name__, KINDS[view.kind].__name__),
        "store_code": store_code(),
    }


# ---- build and read ------------------------------------------------------------------------------------------------


def build_views(
    encoders: Sequence[str], dataset: str, count: int, views: Sequence[View], workers: int | None = None
) -> list[str]:
    """Make views of training clips complete: what is there and valid stays, the rest is computed.

    Parameters
    ----------
    encoders : sequence of str
        Encoder names. Each clip is rendered once for all of them, and once for its plain and live views.
    dataset : str
        Dataset name.
    count : int
        Training clips.
    views : sequence of View
        Which; those that `lib.store` makes are left to it.
    workers : int, optional
        Processes; the number of cores by default.

    Returns
    -------
    list of str
        One line for each view that was (re)built, saying why.
    """
    load_dataset(dataset).check_count("train", count)
    versions = {name: encoder_version(name, load_encoder(name)) for name in encoders}
    views = [view for view in views if not is_in_store(dataset, view)]
    lines, opened = [], {}
    for view in views:
        clips = json.loads(json.dumps(view_version(dataset, count, view)))  # as it reads back
        for encoder in encoders:
            folder = view_folder(encoder, dataset, count, view)
            index, why = open_folder(folder, clips | versions[encoder])
            opened[encoder, view] = (folder, index)
            if why:
                lines.append(f"{encoder} / {dataset} / {view.kind} {view.number}: {why}")
    tasks = []
    for number in shards_of(count):
        wanted = [key for key, (_, index) in opened.items() if shard_name(number) not in index["shards"]]
        for rendered in dict.fromkeys((view.kind == "mixup", variant(view)) for _, view in wanted):
            same = [(name, view) for name, view in wanted if (view.kind == "mixup", variant(view)) == rendered]
            on = {key: digest(opened[key][1]["depends"]) for key in same}
            tasks.append((on, dataset, count, number))
    for number, sums in run_parallel(_encode_shard, tasks, workers):
        for key, entry in sums.items():
            opened[key][1]["shards"][shard_name(number)] = entry
    for (encoder, _), (folder, index) in opened.items():
        if not index["complete"]:
            close_folder(folder, index, grid=list(load_encoder(encoder).grid))
    return lines


def _encode_shard(wanted: dict[tuple[str, View], str], dataset: str, count: int, number: int) -> tuple[int, dict]:
    """Render the clips of one shard once, encode the (encoder, view) that are wanted, write; return checksums.

    `wanted` maps them to the digest of what their shards depend on.
    """
    clips, view = clips_of(number, count), next(iter(wanted))[1]
    data = training_clips(dataset, count, view.kind)
    audio = np.stack([usable_audio(data, "train", clip, variant(view)) for clip in clips])  # (clips, samples)
    sums = {}
    for name in dict.fromkeys(name for name, _ in wanted):
        encoder = load_encoder(name)
        plain = encoder.spectrogram(audio, SAMPLE_RATE)  # (clips, frames, mel)
        for view in [view for encoder_name, view in wanted if encoder_name == name]:
            seed, mel_std = data.manifest["seed"], encoder.geometry.mel_std
            with torch.inference_mode():
                spectrograms = KINDS[view.kind](plain, clips, view.number, seed, mel_std)
                parts = [encoder(part) for part in spectrograms.split(PASS_CLIPS)]
            tokens, cls = (torch.cat([getattr(part, what) for part in parts]).half() for what in ("tokens", "cls"))
            folder, tensors = view_folder(name, dataset, count, view), {"tokens": tokens, "cls": cls}
            sums[name, view] = write_shard(folder, number, tensors, wanted[name, view])
    return number, sums


def load_view(encoder: str, dataset: str, count: int, view: View, cls_mode: str = "native") -> Embeddings:
    """Read one view of the training clips; parameters and errors are those of `lib.store.load_embeddings`."""
    if is_in_store(dataset, view):
        return load_embeddings(encoder, dataset, "train", count, cls_mode, view.number)
    if cls_mode not in CLS_MODES:
        raise unknown_name("cls mode", cls_mode, CLS_MODES)
    folder = view_folder(encoder, dataset, count, view)
    index = read_index(folder, f"The views '{view.kind} {view.number}' of '{encoder}' on {dataset}", "notebook 19")
    tokens, cls = read_shards(folder, index["shards"], "notebook 19")  # (clips, N, D), (clips, D)
    cls = standing_for_cls(tokens, cls, cls_mode)
    targets = torch.from_numpy(training_clips(dataset, count, view.kind).targets("train", count, variant(view)))
    return Embeddings(tokens, cls, targets, tuple(index["grid"]))


# ---- what an arm reads ---------------------------------------------------------------------------------------------


def views_read(condition: str, view: int, variants: int) -> list[View]:
    """Return the views that a run of a condition is trained on.

    Parameters
    ----------
    condition : {"none", "one view", "five views", "live"}
        How the training clips are augmented.
    view : int
        Which stored view, where a run has one of its own.
    variants : int
        How many live variants.
    """
    ways = {
        "none": [View("plain")],
        "one view": [View("mixup", view)],
        "five views": [View("mixup", number) for number in range(MIXUP["count"])],
        "live": [View("live", number) for number in range(variants)],
    }
    if condition not in ways:
        raise unknown_name("condition", condition, list(ways))
    return ways[condition]


def augmented(cell: "ViewArm", profile: "Profile", split: str, view: int = 0) -> Embeddings:
    """Return what an arm of `lib.views` reads: its views of the training clips; validation and test as they are.

    Every condition has a split of the same length, in which each clip stands `SLOTS` times: as its views one after
    another, or as the same view again and again. So all take the same number of steps and see each clip equally often.
    """
    count = profile.clips_of(cell.dataset)[split]
    if split != "train":
        return load_embeddings(cell.encoder, cell.dataset, split, count, cell.cls_mode)
    views = views_read(cell.condition, view, cell.variants)
    if not views or SLOTS % len(views):
        raise InputError(
            f"Arm '{cell.name}' has {len(views)} views, which do not divide the {SLOTS} places of a clip; choose "
            "another number of variants."
        )
    parts = [load_view(cell.encoder, cell.dataset, count, one, cell.cls_mode) for one in views]
    parts = parts * (SLOTS // len(parts))
    joined = [torch.cat([getattr(part, what) for part in parts]) for what in ("tokens", "cls", "targets")]
    return Embeddings(*joined, parts[0].grid)  # (SLOTS · clips, …) each


def pictures(dataset: str, count: int, encoder: str) -> dict[str, np.ndarray]:
    """Return spectrograms of one training clip, ``(frames, mel)`` by title: as it is, mixed up, and two live variants.

    The clip is the first of those trained on to which mixup view 1 adds anything; if there is none, the first.
    """
    mixed, network = training_clips(dataset, count, "mixup"), load_encoder(encoder)
    plain = training_clips(dataset, count, "plain")
    added = [c for c in range(count) if len(mixed.events("train", c, 1)) > len(plain.events("train", c))]
    clip = added[0] if added else 0
    heard, mixup = (
        network.spectrogram(usable_audio(data, "train", clip, view), SAMPLE_RATE)  # (1, frames, mel)
        for data, view in ((plain, 0), (mixed, 1))
    )
    seed, mel_std = mixed.manifest["seed"], network.geometry.mel_std
    variants = {f"live variant {number + 1}": live(heard, [clip], number, seed, mel_std) for number in range(2)}
    found = {"the clip": heard, "mixup view 1": mixup, **variants}
    return {title: picture[0].numpy() for title, picture in found.items()}
