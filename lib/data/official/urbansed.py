"""URBAN-SED v2.0.0 (Salamon et al., 2017), as Zenodo's archive unpacks (1324404): 10,000 mixtures, strong labels.

Every mixture has a JAMS file and a text of tabs (onset, offset, class). The JAMS file tells more: how loud each event
is, and which clip of UrbanSound8K it was, whose first number is the recording on Freesound, the unit of the bootstrap.
So it is read where it is there, and the text where it is not. Ten thousand JAMS files are long to read; what they say
is kept in scratch, and read again when a file is another.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

from lib.data.official import Record
from lib.data.official.layout import audio_files, file_record, number, read_table, strong_event, top_of
from lib.errors import InputError
from lib.files import digest, write_json
from lib.paths import scratch

SPLITS = ("train", "validate", "test")


def read(folder: Path, manifest: dict) -> dict[str, list[Record]]:
    """Return the splits "train", "validate" and "test"; see `lib.data.official.read_official`."""
    top = top_of(folder, ["annotations/train"], manifest["label"])
    return {split: _read_split(top / "annotations" / split, top / "audio" / split) for split in SPLITS}


def _read_split(annotations: Path, audio: Path) -> list[Record]:
    if not annotations.is_dir():
        raise InputError(f"The annotations '{annotations}' are not there; complete the copy.")
    with os.scandir(annotations) as entries:
        listed = sorted((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in entries)
    names = {name for name, _, _ in listed}
    jams = {name.removesuffix(".jams") for name in names if name.endswith(".jams")}
    texts = {name.removesuffix(".txt") for name in names if name.endswith(".txt")} - jams
    told = _kept(
        scratch() / "official" / f"urban-{digest([str(annotations), listed])}.json",
        lambda: {name: read_jams(annotations / f"{name}.jams") for name in sorted(jams)},
    )
    told |= {name: read_text(annotations / f"{name}.txt") for name in sorted(texts)}
    files, clips = audio_files(audio), []
    for name in sorted({*told, *files}):
        events = tuple(strong_event(*values) for values in sorted(told.get(name, ()), key=lambda values: values[1]))
        labels = tuple(dict.fromkeys(event.label for event in events))
        if name not in told:
            raise InputError(f"'{files[name].path}' has no annotations in '{annotations}'; complete the copy.")
        clips.append(file_record(name, files, audio, labels, name, events=events))
    return clips


def read_jams(path: Path) -> list[tuple]:
    """Return the foreground events of a JAMS file as (label, onset, offset, source, level in dB), in its order.

    Raises
    ------
    InputError
        If it is no JAMS file of Scaper.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        events = []
        for observation in content["annotations"][0]["data"]:
            value, onset = observation["value"], float(observation["time"])
            if value["role"] == "foreground":
                source = Path(value["source_file"]).name.split("-")[0]
                level = float(value["snr"])
                events.append((value["label"], onset, onset + float(observation["duration"]), source, level))
        return events
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"'{path}' cannot be read as a JAMS file of Scaper ({error!r}); fetch it again.") from error


def read_text(path: Path) -> list[tuple]:
    """Return the events of a text of tabs as `read_jams` does, without sources and levels."""
    table = read_table(path, ("onset", "offset", "label"), separator="\t", named=False)
    times = [[number(text, path, "a time in seconds") for text in table[name]] for name in ("onset", "offset")]
    return [(label, onset, offset) for onset, offset, label in zip(*times, table["label"], strict=True)]


def _kept(path: Path, read_all: Callable[[], dict]) -> dict:
    """Return what was kept in `path`, or read all and keep it; a damaged file is read anew."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = read_all()
        if content:
            write_json(path, content)
        return content
