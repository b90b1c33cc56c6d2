"""Lists of labelled audio files as users of EAT and SSLAM have them (the form of wav2vec): read, written, made clips.

Three files in a folder:

- ``<split>.tsv``: the first line is the folder of the audio; then a line a file, its path from there and its number of
  samples, between them a tab.
- ``<split>.lbl``: a line a file, in the same order: its name or path, with or without the ending, a tab, its labels
  between commas. A third column, where there is one, holds the numbers of the labels.
- ``label_descriptors.csv``: a line a class: its number, its label as the ``.lbl`` writes it, and its name, in quotes
  where it holds a comma; the name may be left out.

The published lists of SSLAM (as20k, spass) hold the sample rate where the number of samples belongs; `read_list` drops
such numbers when it is told how long a clip is.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import soundfile

from lib.data.official import Record
from lib.errors import InputError, unknown_name
from lib.files import write_text

DESCRIPTORS = "label_descriptors.csv"
RATES = (8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)


@dataclass(frozen=True)
class Entry:
    """A file of a list: its path from the root, its number of samples (None where unknown), its labels."""

    file: str
    samples: int | None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class AudioList:
    """A list of labelled files.

    Parameters
    ----------
    root : str
        The folder that the paths start from, as the list has it.
    entries : tuple of Entry
        In the order of the list.
    labels : tuple of str
        The label of each class as the ``.lbl`` writes it, in the order of their numbers.
    names : tuple of str
        What each class is called; the labels themselves where no names are given.
    """

    root: str
    entries: tuple[Entry, ...]
    labels: tuple[str, ...]
    names: tuple[str, ...]


def read_list(folder: Path, split: str, seconds: float | None = None) -> AudioList:
    """Read ``<split>.tsv``, ``<split>.lbl`` and ``label_descriptors.csv``.

    Parameters
    ----------
    folder : Path
        Where they lie.
    split : str
        As in the names of the files: "train", "eval", …
    seconds : float, optional
        Length of a clip. With it, numbers of samples that are all the same sample rate, and so would make every clip
        one second long, are taken for what they are: unknown.

    Raises
    ------
    InputError
        If a file is missing or a line is not of the form; the message has the number of the line.
    """
    labels, names = _read_descriptors(folder / DESCRIPTORS)
    root, files = _read_files(folder / f"{split}.tsv")
    counts = {samples for _, samples in files}
    if seconds and seconds != 1 and len(counts) == 1 and counts <= set(RATES):
        print(f"'{split}.tsv' has {counts.pop()} samples for every file, which is a sample rate: taken as unknown")
        files = [(file, None) for file, _ in files]
    said = _read_labels(folder / f"{split}.lbl", [file for file, _ in files], labels)
    entries = tuple(Entry(file, samples, own) for (file, samples), own in zip(files, said, strict=True))
    return AudioList(root, entries, labels, names)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each line and where it is, for messages."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(
            f"There is no '{path.name}' in '{path.parent}'; put it there, or name another split."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"'{path}' cannot be read as text ({error}); export it again.") from error
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), 1):
        yield line.removesuffix("\r"), f"Line {number} of '{path}'"


def _read_files(path: Path) -> tuple[str, list[tuple[str, int]]]:
    lines, files, places = _lines(path), [], {}
    root, where = next(lines, ("", f"Line 1 of '{path}'"))
    if not root.strip() or "\t" in root:
        raise InputError(f"{where} is not the folder of the audio; put it there, the files come after it.")
    for line, where in lines:
        file, _, samples = line.partition("\t")
        if not samples.isdecimal() or int(samples) == 0:
            raise InputError(f"{where} is not a path, a tab and a number of samples: '{line}'; correct it.")
        if not file or PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
            raise InputError(
                f"{where} has the path '{file}', which does not start from the folder of line 1; correct it."
            )
        if file in places:
            raise InputError(f"{where} names '{file}' again, after {places[file]}; take one of them out.")
        places[file] = where.split(" of ")[0].lower()
        files.append((file, int(samples)))
    return root, files


def _read_labels(path: Path, files: Sequence[str], known: Sequence[str]) -> list[tuple[str, ...]]:
    numbers, found = {label: number for number, label in enumerate(known)}, []
    for line, where in _lines(path):
        if len(found) == len(files):
            raise InputError(f"{where} is one too many: the .tsv has {len(files)} files; export both again.")
        name, _, rest = line.partition("\t")
        labels, _, places = rest.partition("\t")
        if name not in _spellings(files[len(found)]):
            raise InputError(f"{where} is of '{name}' where the .tsv has '{files[len(found)]}'; the order must be one.")
        own = tuple(label for label in labels.split(",") if label)
        for label in own:
            if label not in numbers:
                raise InputError(f"{where} has the label '{label}', which is not in {DESCRIPTORS}; add it there.")
        if len(set(own)) < len(own):
            raise InputError(f"{where} has a label twice: '{labels}'; correct it.")
        if places and places != ",".join(str(numbers[label]) for label in own):
            raise InputError(f"{where} numbers its labels {places}, which is not what {DESCRIPTORS} says; correct one.")
        found.append(own)
    if len(found) < len(files):
        raise InputError(f"'{path}' has {len(found)} lines for the {len(files)} files of the .tsv; export both again.")
    return found


def _spellings(file: str) -> set[str]:
    """Return how a ``.lbl`` may call a file: by path or by name, with the ending or without."""
    path = PurePosixPath(file)
    return {file, str(path.with_suffix("")), path.name, path.stem}


def _read_descriptors(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    rows: dict[int, tuple[str, str]] = {}
    for line, where in _lines(path):
        cells = next(csv.reader([line]), [])
        if not cells or (not rows and cells[0] == "index"):  # an empty line, or AudioSet's header
            continue
        if len(cells) < 2 or not cells[0].isdecimal() or not cells[1]:
            raise InputError(f"{where} is not a number, a comma and a label: '{line}'; correct it.")
        if int(cells[0]) in rows or cells[1] in {label for label, _ in rows.values()}:
            raise InputError(f"{where} has a number or a label a second time: '{line}'; correct it.")
        rows[int(cells[0])] = cells[1], ",".join(cells[2:]) or cells[1]
    missing = sorted(set(range(len(rows))) - set(rows))
    if missing or not rows:
        raise InputError(
            f"'{path}' has no class {missing[0] if missing else 0}; number the classes from 0 without a gap."
        )
    labels, names = zip(*(rows[number] for number in range(len(rows))), strict=True)
    return labels, names


def write_list(folder: Path, split: str, audio: AudioList, ids: str = "path") -> None:
    """Write ``<split>.tsv``, ``<split>.lbl`` and ``label_descriptors.csv``; `read_list` returns the same again.

    Parameters
    ----------
    folder : Path
        Made where it is not there. All splits in it share their classes.
    split : str
        For the names of the files.
    audio : AudioList
        What to write; every number of samples must be known (`count_samples`).
    ids : {"path", "name"}
        How the ``.lbl`` calls a file: by its path (as the lists of spass) or its name (as20k), without the ending.

    Raises
    ------
    InputError
        If something cannot be written so that it is read the same, or `folder` holds the lists of other classes.
    """
    if ids not in ("path", "name"):
        raise unknown_name("way to call a file", ids, ("path", "name"))
    described = io.StringIO()
    csv.writer(described, lineterminator="\n").writerows(
        (number, label, name) for number, (label, name) in enumerate(zip(audio.labels, audio.names, strict=True))
    )
    _check_writable(audio)
    there = folder / DESCRIPTORS
    if there.is_file() and _read_descriptors(there) != (audio.labels, audio.names):
        raise InputError(f"'{there}' has other classes than '{split}'; write into another folder.")
    called = [PurePosixPath(entry.file).with_suffix("") for entry in audio.entries]
    called = [str(path) if ids == "path" else path.name for path in called]
    rows = [f"{entry.file}\t{entry.samples}" for entry in audio.entries]
    said = [f"{name}\t{','.join(entry.labels)}" for name, entry in zip(called, audio.entries, strict=True)]
    write_text(folder / f"{split}.tsv", "".join(f"{line}\n" for line in (audio.root, *rows)))
    write_text(folder / f"{split}.lbl", "".join(f"{line}\n" for line in said))
    write_text(there, described.getvalue())


def _check_writable(audio: AudioList) -> None:
    if not audio.root.strip() or set(audio.root) & set("\t\r\n"):
        raise InputError(f"'{audio.root}' cannot be the first line of a list; name the folder of the audio.")
    for label in audio.labels:
        if not label or set(label) & set(",\t\r\n"):
            raise InputError(
                f"The label '{label}' cannot be written, since commas and tabs part labels; use ids instead."
            )
    for entry in audio.entries:
        if entry.samples is None:
            raise InputError(f"The number of samples of '{entry.file}' is not known; ask `count_samples` first.")
        if set(entry.file) & set("\t\r\n"):
            raise InputError(f"The path '{entry.file}' holds a tab or a line break; rename the file.")
        unknown = [label for label in entry.labels if label not in audio.labels]
        if unknown:
            raise unknown_name(f"label of '{entry.file}'", unknown[0], audio.labels)


def count_samples(audio: AudioList) -> AudioList:
    """Return the list with the number of samples of every file, read from the files' headers.

    Raises
    ------
    InputError
        If a file is not there or is no audio.
    """
    return replace(audio, entries=tuple(replace(e, samples=_samples(Path(audio.root) / e.file)) for e in audio.entries))


def _samples(path: Path) -> int:
    try:
        return soundfile.info(path).frames
    except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
        raise InputError(
            f"'{path}' is not there or is no audio ({error}); correct the list or its first line."
        ) from error


def from_records(records: Sequence[Record], manifest: dict, root: Path) -> AudioList:
    """Return a list of clips of an official copy, labels written as the manifest's `class_ids` or else its classes.

    Raises
    ------
    InputError
        If a clip is no audio file of its own below `root`: such lists have no other.
    """
    classes = _classes(manifest)
    ids = dict(zip(classes, manifest["class_ids"] or classes, strict=True))
    entries = []
    for record in records:
        whole = record.offset is None and record.row is None and record.start == 0 and record.seconds is None
        if not whole or record.missing or not record.path.is_relative_to(root):
            raise InputError(
                f"The clip '{record.id}' of {manifest['label']} is no file of its own below '{root}'; unpack it."
            )
        file = record.path.relative_to(root).as_posix()
        entries.append(Entry(file, _samples(record.path), tuple(ids[label] for label in record.labels)))
    return AudioList(str(root), tuple(entries), tuple(ids.values()), tuple(ids))


def to_records(audio: AudioList, manifest: dict) -> list[Record]:
    """Return the files of a list as clips of a dataset: their paths are their ids, each is a source of its own.

    A label may be one of the manifest's `class_ids`, one of its classes, or stand for a name that is one of them.

    Raises
    ------
    InputError
        If a label is none of these.
    """
    classes = _classes(manifest)
    ids = dict(zip(manifest["class_ids"] or (), classes, strict=False))
    names = {}
    for label, name in zip(audio.labels, audio.names, strict=True):
        known = next((found for found in (ids.get(label), label, name) if found in classes), None)
        if known is None:
            raise unknown_name(f"class of {manifest['label']}", label, classes)
        names[label] = known
    return [
        Record(
            entry.file, Path(audio.root) / entry.file, _each_once(names[label] for label in entry.labels), entry.file
        )
        for entry in audio.entries
    ]


def _each_once(labels: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(labels))


def _classes(manifest: dict) -> list[str]:
    """Return the classes; the raw labels where the manifest does not know the paper's."""
    return manifest["classes"] or manifest["labels"]["raw_classes"]
