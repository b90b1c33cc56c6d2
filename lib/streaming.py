"""Embeddings that do not fit into memory: read from disk batch by batch, for the engine as if they were there.

A cell whose splits together take more than a process may fill (`memory_share`) is trained on tokens that stay in their
shards: of each batch the clips are read, and nothing is kept but what `lib.engine_pooling.Split` keeps of every clip.
The numbers are the same, bit for bit. With ``UNMUTE_DEVICE=cuda`` batches go to the GPU, or all of a cell where there
is room for it.
"""

import functools
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from torch import Tensor

from lib.arms import loader
from lib.data.datasets import load_dataset
from lib.errors import InputError
from lib.heads import build_head
from lib.shards import read_index, read_shard
from lib.store import FILLED_BY, Embeddings, standing_for_cls, store_folder
from lib.workers import core_count

if TYPE_CHECKING:
    from lib.profiles import Profile
    from lib.search import Cell

SMALL = 2**28  # bytes about which nobody asks
CHUNK = 64  # clips that are read at a time where all are read
AMPLE = 10**9  # bytes of runs in training about which nobody asks: no shipped encoder's cells take as much
ROOM = 0.6  # share of a GPU's free memory that embeddings may take; products and weights need the rest


class Streamed:
    """Tokens that are elsewhere; it offers what `lib.engine` asks of a tensor of them.

    Parameters
    ----------
    shape : sequence of int
        ``(clips, N, D)``.
    fetch : callable
        Clip numbers (B,) on the processor → tokens float16 (B, N, D).
    device : torch.device
        Where tokens are wanted.
    """

    dtype = torch.float16

    def __init__(self, shape: Sequence[int], fetch: Callable[[Tensor], Tensor], device: torch.device) -> None:
        self.shape, self.device, self._fetch = torch.Size(shape), device, fetch

    def __len__(self) -> int:
        return self.shape[0]

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """Return the tokens of these clips (B,): (B, N, D)."""
        if dim:
            raise InputError(f"Streamed tokens are selected by clip, along dimension 0, not {dim}.")
        return self._fetch(index.cpu()).to(self.device)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        return self.index_select(0, torch.arange(len(self))[index] if isinstance(index, slice) else index)

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield the tokens of all clips in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]


class Shards:
    """The token maps of a folder of shards, read clip by clip.

    Parameters
    ----------
    folder : Path
        Where the shards lie.
    shards : dict
        Name → entry of the index. Each is held against its checksum, once in a process.

    Raises
    ------
    InputError
        If a shard is missing or damaged.
    """

    def __init__(self, folder: Path, shards: dict[str, dict]) -> None:
        self.paths = [folder / name for name in shards]
        layouts = [_layout(path, entry["sha256"]) for path, entry in zip(self.paths, shards.values(), strict=True)]
        self.offsets = [offset for offset, _ in layouts]
        self.ends = torch.tensor([entry["clips"] for entry in shards.values()]).cumsum(0)
        self.shape = torch.Size((int(self.ends[-1]), *layouts[0][1][1:]))

    def __call__(self, index: Tensor) -> Tensor:
        """Return the tokens of these clips (B,), float16 (B, N, D)."""
        found = torch.empty(len(index), *self.shape[1:], dtype=Streamed.dtype)
        rows, places = found.flatten(1).numpy(), index.argsort()  # (B, N, D) → (B, N·D)
        shards = torch.bucketize(index[places], self.ends, right=True)
        for shard in shards.unique().tolist():
            first = int(self.ends[shard - 1]) if shard else 0
            with self.paths[shard].open("rb", buffering=0) as file:
                for place in places[shards == shard].tolist():
                    file.seek(self.offsets[shard] + (int(index[place]) - first) * rows[place].nbytes)
                    if file.readinto(rows[place]) != rows[place].nbytes:
                        raise InputError(f"'{self.paths[shard]}' was cut off while it was read; run {FILLED_BY}.")
        return found


