"""Embeddings of any encoders on any datasets, with what they will take before anything starts: ``make embed``.

``python -m lib.embed eat,sslam --datasets many-sounds`` measures a pass of each encoder, prints time and disk, and
fills the store (`lib.store`), or with ``--blocks 3,7,11`` that of blocks (`lib.layer_store`). Shipped encoders with the
same front end share it. What is there and valid stays; a stopped run continues where it stopped.
"""

import argparse
import contextlib
import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from lib.audio import SAMPLE_RATE
from lib.data.datasets import load_dataset
from lib.encoders import encoder_version, load_encoder
from lib.encoders.frozen import UpstreamEncoder, device, rounding_error
from lib.errors import InputError
from lib.files import write_json
from lib.hardware import has_bfloat16
from lib.layer_store import blocks_folder, build_layers, depth, layer_version
from lib.paths import scratch
from lib.profiles import load_profile
from lib.results import clip_versions, stores_sent, workers_for_stores
from lib.shards import clips_of, open_folder, shard_name, shards_of
from lib.store import PASS_CLIPS, build_store, in_one_process, store_code, store_folder, together, usable_audio
from lib.workers import core_count

ALL = "all"  # blocks


@dataclass(frozen=True)
class Job:
    """What is to be stored of a dataset.

    Attributes
    ----------
    encoders : tuple of str
        Names of `lib.encoders.ENCODERS`.
    dataset : str
        Dataset name.
    counts : dict
        Split → number of clips.
    blocks : tuple of int, "all" or None
        Numbers of the blocks whose outputs are stored, the first being 0; None for what the heads read, the output of
        the last one after any final norm.
    """

    encoders: tuple[str, ...]
    dataset: str
    counts: dict[str, int]
    blocks: tuple[int, ...] | str | None = None

    @property
    def some(self) -> list[int] | None:
        """The numbers of the blocks where not all are stored, as the store of layers wants them."""
        return None if self.blocks in (None, ALL) else sorted(set(self.blocks))

    @property
    def what(self) -> str:
        """What is stored, for people."""
        if self.blocks in (None, ALL):
            return "the last layer" if self.blocks is None else "all blocks"
        return f"block{'s' * (len(self.some) > 1)} {', '.join(map(str, self.some))}"

    def folders(self, encoder: str) -> Iterator[tuple[str, int, int, Path]]:
        """Yield split, clips, view and folder of each part of the store."""
        for split, count in self.counts.items():
            for view in range(load_dataset(self.dataset).views(split)):
                place = (encoder, self.dataset, split, count, view)
                folder = store_folder(*place) if self.blocks is None else blocks_folder(*place, self.some)
                yield split, count, view, folder


@dataclass(frozen=True)
class Estimate:
    """What an encoder will take on a dataset; see `estimate`.

    Attributes
    ----------
    encoder : str
        Its name.
    clips, shards : int
        That are not stored yet, views counted.
    grid : tuple of int
        ``(S_t, S_f)`` of a clip.
    gigabytes : float
        Of the embeddings to come, exactly; file headers, some hundred bytes a shard, aside.
    clip_seconds : float
        Of one core for a clip: its share of rendering and front end, and the encoder; nan if nothing is to be done.
    hours : float
        With all workers.
    error : float or None
        With products in bfloat16: how far tokens are from those in float32, ``|rough - exact| / |exact|``.
    """

    encoder: str
    clips: int
    shards: int
    grid: tuple[int, int]
    gigabytes: float
    clip_seconds: float
    hours: float
    error: float | None = None


