"""The embedding store: what a frozen encoder says about each clip, computed once, checked, resumable.

One folder per (encoder, dataset, split): safetensors shards with ``tokens (clips, N, D)`` and ``cls (clips, D)`` in
half precision, each with a small file ``sum-….json`` of its checksum and what it depends on, and, once all are there,
``index.json``. Whoever finds a valid shard keeps it, and nobody takes back what another has finished: runs that build
one store at the same time do no harm, and do some work twice. The last two levels of the path, ``view-0/last``, tell
stored views apart (mixup variants of few-shot clips) and leave room for other layers.
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
from lib.files import digest, sha256, sweep_temporaries, write_json, write_tensors
from lib.paths import scratch
from lib.provenance import code_version
from lib.workers import run_parallel

SHARD_CLIPS = 32
PASS_CLIPS = 8  # what a pass of an encoder makes of more does not stay in a core's cache
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
    for split, count, view in [(s, c, v) for s, c in counts.items() for v in range(data.views(s))]:
        for encoder in encoders:
            folder = store_folder(encoder, dataset, split, count, view)
            depends = {**data.version(split, count, view), **versions[encoder], "store_code": _code()}
            index, why = _open_index(folder, depends)
            opened[encoder, split, view] = (folder, index)
            if why:
                lines.append(f"{encoder} / {dataset} / {split}{f' / view {view}' if view else ''}: {why}")
        for number in range(-(-count // SHARD_CLIPS)):
            missing = [e for e in encoders if shard_name(number) not in opened[e, split, view][1]["shards"]]
            if missing:
                on = {e: digest(opened[e, split, view][1]["depends"]) for e in missing}
                tasks.append((on, dataset, split, count, view, number))
    for split, view, number, sums in run_parallel(_build_shard, tasks, workers):
        for encoder, entry in sums.items():
            opened[encoder, split, view][1]["shards"][shard_name(number)] = entry
    for (encoder, _, _), (folder, index) in opened.items():
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
        index, changed, shards = fresh, [], _finished(folder, digest(depends))
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        return fresh, "its index is damaged"
    if changed:
        (folder / "index.json").unlink(missing_ok=True)  # what it names is about to be written over
        return fresh, f"rebuilt because {', '.join(changed)} changed"
    damaged = [name for name, entry in shards.items() if not _intact(folder / name, entry["sha256"])]
    index = index | {"shards": {name: entry for name, entry in shards.items() if name not in damaged}}
    if damaged:
        return index | {"complete": False}, f"{len(damaged)} damaged shard(s) computed again (first: {damaged[0]})"
    if index["complete"]:
        return index, ""
    return index, f"resumed after {len(shards)} shard(s)" if shards else "not there yet"


def _finished(folder: Path, on: str) -> dict[str, dict]:
    """Return what lies beside the shards that were finished on these dependencies, by shard."""
    found = {}
    for path in sorted(folder.glob("sum-*.json")):
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            if entry.pop("depends") == on:
                found[f"shard-{path.stem[4:]}.safetensors"] = {"clips": entry["clips"], "sha256": entry["sha256"]}
        except (OSError, json.JSONDecodeError, KeyError, TypeError, AttributeError):
            continue  # as if it were not there: the shard is computed again
    return found


def _intact(path: Path, checksum: str) -> bool:
    return path.is_file() and sha256(path) == checksum


def _build_shard(
    encoders: dict[str, str], dataset: str, split: str, count: int, view: int, number: int
) -> tuple[str, int, int, dict]:
    """Render the clips of one shard, encode them with each encoder, write; return checksums for the indexes.

    `encoders` maps names to the digest of what their shards depend on.
    """
    data = load_dataset(dataset)
    clips = range(number * SHARD_CLIPS, min((number + 1) * SHARD_CLIPS, count))
    audio = np.stack([_audio(data, split, index, view) for index in clips])  # (clips, samples)
    sums, spectrograms = {}, {}
    for name, on in encoders.items():
        encoder = load_encoder(name)
        front_end = encoder.geometry.front_end
        with torch.inference_mode():
            if front_end not in spectrograms:
                spectrograms[front_end] = encoder.spectrogram(audio, SAMPLE_RATE)
            parts = [encoder(part) for part in spectrograms[front_end].split(PASS_CLIPS)]
        tokens, cls = (torch.cat([getattr(part, what) for part in parts]).half() for what in ("tokens", "cls"))
        path = store_folder(name, dataset, split, count, view) / shard_name(number)
        write_tensors(path, {"tokens": tokens, "cls": cls})
        sums[name] = {"clips": len(clips), "sha256": sha256(path)}
        write_json(path.with_name(f"sum-{number:05d}.json"), {**sums[name], "depends": on})
    return split, view, number, sums


def _audio(data: Soundscapes, split: str, index: int, view: int) -> np.ndarray:
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
    tokens, cls = read_shards(folder, index["shards"])
    if cls_mode == "mean":
        cls = tokens.float().mean(1)  # (clips, D)
    elif cls_mode == "first_token":
        cls = tokens[:, 0].float()
    targets = torch.from_numpy(load_dataset(dataset).targets(split, count, view))
    return Embeddings(tokens, cls, targets, tuple(index["grid"]))


def read_shards(folder: Path, shards: dict[str, dict]) -> tuple[Tensor, Tensor]:
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
        part = read_shard(folder / name, entry["sha256"])
        if not start:
            tokens = part["tokens"].new_empty(clips, *part["tokens"].shape[1:])
            cls = torch.empty(clips, *part["cls"].shape[1:])
        stop = start + len(part["tokens"])
        tokens[start:stop], cls[start:stop] = part["tokens"], part["cls"]
        start = stop
    return tokens, cls


def read_shard(path: Path, checksum: str) -> dict[str, Tensor]:
    """Return the tensors of a shard; an `InputError` if it is missing or not what its checksum says."""
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