def _layout(path: Path, checksum: str) -> tuple[int, list[int]]:
    """Return at which byte of a sound shard its tokens begin, and their shape."""
    try:
        state = path.stat()
    except OSError:
        return read_shard(path, checksum, FILLED_BY, _parsed)  # says so
    return _checked(path, checksum, state.st_mtime_ns, state.st_size)


@functools.cache
def _checked(path: Path, checksum: str, changed: int, size: int) -> tuple[int, list[int]]:
    return read_shard(path, checksum, FILLED_BY, _parsed)


def _parsed(path: Path) -> tuple[int, list[int]]:
    with path.open("rb") as file:  # 8 bytes: how long the header is; the header; the tensors one after the other
        length = int.from_bytes(file.read(8), "little")
        tokens = json.loads(file.read(length))["tokens"]
    if tokens["dtype"] != "F16":
        raise InputError(f"The tokens of '{path}' are {tokens['dtype']} and not F16; delete it and run {FILLED_BY}.")
    return 8 + length + tokens["data_offsets"][0], tokens["shape"]


# ---- a cell ------------------------------------------------------------------------------------------------


def within_memory(cell: "Cell", profile: "Profile", asked: str = "cpu") -> Callable[..., Embeddings]:
    """Return what `lib.search.run_cell` loads a cell's splits with, from memory or from disk, on the device asked for.

    Features other than the stored last layer are made in memory, whatever they take.
    """
    where, size = device(asked), 0
    if getattr(cell, "features", "last") == "last":
        size = stored_bytes(cell, profile)
    small = size <= SMALL and not os.environ.get("UNMUTE_MEMORY")
    fits = small or size <= memory_share()
    load = loader(cell, profile) if fits else functools.partial(from_disk, cell, profile)
    if where.type == "cpu":
        return load
    resident = size < ROOM * torch.cuda.mem_get_info(where)[0]
    return lambda split, view=0: on_device(load(split, view), where, resident)


def from_disk(cell: "Cell", profile: "Profile", split: str, view: int = 0) -> Embeddings:
    """Return a split as it lies in the store, its tokens left on disk; errors as in `lib.store.load_embeddings`."""
    count = profile.clips_of(cell.dataset)[split]
    folder = store_folder(cell.encoder, cell.dataset, split, count, view)
    index = read_index(folder, f"The embeddings of '{cell.encoder}' on {cell.dataset}/{split}", FILLED_BY)
    shards = Shards(folder, index["shards"])
    tokens = Streamed(shards.shape, shards, torch.device("cpu"))
    if cell.cls_mode == "native":
        cls = torch.cat([_cls(path) for path in shards.paths]).float()
    else:
        cls = torch.cat([standing_for_cls(part, part[:, 0], cell.cls_mode) for part in tokens.split(CHUNK)])
    targets = torch.from_numpy(load_dataset(cell.dataset).targets(split, count, view))
    return Embeddings(tokens, cls, targets, tuple(index["grid"]))


def _cls(path: Path) -> Tensor:
    with safe_open(path, "pt") as file:
        return file.get_tensor("cls")


def stored_bytes(cell: "Cell", profile: "Profile") -> int:
    """Return how much the splits of a cell take, all views of the training clips included."""
    views, counts = load_dataset(cell.dataset).views, profile.clips_of(cell.dataset)
    places = [(split, count, view) for split, count in counts.items() for view in range(views(split))]
    folders = [store_folder(cell.encoder, cell.dataset, *place) for place in places]
    return sum(path.stat().st_size for folder in folders for path in folder.glob("shard-*.safetensors"))


def memory_share() -> int:
    """Return the bytes that this process may fill with embeddings: ``UNMUTE_MEMORY`` (GB), or its share of a half."""
    if asked := os.environ.get("UNMUTE_MEMORY"):
        try:
            return int(float(asked) * 1e9)
        except ValueError as error:
            raise InputError(f"UNMUTE_MEMORY is '{asked}'; it must be a number of gigabytes, e.g. 4.") from error
    from distributed.system import memory_limit  # of the machine, or of the container or job that this is in

    return memory_limit() // (2 * core_count())


