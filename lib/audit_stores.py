"""What an encoder makes of clips that were prepared wrongly, stored beside what it makes of the right ones.

A folder for each mistake, of the form of `lib.store`: resumable, checked, rebuilt when what it depends on changes. That
is the encoder, the clips, and the code of this one mistake. Each clip is rendered once for all mistakes.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lib.audio import SAMPLE_RATE
from lib.audit_faults import BEHIND, DONE, SHORTENED, Sound, right
from lib.data.datasets import load_dataset
from lib.encoders import encoder_version, load_encoder
from lib.errors import unknown_name
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
    from lib.search import Cell

FILLED_BY = "notebook 22"
LONGEST = 5.0  # seconds that are left of a clip cut short, or the dataset's longest event where that is less


def fault_folder(encoder: str, dataset: str, split: str, count: int, fault: str) -> Path:
    """Return where the embeddings of the first `count` clips of a split lie, prepared with a mistake."""
    return store_folder(encoder, dataset, split, count).parent.with_name(f"fault-{fault}") / "last"


def fault_version(dataset: str, split: str, count: int, fault: str) -> dict:
    """Return what such embeddings depend on beyond the encoder: the clips, and the code of the mistake."""
    clips = load_dataset(dataset).version(split, count)
    cut = {"seconds": short_seconds(dataset)} if fault in SHORTENED else {}
    code = definition_version(DONE[fault].__module__, fault)
    return {**clips, **cut, "fault": fault, "fault_code": code, "store_code": store_code()}


def short_seconds(dataset: str) -> float:
    """Return how much of a dataset's clips is left where they are cut short."""
    return min(load_dataset(dataset).recipe.event_seconds[1], LONGEST)


def stored_faults(faults: Sequence[str]) -> list[str]:
    """Return those that have to be encoded: all but those that are made of the right tokens."""
    for fault in faults:
        if fault not in DONE:
            raise unknown_name("mistake", fault, list(DONE))
    return [fault for fault in faults if fault not in BEHIND]


def build_faults(
    encoders: Sequence[str], dataset: str, counts: dict[str, int], faults: Sequence[str], workers: int | None = None
) -> list[str]:
    """Make the embeddings of mistakes complete: what is there and valid stays, the rest is computed.

    Parameters
    ----------
    encoders : sequence of str
        Encoder names.
    dataset : str
        Dataset name.
    counts : dict
        Split → number of clips.
    faults : sequence of str
        Keys of `lib.audit_faults.DONE`; those made behind the encoder are left out.
    workers : int, optional
        Processes; the number of cores by default.

    Returns
    -------
    list of str
        One line for each folder that was (re)built, saying why.

    Raises
    ------
    InputError
        If there is no such mistake, a clip cannot be used, or the encoder refuses a spectrogram.
    """
    versions = {name: encoder_version(name, load_encoder(name)) for name in encoders}
    lines, opened, tasks = [], {}, []
    for split, count in counts.items():
        load_dataset(dataset).check_count(split, count)
        for fault in stored_faults(faults):
            clips = fault_version(dataset, split, count, fault)
            for encoder in encoders:
                folder = fault_folder(encoder, dataset, split, count, fault)
                index, why = open_folder(folder, clips | versions[encoder])
                opened[encoder, split, fault] = (folder, index)
                if why:
                    lines.append(f"{encoder} / {dataset} / {split} / {fault}: {why}")
        for number in shards_of(count):
            of_split = {(key[0], key[2]): index for key, (_, index) in opened.items() if key[1] == split}
            wanted = {k: digest(i["depends"]) for k, i in of_split.items() if shard_name(number) not in i["shards"]}
            if wanted:
                tasks.append((wanted, dataset, split, count, number))
    for split, number, sums in run_parallel(_encode_shard, tasks, workers):
        for (encoder, fault), entry in sums.items():
            opened[encoder, split, fault][1]["shards"][shard_name(number)] = entry
    for (encoder, _, _), (folder, index) in opened.items():
        if not index["complete"]:
            close_folder(folder, index, grid=list(load_encoder(encoder).grid))
    return lines


