"""Files out of .tar.gz archives, which know no random access: each archive is read through once, what is wanted kept.

What is kept of an archive goes, one file after the other, into one *pack* beside an index of where each begins: a few
large files instead of ten thousand small ones, and any of them is read by one seek. An archive counts as read only when
its end and checksum were reached; a run that is interrupted goes on with the archive where it was. Files are found by
their last name alone: that is how BirdSet's metadata name them, and no path in an archive is ever followed.
"""

import gzip
import json
import shutil
import tarfile
import zlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from lib.errors import InputError
from lib.files import atomic, sweep_temporaries, write_json

CHUNK = 2**20  # bytes read at once


class Place(NamedTuple):
    """Where a file lies: the pack, the byte at which it begins, its bytes."""

    path: Path
    offset: int
    size: int


def unpack(
    archives: Sequence[Path], wanted: Collection[str], folder: Path, say: Callable[[str], None] = print
) -> dict[str, Place]:
    """Return name → place of every wanted file that one of the archives holds.

    Parameters
    ----------
    archives : sequence of Path
        Read one after the other, and no further than to the last that is needed.
    wanted : collection of str
        Last names of members.
    folder : Path
        Gets a pack and an index for each archive; what is there and valid is used.
    say : callable
        Told, once for each archive that is read through.

    Raises
    ------
    InputError
        If an archive is damaged, or the folder cannot be written.
    """
    wanted, places = set(wanted), {}
    if folder.is_dir():
        sweep_temporaries(folder)
    for archive in archives:
        if places.keys() >= wanted:
            break
        index = _read_index(archive, folder)
        if not index or wanted & set(index["members"]) - index["packed"].keys():
            say(f"{archive.name}: unpacking what is needed of it into '{folder}', once")
            index = _read_through(archive, wanted | (index["packed"].keys() if index else set()), folder)
        pack = _pack_of(archive, folder)
        places |= {name: Place(pack, *index["packed"][name]) for name in index["packed"].keys() & wanted}
    return places


def _read_index(archive: Path, folder: Path) -> dict:
    """Return what is known of an archive, if that, its pack and the archive itself are as they were; else nothing."""
    try:
        index = json.loads(_index_of(archive, folder).read_text(encoding="utf-8"))
        same = index["archive"] == _state(archive) and index["pack"] == _pack_of(archive, folder).stat().st_size
        return index if same and {"members", "packed"} <= index.keys() else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _read_through(archive: Path, wanted: set[str], folder: Path) -> dict:
    """Pack the wanted members of an archive, write down what it holds, and return that."""
    pack = _pack_of(archive, folder)
    _index_of(archive, folder).unlink(missing_ok=True)  # what it says of the pack is about to become wrong
    with atomic(pack) as temporary, temporary.open("wb") as file:
        try:
            members, packed = _copy_members(archive, wanted, file)
        except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile) as error:
            raise InputError(
                f"The archive '{archive}' is damaged ({error}); delete it and fetch it again: what the archives before "
                "it held is kept."
            ) from error
        size = file.tell()
    index = {"archive": _state(archive), "pack": size, "members": members, "packed": packed}
    write_json(_index_of(archive, folder), index)
    return index


def _copy_members(archive: Path, wanted: set[str], file: BinaryIO) -> tuple[list[str], dict[str, tuple[int, int]]]:
    """Append the wanted members to an open file; return the names of all, and name → (offset, size) of those."""
    members, packed = [], {}
    with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r|", bufsize=CHUNK) as archived:
        for member in archived:
            name = PurePosixPath(member.name).name
            if not member.isfile() or name.startswith("."):
                continue
            members.append(name)
            if name in wanted:
                packed[name] = (file.tell(), member.size)
                shutil.copyfileobj(archived.extractfile(member), file, CHUNK)
        while stream.read(CHUNK):  # to the end of the archive, where its checksum is
            pass
    return members, packed


def _state(archive: Path) -> list[int]:
    return [archive.stat().st_size, archive.stat().st_mtime_ns]


def _pack_of(archive: Path, folder: Path) -> Path:
    return folder / f"{archive.name.removesuffix('.tar.gz')}.pack"


def _index_of(archive: Path, folder: Path) -> Path:
    return folder / f"{archive.name.removesuffix('.tar.gz')}.json"