# ---- the runs of a cell ------------------------------------------------------------------------------------


def trained_bytes(
    profile: "Profile", head: str, dim: int, classes: int, grid: tuple[int, int], prototypes: int, **options: object
) -> int:
    """Return what the most runs that a cell trains together take: weights, their gradients, AdamW's two moments.

    Parameters
    ----------
    profile : Profile
        Its trials, candidates and seeds.
    head, dim, classes, grid, prototypes, **options
        As for `lib.heads.build_head`.
    """
    runs = max(-(-profile.trials // 2), profile.top_k * len(profile.seeds))  # Sobol's batch; the candidates' seeds
    return 4 * 4 * runs * _parameters(head, dim, classes, grid, prototypes, tuple(sorted(options.items())))


@functools.cache
def _parameters(head: str, dim: int, classes: int, grid: tuple[int, int], prototypes: int, options: tuple) -> int:
    with torch.device("meta"):  # shapes without numbers
        built = build_head(head, dim, classes, grid, prototypes, **dict(options))
    return sum(parameter.numel() for parameter in built.parameters())


def check_room(name: str, need: int, asked: str) -> None:
    """Raise InputError if what the runs of a cell take (`trained_bytes`) is more than this process may have."""
    if need <= AMPLE:
        return
    if asked == "cuda":
        room = torch.cuda.get_device_properties(device(asked)).total_memory
        where, cure = "the GPU has", "take one with more memory, or the processor with a larger UNMUTE_MEMORY"
    else:
        room, enough = memory_share(), math.ceil(need / 1e9)
        where, cure = "a process may take", f"where there is as much for each process, set UNMUTE_MEMORY={enough}"
    if need > room:
        raise InputError(
            f"The cell '{name}' needs {need / 1e9:.1f} GB for the runs that it trains together, and {where} "
            f"{room / 1e9:.1f} GB here; {cure}, or leave it out with ENCODERS=, DATASETS= and HEADS=."
        )


# ---- a GPU -------------------------------------------------------------------------------------------------


class Labels(Tensor):
    """Labels on a GPU, whose ``numpy()`` fetches them: the search judges its scores on the processor."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    def numpy(self) -> object:
        """Return them as an array."""
        return self.as_subclass(Tensor).cpu().numpy()


def asked_device() -> str:
    """Return where cells are trained: "cpu", or "cuda", which ``UNMUTE_DEVICE`` asks for."""
    asked = os.environ.get("UNMUTE_DEVICE") or "cpu"
    if asked not in ("cpu", "cuda"):
        raise InputError(f"UNMUTE_DEVICE is '{asked}'; it must be cpu or cuda.")
    return asked


def device(asked: str) -> torch.device:
    """Return a device of this machine; one that it lacks is an `InputError`."""
    if asked == "cuda" and not torch.cuda.is_available():
        raise InputError("UNMUTE_DEVICE is 'cuda', but PyTorch finds no GPU here; leave it out, or join one that has.")
    return torch.device(asked)


def on_device(data: Embeddings, where: torch.device, resident: bool) -> Embeddings:
    """Return embeddings for a device: tokens moved there once (`resident`), or batch by batch."""
    if resident:
        tokens = torch.empty(data.tokens.shape, dtype=data.tokens.dtype, device=where)
        for start, part in zip(range(0, len(data), CHUNK), data.tokens.split(CHUNK), strict=True):
            tokens[start : start + CHUNK] = part
    else:
        tokens = Streamed(data.tokens.shape, lambda index: data.tokens.index_select(0, index), where)
    return Embeddings(tokens, data.cls.to(where), data.targets.to(where).as_subclass(Labels), data.grid)
