"""The embedding store: what a frozen encoder says about each clip, computed once, checked, resumable.

One folder per (encoder, dataset, split): safetensors shards with ``tokens (clips, N, D)`` and ``cls (clips, D)`` in
half precision, and ``index.json`` with what they depend on and a checksum a shard. The last two levels of the
path, ``view-0/last``, leave room for augmented views and for other layers.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lib.audio import SAMPLE_RATE, check_waveform
from lib.data.datasets import Soundscapes, load_dataset
from lib.encoders import encoder_version, load_encoder
from lib.errors import InputError
from lib.files import sha256, sweep_temporaries, write_json, write_tensors
from lib.paths import scratch
from lib.provenance import code_version
from lib.workers import run_parallel

SHARD_CLIPS = 32
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


def store_folder(encoder: str, dataset: str, split: str, count: int) -> Path:
    """Return where the last-layer, unaugmented embeddings of the first `count` clips of a split lie."""
    return scratch() / "store" / encoder / dataset / f"{split}-{count}" / "view-0" / "last"


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:05d}.safetensors"


def build_store(encoders: Sequence[str], dataset: str, counts: dict[str, int], workers: int | None = None) -> list[str]:
    """Make the store of several encoders complete: what is there and valid stays, the rest is computed.

    Parameters
    ----------
    encoders : sequence of str
        Encoder names. Each clip is rendered once for all of them.
    dataset : str
        Dataset name.
    counts : dict
        Split → number of clips.
    workers : int, optional
        Processes; the number of cores by default.

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
    lines, tasks, opened = [], [], {}
    for split, count in counts.items():
        data.check_count(split, count)
        for encoder in encoders:
            folder = store_folder(encoder, dataset, split, count)
            index, why = _open_index(folder, {**data.version(split, count), **versions[encoder], "store_code": _code()})
            opened[encoder, split] = (folder, index)
            if why:
                lines.append(f"{encoder} / {dataset} / {split}: {why}")
        for number in range(-(-count // SHARD_CLIPS)):
            missing = [e for e in encoders if shard_name(number) not in opened[e, split][1]["shards"]]
            if missing:
                tasks.append((missing, dataset, split, count, number))
    for split, number, sums in run_parallel(_build_shard, tasks, workers):
        for encoder, entry in sums.items():
            folder, index = opened[encoder, split]
            index["shards"][shard_name(number)] = entry
            write_json(folder / "index.json", index)
    for (encoder, _), (folder, index) in opened.items():
        if not index["complete"]:
            grid = load_encoder(encoder).grid
            index.update(complete=True, grid=list(grid), shards=dict(sorted(index["shards"].items())))
            write_json(folder / "index.json", index)
    return lines


def _code() -> str:
    return code_version("lib.store")


def _open_index(folder: Path, depends: dict) -> tuple[dict, str]:
    """Return the index with its valid shards only, and why anything has to be computed ('' if nothing)."""
    fresh = {"depends": depends, "complete": False, "shards": {}}
    if folder.is_dir():
        sweep_temporaries(folder)
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        changed = [key for key in depends if index["depends"].get(key) != depends[key]]
        shards = {name: {"clips": entry["clips"], "sha256": entry["sha256"]} for name, entry in index["shards"].items()}
    except FileNotFoundError:
        return fresh, "not there yet"
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        return fresh, "its index is damaged"
    if changed:
        return fresh, f"rebuilt because {', '.join(changed)} changed"
    damaged = [name for name, entry in shards.items() if not _intact(folder / name, entry["sha256"])]
    for name in damaged:
        del shards[name]
    index["shards"] = shards
    if damaged:
        index["complete"] = False
        return index, f"{len(damaged)} damaged shard(s) computed again (first: {damaged[0]})"
    return index, "" if index["complete"] else f"resumed after {len(shards)} shard(s)"


def _intact(path: Path, checksum: str) -> bool:
    return path.is_file() and sha256(path) == checksum


def _build_shard(encoders: list[str], dataset: str, split: str, count: int, number: int) -> tuple[str, int, dict]:
    """Render the clips of one shard, encode them with each encoder, write; return checksums for the indexes."""
    data = load_dataset(dataset)
    clips = range(number * SHARD_CLIPS, min((number + 1) * SHARD_CLIPS, count))
    audio = np.stack([_audio(data, split, index) for index in clips])  # (clips, samples)
    sums = {}
    for name in encoders:
        encoder = load_encoder(name)
        with torch.inference_mode():
            encoding = encoder(encoder.spectrogram(audio, SAMPLE_RATE))
        path = store_folder(name, dataset, split, count) / shard_name(number)
        write_tensors(path, {"tokens": encoding.tokens.half(), "cls": encoding.cls.half()})
        sums[name] = {"clips": len(clips), "sha256": sha256(path)}
    return split, number, sums


def _audio(data: Soundscapes, split: str, index: int) -> np.ndarray:
    audio = data.scene(split, index).audio
    check_waveform(audio, f"clip {index} of {data.name}/{split}")
    return audio


def load_embeddings(encoder: str, dataset: str, split: str, count: int, cls_mode: str = "native") -> Embeddings:
    """Read one split from the store.

    Parameters
    ----------
    encoder, dataset, split, count
        As they were built.
    cls_mode : {"native", "mean", "first_token"}
        What stands for [cls]: the encoder's own, the mean token, or token 0.

    Raises
    ------
    InputError
        If the store is not complete, a shard is damaged, or the mode is unknown.
    """
    folder = store_folder(encoder, dataset, split, count)
    if cls_mode not in CLS_MODES:
        raise InputError(f"Unknown cls mode '{cls_mode}'; choose one of: {', '.join(CLS_MODES)}.")
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        index = {"complete": False}
    if not index["complete"]:
        raise InputError(
            f"The embeddings of '{encoder}' on {dataset}/{split} are not complete; run notebook 01 (`make figures`): "
            "it continues where it stopped."
        )
    parts = [_read_shard(folder / name, entry["sha256"]) for name, entry in index["shards"].items()]
    tokens = torch.cat([part["tokens"] for part in parts])  # (clips, N, D)
    cls = torch.cat([part["cls"] for part in parts]).float()  # (clips, D)
    if cls_mode == "mean":
        cls = tokens.float().mean(1)  # (clips, D)
    elif cls_mode == "first_token":
        cls = tokens[:, 0].float()
    targets = torch.from_numpy(load_dataset(dataset).targets(split, count))
    return Embeddings(tokens, cls, targets, tuple(index["grid"]))


def _read_shard(path: Path, checksum: str) -> dict[str, Tensor]:
    if not _intact(path, checksum):
        raise InputError(
            f"The shard '{path.name}' in '{path.parent}' is missing, truncated or damaged; run notebook 01 (or `make "
            "figures`), it computes this shard again and keeps the others."
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(
            f"The shard '{path}' is no safetensors file ({error}); delete it and run notebook 01."
        ) from error
