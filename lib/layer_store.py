"""The store's layer axis: what every block of a frozen encoder says about each clip, beside its last layer.

Beside ``view-0/last`` lies ``view-0/all-layers``: shards with ``tokens-0 (clips, N, D)`` and ``cls-0 (clips, D)``,
``tokens-1`` and so on, a pair a block, in half precision, with an index as in `lib.store`. They are the outputs of the
blocks as the next block reads them, before the encoder's final norm; what the heads otherwise see, ``last``, is the
last block's output after that norm. Some blocks only, ``view-0/layers-3-7-11``, take less disk.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from lib.audio import SAMPLE_RATE
from lib.data.datasets import load_dataset
from lib.encoders import encoder_version, load_encoder
from lib.errors import InputError
from lib.files import digest
from lib.provenance import definition_version
from lib.shards import clips_of, close_folder, open_folder, read_index, read_shard, shard_name, shards_of, write_shard
from lib.store import PASS_CLIPS, Embeddings, store_folder, usable_audio
from lib.workers import run_parallel

if TYPE_CHECKING:  # in quotes below: else what an arm depends on (`lib.arms.feature_versions`) had every head in it
    from lib.profiles import Profile
    from lib.search import Cell

FILLED_BY = "notebook 18"
FILLED_BY_COMMAND = "`make embed` with BLOCKS=…"


def layer_folder(encoder: str, dataset: str, split: str, count: int, view: int = 0) -> Path:
    """Return where the blocks' outputs for a view of the first `count` clips of a split lie."""
    return store_folder(encoder, dataset, split, count, view).with_name("all-layers")


def blocks_folder(
    encoder: str, dataset: str, split: str, count: int, view: int = 0, blocks: Sequence[int] | None = None
) -> Path:
    """Return where the outputs of some blocks lie; of all if `blocks` is None."""
    every = layer_folder(encoder, dataset, split, count, view)
    return every if blocks is None else every.with_name("-".join(["layers", *map(str, sorted(set(blocks)))]))


def build_layers(
    encoders: Sequence[str],
    dataset: str,
    counts: dict[str, int],
    workers: int | None = None,
    blocks: Sequence[int] | None = None,
) -> list[str]:
    """Make the layer store of several encoders complete: what is there and valid stays, the rest is computed.

    Parameters, result and errors are those of `lib.store.build_store`; an encoder without blocks is an error too.
    `blocks` are the numbers of those to keep, the first being 0; all by default. `load_blocks` reads what is some.
    """
    data = load_dataset(dataset)
    blocks = None if blocks is None else sorted(set(blocks))
    versions = {name: layer_version(name, blocks) for name in encoders}
    lines, tasks, opened = [], [], {}
    for split, count in counts.items():
        data.check_count(split, count)
    for split, count, view in [(s, c, v) for s, c in counts.items() for v in range(data.views(s))]:
        for encoder in encoders:
            depends = {**data.version(split, count, view), **versions[encoder]}
            folder = blocks_folder(encoder, dataset, split, count, view, blocks)
            index, why = open_folder(folder, depends)
            opened[encoder, split, view] = (folder, index)
            if why:
                lines.append(f"{encoder} / {dataset} / {split}{f' / view {view}' if view else ''} / layers: {why}")
        for number in shards_of(count):
            missing = [e for e in encoders if shard_name(number) not in opened[e, split, view][1]["shards"]]
            if missing:
                on = {e: digest(opened[e, split, view][1]["depends"]) for e in missing}
                tasks.append((on, dataset, split, count, view, blocks, number))
    for split, view, number, sums in run_parallel(_build_shard, tasks, workers):
        for encoder, entry in sums.items():
            opened[encoder, split, view][1]["shards"][shard_name(number)] = entry
    for (encoder, _, _), (folder, index) in opened.items():
        if not index["complete"]:
            module = load_encoder(encoder)
            close_folder(folder, index, grid=list(module.grid), layers=depth(module, encoder))
    return lines


def depth(encoder: nn.Module, name: str) -> int:
    """Return the number of an encoder's blocks; none is an `InputError`."""
    if not hasattr(encoder, "vit"):
        raise InputError(f"The encoder '{name}' has no blocks and therefore no layers; choose a pretrained one.")
    return len(encoder.vit.blocks)


