"""SPASS (Viveros-Muñoz et al., 2023): five scenes of 5,000 mixtures; names and columns as in SSLAM's lists.

The official parts are the scenes. A table has one row an event, of which file name and class are read. The paper's 28
classes are not known; the 33 labels of the tables are the classes, unless ``classes.json`` in the folder of the copy
maps each to another one.
"""

import json
from pathlib import Path

from lib.data.official import Record
from lib.data.official.layout import audio_files, file_record, read_table, top_of
from lib.errors import InputError

SCENES = ("Market", "Park", "Square", "Street", "Waterfront")
AUDIO_FOLDERS = ("{scene}", "{scene} audio files", "{scene}_audio_files")
MAPPING = "classes.json"


def read(folder: Path, manifest: dict) -> dict[str, list[Record]]:
    """Return the five scenes; see `lib.data.official.read_official`."""
    top = top_of(folder, [_pattern(SCENES[0]), f"*/{_pattern(SCENES[0])}"], manifest["label"])
    mapping = _mapping(folder, manifest)
    return {scene: _read_scene(top, scene, mapping) for scene in SCENES}


def classes(folder: Path, manifest: dict) -> list[str]:
    """Return the classes in alphabetical order: the labels of the tables, or what the user's mapping makes of them."""
    return sorted(set(_mapping(folder, manifest).values()))


def _read_scene(top: Path, scene: str, mapping: dict[str, str]) -> list[Record]:
    tables = [*top.glob(_pattern(scene)), *top.glob(f"*/{_pattern(scene)}")]
    if not tables:
        raise InputError(f"The labels '{_pattern(scene)}' are not in '{top}'; complete the copy.")
    folders = [top / name.format(scene=scene) for name in AUDIO_FOLDERS]
    audio = next((path for path in folders if path.is_dir()), folders[0])
    files, table = audio_files(audio), read_table(tables[0], ("audio_filename", "class"))
    labels: dict[str, dict[str, None]] = {}
    for name, label in zip(table["audio_filename"], table["class"], strict=True):
        labels.setdefault(name, {})[mapping.get(label, label)] = None
    return [file_record(name, files, audio, tuple(labels[name]), name) for name in sorted(labels)]


def _pattern(scene: str) -> str:
    return f"*_MatrixLabels{scene}.csv"  # 1_MatrixLabelsMarket.csv to 5_MatrixLabelsWaterfront.csv


def _mapping(folder: Path, manifest: dict) -> dict[str, str]:
    """Return raw label → class; a raw label that the user's file leaves out is its own class."""
    raw, path = manifest["labels"]["raw_classes"], folder / MAPPING
    if not path.is_file():
        return {label: label for label in raw}
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"'{path}' cannot be read as JSON ({error}); mend it or remove it.") from error
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise InputError(f'\'{path}\' must map each raw label to one class, as in {{"car_idling": "car"}}; mend it.')
    strange = sorted(set(given) - set(raw))
    if strange:
        raise InputError(f"'{path}' maps '{strange[0]}', which is no label of SPASS; they are: {', '.join(raw)}.")
    return {label: given.get(label, label) for label in raw}