def embed(job: Job, workers: int | None = None, say: partial = print) -> list[Estimate]:
    """Say what a job will take, then do it; return the estimates.

    Parameters
    ----------
    job : Job
        What is to be stored.
    workers : int, optional
        Processes; the number of cores by default, and one where the encoder runs on a GPU. With ``SCHEDULER`` the
        workers there, if they share the disk; the estimate is of this machine all the same.
    say : callable
        Is told each line.

    Raises
    ------
    InputError
        If a name is unknown, weights are missing or damaged, the disk is too small, or a clip cannot be used.
    """
    count = workers or (1 if in_one_process(job.encoders) else core_count())
    found = estimate(job, count)
    for line in in_words(job, found, count):
        say(line)
    need, free = sum(each.gigabytes for each in found), shutil.disk_usage(_existing(scratch())).free / 1e9
    if need > free:
        raise InputError(
            f"The store needs {_size(need)} more, but '{scratch()}' has {_size(free)} free; free some, choose fewer "
            "encoders or datasets, or point UNMUTE_CACHE to another disk."
        )
    clips = clip_versions(job.dataset, job.counts)
    with (
        _progress(job, sum(each.shards for each in found)),
        workers_for_stores(any(each.shards for each in found), workers, say) as crew,
        stores_sent(crew, job.dataset, clips),
    ):
        lines = _stored(job, workers)
    for line in lines:
        say(line)
    for each in found:
        _tell_grid(job, each)
    return found


def _stored(job: Job, workers: int | None) -> list[str]:
    """Store what is missing; return what the store says."""
    if job.blocks is None:
        return build_store(job.encoders, job.dataset, job.counts, workers)
    lines = []
    for some in together(job.encoders):
        count = workers or (1 if in_one_process(some) else None)
        lines += build_layers(some, job.dataset, job.counts, count, job.some)
    return lines


def estimate(job: Job, workers: int) -> list[Estimate]:
    """Return what is left to do for each encoder, and what it takes, judged by a pass on a few clips.

    Shards that are there are counted as valid if their size is; whoever fills the store reads them through.
    """
    missing, front_ends = {}, {}
    for name in job.encoders:
        encoder = load_encoder(name)
        missing[name] = _missing(job, name, encoder)
        if missing[name]:
            front_ends[name] = encoder.geometry.front_end
    clips = _some_clips(job, PASS_CLIPS if front_ends else 1)
    audio, rendering = _timed(lambda: np.stack([clip() for clip in clips]))
    heard, found = {}, []
    for name, sizes in missing.items():
        encoder, left = load_encoder(name), sum(sizes)
        grid = encoder.grid_of(audio.shape[1]) if isinstance(encoder, UpstreamEncoder) else encoder.grid
        blocks = 1 if job.blocks is None else len(job.some or range(depth(encoder, name)))
        size = left * blocks * (grid[0] * grid[1] + 1) * encoder.geometry.dim * 2 / 1e9  # tokens and cls, float16
        if not left:
            found.append(Estimate(name, 0, 0, grid, 0.0, float("nan"), 0.0))
            continue
        front_end = front_ends[name]
        if front_end not in heard:
            heard[front_end] = _timed(partial(encoder.spectrogram, audio, SAMPLE_RATE))
        spectrogram, hearing = heard[front_end]
        encoding, error = _seconds_of(encoder, spectrogram)
        beside = [front_ends[other] for some in together(front_ends) if name in some for other in some]
        shared = rendering / len(beside) + hearing / beside.count(front_end)
        seconds = (shared + encoding) / len(audio)
        hours = left * seconds / workers / 3600
        found.append(Estimate(name, left, len(sizes), grid, size, seconds, hours, error))
    return found


def in_words(job: Job, found: Sequence[Estimate], workers: int) -> list[str]:
    """Return the estimates as lines, and a sum for more than one encoder."""
    lines = []
    for each in found:
        head = f"{each.encoder} / {job.dataset}: {job.what}"
        if not each.clips:
            lines.append(f"{head}: all there")
            continue
        lines.append(
            f"{head} of {each.clips:,} clips, {each.grid[0]} x {each.grid[1]} tokens: {_size(each.gigabytes)} on disk, "
            f"about {_duration(each.hours)} ({each.clip_seconds:.2g} s a clip and core, {workers} "
            f"worker{'s' * (workers > 1)})"
        )
        if each.error is not None:
            gain = "" if has_bfloat16(device()) else "; this machine has no instructions for it, so float32 is faster"
            lines.append(f"  bfloat16 changes its tokens by {100 * each.error:.2g} % on these clips{gain}")
    if sum(each.clips > 0 for each in found) > 1:
        hours, size = sum(each.hours for each in found), sum(each.gigabytes for each in found)
        lines.append(f"together: {_size(size)} on disk, about {_duration(hours)}")
    return lines


