"""The embedding store: what a frozen encoder says about each clip, computed once, checked, resumable.

One folder of shards (`lib.shards`) per (encoder, dataset, split), with ``tokens (clips, N, D)`` and ``cls (clips, D)``
in half precision. The last two levels of the path, ``view-0/last``, tell stored views apart (mixup variants of few-shot
clips) and leave room for other layers.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lib.audio import SAMPLE_RATE, check_waveform
from lib.data.datasets import OfficialSet, Soundscapes, load_dataset
from lib.encoders import encoder_version, load_encoder
from lib.encoders.manifests import CHECKPOINTS
from lib.errors import unknown_name
from lib.files import digest
from lib.paths import scratch
from lib.provenance import code_version
from lib.shards import clips_of, close_folder, open_folder, read_index, read_shard, shard_name, shards_of, write_shard
from lib.workers import run_parallel

PASS_CLIPS = 8  # what a pass of an encoder makes of more does not stay in a core's cache
FILLED_BY = "notebook 01 (`make figures`)"
CLS_MODES = ("native", "mean", "first_token")


@dataclass
class Embeddings:
    """One split as the heads see it.

    Attributes
    ----------
    tokens : torch.Tensor
        float16 ``(clips, N, D)``, time-major.
    cls : torch.Tensor
        float32 ``(clips, D)``.
    targets : torch.Tensor
        float32 ``(clips, C)``.
    grid : tuple of int
        ``(S_t, S_f)``.
    """

    tokens: Tensor
    cls: Tensor
    targets: Tensor
    grid: tuple[int, int]

    def __len__(self) -> int:
        return len(self.tokens)


def store_folder(encoder: str, dataset: str, split: str, count: int, view: int = 0) -> Path:
    """Return where the last-layer embeddings of a view of the first `count` clips of a split lie."""
    return scratch() / "store" / encoder / dataset / f"{split}-{count}" / f"view-{view}" / "last"


def build_store(encoders: Sequence[str], dataset: str, counts: dict[str, int], workers: int | None = None) -> list[str]:
    """Make the store of several encoders complete: what is there and valid stays, the rest is computed.

    Parameters
    ----------
    encoders : sequence of str
        Encoder names. Each clip is rendered once for all small ones, and once for each published one.
    dataset : str
        Dataset name.
    counts : dict
        Split → number of clips.
    workers : int, optional
        Processes; the number of cores by default, and one for published encoders on a GPU.

    Returns
    -------
    list of str
        One line for each split that was (re)built, saying why.

    Raises
    ------
    InputError
        If a clip cannot be used, or the folder cannot be written.
    """
    data = load_dataset(dataset)
    versions = {name: encoder_version(name, load_encoder(name)) for name in encoders}
    lines, opened = [], {}
    for split, count in counts.items():
        data.check_count(split, count)
    for split, count, view in [(s, c, v) for s, c in counts.items() for v in range(data.views(s))]:
        for encoder in encoders:
            folder = store_folder(encoder, dataset, split, count, view)
            depends = {**data.version(split, count, view), **versions[encoder], "store_code": store_code()}
            index, why = open_folder(folder, depends)
            opened[encoder, split, view] = (folder, index)
            if why:
                lines.append(f"{encoder} / {dataset} / {split}{f' / view {view}' if view else ''}: {why}")
    # Group by group: a worker holds the weights of one published encoder, and keeps them from shard to shard.
    tasks = [task for some in together(encoders) for task in _tasks(some, dataset, counts, opened)]
    for alone in (False, True):
        part = [task for task in tasks if in_one_process(task[0]) is alone]
        for split, view, number, sums in run_parallel(_build_shard, part, workers or (1 if alone else None)):
            for encoder, entry in sums.items():
                opened[encoder, split, view][1]["shards"][shard_name(number)] = entry
    for (encoder, _, _), (folder, index) in sorted(opened.items()):  # each encoder is read once
        if not index["complete"]:
            close_folder(folder, index, grid=list(grid_of(load_encoder(encoder), data)))
    return lines


def _tasks(encoders: Sequence[str], dataset: str, counts: dict[str, int], opened: dict) -> list[tuple]:
    """Return what `_build_shard` has to do for some encoders that share what is rendered, of folders as opened."""
    tasks = []
    for split, view in dict.fromkeys((split, view) for _, split, view in opened):
        indexes = {encoder: opened[encoder, split, view][1] for encoder in encoders}
        on = {encoder: digest(index["depends"]) for encoder, index in indexes.items()}
        for number in shards_of(counts[split]):
            missing = {e: on[e] for e, index in indexes.items() if shard_name(number) not in index["shards"]}
            if missing:
                tasks.append((missing, dataset, split, counts[split], view, number))
    return tasks


def together(encoders: Iterable[str]) -> list[list[str]]:
    """Return which encoders share what is rendered for them: all but the published ones, which are too large."""
    small = [name for name in encoders if name.partition(":")[0] not in CHECKPOINTS]
    return [group for group in (small, *([name] for name in encoders if name not in small)) if group]


def in_one_process(encoders: Iterable[str]) -> bool:
    """Return whether this machine encodes these in one process: published ones on its GPU, which they would share."""
    on_gpu = os.environ.get("UNMUTE_DEVICE") != "cpu" and torch.cuda.is_available()
    return on_gpu and any(name.partition(":")[0] in CHECKPOINTS for name in encoders)


def grid_of(encoder: nn.Module, data: Soundscapes | OfficialSet) -> tuple[int, int]:
    """Return (S_t, S_f) of a clip; pocket encoders take clips of one length, some published ones of any."""
    if not hasattr(encoder, "grid_of"):
        return encoder.grid
    return encoder.grid_of(round(data.recipe.seconds * SAMPLE_RATE))


def store_code() -> str:
    """Return a digest of the code that makes and keeps embeddings."""
    return code_version("lib.store", "lib.shards")


def _build_shard(
    encoders: dict[str, str], dataset: str, split: str, count: int, view: int, number: int
) -> tuple[str, int, int, dict]:
    """Render the clips of one shard, encode them with each encoder, write; return checksums for the indexes.

    `encoders` maps names to the digest of what their shards depend on.
    """
    data = load_dataset(dataset)
    clips = clips_of(number, count)
    audio = np.stack([usable_audio(data, split, index, view) for index in clips])  # (clips, samples)
    sums, spectrograms = {}, {}
    for name, on in encoders.items():
        encoder = load_encoder(name)
        front_end = encoder.geometry.front_end
        with torch.inference_mode():
            if front_end not in spectrograms:
                spectrograms[front_end] = encoder.spectrogram(audio, SAMPLE_RATE)
            parts = [encoder(part) for part in spectrograms[front_end].split(PASS_CLIPS)]
        tokens, cls = (torch.cat([getattr(part, what) for part in parts]).half() for what in ("tokens", "cls"))
        folder = store_folder(name, dataset, split, count, view)
        sums[name] = write_shard(folder, number, {"tokens": tokens, "cls": cls}, on)
    return split, view, number, sums


def usable_audio(data: Soundscapes, split: str, index: int, view: int) -> np.ndarray:
    """Return the samples of a clip; one that cannot be used is an `InputError` that names it."""
    audio = data.scene(split, index, view).audio
    check_waveform(audio, f"clip {index} of {data.name}/{split}")
    return audio


def load_embeddings(
    encoder: str, dataset: str, split: str, count: int, cls_mode: str = "native", view: int = 0
) -> Embeddings:
    """Read one split from the store.

    Parameters
    ----------
    encoder, dataset, split, count
        As they were built.
    cls_mode : {"native", "mean", "first_token"}
        What stands for [cls]: the encoder's own, the mean token, or token 0.
    view : int
        Which stored variant of the clips; a run on few-shot data draws one of five.

    Raises
    ------
    InputError
        If the store is not complete, a shard is damaged, or the mode is unknown.
    """
    folder = store_folder(encoder, dataset, split, count, view)
    if cls_mode not in CLS_MODES:
        raise unknown_name("cls mode", cls_mode, CLS_MODES)
    index = read_index(folder, f"The embeddings of '{encoder}' on {dataset}/{split}", FILLED_BY)
    tokens, cls = read_shards(folder, index["shards"], FILLED_BY)
    targets = torch.from_numpy(load_dataset(dataset).targets(split, count, view))
    return Embeddings(tokens, standing_for_cls(tokens, cls, cls_mode), targets, tuple(index["grid"]))


def standing_for_cls(tokens: Tensor, cls: Tensor, mode: str) -> Tensor:
    """Return what stands for [cls]: cls (clips, D) itself, or of tokens (clips, N, D) the mean or the first."""
    if mode == "mean":
        return tokens.float().mean(1)  # (clips, N, D) → (clips, D)
    return tokens[:, 0].float() if mode == "first_token" else cls


def read_shards(folder: Path, shards: dict[str, dict], notebook: str) -> tuple[Tensor, Tensor]:
    """Return tokens float16 (clips, N, D) and cls float32 (clips, D) of all shards, each checked as it is read.

    Beside the result no more than one shard is held.

    Raises
    ------
    InputError
        If a shard is missing or damaged.
    """
    tokens, cls, start = torch.empty(0), torch.empty(0), 0
    clips = sum(entry["clips"] for entry in shards.values())
    for name, entry in shards.items():
        part = read_shard(folder / name, entry["sha256"], notebook)
        if not start:
            tokens = part["tokens"].new_empty(clips, *part["tokens"].shape[1:])
            cls = torch.empty(clips, *part["cls"].shape[1:])
        stop = start + len(part["tokens"])
        tokens[start:stop], cls[start:stop] = part["tokens"], part["cls"]
        start = stop
    return tokens, cls
