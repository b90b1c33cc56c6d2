"""AudioSet's balanced training set and evaluation set, as the mirror agkphysics/AudioSet has them.

The mirror has changed its files. Today it is Parquet, ``data/bal_train/00.parquet`` and so on, with labels; before, it
was ``data/bal_train00.tar`` and so on beside the official lists of segments, ``balanced_train_segments.csv`` and
``eval_segments.csv``. All are read where they lie, unpacked or not. A clip is named by its video, which is its source.

No copy of AudioSet is whole, since the videos vanish. A copy with as many clips as the manifest counts is taken for
the mirror's; of one with fewer the lists, where they are there, tell which are missing.
"""

import tarfile
from pathlib import Path

from lib.data.official import Record
from lib.data.official.layout import audio_files, parquet_files, read_parquet, top_of
from lib.errors import InputError

SPLITS = {"bal_train": "train", "eval": "test"}
LISTS = {"bal_train": "balanced_train_segments.csv", "eval": "eval_segments.csv"}
COLUMNS = ("video_id", "labels")
LANDMARKS = ["data/bal_train/*.parquet", "data/bal_train*", "bal_train*.tar", "audio/bal_train", "data/audio/bal_train"]


def read(folder: Path, manifest: dict) -> dict[str, list[Record]]:
    """Return the splits "bal_train" and "eval"; see `lib.data.official.read_official`."""
    top = top_of(folder, LANDMARKS, manifest["label"])
    names = dict(zip(manifest["class_ids"], manifest["classes"], strict=True))
    return {split: _read_split(top, split, names, manifest["sizes"][part]) for split, part in SPLITS.items()}


def _read_split(top: Path, split: str, names: dict[str, str], expected: int) -> list[Record]:
    parquet = parquet_files(top, f"data/{split}/*.parquet") or parquet_files(top, f"data/{split}*.parquet")
    if parquet:
        return [clip for path in parquet for clip in _read_parquet(path, names)]
    labels = _read_list(top, split, names)
    clips = _in_tars(top, split) or _in_folders(top, split)
    strange = sorted(set(clips) - set(labels))
    if strange:
        raise InputError(f"The clip '{strange[0]}' of '{split}' is not in '{LISTS[split]}'; fetch that list again.")
    found = [Record(name, labels=labels[name], source=name, **where) for name, where in clips.items()]
    if len(found) < expected:
        absent = (name for name in labels if name not in clips)
        found += [Record(name, top, labels[name], name, missing=True) for name in absent]
    return found


def _read_parquet(path: Path, names: dict[str, str]) -> list[Record]:
    table, _ = read_parquet(path, COLUMNS)
    size = path.stat().st_size
    return [
        Record(name, path, _labels(ids, names), name, row=row, size=size)
        for row, (name, ids) in enumerate(zip(table["video_id"], table["labels"], strict=True))
    ]


def _read_list(top: Path, split: str, names: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """Return video → labels of an official list of segments: three lines of comment, quoted labels, spaces."""
    path = next((at / LISTS[split] for at in (top, top / "data") if (at / LISTS[split]).is_file()), top / LISTS[split])
    if not path.is_file():
        raise InputError(f"The list '{LISTS[split]}' of AudioSet is not in '{top}'; put it there.")
    labels = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            video, _, rest = line.partition(",")
            _, quote, ids = rest.partition('"')
            if not quote:
                raise InputError(f"'{path}' has the line '{line[:60]}' without labels in quotes; fetch it again.")
            labels[video.strip()] = _labels(ids.rstrip().rstrip('"').split(","), names)
    return labels


def _labels(ids: list[str], names: dict[str, str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names.get(label.strip(), label.strip()) for label in ids))


def _in_tars(top: Path, split: str) -> dict[str, dict]:
    """Return video → where its bytes lie in one of the split's tar files; only their headers are read."""
    found: dict[str, dict] = {}
    for path in sorted([*top.glob(f"{split}*.tar"), *top.glob(f"data/{split}*.tar")]):
        try:
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    if member.isfile():
                        name = Path(member.name).stem
                        found[name] = {"path": path, "offset": member.offset_data, "size": member.size}
        except (OSError, tarfile.TarError) as error:
            raise InputError(f"The archive '{path}' is damaged ({error}); fetch it again.") from error
    return found


def _in_folders(top: Path, split: str) -> dict[str, dict]:
    """Return video → its file, where the tar files are unpacked."""
    files = audio_files(top / "audio" / split) or audio_files(top / "data" / "audio" / split)
    return {name: {"path": found.path, "size": found.size} for name, found in files.items()}