def layer_version(name: str, blocks: Sequence[int] | None = None) -> dict:
    """Return what the outputs of some blocks of an encoder, or of all, depend on beside the clips."""
    encoder = load_encoder(name)
    number = depth(encoder, name)
    if blocks is None:
        return {**encoder_version(name, encoder), "store_code": _code()}
    absent = [block for block in blocks if block not in range(number)]
    if absent or not blocks:
        raise InputError(f"'{name}' has the blocks 0 to {number - 1}; name some of these, not {absent or 'none'}.")
    return {**encoder_version(name, encoder), "store_code": definition_version(__name__, _chosen.__name__)}


def _code() -> str:
    """Return a digest of the code that makes a shard's tensors; not of the whole module, which also reads them."""
    return definition_version(__name__, _encoded.__name__)


def _build_shard(
    encoders: dict[str, str],
    dataset: str,
    split: str,
    count: int,
    view: int,
    blocks: Sequence[int] | None,
    number: int,
) -> tuple[str, int, int, dict]:
    """Render the clips of one shard, encode them with each encoder, write; return checksums for the indexes.

    `encoders` maps names to the digest of what their shards depend on.
    """
    data, clips = load_dataset(dataset), clips_of(number, count)
    audio = np.stack([usable_audio(data, split, index, view) for index in clips])  # (clips, samples)
    sums, spectrograms = {}, {}
    for name, on in encoders.items():
        encoder = load_encoder(name)
        front_end = encoder.geometry.front_end
        with torch.inference_mode():
            if front_end not in spectrograms:
                spectrograms[front_end] = encoder.spectrogram(audio, SAMPLE_RATE)
            heard = spectrograms[front_end]
            tensors = _encoded(encoder, heard) if blocks is None else _chosen(encoder, heard, blocks)
        sums[name] = write_shard(blocks_folder(name, dataset, split, count, view, blocks), number, tensors, on)
    return split, view, number, sums


def _encoded(encoder: nn.Module, spectrograms: Tensor) -> dict[str, Tensor]:
    """Return tokens and cls of every block for spectrograms (clips, frames, mel), before the final norm."""
    blocks = tuple(range(len(encoder.vit.blocks)))
    parts = [encoder(part, layers=blocks).layers for part in spectrograms.split(PASS_CLIPS)]
    tensors = {}
    for block in blocks:
        tokens, cls = (torch.cat([part[block][which] for part in parts]).half() for which in (0, 1))
        tensors |= {f"tokens-{block}": tokens, f"cls-{block}": cls}  # (clips, N, D), (clips, D)
    return tensors


def _chosen(encoder: nn.Module, spectrograms: Tensor, blocks: Sequence[int]) -> dict[str, Tensor]:
    """Return tokens and cls of some blocks as `_encoded` does of all; only these are held, in half precision."""
    parts = [encoder(part, layers=tuple(blocks)).layers for part in spectrograms.split(PASS_CLIPS)]
    parts = [{block: [value.half() for value in part[block]] for block in blocks} for part in parts]
    kinds = (("tokens", 0), ("cls", 1))  # (clips, N, D), (clips, D)
    return {f"{kind}-{b}": torch.cat([part[b][which] for part in parts]) for b in blocks for kind, which in kinds}


def load_layers(
    encoder: str,
    dataset: str,
    split: str,
    count: int,
    layers: Sequence[int] | None = None,
    cls_mode: str = "native",
    view: int = 0,
) -> Embeddings:
    """Read some blocks of one split, side by side: tokens ``(clips, N, L·D)``, cls ``(clips, L·D)``.

    Parameters
    ----------
    encoder, dataset, split, count, view
        As they were built.
    layers : sequence of int, optional
        Numbers of L blocks, the first being 0; all by default.
    cls_mode : {"native", "mean"}
        What stands for a block's [cls]: its own, or its mean token; without a [cls] both are the mean token.

    Raises
    ------
    InputError
        If the store is not complete or was made by other code, a shard is damaged, a block or the mode is unknown.
    """
    if cls_mode not in ("native", "mean"):
        raise InputError(f"Unknown cls mode '{cls_mode}' of a layer; choose native or mean.")
    folder = layer_folder(encoder, dataset, split, count, view)
    index = read_index(folder, f"The layers of '{encoder}' on {dataset}/{split}", FILLED_BY)
    if index["depends"]["store_code"] != _code():
        raise InputError(f"The layers of '{encoder}' on {dataset}/{split} are of other code; run {FILLED_BY}.")
    layers = range(index["layers"]) if layers is None else layers
    if absent := [layer for layer in layers if layer not in range(index["layers"])]:
        raise InputError(f"'{encoder}' has the blocks 0 to {index['layers'] - 1}; there is no block {absent[0]}.")
    parts = partial(_blocks, layers=layers)
    shards = [read_shard(folder / name, entry["sha256"], FILLED_BY, parts) for name, entry in index["shards"].items()]
    tokens, cls = (torch.cat(parts) for parts in zip(*shards, strict=True))  # (clips, N, L·D), (clips, L·D)
    cls = tokens.float().mean(1) if cls_mode == "mean" else cls.float()  # (clips, L·D)
    targets = torch.from_numpy(load_dataset(dataset).targets(split, count, view))
    return Embeddings(tokens, cls, targets, tuple(index["grid"]))


