"""DESED-FL (Johnson et al., 2021) in the layout of DESED: ``metadata/<split>….tsv`` and ``audio/<split>/``.

Its own page, folders and columns could not be found; the loader takes what DESED's tools write, one row an event with
``filename onset offset event_label``, and for each of "train" and "test" either one table or a folder of tables. Labels
are compared without regard to capitals, since DESED writes "Alarm_bell_ringing". A row without a label says that the
clip has no event.
"""

from dataclasses import replace
from pathlib import Path

from lib.data.mixer import Event
from lib.data.official import Record
from lib.data.official.layout import Found, audio_files, file_record, number, read_table, strong_event, top_of
from lib.errors import InputError

SPLITS = ("train", "test")
COLUMNS = ("filename", "onset", "offset", "event_label")


def read(folder: Path, manifest: dict) -> dict[str, list[Record]]:
    """Return the splits "train" and "test"; see `lib.data.official.read_official`."""
    top = top_of(folder, ["metadata"], manifest["label"])
    return {split: _read_split(top, split) for split in SPLITS}


def _read_split(top: Path, split: str) -> list[Record]:
    tables = sorted([*top.glob(f"metadata/{split}*.tsv"), *top.glob(f"metadata/{split}*/**/*.tsv")])
    if not tables:
        raise InputError(f"There is no table 'metadata/{split}….tsv' in '{top}'; complete the copy.")
    events: dict[str, list[Event]] = {}
    for path in tables:
        for row in read_table(path, COLUMNS, separator="\t").itertuples():
            happens = events.setdefault(row.filename, [])
            if row.event_label:
                onset, offset = (number(text, path, "a time in seconds") for text in (row.onset, row.offset))
                happens.append(strong_event(row.event_label.lower(), onset, offset))
    audio, files = top / "audio" / split, _files_below(top / "audio" / split)
    clips = []
    for name in sorted(events):
        happens = tuple(sorted(events[name], key=lambda event: event.onset))
        labels = tuple(dict.fromkeys(event.label for event in happens))
        clip = file_record(name, files, audio, labels, f"{split}/{name}", events=happens)
        clips.append(replace(clip, id=f"{split}/{name}"))  # the same names may stand in both splits
    return clips


def _files_below(folder: Path) -> dict[str, Found]:
    """Return the audio files of a folder and of those inside it; DESED puts its parts into folders of their own."""
    inside = [path for path in sorted(folder.rglob("*")) if path.is_dir()] if folder.is_dir() else []
    files: dict[str, Found] = {}
    for path in (folder, *inside):
        files |= audio_files(path)
    return files
