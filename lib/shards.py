"""A folder of shards: tensors by clip, written once, checked whenever they are read, resumable.

Each safetensors shard has a small file ``sum-….json`` of its checksum and what it depends on, and, once all are there,
the folder has ``index.json``. Whoever finds a valid shard keeps it, and nobody takes back what another has finished:
runs that fill one folder at the same time do no harm, and do some work twice.
"""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lib.errors import InputError
from lib.files import digest, sha256, sweep_temporaries, write_json, write_tensors
from lib.workers import core_count

SHARD_CLIPS = 32


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:05d}.safetensors"


def shards_of(count: int) -> range:
    """Return the numbers of the shards of `count` clips."""
    return range(-(-count // SHARD_CLIPS))


def clips_of(number: int, count: int) -> range:
    """Return the clips of a shard, of `count` in all."""
    return range(number * SHARD_CLIPS, min((number + 1) * SHARD_CLIPS, count))


def open_folder(folder: Path, depends: dict, hashed: bool = True) -> tuple[dict, str]:
    """Return the index with its valid shards only, and why anything has to be computed ('' if nothing).

    Parameters
    ----------
    folder : Path
        Where it lies.
    depends : dict
        What its shards have to depend on.
    hashed : bool
        Whether each shard is held against its checksum, or, for an estimate, its size alone against its own header.
    """
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
    with ThreadPoolExecutor(core_count()) as pool:  # reading and hashing leave the interpreter to other threads
        sound = pool.map(lambda name: (_intact if hashed else _whole)(folder / name, shards[name]["sha256"]), shards)
        damaged = [name for name, is_sound in zip(shards, sound, strict=True) if not is_sound]
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


def _whole(path: Path, _checksum: str) -> bool:
    """Return whether a shard has the size that its header speaks of; a flipped bit is not seen."""
    try:
        with path.open("rb") as file:  # 8 bytes: how long the header is; the header; the tensors one after the other
            length = int.from_bytes(file.read(8), "little")
            size = path.stat().st_size
            header = json.loads(file.read(min(length, size)))
        return size == 8 + length + max(one["data_offsets"][1] for name, one in header.items() if name[:2] != "__")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def write_shard(folder: Path, number: int, tensors: dict[str, Tensor], on: str) -> dict:
    """Write a shard and its sum; return its entry for the index.

    Parameters
    ----------
    folder, number, tensors
        Where, which, and what, clip by clip.
    on : str
        The digest of what the folder's shards depend on.
    """
    path = folder / shard_name(number)
    write_tensors(path, tensors)
    entry = {"clips": len(next(iter(tensors.values()))), "sha256": sha256(path)}
    write_json(folder / f"sum-{number:05d}.json", {**entry, "depends": on})
    return entry


def close_folder(folder: Path, index: dict, **facts: Any) -> None:
    """Write the index of a folder whose shards are all there, with facts about them."""
    index.update(complete=True, **facts, shards=dict(sorted(index["shards"].items())))
    write_json(folder / "index.json", index)


def read_index(folder: Path, what: str, notebook: str) -> dict:
    """Return the index of a complete folder.

    Parameters
    ----------
    folder : Path
        Where it lies.
    what, notebook : str
        For the error: what it holds, in the plural, and which notebook fills it.

    Raises
    ------
    InputError
        If the folder is not complete.
    """
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        index = {"complete": False}
    if not index["complete"]:
        raise InputError(f"{what} are not complete; run {notebook}: it continues where it stopped.")
    return index


def read_shard(path: Path, checksum: str, notebook: str, read: Callable[[Path], Any] = load_file) -> Any:
    """Return what `read` makes of a shard, all its tensors if nothing else is said.

    Raises
    ------
    InputError
        If it is missing or not what its checksum says; `notebook` names who computes it again.
    """
    if not _intact(path, checksum):
        raise InputError(
            f"The shard '{path.name}' in '{path.parent}' is missing, truncated or damaged; run {notebook}, it computes "
            "this shard again and keeps the others."
        )
    try:
        return read(path)
    except SafetensorError as error:
        raise InputError(
            f"The shard '{path}' is no safetensors file ({error}); delete it and run {notebook}."
        ) from error