def _encode_shard(
    wanted: dict[tuple[str, str], str], dataset: str, split: str, count: int, number: int
) -> tuple[str, int, dict]:
    """Render the clips of one shard once, encode them with each (encoder, mistake), write; return checksums.

    `wanted` maps them to the digest of what their shards depend on.
    """
    sums = {}
    for name in dict.fromkeys(name for name, _ in wanted):
        encoder = load_encoder(name)
        sound = sound_of(dataset, split, clips_of(number, count), encoder.geometry)
        for fault in [fault for encoder_name, fault in wanted if encoder_name == name]:
            tensors = encoded(encoder, DONE[fault](sound))
            folder = fault_folder(name, dataset, split, count, fault)
            sums[name, fault] = write_shard(folder, number, tensors, wanted[name, fault])
    return split, number, sums


def sound_of(dataset: str, split: str, clips: Sequence[int], geometry: object) -> Sound:
    """Render clips, and note where the first event of each begins."""
    audio, starts = _rendered(dataset, split, tuple(clips))
    return Sound(torch.from_numpy(audio), geometry, starts, short_seconds(dataset))


@functools.lru_cache(maxsize=1)
def _rendered(dataset: str, split: str, clips: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return waveforms ``(clips, samples)`` and first onsets in samples; kept for the next encoder."""
    data = load_dataset(dataset)
    audio = np.stack([usable_audio(data, split, clip, 0) for clip in clips])
    return audio, tuple(round(data.events(split, clip)[0].onset * SAMPLE_RATE) for clip in clips)


@torch.inference_mode()
def encoded(encoder: torch.nn.Module, spectrograms: Tensor) -> dict[str, Tensor]:
    """Return tokens ``(clips, N, D)`` and cls ``(clips, D)`` of spectrograms, as the store keeps them."""
    parts = [encoder(part) for part in spectrograms.split(PASS_CLIPS)]
    return {what: torch.cat([getattr(part, what) for part in parts]).half() for what in ("tokens", "cls")}


def load_fault(encoder: str, dataset: str, split: str, count: int, fault: str, cls_mode: str = "native") -> Embeddings:
    """Read one split prepared with a mistake; parameters and errors are those of `lib.store.load_embeddings`."""
    if fault in BEHIND:
        found = load_embeddings(encoder, dataset, split, count, cls_mode)
        return Embeddings(DONE[fault](found.tokens, found.grid), found.cls, found.targets, found.grid)
    if cls_mode not in CLS_MODES:
        raise unknown_name("cls mode", cls_mode, CLS_MODES)
    folder = fault_folder(encoder, dataset, split, count, fault)
    index = read_index(folder, f"The embeddings of '{encoder}' on {dataset}/{split} with '{fault}'", FILLED_BY)
    tokens, cls = read_shards(folder, index["shards"], FILLED_BY)  # (clips, N, D), (clips, D)
    targets = torch.from_numpy(load_dataset(dataset).targets(split, count))
    return Embeddings(tokens, standing_for_cls(tokens, cls, cls_mode), targets, tuple(index["grid"]))


def pictures(encoder: str, dataset: str, split: str, clip: int) -> dict[str, np.ndarray]:
    """Return what an encoder hears of a clip as it should be, and with each mistake before it: ``(frames, mel)``."""
    sound = sound_of(dataset, split, [clip], load_encoder(encoder).geometry)
    made = {"right": right} | {fault: DONE[fault] for fault in stored_faults(list(DONE))}
    return {name: function(sound)[0].numpy() for name, function in made.items()}


# ---- what an arm reads ---------------------------------------------------------------------------------------------


def features_of(fault: str) -> str:
    """Return the key of `lib.arms.FEATURES` under which arms read clips prepared with a mistake."""
    return f"audit {fault}"


def _reader(fault: str) -> Callable[..., Embeddings]:
    """Return what reads clips prepared with a mistake; it bears the mistake's name, and so has its code's version."""

    @functools.wraps(DONE[fault])
    def read(cell: "Cell", profile: "Profile", split: str, view: int = 0) -> Embeddings:
        count = profile.clips_of(cell.dataset)[split]
        return load_fault(cell.encoder, cell.dataset, split, count, fault, cell.cls_mode)

    return read


FAULTY = {features_of(fault): _reader(fault) for fault in DONE}
