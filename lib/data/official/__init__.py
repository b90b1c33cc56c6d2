"""The paper's datasets as their owners publish them: one loader a family, each a function ``read(folder, manifest)``.

A loader reads the layout that a download or a hub snapshot unpacks to, with its own file and column names, and returns
the official splits: split → list of `Record`. It touches no audio. A clip that the lists name and whose audio is not
there is returned all the same, marked `missing`, so that it can be counted and named.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path

from lib.data.mixer import Event
from lib.errors import InputError, unknown_name

BIRDSET = ("hsn", "pow", "per", "nes", "sne", "uhh", "nbp")
LOADERS = {
    "as20k": "lib.data.official.audioset",
    "fsd50k": "lib.data.official.fsd50k",
    "desed": "lib.data.official.desed",
    "spass": "lib.data.official.spass",
    "urban": "lib.data.official.urbansed",
    "esc50": "lib.data.official.esc50",
    "sc2": "lib.data.official.speech_commands",
    **dict.fromkeys(BIRDSET, "lib.data.official.birdset"),
}


@dataclass(frozen=True, slots=True)
class Record:
    """One clip of an official copy: what it is called, where its audio lies, what is said of it.

    Attributes
    ----------
    id : str
        Unique in its set, and the same in every copy of it.
    path : Path
        The audio file, or the tar or Parquet file that holds it.
    labels : tuple of str
        Class names as the manifest spells them, each once; empty where the clip has none.
    source : str
        The original recording, which clips may share: the unit of the bootstrap, kept whole when a split is drawn.
    events : tuple of Event or None
        What happens when, in order of onset, where the set says so; None where it knows only the labels.
    start, seconds : float, float or None
        The piece of the file that is the clip; None for all from `start` on.
    offset, row : int or None
        Where in `path` the file's bytes begin (tar, `size` of them), or its row in column "audio" (Parquet).
    size : int
        Bytes of the audio file, or of the whole Parquet file that holds it in a row, where only that is known without
        reading; it tells one copy from another.
    missing : bool
        Whether the audio is not there.
    """

    id: str
    path: Path
    labels: tuple[str, ...]
    source: str
    events: tuple[Event, ...] | None = None
    start: float = 0.0
    seconds: float | None = None
    offset: int | None = None
    row: int | None = None
    size: int = 0
    missing: bool = False


def read_official(name: str, folder: Path, manifest: dict) -> dict[str, list[Record]]:
    """Return the official splits of a copy of a dataset, read by its family's loader.

    Raises
    ------
    InputError
        If the set is unknown, its folder is not there, or what the loader finds in it cannot be read.
    """
    if name not in LOADERS:
        raise unknown_name("dataset of the paper", name, tuple(LOADERS))
    if not folder.is_dir():
        raise InputError(
            f"There is no copy of {manifest['label']} at '{folder}'; put the official files there, or set UNMUTE_DATA "
            f"to the folder that holds '{folder.name}'."
        )
    return importlib.import_module(LOADERS[name]).read(folder, manifest)