def load_blocks(
    encoder: str,
    dataset: str,
    split: str,
    count: int,
    blocks: Sequence[int],
    cls_mode: str = "native",
    view: int = 0,
) -> Embeddings:
    """Read all blocks of a store that `build_layers` made of some blocks, side by side; see `load_layers`."""
    if cls_mode not in ("native", "mean"):
        raise InputError(f"Unknown cls mode '{cls_mode}' of a layer; choose native or mean.")
    folder, blocks = blocks_folder(encoder, dataset, split, count, view, blocks), sorted(set(blocks))
    index = read_index(folder, f"The blocks {blocks} of '{encoder}' on {dataset}/{split}", FILLED_BY_COMMAND)
    read = partial(_blocks, layers=blocks)
    found = [
        read_shard(folder / name, entry["sha256"], FILLED_BY_COMMAND, read) for name, entry in index["shards"].items()
    ]
    tokens, cls = (torch.cat(parts) for parts in zip(*found, strict=True))  # (clips, N, L·D), (clips, L·D)
    cls = tokens.float().mean(1) if cls_mode == "mean" else cls.float()  # (clips, L·D)
    targets = torch.from_numpy(load_dataset(dataset).targets(split, count, view))
    return Embeddings(tokens, cls, targets, tuple(index["grid"]))


def _blocks(path: Path, layers: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return tokens (clips, N, L·D) and cls (clips, L·D) of some blocks in one shard."""
    with safe_open(path, "pt") as file:
        found = [[file.get_tensor(f"{what}-{layer}") for layer in layers] for what in ("tokens", "cls")]
    tokens, cls = (torch.cat(parts, -1) for parts in found)  # L of (clips, …, D) → (clips, …, L·D)
    return tokens, cls


# ---- what a head may read: entries of lib.arms.FEATURES ----------------------------------------------------------


def one_layer(cell: "Cell", profile: "Profile", split: str, view: int = 0) -> Embeddings:
    """Return one block's output; which, the arm's features say: "layer-0" is the first."""
    return _stored(cell, profile, split, view, [int(cell.features.removeprefix("layer-"))])


def all_layers(cell: "Cell", profile: "Profile", split: str, view: int = 0) -> Embeddings:
    """Return the outputs of all blocks, side by side."""
    return _stored(cell, profile, split, view)


def mean_layer(cell: "Cell", profile: "Profile", split: str, view: int = 0) -> Embeddings:
    """Return the plain mean of all blocks' outputs, each token and each cls of length one before it."""
    found = _stored(cell, profile, split, view)
    folder = layer_folder(cell.encoder, cell.dataset, split, profile.clips_of(cell.dataset)[split], view)
    layers = read_index(folder, f"The layers of '{cell.encoder}' on {cell.dataset}/{split}", FILLED_BY)["layers"]
    tokens = torch.cat([_mean_of_units(part, layers).half() for part in found.tokens.split(PASS_CLIPS)])
    return replace(found, tokens=tokens, cls=_mean_of_units(found.cls, layers))


def _mean_of_units(values: Tensor, layers: int) -> Tensor:
    """Map layers side by side (…, L·D) to the mean of their unit vectors (…, D)."""
    return F.normalize(values.float().unflatten(-1, (layers, -1)), dim=-1).mean(-2)  # (…, L·D) → (…, L, D) → (…, D)


def _stored(cell: "Cell", profile: "Profile", split: str, view: int, layers: Sequence[int] | None = None) -> Embeddings:
    count = profile.clips_of(cell.dataset)[split]
    return load_layers(cell.encoder, cell.dataset, split, count, layers, cell.cls_mode, view)
