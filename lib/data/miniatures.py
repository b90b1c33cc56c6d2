"""Miniatures of the paper's datasets: a dozen clips in the official layout, with sounds that fit their labels.

For tests, and for the dress rehearsal of the whole paper profile: file and column names are the owners', the classes
those of the manifest, the audio is synthetic. A miniature says what it is in ``miniature.json``: its own counts, by
which it is checked as a real copy is by the manifest's; and its title ends in "(miniature)".
"""

import importlib
from dataclasses import dataclass
from pathlib import Path

from lib.data.copies import MINIATURE
from lib.data.official import BIRDSET
from lib.data.paper_manifests import read_manifest
from lib.errors import unknown_name
from lib.files import write_json

BIRDS = dict.fromkeys(BIRDSET, "lib.data.miniature_birdset")
WRITERS = {  # set → module with ``write(name, folder, manifest, wanted)``, which returns its sizes and changes
    "as20k": "lib.data.miniature_hubs",
    "fsd50k": "lib.data.miniature_files",
    "desed": "lib.data.miniature_files",
    "spass": "lib.data.miniature_files",
    "urban": "lib.data.miniature_files",
    "esc50": "lib.data.miniature_files",
    "sc2": "lib.data.miniature_hubs",
    **BIRDS,
}


@dataclass(frozen=True)
class Wanted:
    """What a miniature is to hold.

    Attributes
    ----------
    clips : int
        Clips of each official split, about; some layouts need a multiple.
    classes : int
        How many of the manifest's classes have positives.
    seed : int
        Of sounds and labels.
    seconds : float or None
        Length of the files; None for the manifest's.
    variant : str
        Another official layout of the same set, where it has several: "tar" or "folders" of as20k, "hub" of fsd50k,
        esc50 and sc2, "jams" or "txt" alone of urban.
    """

    clips: int = 12
    classes: int = 4
    seed: int = 0
    seconds: float | None = None
    variant: str = ""


def write_miniature(name: str, folder: Path, wanted: Wanted = Wanted()) -> Path:
    """Write a miniature of one of the fourteen datasets in its official layout.

    Parameters
    ----------
    name : str
        Id of the set.
    folder : Path
        What stands for the folder of the audio; the copy is written to ``<folder>/<name>``.
    wanted : Wanted
        How much of it.

    Returns
    -------
    Path
        The folder of the copy.

    Raises
    ------
    InputError
        If the name is unknown, or the folder cannot be written.
    """
    if name not in WRITERS:
        raise unknown_name("dataset of the paper", name, tuple(WRITERS))
    module = importlib.import_module(WRITERS[name])
    said = module.write(name, folder / name, read_manifest(name), wanted)
    write_json(folder / name / MINIATURE, {"name": name, "seed": wanted.seed, **said})
    return folder / name
