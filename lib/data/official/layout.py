"""What the loaders share: finding the top of a copy, its audio files, its tables, and what a hub keeps as Parquet."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lib.audio import SAMPLE_RATE
from lib.data.mixer import Event
from lib.data.official import Record
from lib.errors import InputError

AUDIO = (".wav", ".flac", ".ogg")  # a lossless copy of a WAV file is as good


@dataclass(frozen=True, slots=True)
class Found:
    """An audio file: where it is, and its bytes."""

    path: Path
    size: int


def top_of(folder: Path, landmarks: Sequence[str], what: str) -> Path:
    """Return the folder, or the one inside it, as archives unpack to, that holds one of the landmarks.

    Parameters
    ----------
    folder : Path
        Of the copy.
    landmarks : sequence of str
        Paths of which at least one must be there; ``*`` stands for anything.
    what : str
        The set, for the message.

    Raises
    ------
    InputError
        If none is there.
    """
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    for top in (folder, *inside):
        if any(next(top.glob(landmark), None) is not None for landmark in landmarks):
            return top
    raise InputError(
        f"'{folder}' is no copy of {what}: neither it nor a folder in it holds {_or(landmarks)}; unpack the official "
        "files there."
    )


def audio_files(folder: Path) -> dict[str, Found]:
    """Return the audio files of one folder by their names without suffix; a folder that is not there has none."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        files = sorted((entry.name, entry.stat().st_size) for entry in entries if entry.name.lower().endswith(AUDIO))
    return {name.rpartition(".")[0]: Found(folder / name, size) for name, size in files}


def file_record(
    name: str, files: dict[str, Found], folder: Path, labels: tuple[str, ...], source: str, **more: object
) -> Record:
    """Return the record of a clip that the lists call `name`, with its file if it is among `files`, else missing.

    The suffix of `name` may be another one than the file's, or none. The id of the record is `name`.
    """
    found = files.get(name[: -len(Path(name).suffix)] if name.lower().endswith(AUDIO) else name)
    if found is None:
        return Record(name, folder / name, labels, source, missing=True, **more)
    return Record(name, found.path, labels, source, size=found.size, **more)


def read_table(path: Path, columns: Sequence[str], separator: str = ",", named: bool = True) -> pd.DataFrame:
    """Read a table of labels as text, empty fields as "".

    Parameters
    ----------
    path : Path
        A text file, UTF-8.
    columns : sequence of str
        That it must have; names for its columns where it names none itself.
    separator : str
        Between fields.
    named : bool
        Whether its first line names the columns.

    Raises
    ------
    InputError
        If it is missing, is no table, or lacks a column.
    """
    if not path.is_file():
        raise InputError(f"The labels '{path}' are not there; complete the copy.")
    names = {} if named else {"header": None, "names": list(columns), "index_col": False}
    try:
        table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8", **names)
    except pd.errors.EmptyDataError:
        table = pd.DataFrame(columns=[] if named else list(columns))
    except (ValueError, OSError) as error:  # pandas' errors of parsing and of encoding are ValueErrors
        raise InputError(f"'{path}' cannot be read as a table ({error}); fetch it again.") from error
    _check_columns(path, columns, list(table.columns))
    return table


def _check_columns(path: Path, wanted: Sequence[str], there: Sequence[str]) -> None:
    for column in wanted:
        if column not in there:
            raise InputError(
                f"'{path}' has no column '{column}', it has {', '.join(map(str, there)) or 'none'}; check that it is "
                "the file of the manifest's source."
            )


def strong_event(label: str, onset: float, offset: float, source: str = "", snr_db: float = float("nan")) -> Event:
    """Return an event of a set's own annotations; they tell no band, so it is all of the band that is heard."""
    return Event(label, source, onset, offset, snr_db, 0.0, SAMPLE_RATE / 2)


def number(text: str, path: Path, what: str) -> float:
    """Return a number of a table, or raise `InputError` that names the file and what it should have been."""
    try:
        return float(text)
    except (TypeError, ValueError):
        raise InputError(f"'{path}' has '{text}' where {what} is expected; fetch it again.") from None


def read_parquet(path: Path, columns: Sequence[str]) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Read columns of a hub's Parquet file, whose audio stays on disk, and the class names that it keeps as numbers.

    Returns
    -------
    table : pandas.DataFrame
        The columns, row by row.
    names : dict
        Column → class names, of columns that hold numbers of classes.

    Raises
    ------
    InputError
        If it is missing or damaged, or lacks a column; column "audio" must be there, too.
    """
    import json

    import pyarrow.parquet  # only a set that is kept as Parquet needs it

    try:
        file = pyarrow.parquet.ParquetFile(path)
        _check_columns(path, [*columns, "audio"], file.schema_arrow.names)
        table = file.read(list(columns)).to_pandas()
        hub = json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        features = hub.get("info", {}).get("features", {})
    except (OSError, pyarrow.ArrowException, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"'{path}' cannot be read as Parquet ({error}); fetch it again.") from error
    return table, {name: features[name]["names"] for name in columns if "names" in (features.get(name) or {})}


def parquet_files(folder: Path, pattern: str) -> list[Path]:
    """Return the Parquet files of a split in order; a hub may keep one split in many."""
    return sorted(folder.glob(pattern))


def _or(names: Sequence[str]) -> str:
    quoted = [f"'{name}'" for name in names]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)