def _missing(job: Job, name: str, encoder: nn.Module) -> list[int]:
    """Return the number of clips of each shard that is not there or not valid."""
    data, sizes = load_dataset(job.dataset), []
    if job.blocks is None:
        version = {**encoder_version(name, encoder), "store_code": store_code()}
    else:
        version = layer_version(name, job.some)
    for split, count in job.counts.items():
        data.check_count(split, count)
    for split, count, view, folder in job.folders(name):
        index, _ = open_folder(folder, {**data.version(split, count, view), **version}, hashed=False)
        missing = [number for number in shards_of(count) if shard_name(number) not in index["shards"]]
        sizes += [len(clips_of(number, count)) for number in missing]
    return sizes


def _some_clips(job: Job, count: int) -> list[partial]:
    """Return functions that render the first clips of the dataset."""
    split = next(iter(job.counts))
    data, count = load_dataset(job.dataset), min(count, job.counts[split])
    return [partial(usable_audio, data, split, index, 0) for index in range(count)]


@torch.inference_mode()
def _seconds_of(encoder: nn.Module, spectrogram: Tensor) -> tuple[float, float | None]:
    """Return how long a pass takes once the first is over, and what bfloat16 costs in exactness."""
    encoder(spectrogram[:1])
    _, seconds = _timed(lambda: encoder(spectrogram).tokens.half())
    rough = getattr(encoder.geometry, "products", "float32") == "bfloat16"
    return seconds, rounding_error(encoder, spectrogram) if rough else None


def _timed(work: partial) -> tuple:
    """Return what some work gives, and its seconds on one thread, which is what a worker has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        start = time.perf_counter()
        return work(), time.perf_counter() - start
    finally:
        torch.set_num_threads(threads)


def _tell_grid(job: Job, each: Estimate) -> None:
    """Have the indexes tell the grid of these clips; the store asks the encoder, which speaks of its full length."""
    for *_, folder in job.folders(each.encoder):
        path = folder / "index.json"
        index = json.loads(path.read_text(encoding="utf-8"))
        if index["grid"] != list(each.grid):
            write_json(path, index | {"grid": list(each.grid)})


@contextlib.contextmanager
def _progress(job: Job, shards: int) -> Iterator[None]:
    """Show, where a person watches, how many shards are made; they are counted on the disk, whoever writes them."""
    folders = [folder for name in job.encoders for *_, folder in job.folders(name)]
    over, start = threading.Event(), time.time()
    bar = tqdm(total=shards, unit="shard", disable=not sys.stderr.isatty() or not shards)

    def watch() -> None:
        while not over.wait(1.0):
            made = (path for folder in folders for path in folder.glob("sum-*.json"))
            bar.n = sum(path.stat().st_mtime >= start for path in made)
            bar.refresh()

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()
        bar.close()


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def _size(gigabytes: float) -> str:
    return f"{gigabytes:,.2f} GB" if gigabytes >= 1 else f"{1000 * gigabytes:.1f} MB"


def _duration(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


def main() -> None:
    """Fill the store as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encoders", help="names, by comma")
    parser.add_argument("--datasets", default="", help="names, by comma; those of the profile by default")
    parser.add_argument("--profile", default="pocket", help="whose numbers of clips")
    parser.add_argument("--blocks", default="", help="numbers of blocks by comma, the first being 0, or 'all'")
    arguments = parser.parse_args()
    try:
        profile = load_profile(arguments.profile)
        names = tuple(part for part in arguments.encoders.split(",") if part)
        datasets = [part for part in arguments.datasets.split(",") if part] or list(profile.datasets)
        chosen = arguments.blocks or None
        if chosen not in (None, ALL):
            if not all(part.isdecimal() for part in chosen.split(",")):
                raise InputError(f"BLOCKS is '{chosen}'; it must be numbers by comma, the first block being 0, or all.")
            chosen = tuple(sorted({int(part) for part in chosen.split(",")}))
        if not names:
            raise InputError("Say which encoders: ENCODERS=eat,sslam.")
        for name in names:
            load_encoder(name)  # what is missing is said before anything is computed
        for dataset in datasets:
            embed(Job(names, dataset, profile.clips_of(dataset), chosen), say=partial(print, flush=True))
    except InputError as error:
        sys.exit(f"make embed: {error}")


if __name__ == "__main__":
    main()
